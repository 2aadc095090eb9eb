"""Equal rows that trade keys within a transaction, from a real server to tables and texts (G2)."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from penstock.operate.verify import verify
from penstock.project import Project
from penstock.settings import Settings

DEADLINE_S = 20.0
ROWS = 8

TRADES = (
    "UPDATE people SET id = 3 - id WHERE id IN (1, 2)",
    "UPDATE people SET id = CASE id WHEN 3 THEN 4 WHEN 4 THEN 5 ELSE 3 END WHERE id IN (3, 4, 5)",
    (
        "INSERT INTO people VALUES (6, 'Ada', repeat('x', 9000)); DELETE FROM people WHERE id = 6 "
        "AND ctid = (SELECT min(ctid) FROM people WHERE id = 6)"
    ),
    "UPDATE people SET id = 70 WHERE id = 7; UPDATE people SET id = 7 WHERE id = 70",
    (
        "UPDATE people SET id = 8 WHERE id = 7; UPDATE people SET name = 'Eve' WHERE ctid = "
        "(SELECT max(ctid) FROM people WHERE id = 8); UPDATE people SET id = 7 WHERE id = 8 "
        "AND name = 'Ada'"
    ),
)
"""A pair, three in a ring, one replaced by its twin, one that goes and comes back, and one that is
changed beside its twin."""


@pytest.mark.parametrize("partitions", [1, 4])
async def test_g2_equal_rows_that_trade_keys_stay(
    source_url: str, database_url: str, tmp_path: Path, partitions: int
) -> None:
    """Each trade alone, so that nothing else in a batch tells what was there before."""
    settings = Settings.model_validate(
        {
            "project": f"trades{partitions}",
            "database": database_url,
            "data": str(tmp_path),
            "log": {"partitions": partitions},
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.2,
                    "tables": {"people": {"searched": ["name"]}},
                }
            },
        }
    )
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as shop:
        await shop.execute("SET synchronous_commit = on")
        for statement in (
            (
                "CREATE TABLE people (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, "
                "name text, large text)"
            ),
            "ALTER TABLE people REPLICA IDENTITY FULL",
            "INSERT INTO people SELECT n, 'Ada', repeat('x', 9000) FROM generate_series(1, 8) n",
        ):
            await shop.execute(statement)
        project = Project(settings)
        try:
            await project.start()
            async with project.running():
                await project.caught_up(limit_s=DEADLINE_S)
                for trade in TRADES:
                    async with shop.transaction():
                        await shop.execute(trade)
                    await project.caught_up(limit_s=DEADLINE_S)
            report = await verify(project)
            assert not report.differences, report.sources
        finally:
            await project.close()
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            cursor = await connection.execute(
                "SELECT d.title FROM penstock.documents d WHERE d.deleted_at IS NULL"
            )
            assert len(await cursor.fetchall()) == ROWS
