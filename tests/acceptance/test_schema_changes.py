"""Tables that are altered at the source while a project runs: what differs mends itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psycopg
import pytest

from penstock.operate.verify import verify
from penstock.project import Project
from penstock.settings import Settings

ROWS = 700
DEADLINE_S = 20.0


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """The source's database, with a table that is searched and one that is not."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        await run(
            connection,
            "CREATE TABLE orders (id int PRIMARY KEY, customer text, total int, note text)",
            "INSERT INTO orders SELECT n, 'customer ' || n, n, 'note ' || n "
            f"FROM generate_series(1, {ROWS}) n",
            "CREATE TABLE items (id int PRIMARY KEY, name text)",
            "INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 50) n",
        )
        yield connection


@pytest.fixture
async def project(
    shop: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> AsyncIterator[Project]:
    """The project, running and in step."""
    settings = Settings.model_validate(
        {
            "project": "shapes",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.2,
                    "tables": {"orders": {"searched": ["customer", "note"]}, "items": {}},
                }
            },
        }
    )
    project = Project(settings)
    try:
        await project.start()
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
            yield project
    finally:
        await project.close()


async def run(connection: psycopg.AsyncConnection, *statements: str) -> None:
    """Statements, each its own transaction."""
    for statement in statements:
        await connection.execute(statement)


async def columns(project: Project, stream: str = "public.orders") -> list[str]:
    """What the live table's columns are, by the source's names."""
    (table,) = [t for t in await project.store.live_tables("shop") if t.stream == stream]
    return list(table.schema.names)


async def in_doubt(project: Project) -> bool:
    """Does a table wait to be read again?"""
    return any(table.reread for table in await project.store.live_tables("shop"))


async def in_step(project: Project, wanted: Sequence[str], stream: str = "public.orders") -> None:
    """Wait until the live table has these columns; then nothing differs."""
    async with asyncio.timeout(DEADLINE_S):
        while await columns(project, stream) != list(wanted):
            await asyncio.sleep(0.02)
    await project.caught_up(limit_s=DEADLINE_S)
    report = await verify(project)
    assert report.differences == 0, report.to_dict()


async def test_alterations_that_a_change_follows(
    shop: psycopg.AsyncConnection, project: Project
) -> None:
    """Whatever a table goes through, the first change afterwards mends all of its rows; not one
    text is embedded again."""
    before = project.embedding_counts()[0]
    steps = {
        "ADD COLUMN extra text DEFAULT 'd'": "id customer total note extra",
        "RENAME COLUMN extra TO more": "id customer total note more",
        "ALTER COLUMN total TYPE numeric(10,2)": "id customer total note more",
        "DROP COLUMN more": "id customer total note",
        "ADD COLUMN plain text": "id customer total note plain",
        "DROP COLUMN total, ADD COLUMN total int DEFAULT 7": "id customer note plain total",
    }
    for number, (step, wanted) in enumerate(steps.items(), start=1):
        await run(
            shop,
            f"ALTER TABLE orders {step}",
            f"UPDATE orders SET note = note WHERE id = {number}",
            f"DELETE FROM orders WHERE id = {number + 100}",
        )
        await in_step(project, wanted.split())
    assert project.embedding_counts()[0] == before


async def test_alterations_that_no_change_follows(
    shop: psycopg.AsyncConnection, project: Project
) -> None:
    """Nothing is in the stream, and yet the table follows: the heartbeat sees it."""
    await run(
        shop,
        "ALTER TABLE orders ADD COLUMN extra text DEFAULT 'd'",
        "ALTER TABLE orders RENAME COLUMN total TO amount",
        "ALTER TABLE orders ALTER COLUMN amount TYPE numeric(10,2)",
        "ALTER TABLE items DROP COLUMN name",
    )
    report = await verify(project)
    gone = [name for part in report.sources for name in part.named]
    assert gone == [
        "column name: is in the live table and not in the source",
        "column total: is in the live table and not in the source",
    ]
    await in_step(project, ["id", "customer", "amount", "note", "extra"])
    await in_step(project, ["id"], "public.items")


async def test_a_column_that_took_the_place_of_another(
    shop: psycopg.AsyncConnection, project: Project
) -> None:
    """Dropped and added again under its name, in one step: the stream shows no difference."""
    await run(
        shop,
        "BEGIN",
        "ALTER TABLE items DROP COLUMN name",
        "ALTER TABLE items ADD COLUMN name text DEFAULT 'new'",
        "COMMIT",
        "UPDATE items SET name = 'changed' WHERE id = 1",
    )
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with project.pool.connection() as connection:
                cursor = await connection.execute("SELECT DISTINCT name FROM shop.items")
                if {name for (name,) in await cursor.fetchall()} == {"new", "changed"}:
                    break
            await asyncio.sleep(0.02)
    await in_step(project, ["id", "name"], "public.items")


async def test_g2_rows_change_while_their_table_is_copied_again(
    shop: psycopg.AsyncConnection, project: Project, source_url: str
) -> None:
    """Writers go on, delete and truncate during the copies; at the end nothing differs."""
    stop, emptying = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as writer:
            number = 0
            while not stop.is_set():
                number += 1
                await run(
                    writer,
                    f"UPDATE orders SET total = total + 1 WHERE id % 7 = {number % 7}",
                    f"DELETE FROM orders WHERE id = {number}",
                    f"INSERT INTO orders (id, customer) VALUES ({10_000 + number}, 'new')",
                )
                if emptying.is_set() and number % 40 == 0:
                    await run(
                        writer,
                        "TRUNCATE orders",
                        "INSERT INTO orders SELECT n, 'again', n, 'note' "
                        f"FROM generate_series(1, {ROWS}) n",
                    )

    writing = asyncio.create_task(write())
    try:
        for number in range(2):
            await run(shop, f"ALTER TABLE orders ADD COLUMN c{number} text DEFAULT 'd{number}'")
            async with asyncio.timeout(DEADLINE_S):
                while len(await columns(project)) < 5 + number or await in_doubt(project):
                    await asyncio.sleep(0.02)
            emptying.set()
    finally:
        stop.set()
        await writing
    await in_step(project, ["id", "customer", "total", "note", "c0", "c1"])


async def test_g4_a_table_made_anew_and_one_that_was_unpublished(
    shop: psycopg.AsyncConnection, project: Project
) -> None:
    """A table that was dropped and created is another one; what changes while a table is not
    published is found too."""
    await run(
        shop,
        "DROP TABLE items",
        "CREATE TABLE items (id int PRIMARY KEY, colour text)",
        "INSERT INTO items VALUES (1, 'red'), (99, 'blue')",
    )
    await in_step(project, ["id", "colour"], "public.items")
    await run(
        shop,
        "ALTER PUBLICATION penstock_shapes_shop DROP TABLE orders",
        "DELETE FROM orders WHERE id < 10",
        "UPDATE orders SET total = -1 WHERE id < 20",
    )
    async with asyncio.timeout(DEADLINE_S):
        while (await verify(project)).differences:
            await asyncio.sleep(0.1)
