"""The loops of one process among several: what is fenced begins again, twins are told apart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

import pytest

from penstock.errors import FencedError
from penstock.log.base import Item, Share
from penstock.log.memory import MemoryLog
from penstock.runtimes.embedded import FENCES, EmbeddedRuntime
from penstock.stores.base import Store
from penstock.telemetry import Meters
from penstock.testing.clock import ManualClock
from penstock.testing.scripted import ScriptedSource


class Everything:
    """A group of one."""

    every_s = 1.0

    def __init__(self) -> None:
        self._mine: frozenset[Item] = frozenset()

    async def join(self, items: Sequence[Item]) -> None:
        self._mine = frozenset(items)

    async def beat(self) -> Share:
        return Share(self._mine, frozenset())

    async def release(self, items: Collection[Item]) -> None:
        """Nobody else wants them."""

    async def leave(self) -> None:
        self._mine = frozenset()


class Fenced:
    """Makes sources that are fenced ``times`` times each."""

    def __init__(self, names: Iterable[str], times: int) -> None:
        self.made: Counter[str] = Counter()
        self._times = times
        self.makers = {name: self._maker(name) for name in names}

    def _maker(self, name: str) -> Callable[[], ScriptedSource]:
        def make() -> ScriptedSource:
            self.made[name] += 1
            taken = FencedError("another process has taken this over")
            return ScriptedSource([taken] if self.made[name] <= self._times else [], name)

        return make


async def run_for(sources: Fenced, beats: int) -> EmbeddedRuntime:
    """Raises what ends the runtime within so many beats."""
    clock = ManualClock()
    log = MemoryLog(clock)
    for name in sources.makers:
        await log.create_topic(name)
    runtime = EmbeddedRuntime(
        log=log,
        store=cast("Store", None),  # nothing is processed
        group=Everything(),
        sources=sources.makers,
        work=(),
        clock=clock,
        meters=Meters(),
    )
    task = asyncio.create_task(runtime.run())
    try:
        for _ in range(beats):
            for _ in range(100):
                await asyncio.sleep(0)
            clock.advance(Everything.every_s)
            if task.done():
                await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return runtime


async def test_one_that_slept_finds_everything_taken_over_at_once_and_goes_on() -> None:
    """More parts than `FENCES`, each fenced once: no reason to end."""
    names = [f"s{number}" for number in range(FENCES + 2)]
    sources = Fenced(names, times=1)
    runtime = await run_for(sources, beats=20)
    assert runtime.failures == []
    assert sources.made == dict.fromkeys(names, 2)


async def test_a_twin_that_takes_the_same_over_again_and_again_ends_the_process() -> None:
    """Two projects of one name would fence each other for ever."""
    with pytest.raises(FencedError, match="taken this over"):
        await run_for(Fenced(["s"], times=FENCES), beats=2 * FENCES)
    await run_for(Fenced(["s"], times=FENCES - 1), beats=2 * FENCES)
