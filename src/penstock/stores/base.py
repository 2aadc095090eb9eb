"""What stores can do, one capability per protocol.

The write side is `Transaction`: effects and the consumer's position in one commit. The read side is
`Snapshot`: everything a context needs, read at one consistent moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penstock.debezium.messages import Message
from penstock.errors import FatalError
from penstock.identity.rules import Rules
from penstock.principals import DEFAULT_TENANT as _TENANT
from penstock.principals import Principal
from penstock.records import Change, LogPosition, Microseconds, Position, Schema

DEFAULT_TENANT: Final = _TENANT

Vectors: TypeAlias = NDArray[np.float32]
"""Shape (n, dimensions), rows of length 1."""


Storage: TypeAlias = Literal["halfvec", "int8", "binary"]
"""How a model's vectors are stored: 2 bytes a number, 1 byte, 1 bit."""


def storage_of(model: str) -> Storage:
    """How the vectors of a model are stored: its name says so after ``#``."""
    ending = model.rpartition("#")[2] if "#" in model else ""
    return "int8" if ending == "int8" else "binary" if ending == "binary" else "halfvec"


# --------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class ApplyRows:
    """Bring live tables to the state after these changes (in order)."""

    changes: Sequence[Change]


class ChunkText(NamedTuple):
    """One piece of a document: ``text`` is the passage, ``embedded`` is what the model reads (title
    and heading path before it), ``start`` and ``end`` are character offsets into the document."""

    text: str
    embedded: str
    hash: bytes
    start: int
    end: int
    heading: str
    tokens: int


@dataclass(frozen=True, slots=True)
class DocumentVersion:
    """A document (or the searched text of a row) as of one change.

    ``key`` names it within its source: a path, or ``table/key`` for a row. ``chunks`` is None for a
    deletion. ``allow`` and ``deny`` name principals (see `penstock.principals`); ``allow=None``
    means everybody in the tenant. They count only where the project declares no permissions for the
    source.

    ``based_on`` is set when the version was completed from a stored one: the position that was
    stored ("" for none), under ``base`` if that is another key, which the row has left since. If
    another is stored when it is applied, that is a `RetryableError`. A deletion with ``since`` does
    not mean what is stored as of an older position.
    """

    source: str
    key: str
    position: Position
    committed_at: Microseconds
    chunks: Sequence[ChunkText] | None
    title: str = ""
    media_type: str = ""
    content_hash: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stream: str | None = None
    row_key: Sequence[str | None] | None = None
    allow: Sequence[str] | None = None
    deny: Sequence[str] = ()
    based_on: str | None = None
    base: str | None = None
    since: Position | None = None


@dataclass(frozen=True, slots=True)
class ReplaceDocuments:
    """Make these versions the current ones, each wholly (G3). A version whose position is not newer
    than the stored one is ignored (G1). ``vectors`` maps the hash of an embedded text to its row in
    ``matrix``; hashes that are absent are stored already under ``model``. ``tokens`` are the
    vectors of the texts' tokens in the form that ``head`` names, one for each row; or empty."""

    documents: Sequence[DocumentVersion]
    model: str
    vectors: Mapping[bytes, int]
    matrix: Vectors
    tokens: Sequence[bytes] = ()
    head: str = ""


@dataclass(frozen=True, slots=True)
class TruncateDocuments:
    """Remove all documents of one stream of a source that are older than ``position`` (G4)."""

    source: str
    stream: str
    position: Position


OWN_ENTRY: Final = "its metadata"
"""The name of the entry that a document itself brings. No file beside a document is called so."""


@dataclass(frozen=True, slots=True)
class PermissionEntry:
    """What a source says about a place: a document, or a folder and all in it. ``entry`` names
    where it says so. ``allow=None`` says nothing about who may, only who may not; ``problem`` says
    why the entry cannot be used: its place is closed then, with all below. ``gone``: it is taken
    back."""

    source: str
    place: str
    entry: str
    position: Position
    committed_at: Microseconds
    allow: Sequence[str] | None = None
    deny: Sequence[str] = ()
    problem: str | None = None
    content_hash: str = ""
    gone: bool = False


@dataclass(frozen=True, slots=True)
class SetPermissions:
    """Make these entries the current ones. One whose position is not newer than the stored one's is
    ignored (G1). Documents that are there and those that come later obey them; nothing is embedded,
    and no chunk is touched (G5)."""

    entries: Sequence[PermissionEntry]


