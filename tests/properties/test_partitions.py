"""Partitions of a topic at their own pace give what one would: whatever moves between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.log.memory import MemoryLog
from penstock.models.constant import ConstantEmbedder
from penstock.pipelines.base import Tools
from penstock.pipelines.tables import TablesPipeline
from penstock.records import (
    UNCHANGED,
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
from penstock.runtimes.process import Assignment, Processor, ProcessSettings
from penstock.stores.memory import MemoryStore
from penstock.telemetry import PipelineMeter
from penstock.testing.clock import ManualClock

ITEMS = Schema("s", "t", (Column("id", "text", key=True), Column("v", "text"), Column("b", "text")))
PARTITIONS = 4
KEYS = 7

Steps = Sequence[tuple[int, int, bool, int]]


class QuickClock(ManualClock):
    """Pauses are turns of the loop."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class UnevenLog(MemoryLog):
    """Reading takes some turns of the loop, more or fewer."""

    def __init__(self, seed: int) -> None:
        super().__init__(QuickClock())
        self._chance = random.Random(seed)

    async def read(
        self,
        topic: str,
        partition: int,
        after: LogPosition,
        *,
        max_changes: int = 5000,
        streams: frozenset[str] | None = None,
    ) -> Batch | None:
        for _ in range(self._chance.randrange(60)):
            await asyncio.sleep(0)
        return await super().read(topic, partition, after, max_changes=max_changes, streams=streams)


def history(steps: Steps) -> tuple[list[list[Change]], dict[str, tuple[str, str]]]:
    """Appends of changes, and what the table holds at their end."""
    rows: dict[str, tuple[str, str]] = {}
    appends: list[list[Change]] = [[]]
    for number, (one, other, large, kind) in enumerate(steps, start=1):
        key, new = str(one), str(other)
        if key not in rows:
            rows[key] = (f"v{number}", f"b{number}")
            change = made(Op.CREATE, key, number, (key, *rows[key]))
        elif kind == 0:
            del rows[key]
            change = made(Op.DELETE, key, number, None)
        else:
            v, b = f"v{number}", f"b{number}" if large else rows[key][1]
            target = key if new in rows or kind == 1 else new
            del rows[key]
            rows[target] = (v, b)
            row: Row = (target, v, b if large else UNCHANGED)
            change = made(Op.UPDATE, target, number, row, None if target == key else key)
        appends[-1].append(change)
        if kind % 2:
            appends.append([])
    return [append for append in appends if append], rows


def made(op: Op, key: str, at: int, row: Row | None, old: str | None = None) -> Change:
    old_key = None if old is None else (old,)
    return Change(
        ITEMS, op, (key,), Position(f"{at:04}"), Microseconds(at), row, None, old_key, str(at)
    )


async def processed(appends: Sequence[Sequence[Change]], seed: int) -> MemoryStore:
    """All partitions, each by a processor of its own, at the same time."""
    log, store = UnevenLog(seed), MemoryStore()
    await log.create_topic("t", PARTITIONS)
    producer = await log.open_producer("s")
    clock = QuickClock()
    tasks = []
    for number in range(PARTITIONS):
        processor = Processor(
            Assignment(TablesPipeline("tables", ("t",)), "s", "t", number, PARTITIONS),
            log,
            store,
            Tools(ConstantEmbedder(), store),
            clock=clock,
            meter=PipelineMeter("tables", "t"),
            settings=ProcessSettings(batch=3, slice=2),
        )
        tasks.append(asyncio.create_task(processor.run()))
    for append in appends:
        await producer.append("t", append)
        await asyncio.sleep(0)
    ends = {info.partition: info.last for info in await log.describe("t")}
    async with asyncio.timeout(20):
        for number, end in ends.items():
            while await store.position("tables", "t", number) < end:
                await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return store


# A row moves to a key whose own row has just moved on: who puts it there must not do so before that
# one's values that were left out have been read.
FOLLOWED: Steps = [*[(0, 0, False, 0)] * 5, (3, 0, False, 0), (3, 1, False, 2), (0, 3, False, 2)]


@settings(max_examples=60, deadline=None)
@example(FOLLOWED, 0)
@given(
    st.lists(
        st.tuples(st.integers(0, KEYS), st.integers(0, KEYS), st.booleans(), st.integers(0, 3)),
        max_size=40,
    ),
    st.integers(0, 1000),
)
def test_g1_g2_partitions_at_their_own_pace_lose_no_value_that_moves(
    steps: Steps, seed: int
) -> None:
    """Rows move between partitions with values left out, many in one append, back and forth."""
    appends, rows = history(steps)
    store = asyncio.run(processed(appends, seed))
    assert not store.letters
    held = {
        str(key[0]): (row.values["v"], row.values["b"])
        for key, row in (store.rows("s", "t") if appends else {}).items()
    }
    assert held == rows
