"""PostgreSQL's side of pgoutput, for tests: the messages that a server would send."""

from __future__ import annotations

from struct import pack

from penstock.records import UNCHANGED, Row
from penstock.sources.postgres.decoder import (
    POSTGRES_EPOCH,
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    OldKind,
    Origin,
    Relation,
    Truncate,
    Type,
    Update,
)


def encode(message: Message) -> bytes:
    """The bytes of one message."""
    match message:
        case Begin(lsn, time, xid):
            return b"B" + pack(">QqI", lsn, time - POSTGRES_EPOCH, xid)
        case Commit(lsn, end, time):
            return b"C" + pack(">BQQq", 0, lsn, end, time - POSTGRES_EPOCH)
        case Insert(relation, new):
            return b"I" + pack(">I", relation) + b"N" + _row(new)
        case Update(relation, kind, old, new):
            before = b"" if old is None else _kind(kind) + _row(old)
            return b"U" + pack(">I", relation) + before + b"N" + _row(new)
        case Delete(relation, kind, old):
            return b"D" + pack(">I", relation) + _kind(kind) + _row(old)
        case _:
            return _rare(message)


def _rare(message: Relation | Type | Origin | Truncate | LogicalMessage) -> bytes:
    match message:
        case Relation():
            return _relation(message)
        case Type(oid, namespace, name):
            return b"Y" + pack(">I", oid) + _string(namespace) + _string(name)
        case Origin(lsn, name):
            return b"O" + pack(">Q", lsn) + _string(name)
        case Truncate(relations, options):
            oids = pack(f">{len(relations)}I", *relations)
            return b"T" + pack(">IB", len(relations), options) + oids
        case LogicalMessage(transactional, lsn, prefix, content):
            head = pack(">BQ", transactional, lsn) + _string(prefix)
            return b"M" + head + pack(">I", len(content)) + content


def _kind(kind: OldKind | None) -> bytes:
    return b"K" if kind == "key" else b"O"


def _relation(relation: Relation) -> bytes:
    namespace = "" if relation.namespace == "pg_catalog" else relation.namespace
    parts = [b"R", pack(">I", relation.oid), _string(namespace), _string(relation.name)]
    parts.append(relation.identity.encode() + pack(">H", len(relation.columns)))
    for column in relation.columns:
        parts.append(pack(">B", column.key) + _string(column.name))
        parts.append(pack(">Ii", column.type_oid, column.type_modifier))
    return b"".join(parts)


def _row(row: Row) -> bytes:
    parts = [pack(">H", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            data = str(value).encode()
            parts.append(b"t" + pack(">I", len(data)) + data)
    return b"".join(parts)


def _string(text: str) -> bytes:
    return text.encode() + b"\0"