@dataclass(frozen=True, slots=True)
class ApplyEvidence:
    """Take up these changes (in order) as evidence of who is who, and bring the profiles of
    ``kind`` to what ``rules`` make of all evidence (G10). What that is depends on what is stored,
    so the store works it out, within its transaction, by `penstock.identity.graph.incorporate`.
    Changes carry only the columns that the rules name, and the key."""

    kind: str
    rules: Rules
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Publish:
    """Send messages to a destination outside (see `penstock.stores.publishing`), in order."""

    destination: str
    messages: Sequence[Message]


def no_destination(effect: Publish) -> FatalError:
    """The error of a store that was asked to publish and has nowhere to."""
    return FatalError(
        f"expected a store with the destination {effect.destination!r}, got one that only stores"
    )


Effect = ApplyRows | ReplaceDocuments | TruncateDocuments | SetPermissions | ApplyEvidence | Publish


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A change that could not be processed, with the reason."""

    pipeline: str
    topic: str
    partition: int
    log_position: LogPosition
    change: Change
    reason: str


# --------------------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class Move:
    """A consumer's step: only valid if the stored position is still ``expected``. ``position`` is
    the latest of the source that is behind it; the greatest of all steps is kept."""

    consumer: str
    topic: str
    partition: int
    expected: LogPosition
    to: LogPosition
    source: str
    as_of: Microseconds | None
    position: Position | None = None


class Transaction(Protocol):
    """One commit: all of it or nothing."""

    async def apply(self, effect: Effect) -> None:
        """Do one effect. Raises `BadRecordError` when the data itself is refused by the store."""

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep records that could not be processed, with their reasons."""

    async def move(self, step: Move) -> None:
        """Record how far the consumer is. `FencedError` when another process has moved it."""


class Store(Protocol):
    """Where results are at rest."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin; leaving normally commits, leaving with an exception undoes everything."""

    async def position(self, consumer: str, topic: str, partition: int) -> LogPosition:
        """How far a consumer is; registers it at 0 (so that retention waits for it)."""

    async def passed(self, consumer: str, topic: str, partition: int) -> Position | None:
        """The latest position of its source that a consumer has passed in a partition."""

    async def known_vectors(
        self, model: str, hashes: Sequence[bytes], head: str = ""
    ) -> set[bytes]:
        """Which of these embedded texts have a stored vector under ``model``; with a ``head``, and
        tokens in that form."""

    async def stored_metadata(
        self, source: str, keys: Sequence[str]
    ) -> Mapping[str, tuple[Position, Mapping[str, Any]]]:
        """The position and metadata of stored documents by key; of a row, the metadata are its
        searched values. Keys that were never stored are left out."""

    async def prepare_tables(self, schemas: Sequence[Schema]) -> None:
        """Make sure that live tables exist for these schemas and follow their columns."""


