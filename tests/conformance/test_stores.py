"""Both stores keep what a store promises."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from penstock.database.connect import open_pool
from penstock.records import Key, Row, Schema
from penstock.stores.base import Store
from penstock.stores.memory import MemoryStore
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.stores import StoreSuite


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    async def store(self) -> MemoryStore:
        return MemoryStore()

    async def rows(self, store: Store, schema: Schema) -> dict[Key, Row]:
        assert isinstance(store, MemoryStore)
        rows = store.rows(schema.source, schema.stream)
        return {key: tuple(row.values[name] for name in schema.names) for key, row in rows.items()}

    async def letters(self, store: Store) -> int:
        assert isinstance(store, MemoryStore)
        return len(store.letters)


class TestPostgresStore(StoreSuite):
    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[PostgresStore]:
        self.dsn = database_url
        pool = await open_pool(database_url, max_size=2)
        yield PostgresStore(pool)
        await pool.close()

    async def rows(self, store: Store, schema: Schema) -> dict[Key, Row]:
        assert isinstance(store, PostgresStore)
        tables = [t for t in await store.live_tables(schema.source) if t.stream == schema.stream]
        if not tables:
            return {}
        statement = sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier(name)) for name in tables[0].names
            ),
            tables[0].identifier,
        )
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            found = await (await connection.execute(statement)).fetchall()
        return {tuple(row[i] for i in schema.key_indexes): tuple(row) for row in found}

    async def letters(self, store: Store) -> int:
        assert isinstance(store, PostgresStore)
        return len(await store.dead_letters())
