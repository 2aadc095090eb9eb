"""The source of interactions passes the suite of sources. What it reads is only ever added to, and
taken away by an erasure: nothing in it is updated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping

import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.database.migrate import migrate
from penstock.principals import Principal
from penstock.records import Row, Schema
from penstock.serving.ledger.feedback import Interaction, Voices
from penstock.sources.interactions import InteractionsSource
from penstock.stores.ledger import Told
from penstock.stores.postgres.ledger import PostgresLedger
from penstock.testing.sources import RowName, SourceSuite


class Desk:
    """Applications that tell what they were asked, each question by somebody else."""

    def __init__(self, dsn: str, pool: AsyncConnectionPool) -> None:
        self._dsn = dsn
        self._clock = SystemClock()
        self._ledger = PostgresLedger(pool, tenant="default")
        self._voices = Voices(self._ledger, self._clock)
        self._told: dict[str, tuple[str, str]] = {}

    def source(self) -> InteractionsSource:
        return InteractionsSource("voice", lambda: self._dsn, tenant="default", heartbeat_s=0.05)

    async def write(self, number: int) -> None:
        if number % 10 == 9:
            id_ = next(iter(self._told))
            user, _ = self._told.pop(id_)
            await self._ledger.forget(Told(user=user), self._clock.now())
            return
        user, question = f"user{number}", f"question {number}"
        told = Interaction(question, f"answer {number}")
        id_ = await self._voices.tell(told, Principal(user))
        self._told[id_] = (user, question)

    async def contents(self) -> Mapping[RowName, Hashable]:
        return {("interactions", (id_,)): question for id_, (_, question) in self._told.items()}

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[schema.index("question")]

    async def close(self) -> None:
        await self._ledger.close()


class TestInteractionsSource(SourceSuite):
    """The behaviours of any source."""

    @pytest.fixture
    async def system(self, database_url: str) -> AsyncIterator[Desk]:
        await migrate(database_url)
        pool = await open_pool(database_url, max_size=3)
        desk = Desk(database_url, pool)
        yield desk
        await desk.close()
        await pool.close()
