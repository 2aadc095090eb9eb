"""A project at work: its loops and its chores, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from penstock import wiring
from penstock.database.project_lock import ProjectLock, hold_project_lock
from penstock.errors import UnavailableError
from penstock.models.base import Priority
from penstock.operate.columns import refuse_unknown_columns
from penstock.operate.declaring import declare_profiles
from penstock.operate.erasing import finish_pending, suppression
from penstock.operate.health import EVERY_S, HealthWatch
from penstock.operate.mail import mailroom
from penstock.operate.rereading import Rereading
from penstock.operate.segments import look_at_segments, segments_of
from penstock.operate.status import parked_streams, store_report
from penstock.pipelines.base import Tools
from penstock.records import Microseconds
from penstock.runtimes.base import Backoff, patiently
from penstock.runtimes.embedded import Chore, EmbeddedRuntime, Work
from penstock.runtimes.process import Assignment, ProcessSettings
from penstock.settings import PushSettings, WebhookDocumentsSettings, WebhookSettings
from penstock.sources.base import Source
from penstock.subjects import Screen

if TYPE_CHECKING:
    from penstock.project import Project
    from penstock.stores.postgres.upkeep import Upkeep

T = TypeVar("T")

RECEIVING = (WebhookSettings, WebhookDocumentsSettings, PushSettings)
"""Sources that others send to: they stay with the process that has the address."""

LIVE_SLICE, BULK_SLICE = 256, 1000
"""Documents or searched rows per commit: short enough to resume soon, long enough for batches."""


class Running:
    """One process's part in a project's run. ``joining``: beside others; else it is the one run,
    which workers may join."""

    def __init__(self, project: Project, *, joining: bool = False) -> None:
        self._project = project
        self._joining = joining
        self._publishing = wiring.publishing(project.settings, project.store)

    @contextlib.asynccontextmanager
    async def block(self) -> AsyncIterator[EmbeddedRuntime]:
        """Carry changes while the block runs; a failure of the runtime ends the block."""
        project = self._project
        project.carries = True
        told = wiring.lineage(
            project.settings, project.pool, project.meters, project.clock, project.worker
        )
        async with contextlib.AsyncExitStack() as stack:
            if told is not None:
                await stack.enter_async_context(told.block())
            yield await stack.enter_async_context(self._carrying())

    @contextlib.asynccontextmanager
    async def _carrying(self) -> AsyncIterator[EmbeddedRuntime]:
        await refuse_unknown_columns(self._project.settings, self._project.clock)
        await self._patiently(self._finish_erasures, "database")
        lock = None if self._joining else await self._patiently(self._hold_lock, "database")
        suppressed = await self._patiently(lambda: suppression(self._project), "database")
        # A local model is made ready meanwhile.
        load = getattr(self._project.embedder(), "load", None)
        loading = asyncio.ensure_future(asyncio.to_thread(load)) if load else None
        runtime = self._runtime(suppressed.screen)
        await self._prepare()
        block = asyncio.current_task()
        ended: list[BaseException] = []
        leaving = False

        def on_end(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not leaving:
                ended.append(error)
                if block is not None:
                    block.cancel()

        tasks = self._begun(runtime, lock)
        for task in tasks:
            task.add_done_callback(on_end)
        try:
            yield runtime
        except asyncio.CancelledError:
            if ended:
                raise ended[0] from None
            raise
        finally:
            leaving = True  # a task that ended a moment ago has its callback under way
            for task in tasks:
                task.cancel()
            if loading is not None:
                await asyncio.gather(loading, return_exceptions=True)
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._publishing.close()

    def _begun(
        self, runtime: EmbeddedRuntime, lock: ProjectLock | None
    ) -> list[asyncio.Task[None]]:
        """All that this process does beside serving."""
        tasks = [asyncio.create_task(runtime.run(), name="runtime")]
        if lock is not None:
            tasks.append(asyncio.create_task(self._keep_lock(lock), name="project lock"))
        mail = None if self._joining else mailroom(self._project)
        if mail is not None:
            tasks.append(asyncio.create_task(mail.run(), name="mail"))
        return tasks

    async def _finish_erasures(self) -> None:
        """What an erasure began is done before anything is carried; nothing else may run then."""
        await finish_pending(self._project)

    async def _prepare(self) -> None:
        await self._patiently(self.create_topics, "log")
        if not self._joining:
            await declare_profiles(self._project)

    async def _patiently(self, work: Callable[[], Awaitable[T]], what: str) -> T:
        limit_s = self._project.settings.run.patience
        return await patiently(work, limit_s=limit_s, clock=self._project.clock, what=what)

    async def _hold_lock(self) -> ProjectLock:
        return await hold_project_lock(self._project.dsn, self._project.settings.project)

    async def _keep_lock(self, lock: ProjectLock) -> None:
        """Hold the project's lock, and take it anew when the database was restarted."""
        backoff = Backoff(self._project.clock)
        try:
            while True:
                await lock.lost.wait()
                try:
                    lock = await self._hold_lock()
                    backoff.reset()
                except UnavailableError:
                    await backoff.wait()
        finally:
            await lock.release()

    async def create_topics(self) -> None:
        for course in wiring.courses(self._project.settings):
            for topic in course.topics:
                await self._project.log.create_topic(topic, self._project.settings.log.partitions)

    def _runtime(self, screen: Screen) -> EmbeddedRuntime:
        project, settings = self._project, self._project.settings
        runtime = EmbeddedRuntime(
            log=project.log,
            store=self._publishing,
            group=wiring.group(settings, project.dsn, project.log, project.worker),
            sources={
                name: partial(wiring.source, settings, name, project.clock, lambda: project.dsn)
                for name, chosen in settings.sources.items()
                if not isinstance(chosen, RECEIVING)
            },
            kept=self._kept(),
            work=[
                self.work(course, topic, partition)
                for course in wiring.courses(settings)
                for topic in course.topics
                for partition in range(settings.log.partitions)
            ],
            chores=self._chores(lambda: runtime.sources),
            clock=project.clock,
            meters=project.meters,
            screen=screen,
        )
        return runtime

    def _kept(self) -> dict[str, Source]:
        """Sources that others send to; the API reaches those of documents through the project."""
        project, settings = self._project, self._project.settings
        if self._joining:
            return {}
        kept = {
            name: wiring.source(settings, name, project.clock)
            for name, chosen in settings.sources.items()
            if isinstance(chosen, RECEIVING)
        }
        project.inlets.update(wiring.inlets(kept))
        return kept

    def work(self, course: wiring.Course, topic: str, partition: int) -> Work:
        run = self._project.settings.run
        slow = course.pipeline.name == "knowledge"
        priority: Priority = "bulk" if topic != course.source else "live"
        return Work(
            Assignment(
                course.pipeline,
                course.source,
                topic,
                partition,
                self._project.settings.log.partitions,
            ),
            Tools(self._project.recent_vectors(), self._project.store, priority),
            ProcessSettings(
                batch=run.batch,
                slice=(LIVE_SLICE if priority == "live" else BULK_SLICE) if slow else run.batch,
                ahead=2 if priority == "bulk" else 1,
                dead_letter_limit=run.dead_letter_limit,
            ),
        )

    def _chores(self, sources: Callable[[], Sequence[Source]]) -> list[Chore]:
        def report() -> Awaitable[None]:
            return store_report(self._project)

        rereading = Rereading(self._project.store, sources)
        chores = [
            Chore("rereading", 2.0, rereading.ask, when_idle=True, everywhere=True),
            Chore(
                "health",
                EVERY_S,
                HealthWatch(sources, self._project.meters, self._parked).look,
                when_idle=True,
                everywhere=True,
            ),
            Chore("trim", 60.0, self._trim),
            Chore("report", 2.0, report, everywhere=True),
            Chore("report when idle", 15.0, report, when_idle=True, everywhere=True),
        ]
        upkeep = self._project.keeper()
        chores += [
            Chore("statistics", 0.5, lambda: self._statistics(upkeep)),
            Chore("posting lists", 5.0, upkeep.merge),
            Chore("vector index", 5.0, lambda: upkeep.index(self._project.embedder().name)),
            Chore("tombstones", 3600.0, upkeep.prune),
            Chore("ledger", 600.0, self._trim_ledger),
            Chore("between processes", 60.0, self._prune, when_idle=True),
        ]
        if any(chosen.segments for chosen in self._project.settings.profiles.values()):
            look = partial(look_at_segments, segments_of(self._project))
            chores.append(Chore("segments", 0.5, look, when_idle=True))
        if self._project.settings.knowledge.stores:
            chores.append(Chore("second stores", 0.5, self._project.follow, when_idle=True))
        if self._project.server is not None:
            chores.append(
                Chore("database", 1.0, self._keep_database, when_idle=True, everywhere=True)
            )
        return chores

    async def _parked(self, source: str) -> dict[str, str]:
        return await parked_streams(self._project, source)

    async def _statistics(self, upkeep: Upkeep) -> None:
        await upkeep.statistics(sum(self._project.embedding_counts()))

    async def _keep_database(self) -> None:
        if self._project.server is not None:
            await self._project.server.ensure_running()

    async def _trim_ledger(self) -> None:
        now = self._project.clock.now()
        before = Microseconds(now - round(self._project.settings.ledger.keep * 1e6))
        await self._project.ledger().trim(before, now)
        idle = Microseconds(now - round(self._project.settings.ledger.sessions * 1e6))
        project = self._project
        await wiring.stored_sessions(project.settings, project.pool, project.ledger()).expire(idle)

    async def _prune(self) -> None:
        settings, pool = self._project.settings, self._project.pool
        await wiring.pushes(settings, pool).prune()
        await wiring.rates(settings, pool).prune()

    async def _trim(self) -> None:
        keep = self._project.settings.log
        before = int(self._project.clock.now() - keep.keep * 1e6)
        for topic in {info.topic for info in await self._project.log.describe()}:
            await self._project.log.trim(topic, before=before, max_bytes=keep.keep_size)  # type: ignore[arg-type]
