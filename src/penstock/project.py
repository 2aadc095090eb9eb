"""A project, opened: ask it, run it, look at it.

async with penstock.open("penstock.yaml") as project:
print(await project.answer("Until when can I cancel a flight?"))
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import structlog

from penstock import DEFAULT_FILE, wiring
from penstock.clock import Clock, SystemClock
from penstock.config import read_settings
from penstock.database.connect import open_pool
from penstock.database.migrate import migrate
from penstock.database.project_lock import ProjectLock, hold_project_lock
from penstock.errors import FatalError, UnavailableError
from penstock.models.base import Embedder, Priority
from penstock.pipelines.base import Tools
from penstock.runtimes.base import Backoff
from penstock.runtimes.embedded import Chore, EmbeddedRuntime, Work
from penstock.runtimes.process import Assignment, ProcessSettings
from penstock.serving.context import Context, ContextBuilder
from penstock.settings import Settings
from penstock.sources.base import Source
from penstock.stores.base import Filter
from penstock.telemetry import Meters, PipelineMeter, SourceMeter

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.database.embedded import EmbeddedPostgres
    from penstock.log.embedded import EmbeddedLog
    from penstock.operate.verify import Report
    from penstock.serving.answer import Answer, Answerer
    from penstock.stores.postgres.search import PostgresSnapshotStore
    from penstock.stores.postgres.store import PostgresStore
    from penstock.stores.postgres.upkeep import Upkeep

T = TypeVar("T")

logger = structlog.get_logger("penstock.project")

LIVE_SLICE, BULK_SLICE = 256, 1000
"""Documents or searched rows per commit: short enough to resume soon, long enough for batches."""


class Project:
    """What is in a project file, as objects. Made by `open_project`."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.meters = Meters()
        self.dsn = ""
        self.server: EmbeddedPostgres | None = None
        self._pool: AsyncConnectionPool[Any] | None = None
        self._log: EmbeddedLog | None = None
        self._store: PostgresStore | None = None
        self._snapshots: PostgresSnapshotStore | None = None
        self._embedder: Embedder | None = None
        self._answerer: Answerer | None = None
        self._recent_vectors: Embedder | None = None
        self._upkeep: Upkeep | None = None
        self.runtime: EmbeddedRuntime | None = None

    # ------------------------------------------------------------------ opening and closing

    async def start(self) -> None:
        """Bring the database up, to the schema of this version, and connect to it."""
        if self.settings.database == "embedded":
            self.server = wiring.embedded_postgres(self.settings)
            self.dsn = await self.server.start()
        else:
            self.dsn = self.settings.database
        try:
            await migrate(self.dsn)
        except UnavailableError as error:
            raise UnavailableError(
                f"expected to reach the project's database, got {str(error)!r}: start it, mend "
                "`database`, or set `database: embedded`"
            ) from error
        self._pool = await open_pool(self.dsn, max_size=12)
        self._log = wiring.log(self.settings, self._pool, self.dsn, self.clock)
        self._store = wiring.store(self.settings, self._pool)
        self._snapshots = wiring.snapshots(self.settings, self._pool)

    async def close(self) -> None:
        """Disconnect; the last user of an embedded database stops it. Done in full even when it is
        cancelled meanwhile."""
        closing = asyncio.ensure_future(self._close())
        interrupted = False
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                interrupted = True
        if interrupted:
            raise asyncio.CancelledError
        closing.result()

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self.server is not None:
                stack.push_async_callback(self.server.stop)
            parts = (self._pool, self._log, self._embedder, self._answerer)
            for part in parts:
                if part is not None:
                    stack.push_async_callback(part.close)

    @property
    def pool(self) -> AsyncConnectionPool[Any]:
        """Connections to the project's database."""
        return _opened(self._pool)

    @property
    def log(self) -> EmbeddedLog:
        """The log."""
        return _opened(self._log)

    @property
    def store(self) -> PostgresStore:
        """The write side of the stores."""
        return _opened(self._store)

    @property
    def snapshots(self) -> PostgresSnapshotStore:
        """The read side of the stores."""
        return _opened(self._snapshots)

    def embedder(self) -> Embedder:
        """The model behind the vectors; loaded when first needed."""
        if self._embedder is None:
            self._embedder = wiring.embedder(self.settings)
        return self._embedder

    def contexts(self) -> ContextBuilder:
        """What assembles contexts."""
        return ContextBuilder(
            self.snapshots,
            self.embedder(),
            clock=self.clock,
            rows=wiring.row_views(self.settings),
        )

    def answerer(self) -> Answerer:
        """What answers questions."""
        if self._answerer is None:
            self._answerer = wiring.answerer(self.settings, self.contexts(), self.embedder())
        return self._answerer

    # ------------------------------------------------------------------ asking

    async def context(
        self,
        question: str,
        *,
        where: Filter | None = None,
        limit: int | None = None,
        mode: Literal["hybrid", "vector", "text"] = "hybrid",
        principals: Sequence[str] = (),
    ) -> Context:
        """What a model should be told about a question, at one moment (G6)."""
        return await self.contexts().context(
            question,
            where=where or Filter(),
            limit=limit or self.settings.answers.passages,
            mode=mode,
            tenant=self.settings.tenant,
            principals=principals,
        )

    async def answer(
        self, question: str, *, where: Filter | None = None, principals: Sequence[str] = ()
    ) -> Answer:
        """An answer with citations, or an honest "not in here"."""
        return await self.answerer().answer(
            question,
            where=where or Filter(),
            limit=self.settings.answers.passages,
            tenant=self.settings.tenant,
            principals=principals,
        )

    # ------------------------------------------------------------------ running

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[EmbeddedRuntime]:
        """Carry changes while the block runs; a failure of the runtime ends the block."""
        from penstock.operate.columns import refuse_unknown_columns

        await refuse_unknown_columns(self.settings, self.clock)
        lock = await hold_project_lock(self.dsn, self.settings.project)
        load = getattr(self.embedder(), "load", None)  # a local model, made ready meanwhile
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

    async def _keep_lock(self, lock: ProjectLock) -> None:
        """Hold the project's lock, and take it anew when the database was restarted."""
        backoff = Backoff(self.clock)
        try:
            while True:
                await lock.lost.wait()
                try:
                    lock = await hold_project_lock(self.dsn, self.settings.project)
                    backoff.reset()
                except UnavailableError:
                    await backoff.wait()
        finally:
            await lock.release()

    async def _create_topics(self) -> None:
        for course in wiring.courses(self.settings):
            for topic in course.topics:
                await self.log.create_topic(topic, self.settings.log.partitions)

    def _runtime(self) -> EmbeddedRuntime:
        settings = self.settings
        sources = [wiring.source(settings, name, self.clock) for name in settings.sources]
        self.runtime = EmbeddedRuntime(
            log=self.log,
            store=self.store,
            sources=sources,
            work=[
                self._work(course, topic, partition)
                for course in wiring.courses(settings)
                for topic in course.topics
                for partition in range(settings.log.partitions)
            ],
            chores=self._chores(sources),
            clock=self.clock,
            meters=self.meters,
        )
        return self.runtime

    def _work(self, course: wiring.Course, topic: str, partition: int) -> Work:
        run = self.settings.run
        slow = course.pipeline.name == "knowledge"
        priority: Priority = "bulk" if topic != course.source else "live"
        return Work(
            Assignment(course.pipeline, course.source, topic, partition),
            Tools(self._recent(), self.store, priority),
            ProcessSettings(
                batch=run.batch,
                slice=(LIVE_SLICE if priority == "live" else BULK_SLICE) if slow else run.batch,
                ahead=2 if priority == "bulk" else 1,
                dead_letter_limit=run.dead_letter_limit,
            ),
        )

    def _recent(self) -> Embedder:
        if self._recent_vectors is None:
            self._recent_vectors = wiring.recent_vectors(self.embedder())
        return self._recent_vectors

    def _chores(self, sources: Sequence[Source]) -> list[Chore]:
        from penstock.operate.rereading import Rereading
        from penstock.operate.status import store_report

        chores = [
            Chore("rereading", 2.0, Rereading(self.store, sources).ask),
            Chore("trim", 60.0, self._trim),
            Chore("report", 2.0, lambda: store_report(self)),
            Chore("report when idle", 15.0, lambda: store_report(self), when_idle=True),
        ]
        upkeep = self._keeper()
        chores += [
            Chore("statistics", 0.5, lambda: self._statistics(upkeep)),
            Chore("posting lists", 5.0, upkeep.merge),
            Chore("vector index", 5.0, lambda: upkeep.index(self.embedder().name)),
            Chore("tombstones", 3600.0, upkeep.prune),
        ]
        if self.server is not None:
            chores.append(Chore("database", 1.0, self._keep_database, when_idle=True))
        return chores

    async def _statistics(self, upkeep: Upkeep) -> None:
        await upkeep.statistics(sum(self.embedding_counts()))

    async def upkeep(self) -> None:
        """Bring statistics and indexes of the stores up to date now, instead of by and by."""
        await self._keeper().everything(self.embedder().name)

    def _keeper(self) -> Upkeep:
        if self._upkeep is None:
            self._upkeep = wiring.upkeep(self.settings, self.pool, self.store)
        return self._upkeep

    async def _keep_database(self) -> None:
        if self.server is not None:
            await self.server.ensure_running()

    async def _trim(self) -> None:
        keep = self.settings.log
        before = int(self.clock.now() - keep.keep * 1e6)
        for topic in {info.topic for info in await self.log.describe()}:
            await self.log.trim(topic, before=before, max_bytes=keep.keep_size)  # type: ignore[arg-type]

    async def caught_up(self, *, limit_s: float = 600.0) -> None:
        """Return when everything that the sources had committed by now can be queried.

        Raises what a source or pipeline of this process failed with, once the others are in step.
        """
        target = self.clock.now()
        deadline = time.monotonic() + limit_s
        while True:
            ages = await self.ages()
            behind = [
                name
                for name in self.settings.sources
                if name not in ages or ages[name] is None or ages[name] < target
            ]
            if not behind:
                behind = await self._in_doubt()
            failures = self.failures()
            if not set(behind) - failures.keys():
                for error in failures.values():
                    raise error
                return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"expected all sources to be in step within {limit_s:.0f} s, but "
                    f"{', '.join(behind)} is not: look at `penstock status`"
                )
            await asyncio.sleep(0.02)

    async def _in_doubt(self) -> list[str]:
        """Sources of which tables that the project still names wait to be read again."""
        named = {
            name: [wiring.stream_name(table) for table in chosen.tables]
            for name, chosen in self.settings.sources.items()
            if chosen.type == "postgres"
        }
        return [
            table.source
            for table in await self.store.live_tables()
            if table.reread
            and any(fnmatchcase(table.stream, name) for name in named.get(table.source, ()))
        ]

    async def ages(self) -> dict[str, Any]:
        """Per source, the time up to which everything is included (None while it loads)."""
        async with self.snapshots.snapshot(tenant=self.settings.tenant) as snapshot:
            return {age.source: None if age.loading else age.as_of for age in await snapshot.ages()}

    def source(self, name: str) -> Any:
        """A source of the project, beside those that run: for looking at it."""
        return wiring.source(self.settings, name, self.clock)

    async def verify(self, *, limit: int = 100) -> Report:
        """Compare sources with stores; see `penstock.operate.verify`."""
        from penstock.operate.verify import verify

        return await verify(self, limit=limit)

    def failures(self) -> dict[str, FatalError]:
        """What has stopped for good in this process, by source."""
        failed = {
            meter.topic.removesuffix(".bulk"): f"{meter.name} on {meter.topic}: {meter.last_error}"
            for meter in self.meters.pipelines.values()
            if meter.state == "failed"
        } | {
            meter.name: f"source {meter.name} stopped: {meter.last_error}"
            for meter in self.meters.sources.values()
            if meter.state == "failed"
        }
        return {name: FatalError(sentence, source=name) for name, sentence in failed.items()}

    def problems(self) -> list[str]:
        """Why this process is not ready, if it is not."""
        meters: list[SourceMeter | PipelineMeter] = [
            *self.meters.sources.values(),
            *self.meters.pipelines.values(),
        ]
        found = [f"{m.name} is {m.state}: {m.last_error}" for m in meters if m.state != "running"]
        return found or ([] if meters else ["nothing runs yet"])

    # ------------------------------------------------------------------ numbers

    def freshness(self) -> dict[str, Any]:
        """Milliseconds from commit to visible, for rows and for documents."""
        from penstock.telemetry import percentiles

        kinds = {"rows": "tables", "documents": "knowledge"}
        documents = {
            name for name, chosen in self.settings.sources.items() if chosen.type == "files"
        }
        found: dict[str, Any] = {}
        for kind, pipeline in kinds.items():
            samples = [
                sample
                for meter in self.meters.pipelines.values()
                if meter.name == pipeline and (kind == "rows" or meter.topic in documents)
                for sample in meter.freshness.samples()
            ]
            found[kind] = percentiles(samples).to_dict()
        return found

    def embedding_counts(self) -> tuple[int, int]:
        """Chunks whose vector was computed, and those whose vector was there."""
        meters = self.meters.pipelines.values()
        return sum(m.embedded for m in meters), sum(m.reused for m in meters)


def _opened(part: T | None) -> T:
    if part is None:
        raise FatalError("expected an open project: use `async with penstock.open(...)`")
    return part


@contextlib.asynccontextmanager
async def open_project(
    file: str | Path = DEFAULT_FILE,
    *,
    settings: Settings | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Project]:
    """Open a project by its file, or by settings that are already read.

    ``environment`` stands in for the process's own variables.
    """
    project = Project(settings or read_settings(file, environment=environment))
    try:
        await project.start()
        yield project
    finally:
        await project.close()
