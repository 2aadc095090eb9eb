"""Loops of one item that are fenced in the same moment are one fence; many of them are an error."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pytest

from penstock.errors import FencedError
from penstock.log.base import Item, Share
from penstock.log.memory import MemoryLog
from penstock.models.constant import ConstantEmbedder
from penstock.pipelines.base import Tools
from penstock.pipelines.tables import TablesPipeline
from penstock.records import LogPosition
from penstock.runtimes.embedded import FENCES, EmbeddedRuntime, Work
from penstock.runtimes.process import Assignment, ProcessSettings
from penstock.stores.memory import MemoryStore
from penstock.telemetry import Meters
from penstock.testing.clock import ManualClock


class FencingStore(MemoryStore):
    """Whoever asks where it stands learns that others have it; so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times
        self.asked = 0

    async def position(self, consumer: str, topic: str, partition: int) -> LogPosition:
        self.asked += 1
        if self.asked > 2 and self.left > 0:
            self.left -= 1
            raise FencedError("another process runs the same pipeline")
        return await super().position(consumer, topic, partition)


@dataclass
class Alone:
    """Everything is ours at every beat."""

    every_s: float = 1.0
    items: frozenset[Item] = frozenset()

    async def join(self, items: Sequence[Item]) -> None:
        self.items = frozenset(items)

    async def beat(self) -> Share:
        return Share(self.items, frozenset())

    async def release(self, items: Collection[Item]) -> None: ...

    async def leave(self) -> None: ...


def runtime(store: FencingStore) -> EmbeddedRuntime:
    """Two pipelines over one partition."""
    clock = ManualClock()
    tools = Tools(ConstantEmbedder(), store)
    work = [
        Work(Assignment(TablesPipeline(name, ("t",)), "s", "t", 0), tools, ProcessSettings())
        for name in ("one", "other")
    ]
    return EmbeddedRuntime(
        log=MemoryLog(clock), store=store, group=Alone(), sources={}, work=work, clock=clock,
        meters=Meters(),
    )  # fmt: skip


async def test_two_loops_of_one_item_that_are_fenced_at_once_begin_again() -> None:
    """Some process had taken the partition over, and both pipelines find out in one moment."""
    store = FencingStore(4)
    running = runtime(store)
    await running._log.create_topic("t")
    task = asyncio.create_task(running.run())
    async with asyncio.timeout(5):
        while store.left or store.asked < 8:
            await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_fences_without_end_are_two_projects_of_one_name() -> None:
    """Then one of them ends, with a sentence."""
    store = FencingStore(10 * FENCES)
    running = runtime(store)
    await running._log.create_topic("t")
    with pytest.raises(FencedError):
        await asyncio.wait_for(running.run(), 5)
    assert store.left <= 9 * FENCES
