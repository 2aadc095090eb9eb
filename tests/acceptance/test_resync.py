"""``penstock resync``: what a lost slot, another server or a hand in the stores left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from penstock.errors import ConfigError, FatalError, SourceError
from penstock.operate.resync import Resynced, resync
from penstock.operate.verify import verify
from penstock.project import Project
from penstock.settings import Settings

DEADLINE_S = 20.0
ROWS: Final = 300


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """The source's database: a searched table, one with a key of several odd types, one without."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        await connection.execute("SET synchronous_commit = on")
        for statement in (
            "CREATE TABLE orders (id int PRIMARY KEY, customer text, total int)",
            f"INSERT INTO orders SELECT n, 'customer ' || n, n FROM generate_series(1, {ROWS}) n",
            "CREATE TABLE odd (a boolean, b char(5), c inet, v text, PRIMARY KEY (a, b, c))",
            "INSERT INTO odd SELECT n%2=0, 'x'||n, '10.0.0.1', 'v' FROM generate_series(1,20) n",
            "CREATE TABLE keyless (a int, b json)",
            "ALTER TABLE keyless REPLICA IDENTITY FULL",
            """INSERT INTO keyless VALUES (1, '{"a": 1}'), (1, '{"a": 1}'), (NULL, NULL)""",
        ):
            await connection.execute(statement)
        yield connection


@pytest.fixture
async def project(
    shop: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> AsyncIterator[Project]:
    """The project, loaded once and stopped."""
    settings = Settings.model_validate(
        {
            "project": "mended",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.2,
                    "tables": {
                        "orders": {"searched": ["customer"], "title": "Order {id}"},
                        "odd": {"searched": ["v"]},
                        "keyless": {},
                    },
                }
            },
        }
    )
    project = Project(settings)
    try:
        await project.start()
        await in_step(project)
        yield project
    finally:
        await project.close()


async def in_step(project: Project) -> None:
    """Run until everything is carried."""
    try:
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
    finally:
        project.meters.sources.clear()  # as in a new process, which knows that nothing runs


async def differences(project: Project) -> list[str]:
    report = await verify(project)
    return [f"{part.what} {name}" for part in report.sources for name in part.named]


async def lose_the_slot(shop: psycopg.AsyncConnection) -> None:
    await shop.execute("SELECT pg_drop_replication_slot('penstock_mended_shop')")


async def change_much(shop: psycopg.AsyncConnection) -> int:
    """Changes that nobody saw; how many rows differ by then."""
    for statement in (
        "UPDATE orders SET customer = 'another ' || id WHERE id <= 5",
        "UPDATE orders SET total = -1 WHERE id BETWEEN 11 AND 13",
        "DELETE FROM orders WHERE id BETWEEN 21 AND 24",
        "INSERT INTO orders VALUES (1001, 'new one', 1), (1002, 'new two', 2)",
        "DELETE FROM odd WHERE b = 'x1'",
        "UPDATE odd SET v = 'other' WHERE b = 'x2'",
        "DELETE FROM keyless WHERE a IS NULL",
        """INSERT INTO keyless VALUES (2, '{"b":  2}')""",
    ):
        await shop.execute(statement)
    return 5 + 3 + 4 + 2 + 1 + 1 + 1 + 1


async def live(project: Project, statement: str) -> None:
    """Run a statement in the project's database as a hand from outside would."""
    async with project.pool.connection() as connection:
        await connection.execute(statement)


async def test_nothing_to_do(project: Project) -> None:
    """Where nothing differs nothing is carried, and the stream goes on as before."""
    result = await resync(project, "shop")
    assert result.slot == ""
    assert result.differences == 0
    assert {part.stream: part.compared for part in result.tables} == {
        "public.orders": ROWS,
        "public.odd": 20,
        "public.keyless": 2,
    }
    assert await differences(project) == []


async def test_g2_a_lost_slot(project: Project, shop: psycopg.AsyncConnection) -> None:
    """Changes that no slot holds any more are found by comparing, deletes included; what is equal
    is not carried (G5), and the stream goes on from the new slot."""
    await lose_the_slot(shop)
    count = await change_much(shop)
    with pytest.raises(FatalError, match="is gone"):
        await in_step(project)
    steps: list[Resynced] = []
    result = await resync(project, "shop", on_step=steps.append)
    assert "slot" in result.slot
    assert result.differences == count
    assert result.embedded <= 5 + 2 + 1  # the searched texts that are new
    assert steps
    assert await differences(project) == []
    await shop.execute("UPDATE orders SET total = 77 WHERE id = 100")
    await shop.execute("DELETE FROM odd WHERE b = 'x3'")
    await in_step(project)
    assert await differences(project) == []


