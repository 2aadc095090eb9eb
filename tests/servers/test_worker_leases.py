"""What a worker that stands still has in hand does not stop those who take over."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from penstock.database.connect import connect, open_pool, session_name
from penstock.database.migrate import migrate
from penstock.log.base import Item
from penstock.log.leases import LeaseGroup

LEASE_S = 0.3
ITEM = Item("partition", "shop.things", 0)


def group(dsn: str, worker: str) -> LeaseGroup:
    return LeaseGroup(dsn, project="p", worker=worker, lease_s=LEASE_S)


async def take_over(survivor: LeaseGroup) -> None:
    """Until it has what the other had."""
    async with asyncio.timeout(20):
        while ITEM not in (await survivor.beat()).mine:
            await asyncio.sleep(0.02)


async def test_g2_who_stops_in_a_copy_keeps_no_lock_past_its_lease(database_url: str) -> None:
    await migrate(database_url)
    still, survivor = group(database_url, "host:1:aa"), group(database_url, "host:2:bb")
    await still.join([ITEM])
    assert (await still.beat()).mine == {ITEM}
    pool = await open_pool(database_url, application_name=session_name("host:1:aa"))
    async with await connect(database_url, lock_timeout_s=10) as other:
        await other.execute("CREATE TABLE things (id integer PRIMARY KEY, name text)")
        await other.execute("INSERT INTO things VALUES (1, 'one')")

        async def stand_still(connection: psycopg.AsyncConnection[Any]) -> None:
            async with connection.transaction():
                await connection.execute("UPDATE things SET name = 'mine' WHERE id = 1")
                async with connection.cursor().copy("COPY things FROM STDIN"):
                    await survivor.join([ITEM])
                    await take_over(survivor)
                    await other.execute("UPDATE things SET name = 'theirs' WHERE id = 1")

        async with pool.connection() as connection:
            with pytest.raises(psycopg.OperationalError):
                await stand_still(connection)
        cursor = await other.execute("SELECT name FROM things")
        assert await cursor.fetchall() == [("theirs",)]
    await pool.close()
    await survivor.leave()
    await still.leave()


def test_sessions_are_told_apart_whatever_the_host_is_called() -> None:
    names = {session_name(f"{'höst' * 40}:{pid}:c0ffee") for pid in range(20)}
    assert len(names) == 20
    assert all(len(name.encode()) <= 63 for name in names)
