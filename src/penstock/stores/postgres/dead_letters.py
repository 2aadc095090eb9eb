"""Dead letters: changes that could not be processed, kept whole with their reasons (G13).

A letter is readable by people (JSON in ``payload``) and exact: it can be tried again. Nothing that
a change holds may keep it from being buried, so texts that PostgreSQL or UTF-8 cannot hold are
escaped, and keys that are too long for an index are named by their digest there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from penstock.database.queries import load_queries
from penstock.errors import FatalError
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Key,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
    Value,
)
from penstock.stores.base import DeadLetter

Connection = psycopg.AsyncConnection[Any]

_QUERIES: Final = load_queries(Path(__file__).with_name("store.sql"))
_MAX_KEY: Final = 500
_MAX_REASON: Final = 10_000
_UNCHANGED: Final = 0
"""What stands for `UNCHANGED` in a payload: all other values are texts or null."""


@dataclass(frozen=True, slots=True)
class BuriedLetter:
    """A dead letter as it is stored."""

    id: int
    letter: DeadLetter
    attempts: int
    buried_at: Microseconds


async def bury(connection: Connection, letters: Sequence[DeadLetter], tenant: str) -> None:
    """Keep these letters, inside the caller's transaction."""
    rows = [
        {
            "tenant": tenant,
            "pipeline": letter.pipeline,
            "source": letter.change.schema.source,
            "stream": letter.change.schema.stream,
            "key": _key(letter.change.key),
            "topic": letter.topic,
            "partition": letter.partition,
            "log_position": letter.log_position,
            "position": letter.change.position,
            "reason": _storable(letter.reason)[:_MAX_REASON],
            "payload": encode(letter.change),
        }
        for letter in letters
    ]
    await connection.cursor().executemany(_QUERIES["bury"], rows)


async def read_letters(
    connection: Connection,
    tenant: str,
    *,
    ids: Sequence[int] | None = None,
    pipeline: str | None = None,
    source: str | None = None,
    limit: int | None = None,
) -> list[BuriedLetter]:
    """Letters, newest first."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        _QUERIES["letters"],
        {
            "tenant": tenant,
            "ids": None if ids is None else list(ids),
            "pipeline": pipeline,
            "source": source,
            "limit": limit,
        },
    )
    return [
        BuriedLetter(
            row["id"],
            DeadLetter(
                pipeline=row["pipeline"],
                topic=row["topic"],
                partition=row["partition"],
                log_position=LogPosition(row["log_position"]),
                change=decode(bytes(row["payload"])),
                reason=row["reason"],
            ),
            row["attempts"],
            Microseconds(row["buried_at"]),
        )
        for row in await cursor.fetchall()
    ]


async def drop_letters(connection: Connection, tenant: str, ids: Sequence[int] | None) -> int:
    """Remove these letters, or all; returns how many there were."""
    cursor = await connection.execute(
        _QUERIES["drop_letters"], {"tenant": tenant, "ids": None if ids is None else list(ids)}
    )
    return cursor.rowcount


def encode(change: Change) -> bytes:
    """A change as JSON in ASCII, exactly."""
    schema = change.schema
    return json.dumps(
        {
            "source": schema.source,
            "stream": schema.stream,
            "columns": [list(column) for column in schema.columns],
            "op": change.op.value,
            "key": change.key,
            "position": change.position,
            "committed_at": change.committed_at,
            "after": _row_out(change.after),
            "before": _row_out(change.before),
            "old_key": change.old_key,
            "transaction": change.transaction,
        },
        separators=(",", ":"),
    ).encode("ascii")


def decode(payload: bytes) -> Change:
    """The change that `encode` wrote."""
    try:
        found: dict[str, Any] = json.loads(payload)
        columns = tuple(Column(name, of, key) for name, of, key in found["columns"])
        old_key: list[str | None] | None = found["old_key"]
        return Change(
            schema=Schema(found["source"], found["stream"], columns),
            op=Op(found["op"]),
            key=tuple(found["key"]),
            position=Position(found["position"]),
            committed_at=Microseconds(found["committed_at"]),
            after=_row_in(found["after"]),
            before=_row_in(found["before"]),
            old_key=None if old_key is None else tuple(old_key),
            transaction=found["transaction"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FatalError(
            f"expected a dead letter with a change as JSON, got {payload[:80]!r}: it was written "
            "by another version; drop it, or use that version"
        ) from error


def _row_out(row: Row | None) -> list[str | int | None] | None:
    if row is None:
        return None
    return [_UNCHANGED if value is UNCHANGED else value for value in row]


def _row_in(row: list[Any] | None) -> Row | None:
    return None if row is None else tuple(_value_in(value) for value in row)


def _value_in(value: Any) -> Value:
    if value == _UNCHANGED and not isinstance(value, str):
        return UNCHANGED
    return None if value is None else str(value)


def _key(key: Key) -> str:
    text = json.dumps([None if value is None else _storable(value) for value in key])
    if len(text) > _MAX_KEY or "\\u0000" in text:
        digest = hashlib.sha256(json.dumps(key).encode("ascii")).hexdigest()
        text = json.dumps([_storable(str(key[0]))[:100], f"sha256:{digest}"])
    return text


def _storable(text: str) -> str:
    """``text`` with marks for what PostgreSQL's text or UTF-8 cannot hold."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