async def test_g2_a_lost_slot_needs_all_tables(
    project: Project, shop: psycopg.AsyncConnection
) -> None:
    """Where changes of every table may be missing, comparing one of them is refused."""
    await lose_the_slot(shop)
    with pytest.raises(SourceError, match="all tables"):
        await resync(project, "shop", tables=["orders"])
    assert (await resync(project, "shop")).differences == 0


async def test_a_hand_in_the_live_tables(project: Project, shop: psycopg.AsyncConnection) -> None:
    """Rows that were changed, deleted, added and claimed to be newer here are put right, while
    changes of the source wait in the slot."""
    await shop.execute("UPDATE orders SET customer = 'seen late' WHERE id = 50")
    await live(project, "UPDATE shop.orders SET total = 9999 WHERE id = 1")
    await live(project, "DELETE FROM shop.orders WHERE id = 2")
    await live(project, "UPDATE shop.orders SET _penstock_position = 'Z', total = 5 WHERE id = 3")
    await live(
        project,
        "INSERT INTO shop.orders SELECT -7, customer, total, 'Z', 0 FROM shop.orders WHERE id = 9",
    )
    await live(project, "UPDATE shop.odd SET c = '10.9.9.9' WHERE b = 'x4'")
    await live(project, "UPDATE shop.keyless SET b = '1' WHERE a = 1")
    result = await resync(project, "shop")
    assert result.slot == ""
    assert result.differences >= 8
    assert await differences(project) == []
    await in_step(project)
    assert await differences(project) == []


async def test_a_hand_in_the_knowledge_base(project: Project) -> None:
    """A row's text that is stale or left over is put right though the live table is right."""
    await live(
        project,
        """UPDATE penstock.documents SET metadata = '{"customer": "x"}'
           WHERE key = 'public.orders/2'""",
    )
    await live(project, "DELETE FROM shop.orders WHERE id = 3")
    assert await differences(project) != []
    result = await resync(project, "shop", tables=["orders"])
    assert result.differences == 2
    assert await differences(project) == []


async def test_only_some_tables(project: Project, shop: psycopg.AsyncConnection) -> None:
    """With --table the others are left alone; what waits in the slot comes by the stream."""
    await shop.execute("UPDATE odd SET v = 'later'")
    await shop.execute("UPDATE orders SET total = total + 1")
    await live(project, "DELETE FROM shop.orders")
    result = await resync(project, "shop", tables=["orders"])
    assert [part.stream for part in result.tables] == ["public.orders"]
    assert result.differences == ROWS
    await in_step(project)
    assert await differences(project) == []


async def test_altered_while_nobody_looked(project: Project, shop: psycopg.AsyncConnection) -> None:
    """Columns and keys that changed while the slot was lost are taken over."""
    await lose_the_slot(shop)
    await shop.execute("ALTER TABLE orders ADD COLUMN note text DEFAULT 'none', DROP COLUMN total")
    await shop.execute("ALTER TABLE odd DROP CONSTRAINT odd_pkey, ADD PRIMARY KEY (b)")
    result = await resync(project, "shop")
    notes = {part.stream: part.note for part in result.tables}
    assert notes["public.orders"] == "its columns changed"
    assert notes["public.odd"] == "its key changed"
    assert await differences(project) == []
    await in_step(project)
    assert await differences(project) == []


async def test_g2_stopped_on_the_way(project: Project, shop: psycopg.AsyncConnection) -> None:
    """A repair that is cut off is repeated, or the next run copies what was not compared."""
    await lose_the_slot(shop)
    await change_much(shop)

    class CutError(Exception):
        pass

    def cut(result: Resynced) -> None:
        if [part.done for part in result.tables] == [True]:
            raise CutError

    with pytest.raises(CutError):
        await resync(project, "shop", on_step=cut)
    await in_step(project)
    assert await differences(project) == []


async def test_names_that_are_wrong(project: Project) -> None:
    """Sources and tables that there are not are named."""
    with pytest.raises(ConfigError, match="nosuch"):
        await resync(project, "nosuch")
    with pytest.raises(SourceError, match="nothing"):
        await resync(project, "shop", tables=["nothing"])


async def test_another_history(project: Project, shop: psycopg.AsyncConnection) -> None:
    """Where the server is another one, and its log is behind ours, rows that claim to be newer
    give way."""
    await live(project, "UPDATE shop.orders SET _penstock_position = 'F' || _penstock_position")
    await live(project, "UPDATE penstock.producer_state SET value = '7' WHERE name = 'system'")
    await shop.execute("UPDATE orders SET customer = 'after the failover' WHERE id = 1")
    result = await resync(project, "shop")
    assert "database system 7" in result.slot
    await shop.execute("UPDATE orders SET customer = 'and on' WHERE id = 2")
    await in_step(project)
    assert await differences(project) == []
