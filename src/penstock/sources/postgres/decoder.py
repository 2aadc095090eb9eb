"""PostgreSQL's logical replication messages (pgoutput), from bytes to records. Pure.

Covers protocol version 1: a transaction comes whole, after its commit, as BEGIN, changes, COMMIT.
Values are text exactly as the server prints them. Whatever is not a well-formed message raises
`ProtocolError`, however it was broken.

The format is described in PostgreSQL's manual, "Logical Replication Message Formats".
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError  # noqa: N812 - it is an exception, so it is named as one
from typing import Final, Literal, NamedTuple, TypeAlias

from penstock.errors import SourceError
from penstock.records import UNCHANGED, Microseconds, Row, Value

Lsn: TypeAlias = int

POSTGRES_EPOCH: Final = 946_684_800_000_000
"""Microseconds from 1970 to 2000, where PostgreSQL's time begins."""


class ProtocolError(SourceError):
    """The replication stream holds something that is no pgoutput message."""


class Begin(NamedTuple):
    """The changes of one transaction follow; ``commit_lsn`` is the place of its commit."""

    commit_lsn: Lsn
    committed_at: Microseconds
    xid: int


class Commit(NamedTuple):
    """The transaction is complete; reading resumes at ``end_lsn``."""

    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at: Microseconds


class Origin(NamedTuple):
    """The transaction was itself replicated, from there."""

    commit_lsn: Lsn
    name: str


class RelationColumn(NamedTuple):
    """A published column; ``key`` when it is part of the replica identity."""

    name: str
    type_oid: int
    type_modifier: int
    key: bool


class Relation(NamedTuple):
    """The shape of a table from here on. ``identity``: d (primary key), i (index), f (full), n."""

    oid: int
    namespace: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


class Type(NamedTuple):
    """The name of a type that is not built in."""

    oid: int
    namespace: str
    name: str


class Insert(NamedTuple):
    """A new row."""

    relation: int
    new: Row


OldKind = Literal["key", "full"]


class Update(NamedTuple):
    """A row's new values; ``old`` is the key (None elsewhere), all of the old row, or absent."""

    relation: int
    kind: OldKind | None
    old: Row | None
    new: Row


class Delete(NamedTuple):
    """A row that is gone; ``old`` is its key (None elsewhere) or all of it."""

    relation: int
    kind: OldKind
    old: Row


class Truncate(NamedTuple):
    """All rows of these tables are gone. ``options``: 1 cascade, 2 restart identity."""

    relations: tuple[int, ...]
    options: int


