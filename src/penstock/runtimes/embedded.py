"""All loops in one process: the runtime of a laptop, and of one machine.

A source or pipeline that fails for good stops alone and says why; the others go on. Only a fence
(another process has taken over) stops everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from penstock.clock import Clock
from penstock.errors import FatalError, FencedError, RetryableError
from penstock.log.base import Log
from penstock.pipelines.base import Tools
from penstock.runtimes.ingest import IngestSettings, ingest
from penstock.runtimes.process import Assignment, Processor, ProcessSettings
from penstock.sources.base import Application, ReceivingSource, Source
from penstock.stores.base import Store
from penstock.telemetry import Meters

logger = structlog.get_logger("penstock.runtime")


@dataclass(frozen=True, slots=True)
class Work:
    """An assignment with what it may use and how it goes."""

    assignment: Assignment
    tools: Tools
    settings: ProcessSettings


@dataclass(frozen=True, slots=True)
class Chore:
    """Upkeep that is due now and then (trimming the log, merging posting blocks, building an
    index). Runs at most every ``every_s``, and only when something was processed since."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[None]]
    when_idle: bool = False


class EmbeddedRuntime:
    """Runs sources, pipelines and chores until cancelled or until nothing is left to run."""

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        sources: Sequence[Source],
        work: Sequence[Work],
        chores: Sequence[Chore] = (),
        clock: Clock,
        meters: Meters,
        ingest_settings: IngestSettings | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._sources = sources
        self._work = work
        self._chores = chores
        self._clock = clock
        self._meters = meters
        self._ingest_settings = ingest_settings or IngestSettings()
        self.failures: list[FatalError] = []

    def receivers(self) -> dict[str, Application]:
        """What answers those who push to sources, by the path that is theirs."""
        return {
            f"/hooks/{source.name}": source.application()
            for source in self._sources
            if isinstance(source, ReceivingSource)
        }

    async def run(self) -> None:
        """Until cancelled; raises the first failure once all sources or all pipelines ended."""
        for work in self._work:
            await self._store.position(
                work.assignment.pipeline.name,
                work.assignment.topic,
                work.assignment.partition,
            )  # registered before the first append, so that retention waits for it
        sources = [self._start(f"source {s.name}", self._ingest(s)) for s in self._sources]
        pipelines = [
            self._start(f"{w.assignment.pipeline.name} on {w.assignment.topic}", self._process(w))
            for w in self._work
        ]
        chores = [self._start(f"chore {c.name}", self._repeat(c)) for c in self._chores]
        try:
            await self._watch(sources, pipelines)
        finally:
            await _stop(sources)  # sources first: what they appended may still be processed
            await _stop([*pipelines, *chores])

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=name)

    async def _watch(
        self, sources: Sequence[asyncio.Task[None]], pipelines: Sequence[asyncio.Task[None]]
    ) -> None:
        running = {*sources, *pipelines}
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    continue
                if not isinstance(error, FatalError) or isinstance(error, FencedError):
                    raise error
                self.failures.append(error)
            if self.failures and (
                all(task.done() for task in sources) or all(task.done() for task in pipelines)
            ):
                raise self.failures[0]

    async def _ingest(self, source: Source) -> None:
        await ingest(
            source,
            self._log,
            clock=self._clock,
            meter=self._meters.source(source.name),
            settings=self._ingest_settings,
        )

    async def _process(self, work: Work) -> None:
        processor = Processor(
            work.assignment,
            self._log,
            self._store,
            work.tools,
            clock=self._clock,
            meter=self._meters.pipeline(work.assignment.pipeline.name, work.assignment.topic),
            settings=work.settings,
        )
        await processor.run()

    async def _repeat(self, chore: Chore) -> None:
        done_at = -1
        while True:
            await self._clock.sleep(chore.every_s)
            processed = sum(meter.changes for meter in self._meters.pipelines.values())
            if processed == done_at and not chore.when_idle:
                continue
            try:
                await chore.run()
                done_at = processed
            except (RetryableError, FatalError) as error:
                logger.warning("chore.failed", chore=chore.name, reason=str(error))


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
