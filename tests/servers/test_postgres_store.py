"""The store in PostgreSQL: positions, dead letters, tombstones, and what a comparison asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.errors import FencedError
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Schema,
)
from penstock.stores.base import (
    ApplyRows,
    DeadLetter,
    DocumentVersion,
    Move,
    ReplaceDocuments,
)
from penstock.stores.postgres import compare
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.stores import THINGS, delete, document, put

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    pool = await open_pool(database_url, max_size=3)
    yield pool
    await pool.close()


@pytest.fixture
def store(pool: Pool) -> PostgresStore:
    return PostgresStore(pool)


async def apply(store: PostgresStore, *changes: Change) -> None:
    async with store.transaction() as transaction:
        await transaction.apply(ApplyRows(changes))


async def test_time_and_source_position_are_kept(store: PostgresStore) -> None:
    """A move without them leaves them, and time never goes back."""
    await store.position("tables", "shop", 0)
    steps = [(0, 5, 100, "00A"), (5, 6, 50, None), (6, 7, None, "00B")]
    for expected, to, as_of, position in steps:
        async with store.transaction() as transaction:
            await transaction.move(
                Move(
                    "tables",
                    "shop",
                    0,
                    LogPosition(expected),
                    LogPosition(to),
                    "shop",
                    None if as_of is None else Microseconds(as_of),
                    None if position is None else Position(position),
                )
            )
    [consumer] = await store.consumers()
    assert (consumer.position, consumer.as_of, consumer.source_position) == (7, 100, "00B")


async def test_g2_two_processes_at_once(store: PostgresStore) -> None:
    """Of two that move a consumer from the same place, one is fenced, whoever comes first."""
    await store.position("tables", "shop", 0)
    move = Move("tables", "shop", 0, LogPosition(0), LogPosition(5), "shop", None)
    async with store.transaction() as first:
        await first.move(move)
    with pytest.raises(FencedError, match="another process"):
        async with store.transaction() as second:
            await second.move(move)


async def test_g13_letters_are_exact_and_counted(store: PostgresStore) -> None:
    """A buried change can be read back as it was; buried again, it is the same letter."""
    change = put(1, 1, "a\0", "\ud800")._replace(
        before=("1", UNCHANGED, None), old_key=("0",), transaction="9"
    )
    letter = DeadLetter("tables", "shop", 0, LogPosition(3), change, "why")
    for _ in range(2):
        async with store.transaction() as transaction:
            await transaction.bury([letter])
    [buried] = await store.dead_letters()
    assert buried.letter == letter
    assert buried.attempts == 2
    assert await store.dead_letters(pipeline="other") == []
    assert await store.dead_letters([buried.id], source="shop", limit=1) == [buried]
    assert await store.drop_letters([buried.id]) == 1
    assert await store.dead_letters() == []


async def test_tombstones_are_forgotten_but_for_dead_letters(store: PostgresStore) -> None:
    """A deleted row is forgotten after a while, unless a letter of its table may be tried again."""
    created = put(1, 1, "a", "b")
    await apply(store, created, delete(2, 1))
    async with store.transaction() as transaction:
        letter = DeadLetter("tables", "shop", 0, LogPosition(1), created, "why")
        await transaction.bury([letter])
    assert await store.prune_tombstones(0) == 0
    await store.drop_letters()
    assert await store.prune_tombstones(3600) == 0
    assert await store.prune_tombstones(0) == 1


ORIGINAL = Schema(
    "shop",
    "public.original",
    (
        Column("id", "integer", True),
        Column("v", "numeric(10,2)"),
        Column("c", "character(4)", True),
        Column("t", "timestamp with time zone"),
        Column("m", "money"),
    ),
)
AS_TEXT = "SELECT id::text, v::text, format('%s', c), t::text, m::text FROM original"


async def hashes(pool: Pool, store: PostgresStore) -> list[compare.LiveRowHash]:
    [table] = await store.live_tables("shop")
    async with aclosing(compare.row_hashes(pool, table)) as found:
        return [item async for item in found]


async def test_hashes_come_in_the_order_of_keys(pool: Pool, store: PostgresStore) -> None:
    """Keys as the source's own order of texts has them; one changed value is one changed hash."""
    async with pool.connection() as connection:
        await connection.execute(
            "CREATE TABLE original (id integer, v numeric(10,2), c character(4), t timestamptz,"
            " m money, PRIMARY KEY (id, c))"
        )
        await connection.execute(
            "INSERT INTO original SELECT g, g / 3.0, chr(97 + g % 26), '2026-01-01', g"
            " FROM generate_series(1, 300) g"
        )
        rows = await (await connection.execute(AS_TEXT)).fetchall()
        cursor = await connection.execute(
            "SELECT id::text, c::text FROM original"
            ' ORDER BY id::text COLLATE "C", c::text COLLATE "C"'
        )
        keys = await cursor.fetchall()
    changes = [
        Change(ORIGINAL, Op.READ, (row[0], row[2]), Position(f"{i:08X}"), Microseconds(i), row)
        for i, row in enumerate(rows, start=1)
    ]
    await apply(store, *changes)
    ours = await hashes(pool, store)
    assert [item.key for item in ours] == keys
    assert len({item.hash for item in ours}) == 300
    row = (*rows[0][:4], None)
    await apply(store, changes[0]._replace(position=Position("1"), after=row))
    assert len(set(ours) ^ set(await hashes(pool, store))) == 2


async def test_what_does_not_fit_together_is_named(pool: Pool, store: PostgresStore) -> None:
    """A whole knowledge base has nothing to say; missing chunks, vectors and rows are named."""
    import numpy as np

    hashes = [bytes([n]) * 32 for n in range(3)]
    row_text = DocumentVersion(
        "shop",
        "public.things/1",
        Position("1"),
        Microseconds(1),
        document(1, "", hashes[2:]).chunks,
        text="word",
        stream=THINGS.stream,
        row_key=("1",),
    )
    effect = ReplaceDocuments(
        [document(1, "a.md", [hashes[0], hashes[1], hashes[0]]), row_text],
        "suite",
        {known: n for n, known in enumerate(hashes)},
        np.eye(3, 8, dtype=np.float32),
    )
    async with store.transaction() as transaction:
        await transaction.apply(ApplyRows([put(1, 1, "a", "b")]))
        await transaction.apply(effect)
    assert await compare.consistency(pool) == (2, {})
    assert set(await compare.document_digests(pool, "shop")) == {"a.md"}
    await apply(store, delete(2, 1))
    async with pool.connection() as connection:
        await connection.execute("DELETE FROM penstock.vectors WHERE hash = %s", [hashes[0]])
        await connection.execute("DELETE FROM penstock.chunks WHERE hash = %s", [hashes[1]])
    _, found = await compare.consistency(pool)
    assert set(found) == {"shop/a.md", "shop/public.things/1"}
    assert "2 chunks, 1 are there, 0 with a vector" in found["shop/a.md"]
    assert "row is not in the live table" in found["shop/public.things/1"]
