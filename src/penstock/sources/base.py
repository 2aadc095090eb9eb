"""What a source is: a system that changes, read in order and resumable anywhere."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from penstock.records import Change, Column, Key, Microseconds, Position, Row, Schema

Lane = Literal["live", "bulk"]
"""``bulk`` is for what existed before (a first load); ``live`` overtakes it. Changes of one key may
travel in both lanes: their positions say which is newer."""

State = Mapping[str, str]
"""What a source needs to resume, as small named texts (a position, a file's fingerprint)."""

StateChange = Mapping[str, str | None]
"""What a batch changes in the state; None removes a name."""


BESIDE: Final = "penstock."
"""What begins the names of streams that are no tables of the source (what it says beside rows):
there is nothing to compare them with."""

PARKED: Final = "parked:"
"""What begins, in a state, the names of streams that are left out until somebody has mended them;
the value is the reason."""


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Some changes, in source order, and the state with which reading resumes *after* them.

    ``state`` holds only what changed since the batch before. Changes and state are made durable in
    one step. ``as_of`` says that everything the source had committed by that time is in this batch
    or before it. A batch without changes reports state or time alone.
    """

    changes: Sequence[Change] = ()
    state: StateChange = field(default_factory=dict)
    as_of: Microseconds | None = None
    lane: Lane = "live"


class Source(Protocol):
    """A system that changes. One loop uses it: ``read`` once, ``acknowledge`` as often as batches
    became durable, ``close`` at the end (also after an error, and more than once)."""

    name: str

    def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """Yield batches for ever, from where ``state`` says (empty: from the beginning, which means
        all that exists, then all that changes, without gap or overlap).

        Never blocks the event loop for longer than a few milliseconds; waits for changes without
        polling; holds at most a few batches that were not yet taken. Raises `UnavailableError` when
        the system cannot be reached (the loop calls ``read`` again with the last durable state),
        `SourceError` when a person must act.
        """

    async def acknowledge(self, state: StateChange) -> None:
        """The batch that carried ``state``, and all before it, are durable: the system may forget
        them. Called in order; may skip batches; never called before the log has committed."""

    async def close(self) -> None:
        """Release connections, watches and processes; what was acknowledged stays so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What ``check`` says about one thing: ``mend`` tells what to do when it is not well."""

    subject: str
    level: Literal["ok", "warning", "error"]
    message: str
    mend: str = ""


@runtime_checkable
class CheckableSource(Protocol):
    """A source that can say what would go wrong before it starts."""

    async def check(self) -> Sequence[Finding]:
        """Look at reachability, rights and settings without changing anything."""


HealthLevel = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Health:
    """How the way from a source stands, beside the stream of changes.

    ``retained_bytes`` is what the system keeps for us because we have not read it yet,
    ``budget_bytes`` what it may be. ``facts`` are for people (`penstock status --json`).
    """

    level: HealthLevel
    message: str
    mend: str = ""
    retained_bytes: int = 0
    budget_bytes: int | None = None
    facts: Mapping[str, str | int | bool | None] = field(default_factory=dict)


@runtime_checkable
class WatchedSource(Protocol):
    """A source whose system keeps what we have not read, and may run full or lose it."""

    async def health(self) -> Health | None:
        """Look on a connection of its own, without changing anything; None while nothing is kept
        for us yet. Raises `UnavailableError` when the system cannot be reached."""


@runtime_checkable
class DroppableSource(Protocol):
    """A source that leaves things in the system it reads."""

    async def drop(self) -> Sequence[str]:
        """Take away what we made there (slot, publication); returns what was removed, in words."""


@runtime_checkable
class RereadableSource(Protocol):
    """A source that can begin anew with one of its streams while the others go on."""

    async def reread_streams(self, streams: Sequence[str]) -> None:
        """Give these streams again from the beginning, as soon as that can be done: all that there
        is, at positions later than all before, and a truncate with the position of the beginning,
        first or last (where it is last, what is older than it goes then, and only that). Returns at
        once; asking again before it was begun changes nothing.

        Who asks keeps the wish until the truncate has come: one that was not begun is forgotten
        with the process. One that was begun is completed, by the next process if need be.
        """


@runtime_checkable
class RecordKeepingSource(Protocol):
    """A source whose records may be unreadable: they come as changes of the stream ``unreadable``
    (see `penstock.records.UNREADABLE_COLUMNS`), and can be read again."""

    async def read_again(self, change: Change) -> Sequence[Change]:
        """What such a change's record means by now (the settings, or a schema that was missing, may
        have been mended), at the position that it had. One that still cannot be read comes back as
        a change of ``unreadable``."""


Application: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
"""An application after ASGI, which any HTTP server of Python's can serve."""