# --------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class SourceAge:
    """How current one source's part is: everything it had committed by ``as_of`` is included.
    ``loading`` is true while its first load is not finished."""

    source: str
    as_of: Microseconds | None
    position: Position | None
    loading: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents count. Names are compared exactly; ``path`` may be a glob (``policies/*``);
    ``metadata`` compares top-level values."""

    sources: Sequence[str] | None = None
    path: str | None = None
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["document", "row"] | None = None


class Hit(NamedTuple):
    """A candidate chunk: its cosine with the question, and its BM25 score as a share (0 to 1) of
    the most that any text could reach with the question's words."""

    chunk: int
    similarity: float
    text_score: float


class Rarity(NamedTuple):
    """A word of a question, from ``start`` to ``end``, and how much it tells: the fewer chunks hold
    it, the more."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Rarities:
    """The words of a question that the text index counts; ``most`` is the weight of a word that no
    chunk holds."""

    words: Sequence[Rarity]
    most: float


class ChunkVectors(NamedTuple):
    """The vector of a chunk, and those of its tokens as they are stored."""

    vector: Vectors
    tokens: bytes


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk as it is shown, with where it came from and the version that it belongs to."""

    chunk: int
    document: int
    source: str
    key: str
    title: str
    heading: str
    text: str
    start: int
    end: int
    version: Position
    committed_at: Microseconds
    metadata: Mapping[str, Any]
    stream: str | None
    row_key: Sequence[str | None] | None
    score: float = 0.0
    similarity: float = 0.0
    text_score: float = 0.0


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A row of a live table as it is in the snapshot. ``values`` are the shown and searched columns
    in table order, as Python values."""

    source: str
    table: str
    key: Sequence[str | None]
    values: Mapping[str, Any]
    version: Position
    committed_at: Microseconds
    score: float = 0.0


class TraitValue(NamedTuple):
    """What a profile says, with the record that it is from and when that said it."""

    value: str
    source: str
    table: str
    key: str
    at: Microseconds


class ProfileRecord(NamedTuple):
    """A record of a profile, with the identifiers that it bears (``kind:value``)."""

    source: str
    table: str
    key: str
    identifiers: tuple[str, ...]
    position: Position
    at: Microseconds
    committed_at: Microseconds


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A profile as it is in the snapshot. ``asked`` is the id that was asked for, where it means
    this profile by now; a trait has one value, or all that there are for ``union``."""

    kind: str
    id: str
    asked: str
    version: int
    created_at: Microseconds
    changed_at: Microseconds
    traits: Mapping[str, Sequence[TraitValue]]
    records: Sequence[ProfileRecord]

    @property
    def identifiers(self) -> list[str]:
        """All that its records bear, in order."""
        return sorted({one for record in self.records for one in record.identifiers})


class Snapshot(Protocol):
    """One read-only view of everything, for one principal: the rest is not there."""

    async def candidates(
        self,
        vector: Vectors | None,
        text: str | None,
        *,
        limit: int,
        where: Filter,
        model: str | None = None,
    ) -> list[Hit]:
        """The union of the nearest chunks and the best by words, at most ``limit`` of each kind,
        both scores filled for all of them where both inputs are given. ``model`` names the embedder
        that made ``vector``: only its vectors are compared (None: the latest of that length)."""

    async def rarities(self, text: str) -> Rarities:
        """How much each word of a question tells. Costs nothing for the text that `candidates` was
        asked for last."""

    async def vectors(
        self, chunks: Sequence[int], *, model: str, head: str
    ) -> Mapping[int, ChunkVectors]:
        """The stored vectors of these chunks; those without tokens of this head are left out."""

    async def fields(self) -> Sequence[str]:
        """The metadata fields of the documents that may be seen, in order. Reads them all: for
        telling why a filter finds nothing."""

    async def around(
        self, chunks: Sequence[int], neighbours: int
    ) -> Mapping[int, Sequence[tuple[str, int, int]]]:
        """For each chunk, it and so many before and after it in its document, in reading order:
        text, start and end."""

    async def passages(self, chunks: Sequence[int]) -> list[Passage]:
        """These chunks with their documents, in the order asked for; those that are gone (or not
        permitted) are left out."""

    async def rows(self, wanted: Sequence[Passage]) -> list[LiveRow]:
        """The live rows that these row passages stand for; rows deleted meanwhile are left out."""

    async def ages(self) -> list[SourceAge]:
        """How current each source is, in this snapshot."""


@runtime_checkable
class ModelledSnapshot(Protocol):
    """A snapshot of a store that may change its model."""

    async def serving_model(self) -> str | None:
        """The name of the model whose vectors are searched; None while there is none."""


@runtime_checkable
class ProfileSnapshot(Protocol):
    """A snapshot of a store that keeps profiles."""

    async def profile(self, kind: str, id_: str) -> StoredProfile | None:
        """The profile that an id means now; None where there is none, or it is not for the one who
        asks."""

    async def profiles_bearing(self, kind: str, identifiers: Sequence[str]) -> Sequence[str]:
        """The ids of the profiles that bear one of these identifiers (``kind:value``)."""


@dataclass(frozen=True, slots=True)
class TableWanted:
    """Rows of a live table: those whose columns have these values (None: nothing), as texts.
    ``rule`` is the condition on who may see a row, where its columns say so."""

    source: str
    table: str
    columns: Sequence[str]
    equal: Mapping[str, str | None]
    limit: int
    rule: Mapping[str, Any] | None = None


class TableRow(NamedTuple):
    """A row by itself."""

    values: Mapping[str, Any]
    version: Position
    committed_at: Microseconds


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows in the order of their key, and whether there are more; or why they cannot be asked."""

    rows: Sequence[TableRow] = ()
    more: bool = False
    problem: str | None = None


@runtime_checkable
class TableSnapshot(Protocol):
    """A snapshot that gives rows of live tables by their columns."""

    async def tables(self, source: str) -> Mapping[str, Sequence[str]]:
        """The live tables of a source with their columns, as the source calls both."""

    async def table_rows(self, wanted: TableWanted) -> TableRows | None:
        """The rows that the one who asks may see; None where there is no such table."""


class SnapshotStore(Protocol):
    """A store that can be asked."""

    def snapshot(self, principal: Principal) -> AbstractAsyncContextManager[Snapshot]:
        """Open one consistent, read-only view; it sees nothing that commits later. Who asks, with
        all groups that hold them, is worked out in the view itself (G7)."""
