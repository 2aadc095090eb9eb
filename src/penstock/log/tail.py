"""Following a topic, for people: all partitions, as they grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from penstock.log.base import Log
from penstock.log.refusals import no_topic
from penstock.records import Batch, LogPosition


async def tail(log: Log, topic: str, after: LogPosition | None) -> AsyncIterator[Batch]:
    """See `TailableLog.tail`. What retention has removed is passed over."""
    at = {
        info.partition: info.last
        if after is None
        else LogPosition(min(max(after, info.first - 1), info.last))
        for info in await log.describe(topic)
    }
    if not at:
        raise no_topic(topic)
    while True:
        found = False
        for partition, position in at.items():
            batch = await log.read(topic, partition, position)
            if batch is not None:
                found, at[partition] = True, batch.last
                yield batch
        if not found:
            await _wait_any(log, topic, at)


async def _wait_any(log: Log, topic: str, at: Mapping[int, LogPosition]) -> None:
    waits = [
        asyncio.create_task(log.wait(topic, partition, position))
        for partition, position in at.items()
    ]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
