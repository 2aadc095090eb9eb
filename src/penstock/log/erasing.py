"""Erasing in the embedded log: records lose their content in place, so that positions, order and
the number of records stay, and whoever reads on reads the rest as before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import psycopg

from penstock.log.codec import Codec
from penstock.records import Change
from penstock.subjects import Subject, erased

Connection = psycopg.AsyncConnection[Any]

_COMPRESS_FROM: Final = 64 * 1024
_AT_ONCE: Final = 64
Place = tuple[str, int, int]


async def batches(
    connection: Connection, tenant: str
) -> AsyncIterator[tuple[Place, Sequence[Change]]]:
    """Every stored append with its place, in the caller's transaction, which may then take its
    time between one and the next."""
    codec = Codec()
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    async with connection.cursor("penstock_erasing", binary=True) as cursor:
        await cursor.execute(
            "SELECT b.topic, b.partition, b.last_position, b.payload FROM penstock.log_batches b "
            "JOIN penstock.log_topics t USING (topic) "
            "WHERE t.tenant = %s AND t.log = 'embedded' AND b.payload IS NOT NULL "
            "AND b.streams <> '{}' ORDER BY 1, 2, 3",
            [tenant],
        )
        while rows := await cursor.fetchmany(_AT_ONCE):
            for topic, partition, last, payload in rows:
                yield (topic, partition, last), codec.decode(payload).changes


async def redact(connection: Connection, tenant: str, subject: Subject) -> int:
    """Take the content of all changes that are about somebody; returns how many there were."""
    codec = Codec(compress_from=_COMPRESS_FROM)
    found = 0
    async for (topic, partition, last), changes in batches(connection, tenant):
        held = [subject.holds(change) for change in changes]
        if not any(held):
            continue
        found += sum(held)
        encoded = codec.encode(
            [erased(change) if own else change for change, own in zip(changes, held, strict=True)]
        )
        await connection.execute(
            "UPDATE penstock.log_batches SET payload = %s, streams = %s "
            "WHERE topic = %s AND partition = %s AND last_position = %s",
            [encoded.payload, list(encoded.streams), topic, partition, last],
        )
    return found


async def mentions(connection: Connection, tenant: str, says: Callable[[str], bool]) -> int:
    """How many changes say something in any of their values. Asked for many at once first."""
    found = 0
    async for _, changes in batches(connection, tenant):
        texts = ["\n".join(_texts(change)) for change in changes]
        if says("\n".join(texts)):
            found += sum(map(says, texts))
    return found


def _texts(change: Change) -> list[str]:
    values = (*change.key, *(change.old_key or ()), *(change.after or ()), *(change.before or ()))
    return [value for value in values if isinstance(value, str)]
