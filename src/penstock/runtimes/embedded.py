"""All loops of a process: the runtime of a laptop, and of each of several workers.

What is to be done is shared with other processes item by item (`penstock.log.base.Group`); alone, a
process has everything. What is taken away is stopped first and then released. A source or pipeline
that fails for good stops alone and says why; the others go on. One that was fenced has been taken
over, or was held up for so long that others believed it gone: it begins again if it is still ours.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from penstock.clock import Clock
from penstock.errors import FatalError, FencedError, RetryableError
from penstock.log.base import Group, Item, Log
from penstock.pipelines.base import Tools
from penstock.runtimes.base import ended, heed_cancellation, patiently
from penstock.runtimes.ingest import IngestSettings, ingest
from penstock.runtimes.process import Assignment, Processor, ProcessSettings
from penstock.sources.base import Application, ReceivingSource, Source
from penstock.stores.base import Store
from penstock.subjects import Screen, unscreened
from penstock.telemetry import Meters

logger = structlog.get_logger("penstock.runtime")

UPKEEP: Final = Item("upkeep", "stores")

FENCES: Final = 20
FENCES_S: Final = 60.0
"""So many fences of one item within this time are no accident: two projects use the same names, and
fence each other with all that they do."""


@dataclass(frozen=True, slots=True)
class Work:
    """An assignment with what it may use and how it goes."""

    assignment: Assignment
    tools: Tools
    settings: ProcessSettings

    @property
    def item(self) -> Item:
        """What a process must have to do it."""
        return Item("partition", self.assignment.topic, self.assignment.partition)


@dataclass(frozen=True, slots=True)
class Chore:
    """Upkeep that is due now and then (trimming the log, merging posting blocks, building an
    index). Runs at most every ``every_s``, and only when something was processed since.
    ``everywhere``: by each process for itself, not by one for all."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[None]]
    when_idle: bool = False
    everywhere: bool = False


