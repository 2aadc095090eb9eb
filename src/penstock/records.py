"""The records that travel from a source to a store. Standard library only.

A *change* is one create, update, delete, snapshot read or truncate of a row or of a document. Both
have one shape: a schema (which stream, which columns, which of them are the key) and a row of
values, so that a document is a row of the stream ``documents`` and takes the same way.

Values are text, as the source prints them (for PostgreSQL its own text format): what is stored is
exactly what the source said, and types are applied where the value lands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property
from typing import Final, NamedTuple, NewType, TypeAlias

Position = NewType("Position", str)
"""Where a change stands in its source. Positions of one source compare as text in the source's
order, so they can be stored, compared and indexed without knowing the source
(PostgreSQL: commit LSN and place in the transaction, both as fixed-width hexadecimal)."""

LogPosition = NewType("LogPosition", int)
"""The number of a record in one partition of one topic. Numbers begin at 1 and ascend (a log may
leave some out); a reader that has seen nothing stands at 0; resuming at N returns the records
*after* N."""

Microseconds = NewType("Microseconds", int)
"""Time as microseconds since 1970-01-01 UTC."""

BEGINNING: Final = LogPosition(0)


class Unchanged(Enum):
    """A value that the source did not send because it did not change (PostgreSQL: TOAST)."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED

Value: TypeAlias = str | Unchanged | None
Row: TypeAlias = tuple[Value, ...]
Key: TypeAlias = tuple[str | None, ...]


class Op(StrEnum):
    """What happened, in Debezium's letters."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    TRUNCATE = "t"


class Column(NamedTuple):
    """One column of a stream; ``type`` is an SQL type as PostgreSQL's ``format_type`` prints it."""

    name: str
    type: str
    key: bool = False


@dataclass(frozen=True)
class Schema:
    """The shape of a stream at some position: equal schemas are interchangeable."""

    source: str
    stream: str
    columns: tuple[Column, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def key_indexes(self) -> tuple[int, ...]:
        """Where the key's columns stand in a row."""
        return tuple(i for i, column in enumerate(self.columns) if column.key)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Where the column ``name`` stands; ``ValueError`` when there is none."""
        place = self._places.get(name)
        if place is None:
            raise ValueError(f"expected one of {', '.join(self.names)}, got {name!r}")
        return place


class Change(NamedTuple):
    """One change. ``after`` is None for deletes and truncates; ``before`` is whatever the source
    sent of the old row (None, the key alone with None elsewhere, or all of it).

    ``key`` is the key *after* the change; ``old_key`` is set only when an update moved the row to
    another key, and then names the one that it left. A truncate has the empty key.
    """

    schema: Schema
    op: Op
    key: Key
    position: Position
    committed_at: Microseconds
    after: Row | None = None
    before: Row | None = None
    old_key: Key | None = None
    transaction: str | None = None

    def value(self, name: str) -> Value:
        """The value of one column after the change; None when the change has no ``after``."""
        return None if self.after is None else self.after[self.schema.index(name)]


class Batch(NamedTuple):
    """Changes of one partition, in order, with the place where reading goes on.

    ``first`` and ``last`` are log positions (``last`` may be past the final change where records
    were filtered out or where only time was reported). ``as_of`` is the latest time, if any, up to
    which the source said that the log holds everything.
    """

    changes: Sequence[Change]
    first: LogPosition
    last: LogPosition
    as_of: Microseconds | None = None


DOCUMENTS: Final = "documents"
"""The stream name of documents."""

DOCUMENT_COLUMNS: Final = (
    Column("path", "text", key=True),
    Column("title", "text"),
    Column("media_type", "text"),
    Column("text", "text"),
    Column("content_hash", "text"),
    Column("size", "bigint"),
    Column("modified_at", "timestamp with time zone"),
    Column("metadata", "jsonb"),
    Column("error", "text"),
)
"""What is captured of a document. ``text`` is the extracted text (structure written as Markdown,
pages separated by a form feed); offsets in citations refer to it. ``content_hash`` is the SHA-256
of the original bytes. ``error`` says why there is no text: such a change becomes a dead letter and
the version before it keeps serving."""


LISTED_COLUMNS: Final = (*DOCUMENT_COLUMNS, Column("permissions", "jsonb"))
"""The columns of documents that say themselves who may see them. ``permissions`` has what was
written, unread: ``{"allow": TEXT, "deny": TEXT}`` (null: nothing was), or ``{"problem": REASON}``.
A column of its own, because ``metadata`` is partly what a document's author wrote into it."""


def document_schema(source: str, *, listed: bool = False) -> Schema:
    """The schema of the documents of ``source``; ``listed``: they say who may see them."""
    return Schema(source, DOCUMENTS, LISTED_COLUMNS if listed else DOCUMENT_COLUMNS)


UNREADABLE: Final = "unreadable"
"""The stream name of records that a source could not read as changes."""

UNREADABLE_COLUMNS: Final = (
    Column("place", "text", key=True),
    Column("time", "bigint"),
    Column("key", "text"),
    Column("value", "text"),
    Column("headers", "text"),
    Column("error", "text"),
)
"""What is kept of a record that could not be read: where it stood (as its source says it), the
source's time of it in milliseconds, its bytes in base64, and why it could not be read. Like a
document with an ``error``, it travels as a change, becomes a dead letter in the transaction that
passes it, and can be read again from there."""


def unreadable_schema(source: str) -> Schema:
    """The schema of the unreadable records of ``source``."""
    return Schema(source, UNREADABLE, UNREADABLE_COLUMNS)
