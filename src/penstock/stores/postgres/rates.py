"""Rates that several processes keep together, in the project's database."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.stores.rates import Lease

_QUERIES: Final = load_queries(Path(__file__).with_name("rates.sql"))


class PostgresRates:
    """See `penstock.stores.rates.RateStore`. Names are kept as digests."""

    def __init__(
        self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], *, tenant: str
    ) -> None:
        self._pool = pool
        self._tenant = tenant

    async def lease(self, name: str, *, rate: float, size: int, block: int) -> Lease:
        """See `RateStore.lease`."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        values = {"name": digest, "rate": rate, "size": size, "block": block}
        [row] = await self._run("lease", **values)
        return Lease(*row)

    async def prune(self) -> None:
        """Take away buckets that have been full for long."""
        await self._run("prune")

    async def _run(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    _QUERIES[query], {"tenant": self._tenant, **values}
                )
                return [] if cursor.description is None else await cursor.fetchall()