class LogicalMessage(NamedTuple):
    """What ``pg_logical_emit_message`` wrote."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


Message: TypeAlias = (
    Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage
)

# The tags of messages and of their parts.
BEGIN: Final = ord("B")
COMMIT: Final = ord("C")
ORIGIN: Final = ord("O")
RELATION: Final = ord("R")
TYPE: Final = ord("Y")
INSERT: Final = ord("I")
UPDATE: Final = ord("U")
DELETE: Final = ord("D")
TRUNCATE: Final = ord("T")
MESSAGE: Final = ord("M")
_NEW: Final = ord("N")
_KEY: Final = ord("K")
_OLD: Final = ord("O")
_NULL: Final = ord("n")
_TEXT: Final = ord("t")
_UNCHANGED: Final = ord("u")

_begin = Struct(">QqI").unpack_from
_commit = Struct(">BQQq").unpack_from
_uint64 = Struct(">Q").unpack_from
_uint32 = Struct(">I").unpack_from
_uint16 = Struct(">H").unpack_from
_column = Struct(">Ii").unpack_from
_truncate = Struct(">IB").unpack_from
_message = Struct(">BQ").unpack_from
_row = Struct(">IBH").unpack_from
_tuple = Struct(">BH").unpack_from


def decode(data: bytes, start: int = 0) -> Message:
    """The message in ``data`` from ``start`` to its end.

    Raises:
        ProtocolError: truncated, longer than it says, not UTF-8, or of no known kind.
    """
    try:
        tag = data[start]
        if tag == INSERT:
            return _decode_insert(data, start)
        if tag == UPDATE:
            return _decode_update(data, start)
        if tag == DELETE:
            return _decode_delete(data, start)
        return _decode_rare(data, tag, start)
    except (IndexError, StructError, ValueError) as error:
        raise broken(data, start) from error


def broken(data: bytes, start: int = 0) -> ProtocolError:
    """The error for a message that cannot be understood."""
    return ProtocolError(
        f"expected a pgoutput message, got {data[start : start + 24]!r} ({len(data) - start} "
        "bytes): the connection or a proxy between damaged it, or the server speaks another version"
    )


def _decode_insert(data: bytes, start: int) -> Insert:
    relation, kind, count = _row(data, start + 1)
    if kind != _NEW:
        raise ValueError(kind)
    row, end = decode_row(data, start + 8, count)
    if end != len(data):
        raise ValueError(end)
    return Insert(relation, row)


def _decode_update(data: bytes, start: int) -> Update:
    relation, kind, count = _row(data, start + 1)
    if kind == _NEW:
        row, end = decode_row(data, start + 8, count)
        if end != len(data):
            raise ValueError(end)
        return Update(relation, None, None, row)
    if kind not in (_KEY, _OLD):
        raise ValueError(kind)
    old, end = decode_row(data, start + 8, count)
    after, count = _tuple(data, end)
    if after != _NEW:
        raise ValueError(after)
    row, end = decode_row(data, end + 3, count)
    if end != len(data):
        raise ValueError(end)
    return Update(relation, "key" if kind == _KEY else "full", old, row)


def _decode_delete(data: bytes, start: int) -> Delete:
    relation, kind, count = _row(data, start + 1)
    if kind not in (_KEY, _OLD):
        raise ValueError(kind)
    old, end = decode_row(data, start + 8, count)
    if end != len(data):
        raise ValueError(end)
    return Delete(relation, "key" if kind == _KEY else "full", old)


def decode_row(data: bytes, at: int, count: int) -> tuple[Row, int]:
    """``count`` values from ``at``; returns them and where they end. The hot loop of capture."""
    values: list[Value] = []
    append = values.append
    for _ in range(count):
        kind = data[at]
        if kind == _TEXT:
            begin = at + 5
            # Nearly all values are shorter than 256 bytes: then only one byte of length counts.
            if data[at + 1] or data[at + 2] or data[at + 3]:
                (length,) = _uint32(data, at + 1)
                at = begin + length
            else:
                at = begin + data[at + 4]
            append(data[begin:at].decode())
        elif kind == _NULL:
            append(None)
            at += 1
        elif kind == _UNCHANGED:
            append(UNCHANGED)
            at += 1
        else:
            raise ValueError(kind)
    # A slice never complains about a missing end, so the last place is compared once.
    if at > len(data):
        raise ValueError(at)
    return tuple(values), at


def _decode_rare(data: bytes, tag: int, start: int) -> Message:
    at = start + 1
    message: Message
    if tag == BEGIN:
        commit_lsn, time, xid = _begin(data, at)
        message, at = Begin(commit_lsn, Microseconds(time + POSTGRES_EPOCH), xid), at + 20
    elif tag == COMMIT:
        _flags, commit_lsn, end_lsn, time = _commit(data, at)
        message = Commit(commit_lsn, end_lsn, Microseconds(time + POSTGRES_EPOCH))
        at += 25
    elif tag == RELATION:
        message, at = _decode_relation(data, at)
    elif tag == TRUNCATE:
        message, at = _decode_truncate(data, at)
    elif tag == ORIGIN:
        (lsn,) = _uint64(data, at)
        name, at = _string(data, at + 8)
        message = Origin(lsn, name)
    elif tag == TYPE:
        (oid,) = _uint32(data, at)
        namespace, at = _string(data, at + 4)
        name, at = _string(data, at)
        message = Type(oid, namespace, name)
    elif tag == MESSAGE:
        message, at = _decode_message(data, at)
    else:
        raise ValueError(tag)
    if at != len(data):
        raise ValueError(at)
    return message


def _decode_relation(data: bytes, at: int) -> tuple[Relation, int]:
    (oid,) = _uint32(data, at)
    namespace, at = _string(data, at + 4)
    name, at = _string(data, at)
    identity = chr(data[at])
    if identity not in "dnfi":
        raise ValueError(identity)
    (count,) = _uint16(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        flags = data[at]
        column, at = _string(data, at + 1)
        type_oid, modifier = _column(data, at)
        at += 8
        columns.append(RelationColumn(column, type_oid, modifier, bool(flags & 1)))
    # An empty namespace stands for pg_catalog.
    return Relation(oid, namespace or "pg_catalog", name, identity, tuple(columns)), at


def _decode_truncate(data: bytes, at: int) -> tuple[Truncate, int]:
    count, options = _truncate(data, at)
    at += 5
    if len(data) - at != 4 * count:
        raise ValueError(count)
    oids = tuple(_uint32(data, at + 4 * i)[0] for i in range(count))
    return Truncate(oids, options), at + 4 * count


def _decode_message(data: bytes, at: int) -> tuple[LogicalMessage, int]:
    flags, lsn = _message(data, at)
    prefix, at = _string(data, at + 9)
    (length,) = _uint32(data, at)
    at += 4
    content = data[at : at + length]
    return LogicalMessage(bool(flags & 1), lsn, prefix, content), at + length


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1
