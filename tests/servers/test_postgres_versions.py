"""Capture from every PostgreSQL version that can be had: the same story, the same end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from penstock.operate.resync import resync
from penstock.operate.verify import verify
from penstock.project import Project
from penstock.settings import Settings
from penstock.testing.own_server import OwnServer

DEADLINE_S = 30.0

STORY = (
    "INSERT INTO plain SELECT n, 'row', repeat(md5(n::text), 99) FROM generate_series(101, 140) n",
    "UPDATE plain SET name = 'renamed' WHERE id % 7 = 0",  # beside unchanged TOAST
    "UPDATE plain SET id = id + 1000 WHERE id BETWEEN 10 AND 20",
    """BEGIN; UPDATE swapped SET place = -1 WHERE place = 1;
       UPDATE swapped SET place = 1 WHERE place = 2;
       UPDATE swapped SET place = 2 WHERE place = -1; COMMIT""",
    "DELETE FROM plain WHERE id % 11 = 0",
    "INSERT INTO measured VALUES (3, 15), (4, 105)",
    "UPDATE measured SET v = 150 WHERE id = 1",  # moves to the other partition
    "INSERT INTO full_identity VALUES (1, 'same'), (NULL, 'none')",
    "DELETE FROM full_identity WHERE b = 'a'",
    "ALTER TABLE plain ADD COLUMN extra int DEFAULT 5",
    "INSERT INTO plain (id, name, extra) VALUES (2000, 'after', 7)",
    "ALTER TABLE plain RENAME COLUMN name TO label",
    "UPDATE plain SET label = 'relabelled' WHERE id = 5",
    "ALTER TABLE plain ALTER COLUMN extra TYPE bigint",
    "INSERT INTO plain (id, label, extra) VALUES (2001, 'wide', 5000000000)",
    "ALTER TYPE mood ADD VALUE 'great'",
    "INSERT INTO moods VALUES (2, 'great')",
    "ALTER TABLE plain DROP COLUMN body",
    "INSERT INTO plain (id, label) VALUES (2002, 'without')",
    "TRUNCATE parent CASCADE",
    "INSERT INTO parent VALUES (9)",
    "INSERT INTO child VALUES (9, 9)",
    "UPDATE computed SET a = 21 WHERE id = 1",
)

TABLES = (
    "CREATE TABLE plain (id int PRIMARY KEY, name text, body text)",
    "INSERT INTO plain SELECT n, 'row', repeat(md5(n::text), 99) FROM generate_series(1, 60) n",
    "CREATE TABLE swapped (place int PRIMARY KEY, name text)",
    "INSERT INTO swapped VALUES (1, 'one'), (2, 'two')",
    "CREATE TABLE measured (id int, v int, PRIMARY KEY (id, v)) PARTITION BY RANGE (v)",
    "CREATE TABLE measured_low PARTITION OF measured FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE measured_high PARTITION OF measured FOR VALUES FROM (100) TO (200)",
    "INSERT INTO measured VALUES (1, 10), (2, 110)",
    "CREATE TABLE full_identity (a int, b text)",
    "ALTER TABLE full_identity REPLICA IDENTITY FULL",
    "INSERT INTO full_identity VALUES (1, 'a'), (2, 'b')",
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TABLE moods (id int PRIMARY KEY, m mood)",
    "INSERT INTO moods VALUES (1, 'sad')",
    "CREATE TABLE parent (id int PRIMARY KEY)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)",
    "INSERT INTO parent VALUES (1), (2)",
    "INSERT INTO child VALUES (1, 1), (2, 2)",
    "CREATE TABLE computed (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
    "INSERT INTO computed VALUES (1, 20)",
)


@pytest.fixture
async def project(
    any_server: OwnServer, database_url: str, tmp_path: Path
) -> AsyncIterator[Project]:
    """A project over all tables of that server."""
    any_server.execute(*TABLES)
    settings = Settings.model_validate(
        {
            "project": "versions",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": any_server.dsn(),
                    "heartbeat": 0.2,
                    "messages": True,
                    "tables": ["public.*"],
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
    project.meters.sources.clear()  # as in a new process, which knows that nothing runs
    report = await verify(project)
    return [f"{part.what} {name}" for part in report.sources for name in part.named]


async def test_g2_a_story_on_every_version(project: Project, any_server: OwnServer) -> None:
    """Copy, stream, alterations and a repair give on each version what the source holds."""
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        async with await psycopg.AsyncConnection.connect(any_server.dsn(), autocommit=True) as shop:
            for statement in STORY:
                await shop.execute(statement)
            await shop.execute("SELECT pg_logical_emit_message(true, 'note', 'a word')")
            await shop.execute("SELECT pg_logical_emit_message(false, 'note', 'of no transaction')")
        await project.caught_up(limit_s=DEADLINE_S)
    assert await differences(project) == []
    async with project.pool.connection() as connection:
        cursor = await connection.execute("SELECT prefix, content FROM shop.messages")
        assert await cursor.fetchall() == [("note", "a word")]
    any_server.execute("SELECT pg_drop_replication_slot('penstock_versions_shop')")
    any_server.execute("DELETE FROM plain WHERE id = 1", "UPDATE moods SET m = 'ok' WHERE id = 1")
    result = await resync(project, "shop")
    assert result.differences == 2, result.tables
    assert await differences(project) == []


EXTENSIONS = {
    "hstore": ("hstore", ['"a"=>"1","b"=>NULL', "", '"\u017e \\""=>"\'"']),
    "citext": ("citext", ["MiXed", ""]),
    "ltree": ("ltree", ["top.science", ""]),
    "isn": ("isbn", ["978-0-393-04002-9"]),
}
"""Extensions that a server may have, with a type of each and values of it."""


@pytest.mark.parametrize("extension", [*EXTENSIONS, "xml"])
async def test_types_of_extensions(project: Project, any_server: OwnServer, extension: str) -> None:
    """Types of extensions, and xml, come as their text, arrays of them too."""
    of, values = EXTENSIONS.get(extension, ("xml", ['<a b="1">x</a>', "text"]))
    try:
        if extension in EXTENSIONS:
            any_server.execute(f"CREATE EXTENSION {extension}")
        any_server.execute(f"CREATE TABLE extended (id serial PRIMARY KEY, v {of}, many {of}[])")
        any_server.execute(f"SELECT '{values[0]}'::text::{of}::text")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        pytest.skip(f"{extension} was not verified on this version: {error.diag.message_primary}")

    async def put() -> None:
        async with await psycopg.AsyncConnection.connect(any_server.dsn()) as shop:
            statement = f"INSERT INTO extended (v, many) VALUES (%s::{of}, ARRAY[%s::{of}])"
            for value in values:
                await shop.execute(statement.encode(), [value, value])

    await put()
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        await put()
        await project.caught_up(limit_s=DEADLINE_S)
    assert await differences(project) == []
