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
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from penstock.records import Change, Key, Microseconds, Row, Schema

Lane = Literal["live", "bulk"]
"""``bulk`` is for what existed before (a first load); ``live`` overtakes it. Changes of one key may
travel in both lanes: their positions say which is newer."""

State = Mapping[str, str]
"""What a source needs to resume, as small named texts (a position, a file's fingerprint)."""

StateChange = Mapping[str, str | None]
"""What a batch changes in the state; None removes a name."""


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


@runtime_checkable
class DroppableSource(Protocol):
    """A source that leaves things in the system it reads."""

    async def drop(self) -> Sequence[str]:
        """Take away what we made there (slot, publication); returns what was removed, in words."""


@runtime_checkable
class RereadableSource(Protocol):
    """A source that can begin anew with one of its streams while the others go on."""

    async def reread_streams(self, streams: Sequence[str]) -> None:
        """Give these streams again from the beginning, as soon as that can be done: a truncate,
        then all that there is, at positions later than all before. Returns at once; asking again
        before it was begun changes nothing.

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
        """One document as it is now (`penstock.records.DOCUMENT_COLUMNS`); None: there is none."""
