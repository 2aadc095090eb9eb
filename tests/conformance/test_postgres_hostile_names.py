"""Names that would break a careless program: from the source through everything, and a table that
nobody may touch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

from penstock.operate.resync import resync
from penstock.operate.verify import verify
from penstock.project import Project
from penstock.settings import Settings

DEADLINE_S = 25.0

NAMES: Final = [
    'quo"ted',
    "it's",
    "x; DROP TABLE canary; --",
    '"; DROP TABLE canary; --',
    "Robert'); DROP TABLE canary;--",
    "ž" * 31,  # 62 bytes
    "数" * 21,  # 63 bytes
    "select",
    "table",
    "user",
    "Case",
    "case",
    "CASE",
    "🐎 horse",
    "new\nline",
    "tab\there",
    "%s %(name)s %%",
    "{} {0} {name}",
    "back\\slash",
    "$1",
    "a.b.c",
    " leading and trailing ",
    "?",
    ":name",
    "--",
    "/*",
]
COLUMNS: Final = [
    *NAMES,
    "_penstock_position",
    "_penstock_key",
    "_penstock_tenant",
    "_penstock_committed_at",
    "source_penstock_position",
    "position",
    "key",
    "k0",
    "c0",
    "w",
    "t",
    "l",
    "s",
    "d",
    "excluded",
    "tombstone",
    "number",
]
"""Columns may also be called as ours are, or as our statements call things."""


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """One table for each name, with a column of that name, and one with all columns."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE canary (alive boolean)")
        await connection.execute("INSERT INTO canary VALUES (true)")
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        for name in NAMES:
            await connection.execute(
                sql.SQL("CREATE TABLE {}.{} ({} text PRIMARY KEY, {} text)").format(
                    sql.Identifier(SCHEMA),
                    sql.Identifier(name),
                    sql.Identifier(name),
                    sql.Identifier("value"),
                )
            )
        await connection.execute(
            sql.SQL("CREATE TABLE {}.all_columns (id int, {}, PRIMARY KEY (id, {}))").format(
                sql.Identifier(SCHEMA),
                sql.SQL(", ").join(
                    sql.SQL("{} text").format(sql.Identifier(column)) for column in COLUMNS
                ),
                sql.Identifier("_penstock_position"),
            )
        )
        yield connection


SCHEMA: Final = 'Quo"ted; schema'


@pytest.fixture
async def project(
    shop: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> AsyncIterator[Project]:
    settings = Settings.model_validate(
        {
            "project": "hostile",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.2,
                    "tables": [f"{SCHEMA}.*"],
                }
            },
        }
    )
    project = Project(settings)
    try:
        await project.start()
        async with project.pool.connection() as connection:
            await connection.execute("CREATE TABLE public.canary (alive boolean)")
            await connection.execute("INSERT INTO public.canary VALUES (true)")
        yield project
    finally:
        await project.close()


async def raw(shop: psycopg.AsyncConnection, statement: sql.Composed, *values: object) -> None:
    """A statement in which a percent sign means nothing."""
    await psycopg.AsyncRawCursor(shop).execute(statement, values)


async def write(shop: psycopg.AsyncConnection, word: str) -> None:
    """A row with this word, and a hostile value, in each table."""
    for name in NAMES:
        await raw(
            shop,
            sql.SQL("INSERT INTO {}.{} VALUES ($1, $2)").format(
                sql.Identifier(SCHEMA), sql.Identifier(name)
            ),
            word,
            name,
        )
    values = sql.SQL(", ").join(sql.SQL(f"${i + 2}") for i in range(len(COLUMNS)))
    await raw(
        shop,
        sql.SQL("INSERT INTO {}.all_columns VALUES ($1, {})").format(
            sql.Identifier(SCHEMA), values
        ),
        len(word),
        *(f"{word} {column}" for column in COLUMNS),
    )


async def differences(project: Project) -> list[str]:
    project.meters.sources.clear()  # the source stands still: one look is enough
    report = await verify(project)
    return [f"{part.what} {found}" for part in report.sources for found in part.named]


async def test_hostile_names_from_end_to_end(
    project: Project, shop: psycopg.AsyncConnection
) -> None:
    """Tables and columns of such names are copied, streamed, altered and repaired; the canaries of
    both databases live."""
    await write(shop, "copied")
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        await write(shop, "streamed it")
        for name in NAMES:
            table = sql.Identifier(SCHEMA, name)
            column = sql.Identifier(name)
            await raw(
                shop,
                sql.SQL("UPDATE {} SET {} = 'moved', value = $1 WHERE {} = $2").format(
                    table, column, column
                ),
                name,
                "copied",
            )
            await shop.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} int").format(
                    table, sql.Identifier(f"{name[:15]}+")
                )
            )
            await shop.execute(sql.SQL("INSERT INTO {} VALUES ('altered', 'x', 1)").format(table))
        await project.caught_up(limit_s=DEADLINE_S)
    assert await differences(project) == []
    assert len(await project.store.live_tables("shop")) == len(NAMES) + 1
    await write(shop, "found by comparison")
    for name in NAMES:
        await shop.execute(
            sql.SQL("DELETE FROM {} WHERE value = 'x'").format(sql.Identifier(SCHEMA, name))
        )
    result = await resync(project, "shop")
    assert result.differences == 2 * len(NAMES) + 1
    assert await differences(project) == []
    cursor = await shop.execute("SELECT alive FROM canary")
    assert await cursor.fetchall() == [(True,)]
    async with project.pool.connection() as connection:
        ours = await connection.execute("SELECT alive FROM public.canary")
        assert await ours.fetchall() == [(True,)]
