"""The PostgreSQL source passes the suite of sources."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping

import psycopg
import pytest

from penstock.clock import SystemClock
from penstock.records import Row, Schema
from penstock.sources.postgres.source import PostgresSource
from penstock.testing.sources import RowName, SourceSuite


class ShopDatabase:
    """A database with two tables that a script writes to."""

    def __init__(self, dsn: str, connection: psycopg.AsyncConnection) -> None:
        self._dsn = dsn
        self._connection = connection

    async def prepare(self) -> None:
        await self._connection.execute(
            "CREATE TABLE orders (shop integer, id bigint, note text, total numeric(12, 2), "
            "PRIMARY KEY (shop, id))"
        )
        await self._connection.execute("CREATE TABLE prices (sku text PRIMARY KEY, cents bigint)")

    def source(self) -> PostgresSource:
        return PostgresSource("shop", self._dsn, ["public.*"], clock=SystemClock(), heartbeat_s=0.1)

    async def write(self, number: int) -> None:
        place = number % 10
        async with self._connection.transaction():
            await self._connection.execute(
                "INSERT INTO prices VALUES ('a', %s) ON CONFLICT (sku) DO UPDATE SET cents = %s",
                [number, number],
            )
            if place == 9:
                await self._connection.execute("DELETE FROM orders WHERE id = %s", [number - 8])
            elif place == 7:
                await self._connection.execute(
                    "UPDATE orders SET id = -id WHERE id = %s", [number - 5]
                )
            elif place == 5:
                await self._connection.execute(
                    "UPDATE orders SET total = total + 1 WHERE id <= %s", [number]
                )
            else:
                await self._connection.execute(
                    "INSERT INTO orders VALUES (%s, %s, %s, 1.5)",
                    [number % 3, number, "tab\tline\nback\\slash" + "long " * number * 60],
                )

    async def contents(self) -> Mapping[RowName, Hashable]:
        cursor = await self._connection.execute(
            "SELECT 'public.orders', ARRAY[shop::text, id::text], "
            "ARRAY[shop::text, id::text, note, total::text] FROM orders UNION ALL "
            "SELECT 'public.prices', ARRAY[sku], ARRAY[sku, cents::text] FROM prices"
        )
        return {(stream, tuple(key)): tuple(row) for stream, key, row in await cursor.fetchall()}

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row


class TestPostgresSource(SourceSuite):
    @pytest.fixture
    async def system(self, source_url: str) -> AsyncIterator[ShopDatabase]:
        async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
            database = ShopDatabase(source_url, connection)
            await database.prepare()
            yield database
