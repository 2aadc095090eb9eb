"""What the tests of logs append, and how they read it back."""

from __future__ import annotations

import time
from collections.abc import Sequence

from penstock.log.base import Log
from penstock.records import (
    BEGINNING,
    Batch,
    Change,
    Column,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
)

DEADLINE_S = 20.0
COLUMNS = (Column("id", "bigint", key=True), Column("name", "text"))


def change(
    key: object, name: str | None = "a", *, stream: str = "public.things", op: Op = Op.CREATE
) -> Change:
    """A change of one row of a small table."""
    schema = Schema("shop", stream, COLUMNS)
    if op is Op.TRUNCATE:
        return Change(schema, op, (), Position("0001"), Microseconds(1))
    text = str(key)
    before: Row | None = (text, None) if op is Op.DELETE else None
    after: Row | None = None if op is Op.DELETE else (text, name)
    return Change(schema, op, (text,), Position(f"{text:0>8}"), Microseconds(1), after, before)


async def read_all(
    log: Log,
    topic: str,
    partition: int = 0,
    after: LogPosition = BEGINNING,
    *,
    max_changes: int = 5000,
    streams: frozenset[str] | None = None,
) -> list[Batch]:
    """All batches after a position, until there is no more."""
    batches = []
    while batch := await log.read(
        topic, partition, after, max_changes=max_changes, streams=streams
    ):
        batches.append(batch)
        after = batch.last
    return batches


async def changes_of(log: Log, topic: str, partition: int = 0) -> list[Change]:
    """All changes of a partition."""
    return [each for batch in await read_all(log, topic, partition) for each in batch.changes]


def keys(changes: Sequence[Change]) -> list[str]:
    """The first part of each key."""
    return [each.key[0] or "" for each in changes]


def present_time() -> Microseconds:
    """A time after everything that happened and before everything that will, for logs that know
    milliseconds."""
    now = time.time_ns() // 1000
    while time.time_ns() // 1000 <= now + 4000:
        pass
    return Microseconds(now + 2000)
