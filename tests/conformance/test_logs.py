"""Both logs pass the shipped suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.log.base import Log
from penstock.log.embedded import EmbeddedLog
from penstock.log.memory import MemoryLog
from penstock.records import LogPosition
from penstock.testing.logs import LogSuite


class TestMemoryLog(LogSuite):
    @pytest.fixture
    def log(self) -> MemoryLog:
        return MemoryLog(SystemClock())

    async def register(
        self, log: Log, consumer: str, topic: str, partition: int, position: LogPosition
    ) -> None:
        assert isinstance(log, MemoryLog)
        log.consumers[consumer, topic, partition] = position


class TestEmbeddedLog(LogSuite):
    @pytest.fixture
    async def log(self, database_url: str) -> AsyncIterator[EmbeddedLog]:
        async for log in embedded_log(database_url):
            yield log

    @pytest.fixture
    async def other(self, database_url: str) -> AsyncIterator[EmbeddedLog]:
        async for log in embedded_log(database_url):
            yield log

    @pytest.fixture(autouse=True)
    def _database(self, database_url: str) -> None:
        self.database_url = database_url

    async def register(
        self, log: Log, consumer: str, topic: str, partition: int, position: LogPosition
    ) -> None:
        connection = await psycopg.AsyncConnection.connect(self.database_url, autocommit=True)
        async with connection:
            await connection.execute(
                "INSERT INTO penstock.consumers (consumer, topic, partition, position)"
                " VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (consumer, topic, partition)"
                " DO UPDATE SET position = excluded.position",
                (consumer, topic, partition, position),
            )


class TestEmbeddedLogWithoutCache(TestEmbeddedLog):
    """Everything is read from the tables."""

    @pytest.fixture
    async def log(self, database_url: str) -> AsyncIterator[EmbeddedLog]:
        async for log in embedded_log(database_url, cache_bytes=0):
            yield log


async def embedded_log(url: str, cache_bytes: int = 64 * 2**20) -> AsyncIterator[EmbeddedLog]:
    pool = await open_pool(url, max_size=3)
    log = EmbeddedLog(pool, url, clock=SystemClock(), cache_bytes=cache_bytes)
    yield log
    await log.close()
    await pool.close()
