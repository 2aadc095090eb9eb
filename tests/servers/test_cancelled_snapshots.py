"""A question that is given up leaves nothing behind on the connection that it used."""

from __future__ import annotations

import asyncio

from penstock.database.connect import open_pool
from penstock.principals import Principal
from penstock.stores.postgres.search import PostgresSnapshotStore


async def test_g2_the_connection_of_a_cancelled_snapshot_is_not_used_again(
    database_url: str,
) -> None:
    """Cut off in a pipeline, a transaction may be open on the server without the driver knowing;
    the next writer would write into it and lose what it wrote. So the connection is thrown away.
    """
    pool = await open_pool(database_url, min_size=1, max_size=1)
    store = PostgresSnapshotStore(pool)
    begun = asyncio.Event()

    async def look() -> None:
        async with store.snapshot(Principal()) as snapshot:
            await snapshot.ages()
            begun.set()
            await asyncio.Event().wait()

    async def server_process() -> int:
        async with pool.connection() as connection:
            return connection.info.backend_pid

    try:
        before = await server_process()
        looking = asyncio.create_task(look())
        await begun.wait()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        after = await server_process()
        assert after != before
        async with store.snapshot(Principal()) as snapshot:
            await snapshot.ages()
        assert await server_process() == after, "a snapshot that ends well keeps its connection"
    finally:
        await pool.close()
