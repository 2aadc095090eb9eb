"""The MySQL source passes the suite of sources on a real MariaDB server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping

import pytest

from penstock.clock import SystemClock
from penstock.records import Row, Schema
from penstock.sources.mysql.connections import Session, connect
from penstock.sources.mysql.source import MySQLLimits, MySQLSource
from penstock.testing.mariadb import MariaDBServer
from penstock.testing.sources import RowName, SourceSuite

pytestmark = pytest.mark.servers


class ShopDatabase:
    """A database with two tables that a script writes to."""

    def __init__(self, dsn: str, database: str, session: Session, limits: MySQLLimits) -> None:
        self._dsn = dsn
        self._database = database
        self._session = session
        self._limits = limits
        self.batch_changes = 5000

    async def prepare(self) -> None:
        await self._session.fetch(
            "CREATE TABLE orders (shop int, id bigint, note text, total decimal(12, 2), "
            "PRIMARY KEY (shop, id))"
        )
        await self._session.fetch("CREATE TABLE prices (sku varchar(20) PRIMARY KEY, cents bigint)")

    def source(self) -> MySQLSource:
        return MySQLSource(
            "shop",
            self._dsn,
            [f"{self._database}.*"],
            clock=SystemClock(),
            server_id=4711,
            heartbeat_s=0.1,
            max_batch_changes=self.batch_changes,
            limits=self._limits,
        )

    async def write(self, number: int) -> None:
        place = number % 10
        fetch = self._session.fetch
        await fetch("BEGIN")
        await fetch(
            "INSERT INTO prices VALUES ('a', %s) ON DUPLICATE KEY UPDATE cents = %s",
            [number, number],
        )
        if place == 9:
            await fetch("DELETE FROM orders WHERE id = %s", [number - 8])
        elif place == 7:
            await fetch("UPDATE orders SET id = -id WHERE id = %s", [number - 5])
        elif place == 5:
            await fetch("UPDATE orders SET total = total + 1 WHERE id <= %s", [number])
        else:
            await fetch(
                "INSERT INTO orders VALUES (%s, %s, %s, 1.5)",
                [number % 3, number, "tab\tline\nback\\slash" + "long " * number * 60],
            )
        await fetch("COMMIT")

    async def contents(self) -> Mapping[RowName, Hashable]:
        found: dict[RowName, Hashable] = {}
        for row in await self._session.fetch("SELECT shop, id, note, total FROM orders"):
            texts = tuple(map(str, row))
            found[f"{self._database}.orders", texts[:2]] = texts
        for row in await self._session.fetch("SELECT sku, cents FROM prices"):
            texts = tuple(map(str, row))
            found[f"{self._database}.prices", texts[:1]] = texts
        return found

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row


async def _shop(
    mariadb: MariaDBServer, mariadb_database: str, limits: MySQLLimits
) -> AsyncIterator[ShopDatabase]:
    session = await connect(mariadb.dsn(mariadb_database), "test")
    try:
        database = ShopDatabase(mariadb.dsn(), mariadb_database, session, limits)
        await database.prepare()
        yield database
    finally:
        await session.close()


class TestMariaDBSource(SourceSuite):
    @pytest.fixture
    async def system(
        self, mariadb: MariaDBServer, mariadb_database: str
    ) -> AsyncIterator[ShopDatabase]:
        async for database in _shop(mariadb, mariadb_database, MySQLLimits()):
            yield database


class TestMariaDBSourceInSmallPieces(SourceSuite):
    """Copies are cut off after each batch: the stream goes on between the pieces of a table."""

    @pytest.fixture
    async def system(
        self, mariadb: MariaDBServer, mariadb_database: str
    ) -> AsyncIterator[ShopDatabase]:
        async for database in _shop(mariadb, mariadb_database, MySQLLimits(piece_s=0.0)):
            database.batch_changes = 3
            yield database
