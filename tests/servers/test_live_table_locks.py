"""Several writers of one live table: partitions, which are processed at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from penstock.database.connect import open_pool
from penstock.records import Change, Column, Microseconds, Op, Position, Row, Schema
from penstock.stores.base import ApplyRows
from penstock.stores.postgres.store import PostgresStore

ID = Column("id", "integer", key=True)
BEFORE = Schema("shop", "public.things", (ID, Column("a", "text"), Column("b", "text")))
AFTER = Schema(
    "shop", "public.things", (ID, Column("a", "text"), Column("b", "text"), Column("c", "text"))
)
RENAMED = Schema("shop", "public.things", (ID, Column("z", "text"), Column("b", "text")))

HELD = """
SELECT pg_advisory_xact_lock_shared(hashtextextended('shop' || chr(31) || 'public.things', 0))
"""
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def change(schema: Schema, at: int, row: Row | None, op: Op = Op.CREATE) -> Change:
    key = () if row is None else (str(row[0]),)
    return Change(schema, op, key, Position(f"{at:03}"), Microseconds(at), row, transaction="1")


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[list[PostgresStore]]:
    """Two processes' stores, which have both written to the table."""
    pools = [await open_pool(database_url, max_size=3) for _ in range(2)]
    stores = [PostgresStore(pool) for pool in pools]
    for number, store in enumerate(stores):
        await apply(store, change(BEFORE, number + 1, (str(number), "a", "b")))
    yield stores
    for pool in pools:
        await pool.close()


async def apply(store: PostgresStore, *changes: Change) -> None:
    async with store.transaction() as transaction:
        await transaction.apply(ApplyRows(changes))


@pytest.mark.parametrize("kind", ["columns", "truncate"])
async def test_partitions_that_alter_or_empty_a_table_do_not_wait_for_each_other(
    stores: list[PostgresStore], database_url: str, kind: str
) -> None:
    """All have the truncate, and each sees the new columns, in the same moment; while a process
    that was stopped holds the table."""
    if kind == "columns":
        work = [[change(AFTER, 10 + n, (str(n), "a", "b", "c"))] for n in range(2)]
    else:
        work = [
            [change(BEFORE, 10, None, Op.TRUNCATE), change(BEFORE, 11 + n, (str(n), "a", "b"))]
            for n in range(2)
        ]
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute(HELD)
        tasks = [
            asyncio.create_task(apply(store, *changes))
            for store, changes in zip(stores, work, strict=True)
        ]
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as look:
            while (await (await look.execute(WAITING)).fetchall()) != [(2,)]:
                await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    async with await psycopg.AsyncConnection.connect(database_url) as look:
        rows = await (await look.execute("SELECT id FROM shop.things ORDER BY id")).fetchall()
    assert rows == [(0,), (1,)]


async def test_g2_a_partition_that_is_behind_finds_a_renamed_column(
    stores: list[PostgresStore], database_url: str
) -> None:
    """The one ahead has renamed it; the change of the one behind still has the old name."""
    ahead, behind = stores
    await apply(ahead, change(RENAMED, 10, ("0", "a2", "b2")))
    await apply(behind, change(BEFORE, 5, ("1", "a1", "b1")))
    async with await psycopg.AsyncConnection.connect(database_url) as look:
        rows = await (await look.execute("SELECT id, z, b FROM shop.things ORDER BY 1")).fetchall()
    assert rows == [(0, "a2", "b2"), (1, "a1", "b1")]


async def test_what_another_process_has_altered_is_learned_and_done_again(
    stores: list[PostgresStore],
) -> None:
    """A table that one knows as it was has been altered: no lock is ever made stronger."""
    one, other = stores
    await apply(one, change(AFTER, 10, ("0", "a", "b", "c")))
    await apply(other, change(BEFORE, 3, ("1", "x", "y")), change(AFTER, 12, ("1", "a", "b", "c")))
    [table] = await other.live_tables()
    assert table.columns == AFTER.columns
