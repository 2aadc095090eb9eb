"""A shop on MariaDB: a server of the campaign's own, and clients that change it.

The server and its triggers do what those of `source.sql` do on PostgreSQL; there are no keys that
can be deferred, and truncates and alterations are transactions of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.database.queries import load_queries
from penstock.errors import ConfigError, MissingExtraError
from penstock.testing.mariadb import PASSWORD, MariaDBServer, missing
from penstock.torture.ledger import Place
from penstock.torture.proxy import Proxy
from penstock.torture.shop import KEYS, Confirmed, Hashes, Kind
from penstock.torture.workload import Pace, Session

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

_SQL: Final = load_queries(Path(__file__).with_name("mariadb.sql"))
_SETTINGS: Final = {"log-slave-updates": "ON", "gtid-domain-id": "0", "lock-wait-timeout": "2"}
_USER: Final = "penstock"
_PROOFS: Final = {
    "orders": ("id", "version", "customer", "note", "total"),
    "lines": ("order_id", "line", "version", "sku", "quantity", "body"),
    "pairs": ("code", "version", "label", "body"),
}
_COLUMNS: Final = ("colour", "size", "weight", "origin")
ORDERS: Final = 2000
LINES: Final = 1500
PAIRS: Final = 200


class MariaShop:
    """See `penstock.torture.shop.Shop`."""

    kind: Kind = "mariadb"

    def __init__(self) -> None:
        reason = missing()
        if reason is not None:
            raise ConfigError(f"expected to start a MariaDB server for --source mariadb: {reason}")
        try:
            import pymysql  # noqa: F401 - to say so before anything starts
        except ImportError as error:
            raise MissingExtraError("a campaign against MariaDB", "mysql") from error
        self.proxy = Proxy()
        self._server = MariaDBServer(_SETTINGS)

    async def begin(self) -> None:
        await asyncio.to_thread(self._begin)
        await self.proxy.open(self._server.port)

    def _begin(self) -> None:
        self._server.create()
        self._server.start()
        self._server.run(
            "CREATE DATABASE shop",
            "CREATE DATABASE torture",
            f"CREATE USER {_USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {_USER}@'127.0.0.1'",
        )
        self._server.run("USE shop", *_statements(_SQL["tables"]))
        for table, keys in KEYS.items():
            self._server.run("USE shop", *_statements(_triggers(table, keys)))
        self._server.run("USE shop", *_statements(_SQL["fill"]))

    async def start(self) -> None:
        if not self._server.runs:
            await asyncio.to_thread(self._server.start)

    def kill(self) -> None:
        if self._server.runs:
            self._server.kill()

    def signal(self, number: signal.Signals) -> None:
        if self._server.runs:
            self._server.send(number)

    async def end(self) -> None:
        await self.proxy.close()
        await asyncio.to_thread(self._server.remove)

    def project(self) -> str:
        dsn = f"mysql://{_USER}:{PASSWORD}@127.0.0.1:{self.proxy.port}/shop"
        return f"    type: mysql\n    dsn: {dsn}\n    heartbeat: 500ms"

    def session(self, number: int, seed: int, pace: Pace, large: int) -> Session:
        return MariaSession(number, seed, pace, self._server, large)

    async def beat(self, beat: int) -> None:
        await self._ask(f"UPDATE shop.pulse SET beat = {beat}")

    def stream(self, table: str) -> str:
        return f"shop.{table}"

    async def columns(self, table: str) -> list[str]:
        rows = await self._ask(
            "SELECT column_name FROM information_schema.columns "
            f"WHERE table_schema = 'shop' AND table_name = '{table}'"
        )
        return [name for (name,) in rows]

    async def hashes(self, table: str, columns: Sequence[str]) -> Hashes:
        values = ", ".join(f"COALESCE(CAST(`{name}` AS CHAR), '<null>')" for name in columns)
        keys = ", ".join(f"CAST({key} AS CHAR)" for key in KEYS[table])
        rows = await self._ask(
            f"SELECT version, MD5(CONCAT_WS('|', {values})), {keys} FROM shop.`{table}`"
        )
        return {tuple(key): (version, digest) for version, digest, *key in rows}

    async def texts(self, table: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
        [key] = KEYS[table]
        return await self._ask(
            f"SELECT CAST({key} AS CHAR), {', '.join(columns)} FROM shop.`{table}`"
        )

    async def ledger(self) -> tuple[dict[Place, int], int]:
        rows = await self._ask("SELECT stream, name, version, gone FROM torture.ledger")
        return (
            {(stream, tuple(name.split("/"))): version for stream, name, version, _ in rows},
            sum(version + gone for _, _, version, gone in rows),
        )

    async def confirmed(self) -> Confirmed | None:
        return None  # a binlog is kept or purged whatever its readers say

    async def send_away(self) -> None:
        for (number,) in await self._ask(
            f"SELECT id FROM information_schema.processlist WHERE user = '{_USER}'"
        ):
            with contextlib.suppress(ConnectionError):  # it has ended meanwhile
                await self._ask(f"KILL {number}")

    async def lose(self) -> str:
        """All binlogs but a new one are purged; the server keeps what somebody seems to read."""
        await self._ask("FLUSH BINARY LOGS")
        *older, newest = await self._ask("SHOW BINARY LOGS")
        until = time.monotonic() + 20
        while older and time.monotonic() < until:
            await self.send_away()
            await self._ask(f"PURGE BINARY LOGS TO '{newest[0]}'")
            await asyncio.sleep(0.05)
            files = await self._ask("SHOW BINARY LOGS")
            older = [file for file in files if file[0] < newest[0]]
        return "purged"

    async def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        import pymysql

        try:
            return await asyncio.to_thread(self._server.ask, statement)
        except pymysql.Error as error:
            raise ConnectionError(str(error)) from error


def _statements(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n;;") if part.strip()]


def _triggers(table: str, keys: Sequence[str]) -> str:
    def key(row: str) -> str:
        return f"CONCAT_WS('/', {', '.join(f'{row}.{name}' for name in keys)})"

    proof = ""
    if table in _PROOFS:
        values = ", ".join(f"NEW.{name}" for name in _PROOFS[table])
        proof = f"SET NEW.proof = MD5(CONCAT_WS('|', {values}));"
    text = _SQL["triggers"].replace("KEY_NEW", key("NEW")).replace("KEY_OLD", key("OLD"))
    return text.replace("PROOF", proof).replace("TABLE", table)


class MariaSession(Session):
    """One client; its transactions run in a thread."""

    def __init__(
        self, number: int, seed: int, pace: Pace, server: MariaDBServer, large: int
    ) -> None:
        super().__init__(number, seed, pace, lambda: "", large)
        self._server = server

    async def run(self) -> None:
        import pymysql

        while await self._pace.turn():
            try:
                connection = await asyncio.to_thread(self._server.session)
                with contextlib.closing(connection):
                    await asyncio.to_thread(connection.select_db, "shop")
                    while await self._pace.turn():
                        await self._one(connection)
                        await asyncio.sleep(self.chance.uniform(0, 0.004))
            except (pymysql.OperationalError, pymysql.InterfaceError, OSError):
                self.failed += 1
                await asyncio.sleep(0.05)

    async def _one(self, connection: Any) -> None:
        import pymysql

        large = self._pace.takes_large()
        try:
            changes = await asyncio.to_thread(self._transact, connection, large=large)
        except (pymysql.Error, OSError):
            self.failed += 1
            # Whatever it was (a deadlock, a server that was killed), nothing of it stays.
            raise pymysql.OperationalError from None
        self._pace.large_made += large
        self._pace.count(0 if large else changes)

    def _transact(self, connection: Any, *, large: bool) -> int:
        chance = self.chance
        self._transactions += 1
        with connection.cursor() as cursor:
            if large:
                return self._large_update(connection, cursor)
            if self._transactions % 40 == 5 * self._number:
                rare = (_truncate, _alter, _truncate, _alter)[self._number % 4]
                return rare(self, cursor)
            operations = chance.choices(_OPERATIONS, _WEIGHTS, k=chance.randrange(1, 4))
            leave = chance.random() < 0.08
            connection.begin()
            changes = sum(operation(self, cursor) for operation in operations)
            if chance.random() < 0.08:  # a part that is taken back, in a transaction that stays
                cursor.execute("SAVEPOINT part")
                _update_orders(self, cursor)
                _delete_lines(self, cursor)
                cursor.execute("ROLLBACK TO SAVEPOINT part")
            if leave:
                connection.rollback()
                return 0
            connection.commit()
            return changes

    def _large_update(self, connection: Any, cursor: Cursor) -> int:
        changes = 0
        connection.begin()
        while changes < self.large:
            changes += cursor.execute("UPDATE `lines` SET quantity = quantity + 1")
            changes += cursor.execute(
                "INSERT INTO `lines` (order_id, line, sku, quantity) "
                "SELECT n.seq, l.seq, 'large', l.seq "
                f"FROM seq_1_to_{LINES} n JOIN seq_1_to_2 l WHERE NOT EXISTS "
                "(SELECT 1 FROM `lines` o WHERE o.order_id = n.seq AND o.line = l.seq)"
            )
        connection.commit()
        return changes


def _update_orders(session: Session, cursor: Cursor) -> int:
    first = session.chance.randrange(1, ORDERS)
    return cursor.execute(
        "UPDATE orders SET total = total + 1 WHERE id BETWEEN %s AND %s",
        [first, first + session.chance.randrange(0, 12)],
    )


def _rewrite_orders(session: Session, cursor: Cursor) -> int:
    first = session.chance.randrange(1, ORDERS)
    return cursor.execute(
        "UPDATE orders SET customer = %s, note = %s WHERE id BETWEEN %s AND %s",
        [session.text(2, 4), session.note(), first, first + session.chance.randrange(0, 3)],
    )


def _insert_orders(session: Session, cursor: Cursor) -> int:
    first = session.chance.randrange(1, ORDERS)
    last = first + session.chance.randrange(0, 20)
    return cursor.execute(
        f"INSERT INTO orders (id, customer, note, total) SELECT seq, %s, %s, seq "
        f"FROM seq_{first}_to_{last} WHERE NOT EXISTS (SELECT 1 FROM orders WHERE id = seq)",
        [session.text(1, 3), session.note()],
    )


def _delete_orders(session: Session, cursor: Cursor) -> int:
    first = session.chance.randrange(1, ORDERS)
    return cursor.execute(
        "DELETE FROM orders WHERE id BETWEEN %s AND %s",
        [first, first + session.chance.randrange(0, 8)],
    )


def _move_order(session: Session, cursor: Cursor) -> int:
    new, old = session.chance.randrange(1, 2 * ORDERS), session.chance.randrange(1, ORDERS)
    return cursor.execute("UPDATE IGNORE orders SET id = %s WHERE id = %s", [new + ORDERS, old])


def _swap_orders(session: Session, cursor: Cursor) -> int:
    """Two rows trade keys by way of a third."""
    one, other = session.chance.sample(range(1, ORDERS), 2)
    return sum(
        cursor.execute("UPDATE orders SET id = %s WHERE id = %s", [new, old])
        for old, new in ((one, -one), (other, one), (-one, other))
    )


def _change_pairs(session: Session, cursor: Cursor) -> int:
    code = f"c{session.chance.randrange(1, PAIRS)}"
    if session.chance.random() < 0.3:
        gone = cursor.execute("DELETE FROM pairs WHERE code = %s", [code])
        return gone + cursor.execute(
            "INSERT INTO pairs (code, label, body) VALUES (%s, %s, %s)",
            [code, session.text(2, 5), session.note()],
        )
    return cursor.execute("UPDATE pairs SET label = %s WHERE code = %s", [session.text(2, 5), code])


def _update_lines(session: Session, cursor: Cursor) -> int:
    first = session.chance.randrange(1, LINES)
    return cursor.execute(
        "UPDATE `lines` SET quantity = quantity + 1 WHERE order_id BETWEEN %s AND %s",
        [first, first + session.chance.randrange(0, 30)],
    )


def _insert_lines(session: Session, cursor: Cursor) -> int:
    first = session.chance.randrange(1, LINES)
    last = first + session.chance.randrange(0, 40)
    return cursor.execute(
        "INSERT INTO `lines` (order_id, line, sku, quantity, body) "
        "SELECT n.seq, l.seq, 'again', l.seq, %s "
        f"FROM seq_{first}_to_{last} n JOIN seq_1_to_3 l WHERE NOT EXISTS "
        "(SELECT 1 FROM `lines` o WHERE o.order_id = n.seq AND o.line = l.seq)",
        [session.note()],
    )


def _delete_lines(session: Session, cursor: Cursor) -> int:
    first = session.chance.randrange(1, LINES)
    return cursor.execute(
        "DELETE FROM `lines` WHERE order_id BETWEEN %s AND %s AND line = %s",
        [first, first + session.chance.randrange(0, 10), session.chance.randrange(1, 4)],
    )


def _truncate(session: Session, cursor: Cursor) -> int:
    table = session.chance.choice(("lines", "pairs"))
    cursor.execute(f"TRUNCATE `{table}`")
    if table == "lines":
        return 1
    return 1 + cursor.execute(
        "INSERT INTO pairs (code, label, body) SELECT CONCAT('c', seq), %s, %s FROM seq_1_to_80",
        [session.text(2, 4), session.note()],
    )


def _alter(session: Session, cursor: Cursor) -> int:
    """A column comes, with a default or without, goes, or gets another name; then it is used."""
    table = session.chance.choice(("orders", "lines"))
    cursor.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'shop' "
        "AND table_name = %s AND column_name IN %s ORDER BY 1",
        [table, _COLUMNS],
    )
    there = [name for (name,) in cursor.fetchall()]
    free = [name for name in _COLUMNS if name not in there]
    kind = session.chance.random()
    if free and (not there or kind < 0.5):
        used = session.chance.choice(free)
        default = "DEFAULT 'red'" if kind < 0.4 else ""
        cursor.execute(f"ALTER TABLE `{table}` ADD COLUMN {used} varchar(200) {default}")
    elif kind < 0.75 and free:
        used = session.chance.choice(free)
        was = session.chance.choice(there)
        cursor.execute(f"ALTER TABLE `{table}` CHANGE COLUMN {was} {used} varchar(200)")
    else:
        cursor.execute(f"ALTER TABLE `{table}` DROP COLUMN {session.chance.choice(there)}")
        return 0
    key = "order_id" if table == "lines" else "id"
    return cursor.execute(
        f"UPDATE `{table}` SET {used} = %s WHERE {key} BETWEEN %s AND %s",
        [session.text(1, 2), session.chance.randrange(1, LINES // 2), LINES],
    )


_OPERATIONS: Final[tuple[Callable[[Session, Any], int], ...]] = (
    _update_orders, _rewrite_orders, _insert_orders, _delete_orders, _move_order, _swap_orders,
    _change_pairs, _update_lines, _insert_lines, _delete_lines,
)  # fmt: skip
_WEIGHTS: Final = (20, 14, 10, 6, 6, 3, 8, 12, 8, 6)