@runtime_checkable
class ReceivingSource(Protocol):
    """A source that others send to, over HTTP."""

    name: str

    def application(self) -> Application:
        """What answers the requests below the source's own address. Made once, served until the
        process ends; answers 503 while the source is not read."""


class RowHash(NamedTuple):
    """A row's key as text, and the hash of all of it (see `penstock.database.row_hash`)."""

    key: Key
    hash: str


@runtime_checkable
class ComparableRows(Protocol):
    """A source whose tables can be looked at as they are now, beside the stream of changes."""

    async def streams(self) -> Sequence[str]:
        """The streams that the project's names mean at the source now."""

    async def columns(self) -> Mapping[str, Sequence[str]]:
        """The columns of every table at the source, by stream."""

    def row_hashes(
        self, schema: Schema, columns: Sequence[str] | None = None
    ) -> AsyncGenerator[RowHash]:
        """A hash of every row of a stream, ordered by the key's texts byte by byte, NULL last.

        ``columns`` are those that are hashed, in that order (None: all of ``schema``). Equal rows
        have the hash that the live table's row has.
        """


@runtime_checkable
class ComparableDocuments(Protocol):
    """A source whose documents can be looked at as they are now."""

    async def digests(self) -> Mapping[str, str | None]:
        """The SHA-256 of every document's original bytes by key (None: it cannot be read)."""

    async def reread(self, key: str) -> Row | None:
        """One document as it is now (`penstock.records.DOCUMENT_COLUMNS`, or `LISTED_COLUMNS` where
        documents say who may see them); None: there is none."""


class LiveSide(Protocol):
    """What the stores hold of one source, for a comparison; nothing else writes there meanwhile."""

    async def columns(self, stream: str) -> Sequence[Column] | None:
        """The live table's columns as the source names them; None when there is no such table."""

    def row_hashes(self, stream: str, columns: Sequence[str]) -> AsyncGenerator[tuple[Key, str]]:
        """As `ComparableRows.row_hashes`, of the live table."""

    async def exact_keys(self, stream: str, keys: Sequence[Key]) -> Sequence[Key]:
        """These keys of `row_hashes` as changes carry them (a text cast prints some types in
        another way)."""

    def stale_texts(self, stream: str) -> AsyncGenerator[Key]:
        """The keys, as in `row_hashes`, of live rows whose searched text is not that of the row."""

    def orphaned_texts(self, stream: str) -> AsyncGenerator[Key]:
        """The keys, as changes carry them, of searched texts without a live row."""

    async def forget_later(self, position: Position) -> None:
        """Make everything that claims to come from this position or later give way to it."""


@dataclass(frozen=True, slots=True)
class RepairStep:
    """A piece of a repair: what was found of one stream so far, and what mends it.

    ``batch`` is made durable like any other, in order. ``expected`` is about how many rows there
    are; ``done`` comes with the last step of a stream.
    """

    stream: str
    batch: SourceBatch
    compared: int = 0
    expected: int = 0
    upserts: int = 0
    deletes: int = 0
    done: bool = False
    note: str = ""


@runtime_checkable
class RepairableSource(Protocol):
    """A source that can find out, row by row, what the stores do not have as it is."""

    def repair(
        self, state: State, streams: Sequence[str] | None, live: LiveSide
    ) -> AsyncGenerator[RepairStep]:
        """Compare these streams (None: all) with the stores and give the rows that differ, and what
        they need to go on from there without a gap, also where the way to here is lost.

        Everything that the log holds of this source has been processed, and nothing reads the
        source meanwhile. What was given is right even if the rest never comes; then a repair is
        begun again. Positions are later than all before.
        """


class CopyProgress(NamedTuple):
    """How far the copy of a table is. ``remaining_rows`` is an estimate; rate and time are None
    while they are not known."""

    stream: str
    rows: int
    rows_per_s: float | None
    remaining_rows: int
    remaining_s: float | None


@runtime_checkable
class CopyingSource(Protocol):
    """A source that copies what there is beside the stream of changes."""

    def copies(self) -> Sequence[CopyProgress]:
        """How far the copies are that are not complete; empty when there are none."""
