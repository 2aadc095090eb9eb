"""When there is something to say: jobs begin, go on, end and fail.

Nothing of the loops knows of this. What they count anyway (`penstock.telemetry.Meters`) is looked
at now and then, and what has become of each source and pipeline since is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.operate.lineage.events import EventType, Job, Run, Voice, run_id
from penstock.operate.lineage.jobs import Lineage, LiveTable
from penstock.operate.lineage.sending import Sender
from penstock.telemetry import Meters, PipelineMeter, SourceMeter

LOOK_S: Final = 0.25
"""How often the meters are looked at."""
_TABLES_S: Final = 1.0
"""How often it is asked which tables there are, at most, and how long the end waits for it."""

Name = tuple[Literal["source", "pipeline"], str, str]
Tables = Callable[[], Awaitable[Sequence[LiveTable]]]

logger = structlog.get_logger("penstock.lineage")


@dataclass(slots=True)
class _Followed:
    """A run that goes on, what was said of it last, and when."""

    run: Run
    said: dict[str, Any]
    said_at: float


class Watch:
    """Follows one process's sources and pipelines. ``worker`` tells it from others."""

    def __init__(
        self,
        meters: Meters,
        lineage: Lineage,
        voice: Voice,
        sender: Sender,
        clock: Clock,
        *,
        worker: str,
        tables: Tables,
        every_s: float,
    ) -> None:
        self._meters = meters
        self._lineage = lineage
        self._voice = voice
        self._sender = sender
        self._clock = clock
        self._worker = worker
        self._read_tables = tables
        self._every_s = every_s
        self._tables: Sequence[LiveTable] = ()
        self._counted = -1
        self._read_at = -math.inf
        self._count = 0
        self._runs: dict[Name, _Followed] = {}
        self._failed: dict[Name, str] = {}
        self._whole: Run | None = None

    @contextlib.asynccontextmanager
    async def block(self) -> AsyncIterator[None]:
        """Say it while the block runs, and at its end what that was."""
        self._sender.start()
        self._whole = self._begun(self._lineage.project(), None)
        self._say("START", self._whole)
        looking = asyncio.create_task(self._keep_looking(), name="lineage")
        looking.add_done_callback(_ended)
        clean = False
        try:
            yield
            clean = True
        except asyncio.CancelledError:
            clean = True  # somebody stops us, which is an end in order
            raise
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await self._end(clean=clean)
            await self._sender.close()

    async def _keep_looking(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Say what has changed since the last look."""
        before = self._tables
        await self._refresh()
        there: set[Name] = set()
        for name, meter in self._metered():
            if meter.state in {"running", "waiting"}:
                there.add(name)
                self._goes_on(name, meter, described=before != self._tables)
            elif meter.state == "failed":
                there.add(name)
                self._fails(name, meter)
        for name in [name for name in self._runs if name not in there]:
            followed = self._runs.pop(name)
            self._say("COMPLETE", followed.run, progress=followed.said)

    def _metered(self) -> Iterator[tuple[Name, SourceMeter | PipelineMeter]]:
        for source in list(self._meters.sources.values()):
            yield ("source", source.name, ""), source
        for pipeline in list(self._meters.pipelines.values()):
            yield ("pipeline", pipeline.name, pipeline.topic), pipeline

    async def _refresh(self, *, last: bool = False) -> None:
        """Tables come and change with changes alone."""
        counted = sum(meter.changes for meter in self._meters.pipelines.values())
        now = self._clock.monotonic()
        if counted == self._counted or (now - self._read_at < _TABLES_S and not last):
            return
        self._read_at = now
        try:
            async with asyncio.timeout(_TABLES_S):
                self._tables = await self._read_tables()
            self._counted = counted
        except (PenstockError, TimeoutError) as error:  # the loops say so themselves
            logger.debug("lineage.tables", reason=str(error))

    # ------------------------------------------------------------------ what becomes of a run

    def _goes_on(self, name: Name, meter: SourceMeter | PipelineMeter, *, described: bool) -> None:
        now = self._clock.monotonic()
        said = progress(meter)
        self._failed.pop(name, None)
        followed = self._runs.get(name)
        if followed is None:
            run = self._begun(self._job(name), self._whole)
            self._runs[name] = _Followed(run, said, now)
            self._say("START", run, progress=said)
            return
        job = self._job(name) if described else followed.run.job
        due = now - followed.said_at >= self._every_s and said != followed.said
        if due or job != followed.run.job or said["state"] != followed.said["state"]:
            followed.run = Run(followed.run.id, job, self._whole)
            followed.said, followed.said_at = said, now
            self._say("RUNNING", followed.run, progress=said)

    def _fails(self, name: Name, meter: SourceMeter | PipelineMeter) -> None:
        reason = meter.last_error or "it failed"
        if self._failed.get(name) == reason:
            return
        self._failed[name] = reason
        followed = self._runs.pop(name, None)
        if followed is None:
            run = self._begun(self._job(name), self._whole)
            self._say("START", run)
        else:
            run = followed.run
        self._say("FAIL", run, progress=progress(meter), error=reason)

    async def _end(self, *, clean: bool) -> None:
        """The process stops; what failed has failed, the rest ends in order or is broken off."""
        await self._refresh(last=True)
        for name, meter in self._metered():
            if meter.state == "failed":
                self._fails(name, meter)
            elif meter.state != "starting":
                if name not in self._runs:  # all of it was between two looks
                    self._goes_on(name, meter, described=True)
                followed = self._runs[name]
                followed.run = Run(followed.run.id, self._job(name), self._whole)
                followed.said = progress(meter)
        kind: EventType = "COMPLETE" if clean else "ABORT"
        for followed in self._runs.values():
            self._say(kind, followed.run, progress=followed.said)
        self._runs.clear()
        if self._whole is not None:
            self._say("COMPLETE" if clean else "FAIL", self._whole)

    def _job(self, name: Name) -> Job:
        kind, first, topic = name
        if kind == "source":
            return self._lineage.source(first, self._tables)
        return self._lineage.pipeline(first, topic, self._tables)

    def _begun(self, job: Job, parent: Run | None) -> Run:
        self._count += 1
        id_ = run_id(job.name, self._worker, self._count, at=self._clock.now())
        return Run(id_, job, parent)

    def _say(self, kind: EventType, run: Run, **more: Any) -> None:
        self._sender.say(self._voice.event(kind, run, self._clock.now(), **more))


def _ended(task: asyncio.Task[None]) -> None:
    """A fault of ours here is said, and stops nothing else."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        logger.error("lineage.failed", reason=repr(error), exc_info=error)


def progress(meter: SourceMeter | PipelineMeter) -> dict[str, Any]:
    """How far a source or pipeline is, as our own facet says it."""
    said: dict[str, Any] = {
        "state": meter.state,
        "changes": meter.changes,
        "errors": meter.errors,
        "position": str(meter.position) if meter.position else None,
        "lastError": meter.last_error,
    }
    if isinstance(meter, PipelineMeter):
        found = meter.freshness.percentiles()
        said |= {
            "lag": meter.lag,
            "deadLetters": meter.dead_letters,
            "embedded": meter.embedded,
            "reused": meter.reused,
            "freshnessMs": {"p50": found.p50, "p95": found.p95, "p99": found.p99},
        }
    return said
