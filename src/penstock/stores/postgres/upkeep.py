"""What the stores need now and then: statistics for the planner, merged posting lists, an index of
the vectors behind a load, and unused vectors thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.stores.base import DEFAULT_TENANT
from penstock.stores.postgres import vector_index
from penstock.stores.postgres.knowledge import collect_garbage
from penstock.stores.postgres.merging import MergeSettings, merge_postings
from penstock.stores.postgres.store import PostgresStore

MOST_MERGES: Final = 20
"""How many pieces of the text index one call merges at most."""

WHILE_LOADING: Final = MergeSettings(
    fresh_blocks=200, fresh_small=64_000_000, fresh_bytes=32_000_000, lists_per_term=16
)
"""A reader looks through so many fresh blocks in some milliseconds."""

# Autovacuum looks once a minute; a first load must not be planned for with empty tables till then.
_ANALYZE: Final = (
    "ANALYZE penstock.documents, penstock.chunks, penstock.vectors, penstock.postings, "
    "penstock.fresh_postings"
)

_LOADING: Final = """
SELECT coalesce(sum(greatest(p.last - c.position, 0)), 0)::bigint
FROM penstock.consumers c JOIN penstock.log_partitions p USING (topic, partition)
WHERE c.topic LIKE '%.bulk'
"""


class Upkeep:
    """One thing at a time: ANALYZE and CREATE INDEX CONCURRENTLY would wait for each other."""

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        *,
        store: PostgresStore,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self._pool = pool
        self._store = store
        self._tenant = tenant
        self._turn = asyncio.Lock()
        self._after = ""
        self._analyzed_at = 0

    async def statistics(self, chunks: int) -> None:
        """Tell the planner how large the tables are, each time that ``chunks`` has doubled."""
        if chunks >= max(1, 2 * self._analyzed_at):
            async with self._turn, self._connection() as connection:
                await connection.execute(_ANALYZE)
            self._analyzed_at = chunks

    async def merge(self, *, all_of_it: bool = False) -> None:
        """Merge posting lists and throw away what nothing uses.

        While a first load is under way little is merged: a list that was made then would be made
        again, several times over, and readers bear a few more blocks meanwhile.
        """
        async with self._turn, self._connection() as connection:
            settings = MergeSettings(fresh_blocks=1) if all_of_it else MergeSettings()
            if not all_of_it and await _loading(connection):
                settings = WHILE_LOADING
            for _ in range(MOST_MERGES):
                merged = await merge_postings(
                    connection, tenant=self._tenant, after=self._after, settings=settings
                )
                self._after = merged.after
                if not (merged.blocks or merged.after):
                    break
            await collect_garbage(connection)

    async def index(self, model: str) -> None:
        """Build or mend the index of the vectors, if that is due; may take a while.

        While a first load is under way nothing is built: an index that is small beside what comes
        is dropped, since adding to it costs more than building it afterwards.
        """
        async with self._turn, self._connection() as connection:
            loading = await _loading(connection)
            if loading:
                await vector_index.drop_before_bulk(connection, model, loading)
            else:
                await vector_index.maintain(connection)

    async def prune(self) -> None:
        """Forget tombstones of rows that are long gone."""
        await self._store.prune_tombstones()

    async def everything(self, model: str) -> None:
        """All of it, now."""
        await self.merge(all_of_it=True)
        await self.index(model)
        async with self._turn, self._connection() as connection:
            await connection.execute(_ANALYZE)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        with translated():
            async with self._pool.connection() as connection:
                yield connection


async def _loading(connection: psycopg.AsyncConnection[Any]) -> int:
    """How many records of first loads are waiting."""
    [(waiting,)] = await (await connection.execute(_LOADING)).fetchall()
    return int(waiting)
