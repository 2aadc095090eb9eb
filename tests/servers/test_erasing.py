"""Every table has somebody who answers for it when a person is erased; and holders one by one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.log.erasing import batches
from penstock.operate.erasing.cleaning import personal_tables
from penstock.records import (
    UNREADABLE,
    Change,
    Column,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Schema,
    unreadable_schema,
)
from penstock.stores.base import ApplyRows, DeadLetter
from penstock.stores.postgres.erasing.base import Work
from penstock.stores.postgres.erasing.registry import HOLDERS, LOG_TABLES, NOTHING_PERSONAL
from penstock.stores.postgres.erasing.rows import live_rows
from penstock.stores.postgres.live_tables import all_tables
from penstock.stores.postgres.store import PostgresStore
from penstock.subjects import RecordName, Subject

Pool = AsyncConnectionPool[Any]
ADA = Subject(
    frozenset(
        {
            RecordName("crm", "people", "7"),
            RecordName("crm", "pairs", '["7", "x y"]'),
            RecordName("files", "documents", "hr/ada.md"),
        }
    ),
    frozenset({"ada@example.org"}),
    ("ada@example.org",),
)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, max_size=3) as opened:
        yield opened


async def erase(pool: Pool, holder: str, subject: Subject = ADA) -> int:
    [chosen] = [one for one in HOLDERS if one.name == holder]
    async with pool.connection() as connection, connection.transaction():
        return await chosen.erase(Work(connection, "default", subject))


async def rows(pool: Pool, query: str) -> list[Any]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query)
        return [row[0] for row in await cursor.fetchall()]


async def test_g9_every_table_is_reached_by_an_eraser_or_holds_nothing_personal(pool: Pool) -> None:
    there = set(await rows(pool, "SELECT tablename FROM pg_tables WHERE schemaname = 'penstock'"))
    answered = [table for holder in HOLDERS for table in holder.tables]
    assert len(answered) == len(set(answered))
    assert not set(answered) & NOTHING_PERSONAL.keys()
    missing = there - {*answered, *LOG_TABLES, *NOTHING_PERSONAL}
    assert not missing, (
        f"{sorted(missing)}: add each to a holder in stores/postgres/erasing/registry.py, or say "
        "there why it holds nothing personal"
    )
    assert {*answered, *LOG_TABLES, *NOTHING_PERSONAL} <= there
    async with pool.connection() as connection:
        rewritten = {name for schema, name in await personal_tables(connection)}
    assert rewritten == {*answered, *LOG_TABLES}


async def test_g9_rows_go_by_key_also_composite_and_long_ones(pool: Pool) -> None:
    store = PostgresStore(pool)
    people = Schema("crm", "people", (Column("id", "text", key=True), Column("email", "text")))
    pairs = Schema(
        "crm", "pairs", (Column("a", "integer", key=True), Column("b", "text", key=True),
                         Column("c", "text"))
    )  # fmt: skip
    long = "k" * 500

    def put(schema: Schema, *row: str) -> Change:
        key = tuple(row[index] for index in schema.key_indexes)
        return Change(schema, Op.CREATE, key, Position("1"), Microseconds(1), row)

    changes = [put(people, key, "x") for key in ("7", "77", long)]
    changes += [put(pairs, "7", b, "z") for b in ("x y", "x")]
    async with store.transaction() as transaction:
        await transaction.apply(ApplyRows(changes))
    digest = RecordName("crm", "people", _digest(long))
    assert await erase(pool, "live tables", ADA.including(records=[digest])) == 3
    assert await rows(pool, "SELECT id FROM crm.people") == ["77"]
    assert await rows(pool, "SELECT b FROM crm.pairs") == ["x"]
    assert await erase(pool, "live tables") == 0  # again: nothing is left to do


def _digest(key: str) -> str:
    from penstock.subjects import key_name

    return key_name((key,))


async def test_g9_letters_about_somebody_go_whatever_names_them(pool: Pool) -> None:
    store = PostgresStore(pool)
    schema = Schema("crm", "people", (Column("id", "text", key=True), Column("email", "text")))

    def letter(number: int, change: Change, reason: str = "bad") -> DeadLetter:
        return DeadLetter("tables", "crm", 0, LogPosition(number), change, reason)

    def row(key: str, email: str) -> Change:
        return Change(schema, Op.CREATE, (key,), Position(key), Microseconds(1), (key, email))

    import base64

    value = base64.b64encode(b'{"mail": "Ada@example.org"}').decode()
    unreadable = Change(
        unreadable_schema("crm"),
        Op.CREATE,
        ("0/1",),
        Position("9"),
        Microseconds(1),
        ("0/1", None, None, value, None, "no JSON"),
    )
    assert unreadable.schema.stream == UNREADABLE
    letters = [
        letter(1, row("7", "x")),
        letter(2, row("8", "ada@example.org")),
        letter(3, row("9", "x"), "expected a number, got 'ada@example.org'"),
        letter(4, unreadable),
        letter(5, row("10", "grace@example.org")),
    ]
    async with store.transaction() as transaction:
        await transaction.bury(letters)
    assert await erase(pool, "dead letters") == 4
    assert await rows(pool, "SELECT key ->> 0 FROM penstock.dead_letters") == ["10"]


async def test_g9_small_things_that_name_somebody(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO penstock.api_keys (id, digest, label, user_name, user_groups, tenant, "
            "scopes, created_at) VALUES ('a', '', '', 'Ada@example.org', '{}', 'default', '{}', 1),"
            " ('b', '', '', 'grace@example.org', '{}', 'default', '{}', 1)"
        )
        await connection.execute("INSERT INTO penstock.producers (producer) VALUES ('files')")
        await connection.execute(
            "INSERT INTO penstock.producer_state VALUES ('files', 'file:hr/ada.md', '1'), "
            "('files', 'file:hr/grace.md', '1')"
        )
        await connection.execute(
            "INSERT INTO penstock.run_reports (instance, report) VALUES ('a', %s), ('b', '{}')",
            [json.dumps({"last_error": "what about ada@example.org?"})],
        )
        await connection.execute(
            "SELECT penstock.list_of('default', ARRAY['user:ada@example.org', 'user:bo'], '{}')"
        )
        await connection.execute(
            "INSERT INTO penstock.tombstones VALUES ('crm', 'people', '7', '1'), "
            "('crm', 'pairs', '[\"7\",\"x y\"]', '1'), ('crm', 'people', '8', '1')"
        )
        await connection.execute(
            "INSERT INTO penstock.permissions (tenant, source, place, entry, origin, position, "
            "committed_at) VALUES ('default', 'files', 'hr/ada.md', 'x', 'files', '1', 1), "
            "('default', 'files', 'hr', 'x', 'files', '1', 1)"
        )
    for holder, expected in (
        ("keys of applications", 1),
        ("states of sources", 1),
        ("reports of runs", 1),
        ("names in permissions", 1),
        ("marks of deleted rows", 2),
        ("permissions", 1),
    ):
        assert (holder, await erase(pool, holder)) == (holder, expected)
        assert (holder, await erase(pool, holder)) == (holder, 0)
    assert await rows(pool, "SELECT allow FROM penstock.lists WHERE tenant = 'default'") == [
        ["user:bo"]
    ]
    assert await rows(pool, "SELECT place FROM penstock.permissions") == ["hr"]
    assert await rows(pool, "SELECT key FROM penstock.tombstones") == ["8"]


async def test_g12_reading_everything_may_take_its_time(pool: Pool) -> None:
    """Sessions are closed when they idle in a transaction, so that a stuck process holds nothing:
    an erasure that looks at what it has read is not stuck."""
    schema = Schema("crm", "people", (Column("id", "integer", key=True), Column("name", "text")))
    row = Change(schema, Op.CREATE, ("1",), Position("1"), Microseconds(1), ("1", "Ada"))
    store = PostgresStore(pool)
    await store.prepare_tables([schema])
    async with store.transaction() as transaction:
        await transaction.apply(ApplyRows([row]))
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '1s'")
        [table] = await all_tables(connection)
        async for _, _ in live_rows(connection, "default", table):
            cursor = await connection.execute("SHOW idle_in_transaction_session_timeout")
            assert await cursor.fetchone() == ("0",)
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '1s'")
        async for _ in batches(connection, "default"):
            pass
        cursor = await connection.execute("SHOW idle_in_transaction_session_timeout")
        assert await cursor.fetchone() == ("0",)
