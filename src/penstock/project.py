"""A project, opened: ask it, run it, look at it.

async with penstock.open("penstock.yaml") as project:
    print(await project.answer("Until when can I cancel a flight?"))
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from penstock import DEFAULT_FILE, __version__, wiring
from penstock.clock import Clock, SystemClock
from penstock.config import read_settings
from penstock.database.connect import open_pool, session_name
from penstock.database.migrate import migrate
from penstock.errors import ConfigError, FatalError, UnavailableError
from penstock.models.base import Embedder, Vectors, question_vectors, serving
from penstock.operate import progress
from penstock.operate.reachable import Reachable
from penstock.principals import Principal
from penstock.records import Microseconds
from penstock.runtimes.base import patiently
from penstock.serving.context import Context, ContextBuilder
from penstock.settings import Settings
from penstock.sources.base import Source
from penstock.stores.base import Filter, SnapshotStore
from penstock.stores.postgres.permissions import declare
from penstock.telemetry import Meters

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.database.embedded import EmbeddedPostgres
    from penstock.log.base import Log
    from penstock.models.changing import ServingModels
    from penstock.models.gateway.gateway import Gateway
    from penstock.operate.otel import Tracing
    from penstock.operate.verify import Report
    from penstock.runtimes.embedded import EmbeddedRuntime
    from penstock.serving.answer import Answer, Answerer, Keeper
    from penstock.serving.api.guard import Application
    from penstock.serving.api.services import Services
    from penstock.serving.completions import Completions
    from penstock.serving.ledger.feedback import Voices
    from penstock.serving.profiles import ProfileWanted
    from penstock.serving.reranking import Reranker
    from penstock.serving.rewriting import Rewriter
    from penstock.serving.sessions import Sessions
    from penstock.serving.writing import Inlet
    from penstock.stores.keys import KeyStore
    from penstock.stores.postgres.ledger import PostgresLedger
    from penstock.stores.postgres.model_registry import PostgresModels
    from penstock.stores.postgres.search import PostgresSnapshotStore
    from penstock.stores.postgres.store import PostgresStore
    from penstock.stores.postgres.upkeep import Upkeep
    from penstock.stores.second.following import Follower
    from penstock.stores.second.search import FollowedSnapshots

T = TypeVar("T")


class Project:
    """What is in a project file, as objects. Made by `open_project`."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.meters = Meters()
        self.file: Path | None = None
        self.dsn = ""
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.server: EmbeddedPostgres | None = None
        self.inlets: dict[str, Inlet] = {}
        """The sources that documents are pushed to, of this process or of another."""
        self.carries = False
        """Whether this process carries changes, beside serving."""
        self._pool: AsyncConnectionPool[Any] | None = None
        self._log: Log | None = None
        self._store: PostgresStore | None = None
        self._snapshots: PostgresSnapshotStore | FollowedSnapshots | None = None
        self._embedder: ServingModels | None = None
        self._answerer: Answerer | None = None
        self._gateway: Gateway | None = None
        self._reranker: Reranker | None = None
        self._rewriter: Rewriter | None = None
        self._recent_vectors: Embedder | None = None
        self._upkeep: Upkeep | None = None
        self._followers: list[Follower] | None = None
        self._ledger: PostgresLedger | None = None
        self._tracing: Tracing | None = None
        self._sessions: Sessions | None = None

    # ------------------------------------------------------------------ opening and closing

    async def start(self, *, patience_s: float = 0.0) -> None:
        """Bring the database up, to the schema of this version, and connect to it. One that cannot
        be reached is waited for so long."""
        await patiently(self._start, limit_s=patience_s, clock=self.clock, what="database")

    async def _start(self) -> None:
        if self.settings.telemetry.otlp is not None and self._tracing is None:
            self._tracing = wiring.tracing(self.settings)
            self._tracing.start()
        if self.server is not None:
            self.dsn = await self.server.ensure_running()
        elif self.settings.database == "embedded":
            server = wiring.embedded_postgres(self.settings)
            self.dsn = await server.start()
            self.server = server
        else:
            self.dsn = self.settings.database
        try:
            await migrate(self.dsn)
        except UnavailableError as error:
            raise UnavailableError(
                f"expected to reach the project's database, got {str(error)!r}: start it, mend "
                "`database`, or set `database: embedded`"
            ) from error
        self._pool = await open_pool(
            self.dsn,
            max_size=12,
            application_name=session_name(self.worker),
            idle_timeout_s=self.settings.run.lease,
        )
        await declare(
            self._pool, wiring.declared_permissions(self.settings), tenant=self.settings.tenant
        )
        self._store = wiring.store(self.settings, self._pool)
        consumers = wiring.consumers(self.settings, self._pool)
        self._log = wiring.log(self.settings, self._pool, self.dsn, self.clock, consumers)
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
            if self._tracing is not None:
                stack.push_async_callback(asyncio.to_thread, self._tracing.stop)
            if self.server is not None:
                stack.push_async_callback(self.server.stop)
            models = (self._embedder, self._reranker, self._gateway, self._rewriter, self._answerer)
            parts = (self._pool, self._log, self._ledger, self._sessions, *models)
            for part in (*parts, *(self._followers or ())):
                if part is not None:
                    stack.push_async_callback(part.close)
            if self._snapshots is not None:
                stack.push_async_callback(self._snapshots.close)

    @property
    def pool(self) -> AsyncConnectionPool[Any]:
        """Connections to the project's database."""
        return _opened(self._pool)

    @property
    def log(self) -> Log:
        """The log."""
        return _opened(self._log)

    @property
    def store(self) -> PostgresStore:
        """The write side of the stores."""
        return _opened(self._store)

    @property
    def snapshots(self) -> SnapshotStore:
        """The read side of the stores."""
        found: SnapshotStore | None = self._snapshots
        return _opened(found)

    def embedder(self) -> ServingModels:
        """The model behind the vectors, whichever is searched; loaded when first needed."""
        if self._embedder is None:
            self._embedder = wiring.serving_models(
                self.settings, self.pool, clock=self.clock, reread=self._reread
            )
        return self._embedder

    def models(self) -> PostgresModels:
        """What the knowledge base says of its models."""
        return wiring.models(self.settings, self.pool)

    def _reread(self) -> Settings:
        """The project file as it is now: a model may have been added while this process runs."""
        try:
            return self.settings if self.file is None else read_settings(self.file)
        except ConfigError:  # it is being edited
            return self.settings

    def contexts(self) -> ContextBuilder:
        """What assembles contexts."""
        return ContextBuilder(
            self.snapshots,
            self.embedder(),
            clock=self.clock,
            rows=wiring.row_views(self.settings),
            reranker=self.reranker(),
            shape=wiring.shaping(self.settings),
            rewriter=self.rewriter(),
        )

    def rewriter(self) -> Rewriter | None:
        """What turns a question into searches."""
        if self._rewriter is None and self.settings.answers.rewrite:
            self._rewriter = wiring.rewriter(self.settings, self.meters.rewrites, self.gateway())
        return self._rewriter

    def reranker(self) -> Reranker | None:
        """What orders candidates anew."""
        if self._reranker is None:
            self._reranker = wiring.reranker(self.settings, self.embedder())
        return self._reranker

    def answerer(self) -> Answerer:
        """What answers questions."""
        if self._answerer is None:
            self._answerer = wiring.answerer(
                self.settings,
                self.contexts(),
                self.embedder(),
                asked=self.gateway(),
                keeper=self._keeper(),
            )
        return self._answerer

    def ledger(self) -> PostgresLedger:
        """What is kept of answers."""
        if self._ledger is None:
            self._ledger = wiring.ledger(self.settings, self.pool)
        return self._ledger

    def voices(self) -> Voices:
        """What takes down feedback and interactions."""
        from penstock.serving.ledger.feedback import Voices

        kept = self.settings.ledger.content != "off"
        return Voices(self.ledger() if kept else None, self.clock, self.gateway())

    def sessions(self) -> Sessions:
        """Conversations."""
        if self._sessions is None:
            self._sessions = wiring.sessions(
                self.settings, self.pool, self.ledger(), self.clock, self.gateway()
            )
        return self._sessions

    def _keeper(self) -> Keeper | None:
        if self.settings.ledger.content == "off":
            return None
        from penstock.serving.ledger.recorder import Recorder

        return Recorder(self.ledger(), self.clock, __version__, self.gateway())

    def gateway(self) -> Gateway | None:
        """The language models of answers as one; None where answers need none."""
        if self._gateway is None:
            self._gateway = wiring.gateway(
                self.settings,
                self.pool,
                meters=self.meters,
                embed=self._question_vector,
                alive=self._is_kept,
            )
        return self._gateway

    async def _question_vector(self, question: str) -> Vectors:
        model = await serving(self.embedder(), fresh=False)
        vectors: Vectors = (await question_vectors(model, [question]))[0]
        return vectors

    async def _is_kept(self, answer: str) -> bool:
        """Whether an answer is in the ledger, and not erased."""
        entry = await self.ledger().find(answer)
        return entry is not None and entry.state != "redacted"

    def completions(self) -> Completions | None:
        """What asks language models in conversations that callers lead; None where answers need
        none."""
        asked = self.gateway()
        if asked is None:
            return None
        return wiring.completions(self.settings, self.answerer(), asked, self._keeper(), self.clock)

    # ------------------------------------------------------------------ asking

    async def context(
        self,
        question: str,
        *,
        where: Filter | None = None,
        limit: int | None = None,
        mode: Literal["hybrid", "vector", "text"] = "hybrid",
        principal: Principal | None = None,
        profile: str | None = None,
    ) -> Context:
        """What a model should be told about a question, at one moment (G6), of what ``principal``
        may know (G7). None: nobody in particular, who knows what everybody may. ``profile`` says
        whom it is about: ``KIND:`` and an id or an identifier."""
        return await self.contexts().context(
            question,
            self._asking(principal),
            where=where or Filter(),
            limit=self.settings.answers.passages if limit is None else limit,
            mode=mode,
            profile=self._about(profile),
        )

    async def answer(
        self,
        question: str,
        *,
        where: Filter | None = None,
        principal: Principal | None = None,
        profile: str | None = None,
    ) -> Answer:
        """An answer with citations, or an honest "not in here", of what ``principal`` may know;
        ``profile`` says whom the question is about."""
        return await self.answerer().answer(
            question,
            self._asking(principal),
            where=where or Filter(),
            limit=self.settings.answers.passages,
            profile=self._about(profile),
        )

    def _about(self, profile: str | None) -> ProfileWanted | None:
        return None if profile is None else wiring.profile_wanted(self.settings, profile)

    def profile_wanted(self, kind: str, who: str) -> ProfileWanted:
        """Whom an id or an identifier of a kind means, and what is read of them."""
        return wiring.profile_wanted(self.settings, f"{kind}:{who}")

    def _asking(self, principal: Principal | None) -> Principal:
        """The one who asks, of this project's tenant."""
        return replace(principal or Principal(), tenant=self.settings.tenant)

    # ------------------------------------------------------------------ serving

    def keys(self) -> KeyStore:
        """The keys of applications."""
        return wiring.api_keys(self.pool)

    def services(self) -> Services:
        """What an API works with."""
        from penstock.serving.api.services import Services
        from penstock.serving.documents import DocumentReader
        from penstock.serving.writing import Writer

        settings = self.settings
        return Services(
            project=settings.project,
            version=__version__,
            tenant=settings.tenant,
            keys=self.keys(),
            clock=self.clock,
            contexts=self.contexts,
            answerer=self.answerer,
            embedder=self.embedder,
            documents=DocumentReader(self.snapshots),
            profiles=wiring.profile_reader(settings, self.snapshots, self.clock),
            tables=wiring.table_reader(settings, self.snapshots, self.clock),
            voices=self.voices(),
            sessions=self.sessions(),
            writer=Writer(self.inlets, self.ages, self.clock),
            sources={name: chosen.type for name, chosen in settings.sources.items()},
            passages=settings.answers.passages,
            completions=self.completions,
        )

    def application(self) -> Application:
        """The API, as a server takes it."""
        from penstock.serving.api.app import build
        from penstock.serving.api.guard import is_loopback

        server = self.settings.server
        hosts = server.hosts or (() if is_loopback(server.host) else ("*",))
        return build(
            self.meters,
            self.problems,
            self.services(),
            hosts=hosts,
            origins=server.origins,
            most_bytes=server.max_body,
            limits=wiring.limits(self.settings, self.pool, self.clock),
            tokens=wiring.tokens(self.settings, self.clock),
            limit_s=server.limits.request,
            drain_s=server.limits.drain,
            reachable=Reachable(lambda: self.dsn, self.clock),
        )

    def serving(
        self,
        *,
        mounted: Mapping[str, Application] | None = None,
        listener: socket.socket | None = None,
    ) -> AbstractAsyncContextManager[str]:
        """Serve the API while the block runs; gives the address. ``listener`` is a socket that
        other processes may serve as well."""
        from penstock.serving.api.server import serve

        server = self.settings.server
        return serve(
            self.application(),
            host=server.host,
            port=server.port,
            mounted=mounted,
            tls=wiring.tls(self.settings),
            listener=listener,
        )

    # ------------------------------------------------------------------ running

    def running(self, *, joining: bool = False) -> AbstractAsyncContextManager[EmbeddedRuntime]:
        """Carry changes while the block runs; a failure of the runtime ends the block. ``joining``:
        as a worker, beside others."""
        from penstock.operate.running import Running

        return Running(self, joining=joining).block()

    async def upkeep(self) -> None:
        """Bring statistics and indexes of the stores up to date now, instead of by and by."""
        await self.keeper().everything(self.embedder().name)

    def keeper(self) -> Upkeep:
        """What keeps statistics and indexes in shape."""
        if self._upkeep is None:
            self._upkeep = wiring.upkeep(self.settings, self.pool, self.store)
        return self._upkeep

    async def follow(self) -> None:
        """Bring the second stores in step with the knowledge base."""
        if self._followers is None:
            self._followers = wiring.followers(self.settings, self.pool)
        for follower in self._followers:
            await follower.attach()
            await follower.follow()

    async def forget_removed(self) -> list[str]:
        """Have second stores give up the bytes of what was removed; the names of those that cannot
        be told to."""
        from penstock.stores.chunk_index import ForgettingIndex

        left = []
        for follower in self._followers or ():
            if isinstance(follower.index, ForgettingIndex):
                await follower.index.forget()
            else:
                left.append(follower.name)
        return left

    def recent_vectors(self) -> Embedder:
        """The model for pipelines: texts in flight are computed once."""
        if self._recent_vectors is None:
            self._recent_vectors = wiring.recent_vectors(self.embedder())
        return self._recent_vectors

    async def caught_up(self, *, limit_s: float = 600.0) -> None:
        """Return when everything that the sources had committed by now can be queried.

        Raises what a source or pipeline of this process failed with, once the others are in step.
        """
        await progress.caught_up(self, limit_s=limit_s)

    async def ages(self) -> dict[str, Microseconds | None]:
        """Per source, the time up to which everything is included (None while it loads)."""
        return await progress.ages(self)

    def failures(self) -> dict[str, FatalError]:
        """What has stopped for good in this process, by source."""
        return progress.failures(self.meters)

    def problems(self) -> list[str]:
        """Why this process is not ready, if it is not."""
        return progress.problems(self.meters) if self.carries else []

    def freshness(self) -> dict[str, Any]:
        """Milliseconds from commit to visible, for rows and for documents."""
        return progress.freshness(self.settings, self.meters)

    def embedding_counts(self) -> tuple[int, int]:
        """Chunks whose vector was computed, and those whose vector was there."""
        return progress.embedding_counts(self.meters)

    # ------------------------------------------------------------------ looking

    def source(self, name: str) -> Source:
        """A source of the project, beside those that run: for looking at it."""
        return wiring.source(self.settings, name, self.clock, lambda: self.dsn)

    async def verify(self, *, limit: int = 100) -> Report:
        """Compare sources with stores; see `penstock.operate.verify`."""
        from penstock.operate.verify import verify

        return await verify(self, limit=limit)


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
    patient: bool = False,
) -> AsyncIterator[Project]:
    """Open a project by its file, or by settings that are already read.

    ``environment`` stands in for the process's own variables; ``patient``: a database that cannot
    be reached is waited for (``run.patience``) instead of being an error at once.
    """
    project = Project(settings or read_settings(file, environment=environment))
    if settings is None and environment is None:
        project.file = Path(file)
    try:
        await project.start(patience_s=project.settings.run.patience if patient else 0.0)
        yield project
    finally:
        await project.close()
