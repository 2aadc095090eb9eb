"""What takes changes away from a running source is named or mended, and never passed over (G2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from penstock.errors import FatalError
from penstock.operate.resync import resync
from penstock.operate.status import status
from penstock.operate.verify import verify
from penstock.project import Project
from penstock.serving.api.metrics import render
from penstock.settings import Settings

DEADLINE_S = 20.0
NAMED_WITHIN_S = 10.0


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        await connection.execute("SET synchronous_commit = on")
        for statement in (
            "CREATE TABLE t (id int PRIMARY KEY, other int NOT NULL UNIQUE, v text)",
            "INSERT INTO t SELECT n, n + 100, 'row ' || n FROM generate_series(1, 20) n",
            "CREATE TABLE u (id int PRIMARY KEY, v text)",
            "INSERT INTO u VALUES (1, 'one'), (2, 'two')",
        ):
            await connection.execute(statement)
        yield connection


@pytest.fixture
async def project(
    shop: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> AsyncIterator[Project]:
    settings = Settings.model_validate(
        {
            "project": "ways",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.1,
                    "tables": ["t", "u"],
                }
            },
        }
    )
    project = Project(settings)
    try:
        await project.start()
        yield project
    finally:
        await project.close()


async def differences(project: Project) -> list[str]:
    running = dict(project.meters.sources)
    project.meters.sources.clear()  # one look is enough: the source stands still
    report = await verify(project)
    project.meters.sources.update(running)
    return [f"{part.what} {name}" for part in report.sources for name in part.named]


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float = DEADLINE_S) -> None:
    async with asyncio.timeout(limit_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def equal(project: Project) -> bool:
    await project.caught_up(limit_s=DEADLINE_S)
    return await differences(project) == []


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP PUBLICATION penstock_ways_shop", "UPDATE t SET v = 'missed' WHERE id = 1"],
        [
            "ALTER PUBLICATION penstock_ways_shop DROP TABLE t",
            "UPDATE t SET v = 'missed' WHERE id = 1",
        ],
        [
            "ALTER PUBLICATION penstock_ways_shop DROP TABLE t",
            "DELETE FROM t WHERE id = 1",
            "ALTER PUBLICATION penstock_ways_shop ADD TABLE t",
        ],
        [
            "ALTER PUBLICATION penstock_ways_shop SET TABLE t (id, v), u",
            "UPDATE t SET other = 7 WHERE id = 1",
            "ALTER PUBLICATION penstock_ways_shop SET TABLE t, u",
        ],
        [
            "DROP TABLE t",
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t VALUES (7, 'anew')",
        ],
        [
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "UPDATE t SET v = 'full' WHERE id = 1",
            "ALTER TABLE t REPLICA IDENTITY USING INDEX t_other_key",
            "UPDATE t SET v = 'index' WHERE id = 2",
            "DELETE FROM t WHERE id = 3",
            "UPDATE t SET other = 1000 WHERE id = 4",
        ],
    ],
    ids=["dropped", "table out", "out and in", "columns", "made anew", "identity"],
)
@pytest.mark.parametrize("running", [True, False], ids=["streaming", "stopped"])
async def test_g2_taken_away_and_mended(
    project: Project, shop: psycopg.AsyncConnection, statements: list[str], *, running: bool
) -> None:
    """Publications and tables that are altered by somebody else are mended by themselves, while the
    source runs and when it starts, and nothing that was not published is missing afterwards."""
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        if running:
            for statement in statements:
                await shop.execute(statement)
            await until(lambda: equal(project))
    if not running:
        for statement in statements:
            await shop.execute(statement)
        async with project.running():
            await until(lambda: equal(project))
    assert await differences(project) == []


@pytest.mark.parametrize("running", [True, False], ids=["streaming", "stopped"])
async def test_g2_a_publication_that_leaves_kinds_out(
    project: Project, shop: psycopg.AsyncConnection, *, running: bool
) -> None:
    """Changes that were not published are missing: the source stops within 10 s, stays stopped also
    when the publication is mended by hand, and goes on after a repair."""
    narrow = "ALTER PUBLICATION penstock_ways_shop SET (publish = 'insert')"

    async def run(statement: str | None = None) -> None:
        async with project.running():
            if statement:
                await project.caught_up(limit_s=DEADLINE_S)
                await shop.execute(statement)
            async with asyncio.timeout(NAMED_WITHIN_S):
                await asyncio.Event().wait()

    if running:
        with pytest.raises(FatalError, match="taken some away"):
            await run(narrow)
    else:
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
        await shop.execute(narrow)
        with pytest.raises(FatalError, match="taken some away"):
            await run()
    assert project.meters.sources["shop"].state == "failed"
    await shop.execute("DELETE FROM t WHERE id = 1")
    await shop.execute(
        "ALTER PUBLICATION penstock_ways_shop SET (publish = 'insert, update, delete, truncate')"
    )
    with pytest.raises(FatalError, match="taken some away"):
        await run()
    result = await resync(project, "shop")
    assert result.differences == 1
    async with project.running():
        await until(lambda: equal(project))


@pytest.mark.parametrize("running", [True, False], ids=["streaming", "stopped"])
async def test_g13_a_table_that_lost_its_key_is_left_out(
    project: Project, shop: psycopg.AsyncConnection, *, running: bool
) -> None:
    """A table without a key is parked within 10 s, with the reason in status; the others go on; it
    comes back by itself when it is mended."""

    async def parked() -> bool:
        sources = (await status(project))["sources"]
        return "public.t" in sources[0]["parked"]

    async def seen() -> bool:
        return b'penstock_source_parked_tables{source="shop"} 1.0' in render(project.meters)

    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        if running:
            await shop.execute("ALTER TABLE t REPLICA IDENTITY NOTHING")
            await until(parked, NAMED_WITHIN_S)
    if not running:
        await shop.execute("ALTER TABLE t REPLICA IDENTITY NOTHING")
    async with project.running():
        await until(parked, NAMED_WITHIN_S)
        await shop.execute("INSERT INTO t VALUES (500, 500, 'nobody sees it yet')")
        await shop.execute("UPDATE u SET v = 'goes on' WHERE id = 1")
        await project.caught_up(limit_s=DEADLINE_S)
        assert await differences(project) == ["public.t 500: " + MISSING]
        await until(seen, NAMED_WITHIN_S)
        sentence = (await status(project))["sources"][0]["parked"]["public.t"]
        assert "REPLICA IDENTITY FULL" in sentence
        await shop.execute("ALTER TABLE t REPLICA IDENTITY DEFAULT")
        await until(lambda: equal(project))
        assert not await parked()


MISSING = "is in the source and not in the live table"


async def test_origin_none_leaves_replicated_changes_out(
    shop: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> None:
    """With ``origin: none`` what came to the source by replication is not captured."""
    settings = Settings.model_validate(
        {
            "project": "ways",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.1,
                    "origin": "none",
                    "tables": ["u"],
                }
            },
        }
    )
    origin = f"elsewhere_{shop.info.dbname}"
    await shop.execute("SELECT pg_replication_origin_create(%s)", [origin])
    project = Project(settings)
    try:
        await project.start()
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
            await shop.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
            await shop.execute("INSERT INTO u VALUES (10, 'replicated')")
            await shop.execute("SELECT pg_replication_origin_session_reset()")
            await shop.execute("INSERT INTO u VALUES (11, 'our own')")
            await project.caught_up(limit_s=DEADLINE_S)
            assert await differences(project) == ["public.u 10: " + MISSING]
    finally:
        await project.close()
        await shop.execute("SELECT pg_replication_origin_drop(%s)", [origin])
