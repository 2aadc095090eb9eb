"""What a log elsewhere is told of its consumers, and where its ends are kept for whoever asks.

A log in this database keeps its heads in ``log_topics`` and ``log_partitions`` itself; of another
one they hold a copy, written before each append returns, so that ages, lag and first loads are
asked in the same way, and in the same snapshot as everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.errors import ConfigError
from penstock.records import LogPosition

_QUERIES = load_queries(Path(__file__).with_suffix(".sql"))


class PostgresConsumers:
    """See `penstock.log.base.Consumers`."""

    def __init__(
        self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], *, tenant: str
    ) -> None:
        self._pool = pool
        self._tenant = tenant

    async def opened(self, topic: str, identity: str, partitions: int) -> None:
        """See `Consumers.opened`."""
        values = {
            "topic": topic,
            "tenant": self._tenant,
            "partitions": partitions,
            "identity": identity,
        }
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(_QUERIES["opened"], values)
                if await cursor.fetchone() is None:
                    raise ConfigError(
                        f"expected consumers of the topic {topic!r} to have read this topic "
                        f"({identity}), but their positions are those of another log, or of a "
                        "topic that was removed: set `log` back to what it was, or begin anew "
                        "with `penstock drop` and `penstock run`",
                        topic=topic,
                    )
                await connection.execute(_QUERIES["forget_heads"], values)
                await connection.execute(_QUERIES["heads"], values)

    async def reached(self, topic: str, ends: Mapping[int, LogPosition]) -> None:
        """See `Consumers.reached`."""
        values = {"topic": topic, "partitions": list(ends), "lasts": list(ends.values())}
        await self._fetch("reached", values)

    async def trimmed(self, topic: str, firsts: Mapping[int, LogPosition]) -> None:
        """See `Consumers.trimmed`."""
        values = {"topic": topic, "partitions": list(firsts), "firsts": list(firsts.values())}
        await self._fetch("trimmed", values)

    async def slowest(self, topic: str) -> Mapping[int, LogPosition]:
        """See `Consumers.slowest`."""
        return {
            partition: LogPosition(position)
            for partition, position in await self._fetch("slowest", {"topic": topic})
        }

    async def forget(self, topic: str) -> None:
        """See `Consumers.forget`."""
        await self._fetch("forget", {"topic": topic})

    async def _fetch(self, name: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_QUERIES[name], values)
                return await cursor.fetchall() if cursor.description else []