class EmbeddedRuntime:
    """Runs its share of sources, pipelines and chores until cancelled, or until what it had has
    failed. ``sources`` are shared with other processes and made when they are ours; ``kept`` are
    this process's own: others send to them, at its address."""

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        group: Group,
        sources: Mapping[str, Callable[[], Source]],
        kept: Mapping[str, Source] | None = None,
        work: Sequence[Work],
        chores: Sequence[Chore] = (),
        clock: Clock,
        meters: Meters,
        ingest_settings: IngestSettings | None = None,
        screen: Screen = unscreened,
    ) -> None:
        self._screen = screen
        self._log = log
        self._store = store
        self._group = group
        self._kept = dict(kept or {})
        self._makers = {**sources, **{name: _always(source) for name, source in self._kept.items()}}
        self._work = work
        self._chores = chores
        self._clock = clock
        self._meters = meters
        self._ingest_settings = ingest_settings or IngestSettings()
        self._sources: dict[str, Source] = {}
        self._tasks: dict[Item, list[asyncio.Task[None]]] = {}
        self._fences: dict[Item, deque[float]] = {}
        self.failures: list[FatalError] = []

    def receivers(self) -> dict[str, Application]:
        """What answers those who push to sources, by the path that is theirs."""
        return {
            f"/hooks/{name}": source.application()
            for name, source in self._kept.items()
            if isinstance(source, ReceivingSource)
        }

    @property
    def sources(self) -> Sequence[Source]:
        """The sources that run in this process now."""
        return list(self._sources.values())

    @property
    def items(self) -> frozenset[Item]:
        """What this process does now."""
        return frozenset(self._tasks)

    async def run(self) -> None:
        """Until cancelled; raises the first failure once all sources or all pipelines ended."""
        await self._until_reached(self._register)
        own = [self._start(f"chore {c.name}", self._repeat(c)) for c in self._of_each(own=True)]
        try:
            await self._until_reached(lambda: self._group.join(self._all_items()))
            while True:
                heed_cancellation()
                await self._follow_share()
                await self._until_beat()
        finally:
            await _stop(own)
            await self._end(kinds=("source",))  # what they appended may still be processed
            await self._end(kinds=("partition", "upkeep"))
            await self._group.leave()

    async def _register(self) -> None:
        """All consumers, before the first append, so that retention waits for them."""
        for work in self._work:
            at = work.assignment
            await self._store.position(at.pipeline.name, at.topic, at.partition)

    async def _until_reached(self, work: Callable[[], Awaitable[None]]) -> None:
        """What a running process waits for for ever, one that begins does too."""
        await patiently(work, limit_s=math.inf, clock=self._clock, what="database")

    def _all_items(self) -> list[Item]:
        partitions = dict.fromkeys(work.item for work in self._work)
        shared = [name for name in self._makers if name not in self._kept]
        return [*(Item("source", name) for name in shared), *partitions, UPKEEP]

    # ------------------------------------------------------------------ what is ours

    async def _follow_share(self) -> None:
        """Stop what is not ours any more, begin with what is."""
        try:
            share = await self._group.beat()
        except RetryableError as error:
            logger.warning("workers.waiting", reason=str(error))
            return
        wanted = share.mine - share.shed | {Item("source", name) for name in self._kept}
        away = [item for item in self._tasks if item not in wanted]
        if away:
            logger.info("worker.stopping", items=[_name(item) for item in sorted(away)])
            await self._stop_items(away)
        try:
            await self._group.release(share.shed)
        except RetryableError as error:
            logger.warning("workers.waiting", reason=str(error))
        for item in sorted(wanted - self._tasks.keys()):
            self._tasks[item] = [self._start(name, work) for name, work in self._loops(item)]

    def _loops(self, item: Item) -> Iterable[tuple[str, Coroutine[Any, Any, None]]]:
        if item.kind == "source":
            yield f"source {item.name}", self._ingest(item.name)
        elif item.kind == "partition":
            for work in self._work:
                if work.item == item:
                    yield f"{work.assignment.pipeline.name} on {item.name}", self._process(work)
        else:
            for chore in self._of_each(own=False):
                yield f"chore {chore.name}", self._repeat(chore)

    def _of_each(self, *, own: bool) -> list[Chore]:
        return [chore for chore in self._chores if chore.everywhere is own]

    async def _until_beat(self) -> None:
        """Wait for the next beat, or for a loop that ends."""
        running = {task for tasks in self._tasks.values() for task in tasks if not task.done()}
        sleep = asyncio.ensure_future(self._clock.sleep(self._group.every_s))
        try:
            await asyncio.wait({*running, sleep}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
        for item, tasks in list(self._tasks.items()):
            for task in [done for done in tasks if done.done()]:
                await self._ended(item, task)

    async def _ended(self, item: Item, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or error in self.failures:
            return
        if isinstance(error, FencedError) and item not in self._tasks:
            return  # two loops of one item were fenced in the same moment, which is one fence
        if isinstance(error, FencedError):
            logger.warning("worker.fenced", item=_name(item), reason=str(error))
            self._count_fence(item, error)
            await self._stop_items([item])  # it begins again with the next beat, if it is ours
        elif isinstance(error, FatalError):
            self.failures.append(error)
            self._raise_when_over()
        else:
            raise error

    def _count_fence(self, item: Item, error: FencedError) -> None:
        """One by one: a process that slept finds everything that it had taken over at once."""
        now = self._clock.monotonic()
        fences = self._fences.setdefault(item, deque(maxlen=FENCES))
        fences.append(now)
        if len(fences) == FENCES and now - fences[0] < FENCES_S:
            raise error

    def _raise_when_over(self) -> None:
        """Once all sources or all pipelines of this process have ended, there is nothing to do."""
        for kind in ("source", "partition"):
            tasks = [t for item, found in self._tasks.items() if item.kind == kind for t in found]
            if tasks and all(task.done() for task in tasks):
                raise self.failures[0]

    async def _stop_items(self, items: Iterable[Item]) -> None:
        stopped = list(items)
        await _stop([task for item in stopped for task in self._tasks[item]])
        for item in stopped:
            del self._tasks[item]
            self._forget_meters(item)

    async def _end(self, *, kinds: Sequence[str]) -> None:
        await _stop([t for i, tasks in self._tasks.items() if i.kind in kinds for t in tasks])

    def _forget_meters(self, item: Item) -> None:
        """What another process does now is not for this one to report."""
        if item.kind == "source":
            self._meters.sources.pop(item.name, None)
        left = {other.name for other in self._tasks if other.kind == "partition"}
        for name, topic in list(self._meters.pipelines):
            if item.kind == "partition" and topic == item.name:
                if topic in left:
                    self._meters.pipelines[name, topic].state = "running"
                else:
                    del self._meters.pipelines[name, topic]

    # ------------------------------------------------------------------ loops

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=name)

    async def _ingest(self, name: str) -> None:
        source = self._sources[name] = self._makers[name]()
        try:
            await ingest(
                source,
                self._log,
                clock=self._clock,
                meter=self._meters.source(name),
                settings=self._ingest_settings,
                screen=self._screen,
            )
        finally:
            self._sources.pop(name, None)

    async def _process(self, work: Work) -> None:
        processor = Processor(
            work.assignment,
            self._log,
            self._store,
            work.tools,
            clock=self._clock,
            meter=self._meters.pipeline(work.assignment.pipeline.name, work.assignment.topic),
            settings=work.settings,
            screen=self._screen,
        )
        await processor.run()

    async def _repeat(self, chore: Chore) -> None:
        done_at = -1
        while True:
            heed_cancellation()
            await self._clock.sleep(chore.every_s)
            processed = sum(meter.changes for meter in self._meters.pipelines.values())
            if processed == done_at and not chore.when_idle:
                continue
            try:
                await chore.run()
                done_at = processed
            except (RetryableError, FatalError) as error:
                logger.warning("chore.failed", chore=chore.name, reason=str(error))


def _always(source: Source) -> Callable[[], Source]:
    return lambda: source


def _name(item: Item) -> str:
    return f"{item.name}:{item.partition}" if item.kind == "partition" else item.name


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await ended(tasks)
