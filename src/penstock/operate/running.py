"""A project at work: its loops and its chores, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from penstock import wiring
from penstock.database.project_lock import ProjectLock, hold_project_lock
from penstock.errors import UnavailableError
from penstock.models.base import Priority
from penstock.operate.columns import refuse_unknown_columns
from penstock.operate.rereading import Rereading
from penstock.operate.status import store_report
from penstock.pipelines.base import Tools
from penstock.runtimes.base import Backoff
from penstock.runtimes.embedded import Chore, EmbeddedRuntime, Work
from penstock.runtimes.process import Assignment, ProcessSettings
from penstock.sources.base import Source

if TYPE_CHECKING:
    from penstock.project import Project
    from penstock.stores.postgres.upkeep import Upkeep

LIVE_SLICE, BULK_SLICE = 256, 1000
"""Documents or searched rows per commit: short enough to resume soon, long enough for batches."""


class Running:
    """One process's run of a project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._publishing = wiring.publishing(project.settings, project.store)

    @contextlib.asynccontextmanager
    async def block(self) -> AsyncIterator[EmbeddedRuntime]:
        """Carry changes while the block runs; a failure of the runtime ends the block."""
        await refuse_unknown_columns(self._project.settings, self._project.clock)
        lock = await hold_project_lock(self._project.dsn, self._project.settings.project)
        load = getattr(
            self._project.embedder(), "load", None
        )  # a local model, made ready meanwhile
        loading = asyncio.ensure_future(asyncio.to_thread(load)) if load else None
        runtime = self._runtime()
        await self._create_topics()
        block = asyncio.current_task()
        ended: list[BaseException] = []

        def on_end(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                ended.append(error)
                if block is not None:
                    block.cancel()

        tasks = [
            asyncio.create_task(runtime.run(), name="runtime"),
            asyncio.create_task(self._keep_lock(lock), name="project lock"),
        ]
        for task in tasks:
            task.add_done_callback(on_end)
        try:
            yield runtime
        except asyncio.CancelledError:
            if ended:
                raise ended[0] from None
            raise
        finally:
            for task in tasks:
                task.remove_done_callback(on_end)
                task.cancel()
            if loading is not None:
                await asyncio.gather(loading, return_exceptions=True)
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._publishing.close()

    async def _hold_lock(self) -> ProjectLock:
        return await hold_project_lock(self._project.dsn, self._project.settings.project)

    async def _keep_lock(self, lock: ProjectLock) -> None:
        """Hold the project's lock, and take it anew when the database was restarted."""
        backoff = Backoff(self._project.clock)
        try:
            while True:
                await lock.lost.wait()
                try:
                    lock = await hold_project_lock(
                        self._project.dsn, self._project.settings.project
                    )
                    backoff.reset()
                except UnavailableError:
                    await backoff.wait()
        finally:
            await lock.release()

    async def _create_topics(self) -> None:
        for course in wiring.courses(self._project.settings):
            for topic in course.topics:
                await self._project.log.create_topic(topic, self._project.settings.log.partitions)

    def _runtime(self) -> EmbeddedRuntime:
        settings = self._project.settings
        sources = [wiring.source(settings, name, self._project.clock) for name in settings.sources]
        return EmbeddedRuntime(
            log=self._project.log,
            store=self._publishing,
            sources=sources,
            work=[
                self._work(course, topic, partition)
                for course in wiring.courses(settings)
                for topic in course.topics
                for partition in range(settings.log.partitions)
            ],
            chores=self._chores(sources),
            clock=self._project.clock,
            meters=self._project.meters,
        )

    def _work(self, course: wiring.Course, topic: str, partition: int) -> Work:
        run = self._project.settings.run
        slow = course.pipeline.name == "knowledge"
        priority: Priority = "bulk" if topic != course.source else "live"
        return Work(
            Assignment(course.pipeline, course.source, topic, partition),
            Tools(self._project.recent_vectors(), self._project.store, priority),
            ProcessSettings(
                batch=run.batch,
                slice=(LIVE_SLICE if priority == "live" else BULK_SLICE) if slow else run.batch,
                ahead=2 if priority == "bulk" else 1,
                dead_letter_limit=run.dead_letter_limit,
            ),
        )

    def _chores(self, sources: Sequence[Source]) -> list[Chore]:
        chores = [
            Chore("rereading", 2.0, Rereading(self._project.store, sources).ask),
            Chore("trim", 60.0, self._trim),
            Chore("report", 2.0, lambda: store_report(self._project)),
            Chore("report when idle", 15.0, lambda: store_report(self._project), when_idle=True),
        ]
        upkeep = self._project.keeper()
        chores += [
            Chore("statistics", 0.5, lambda: self._statistics(upkeep)),
            Chore("posting lists", 5.0, upkeep.merge),
            Chore("vector index", 5.0, lambda: upkeep.index(self._project.embedder().name)),
            Chore("tombstones", 3600.0, upkeep.prune),
        ]
        if self._project.server is not None:
            chores.append(Chore("database", 1.0, self._keep_database, when_idle=True))
        return chores

    async def _statistics(self, upkeep: Upkeep) -> None:
        await upkeep.statistics(sum(self._project.embedding_counts()))

    async def _keep_database(self) -> None:
        if self._project.server is not None:
            await self._project.server.ensure_running()

    async def _trim(self) -> None:
        keep = self._project.settings.log
        before = int(self._project.clock.now() - keep.keep * 1e6)
        for topic in {info.topic for info in await self._project.log.describe()}:
            await self._project.log.trim(topic, before=before, max_bytes=keep.keep_size)  # type: ignore[arg-type]
