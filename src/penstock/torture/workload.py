"""Sessions that change the source: every kind of change, some rolled back, until told to stop.

Each session draws from its own stream of chance, so that what it tries depends on the seed alone.
What fails (a deadlock, a column that is gone, a server that was killed) is one more transaction
that was rolled back: the ledger in the source says what has really happened.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg

Connection = psycopg.AsyncConnection[Any]
Operation = Callable[["Session", Connection], Awaitable[int]]

ORDERS: Final = 4000
"""Keys of orders that sessions choose from; half of them exist at the beginning."""
LINES: Final = 3500
PAIRS: Final = 200
_KEPT_PAIRS: Final = 60
"""So many of them come back after a truncate."""
_WORDS: Final = (
    "river mill turbine gate stone valley spring flood meadow bridge harbour canal lock weir basin "
    "current delta ferry island marsh pond rapid shore stream tide well winter summer morning night"
).split()
_COLUMNS: Final = ("colour", "size", "weight", "origin")
_ALTERED: Final = ("orders", "lines")


class Pace:
    """How many changes may be made by now, and how many were."""

    def __init__(self) -> None:
        self.allowed = 0
        self.made = 0
        self.large = 0
        self.large_made = 0
        self.over = False
        self._changed = asyncio.Event()

    def allow(self, more: int) -> None:
        """So many more changes may be made."""
        self.allowed += more
        self._wake()

    def allow_large(self) -> None:
        """Whoever comes next makes one large transaction, which does not count."""
        self.large += 1
        self._wake()

    def takes_large(self) -> bool:
        """Whether a large transaction is wanted; then it is the caller's to make."""
        self.large -= 1 if (wanted := self.large > 0) else 0
        return wanted

    def finish(self) -> None:
        """Let all sessions end."""
        self.over = True
        self._wake()

    def count(self, changes: int) -> None:
        """A transaction with so many changes was committed."""
        self.made += changes

    async def turn(self) -> bool:
        """Wait until a change may be made; False when it is over."""
        while self.made >= self.allowed and not self.large and not self.over:
            self._changed.clear()
            await self._changed.wait()
        return not self.over

    def _wake(self) -> None:
        self._changed.set()


class Session:
    """One client of the source. ``large`` is the size of its large transactions (0: none)."""

    def __init__(
        self, number: int, seed: int, pace: Pace, dsn: Callable[[], str], large: int
    ) -> None:
        self.chance = random.Random(f"{seed}/{number}")
        self.failed = 0
        self._number = number
        self._transactions = 0
        self._pace = pace
        self._dsn = dsn
        self._large = large

    async def run(self) -> None:
        """Change until the pace says that it is over; come back when the server was away."""
        while await self._pace.turn():
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._dsn(), autocommit=True, connect_timeout=5
                ) as connection:
                    while await self._pace.turn():
                        await self._transaction(connection)
                        # One commit wakes all that wait; let the others have a turn.
                        await asyncio.sleep(self.chance.uniform(0, 0.004))
            except psycopg.OperationalError:
                self.failed += 1
                await asyncio.sleep(0.05)

    async def _transaction(self, connection: Connection) -> None:
        chance = self.chance
        operations = chance.choices(_OPERATIONS, _WEIGHTS, k=chance.randrange(1, 4))
        leave = chance.random() < 0.08
        inner = chance.random() < 0.08
        large = self._pace.takes_large()
        if large:
            operations, leave, inner = [_large_update], False, False
        elif self._transactions % 40 == 5 * self._number:
            operations, leave = [_RARE[self._number % len(_RARE)]], False
        self._transactions += 1
        changes = 0
        try:
            async with connection.transaction(force_rollback=leave):
                for operation in operations:
                    changes += await operation(self, connection)
                if inner:  # a part that is taken back, in a transaction that stays
                    async with connection.transaction(force_rollback=True):
                        await _update_orders(self, connection)
                        await _delete_lines(self, connection)
        except psycopg.OperationalError:
            if connection.closed:
                raise
            self.failed += 1
        except psycopg.Error:
            self.failed += 1
        else:
            self._pace.large_made += large
            self._pace.count(0 if leave or large else changes)

    @property
    def large(self) -> int:
        """How many rows a large transaction changes."""
        return self._large

    def text(self, least: int, most: int) -> str:
        """A sentence of so many words."""
        chosen = self.chance.choices(_WORDS, k=self.chance.randrange(least, most))
        return " ".join(chosen).capitalize() + "."

    def note(self) -> str | None:
        """Nothing, a sentence, or so much that it is stored out of line."""
        kind = self.chance.random()
        if kind < 0.1:
            return None
        return self.text(380, 500) if kind < 0.4 else self.text(3, 9)


async def _execute(connection: Connection, statement: str, *values: Any) -> int:
    cursor = await connection.execute(statement.encode(), values)
    return max(0, cursor.rowcount)


async def _update_orders(session: Session, connection: Connection) -> int:
    first = session.chance.randrange(1, ORDERS)
    return await _execute(
        connection,
        "UPDATE orders SET total = total + 1 WHERE id BETWEEN %s AND %s",
        first,
        first + session.chance.randrange(0, 12),
    )


async def _rewrite_orders(session: Session, connection: Connection) -> int:
    first = session.chance.randrange(1, ORDERS)
    return await _execute(
        connection,
        "UPDATE orders SET customer = %s, note = %s WHERE id BETWEEN %s AND %s",
        session.text(2, 4),
        session.note(),
        first,
        first + session.chance.randrange(0, 3),
    )


async def _insert_orders(session: Session, connection: Connection) -> int:
    first = session.chance.randrange(1, ORDERS)
    return await _execute(
        connection,
        "INSERT INTO orders (id, customer, note, total) SELECT n, %s || n || '.', %s, n "
        "FROM generate_series(%s::int, %s::int) n "
        "WHERE NOT EXISTS (SELECT FROM orders WHERE id = n)",
        session.text(1, 3)[:-1],
        session.note(),
        first,
        first + session.chance.randrange(0, 20),
    )


async def _delete_orders(session: Session, connection: Connection) -> int:
    first = session.chance.randrange(1, ORDERS)
    return await _execute(
        connection,
        "DELETE FROM orders WHERE id BETWEEN %s AND %s",
        first,
        first + session.chance.randrange(0, 8),
    )


async def _move_order(session: Session, connection: Connection) -> int:
    return await _execute(
        connection,
        "UPDATE orders SET id = %s WHERE id = %s",
        session.chance.randrange(1, 2 * ORDERS),
        session.chance.randrange(1, ORDERS),
    )


async def _swap_orders(session: Session, connection: Connection) -> int:
    """Two rows trade keys by way of a third, as one must without a deferrable key."""
    one, other = session.chance.sample(range(1, ORDERS), 2)
    changes = 0
    for old, new in ((one, -one), (other, one), (-one, other)):
        changes += await _execute(connection, "UPDATE orders SET id = %s WHERE id = %s", new, old)
    return changes


async def _swap_pairs(session: Session, connection: Connection) -> int:
    one, other = (f"c{n}" for n in session.chance.sample(range(1, _KEPT_PAIRS), 2))
    return await _execute(
        connection,
        "UPDATE pairs SET code = CASE code WHEN %s THEN %s ELSE %s END WHERE code IN (%s, %s)",
        one, other, one, one, other,
    )  # fmt: skip


async def _change_pairs(session: Session, connection: Connection) -> int:
    code = f"c{session.chance.randrange(1, PAIRS)}"
    if session.chance.random() < 0.3:
        gone = await _execute(connection, "DELETE FROM pairs WHERE code = %s", code)
        return gone + await _execute(
            connection,
            "INSERT INTO pairs (code, label, body) SELECT %s, %s, %s "
            "WHERE NOT EXISTS (SELECT FROM pairs WHERE code = %s)",
            code, session.text(2, 5), session.note(), code,
        )  # fmt: skip
    return await _execute(
        connection, "UPDATE pairs SET label = %s WHERE code = %s", session.text(2, 5), code
    )


async def _update_lines(session: Session, connection: Connection) -> int:
    first = session.chance.randrange(1, LINES)
    return await _execute(
        connection,
        "UPDATE lines SET quantity = quantity + 1 WHERE order_id BETWEEN %s AND %s",
        first,
        first + session.chance.randrange(0, 30),
    )


async def _insert_lines(session: Session, connection: Connection) -> int:
    first = session.chance.randrange(1, LINES)
    return await _execute(
        connection,
        "INSERT INTO lines (order_id, line, sku, quantity, body) SELECT n, l, 'again', l, %s "
        "FROM generate_series(%s::int, %s::int) n, generate_series(1, 3) l "
        "WHERE NOT EXISTS (SELECT FROM lines o WHERE o.order_id = n AND o.line = l)",
        session.note(),
        first,
        first + session.chance.randrange(0, 40),
    )


async def _delete_lines(session: Session, connection: Connection) -> int:
    first = session.chance.randrange(1, LINES)
    return await _execute(
        connection,
        "DELETE FROM lines WHERE order_id BETWEEN %s AND %s AND line = %s",
        first,
        first + session.chance.randrange(0, 10),
        session.chance.randrange(1, 4),
    )


async def _move_lines(session: Session, connection: Connection) -> int:
    return await _execute(
        connection,
        "UPDATE lines SET line = line + 10, order_id = %s WHERE order_id = %s AND line < 4",
        session.chance.randrange(1, LINES),
        session.chance.randrange(1, LINES),
    )


async def _truncate(session: Session, connection: Connection) -> int:
    """Sometimes all is taken away, and a part comes back in the same transaction."""
    await _execute(connection, "SET LOCAL lock_timeout = '2s'")
    await _execute(connection, "TRUNCATE lines")
    return 1 + await _execute(
        connection,
        "INSERT INTO lines (order_id, line, sku, quantity) SELECT n, l, 'anew', l "
        "FROM generate_series(1, %s) n, generate_series(1, 2) l",
        session.chance.choice((0, 50, 300)),
    )


async def _truncate_pairs(session: Session, connection: Connection) -> int:
    await _execute(connection, "SET LOCAL lock_timeout = '2s'")
    await _execute(connection, "TRUNCATE pairs")
    return 1 + await _execute(
        connection,
        "INSERT INTO pairs (code, label, body) "
        "SELECT 'c' || n, %s, %s FROM generate_series(1, %s) n",
        session.text(2, 4),
        session.note(),
        session.chance.choice((_KEPT_PAIRS, 120)),
    )


async def _alter(session: Session, connection: Connection) -> int:
    """A column comes, with a default or without, goes, or gets another name; then it is used."""
    table = session.chance.choice(_ALTERED)
    cursor = await connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND table_name = %s AND column_name = ANY(%s) ORDER BY 1",
        [table, list(_COLUMNS)],
    )
    there = [name for (name,) in await cursor.fetchall()]
    free = [name for name in _COLUMNS if name not in there]
    kind = session.chance.random()
    await _execute(connection, "SET LOCAL lock_timeout = '2s'")
    if free and (not there or kind < 0.5):
        used = session.chance.choice(free)
        default = "DEFAULT 'red'" if kind < 0.4 else ""
        await _execute(connection, f"ALTER TABLE {table} ADD COLUMN {used} text {default}")
    elif kind < 0.75 and free:
        used = session.chance.choice(free)
        await _execute(
            connection,
            f"ALTER TABLE {table} RENAME COLUMN {session.chance.choice(there)} TO {used}",
        )
    else:
        await _execute(
            connection, f"ALTER TABLE {table} DROP COLUMN {session.chance.choice(there)}"
        )
        return 0
    key = "order_id" if table == "lines" else "id"
    return await _execute(
        connection,
        f"UPDATE {table} SET {used} = %s WHERE {key} BETWEEN %s AND %s",
        session.text(1, 2),
        session.chance.randrange(1, LINES // 2),
        LINES,
    )


async def _large_update(session: Session, connection: Connection) -> int:
    """More than one batch holds: part of it is in the log before the rest was received."""
    changes = 0
    while changes < session.large:
        made = await _execute(connection, "UPDATE lines SET quantity = quantity + 1")
        made += await _execute(
            connection,
            "INSERT INTO lines (order_id, line, sku, quantity) SELECT n, l, 'large', l "
            "FROM generate_series(1, %s::int) n, generate_series(1, 2) l WHERE NOT EXISTS "
            "(SELECT FROM lines o WHERE o.order_id = n AND o.line = l)",
            LINES,
        )
        changes += made
    return changes


_OPERATIONS: Final[tuple[Operation, ...]] = (
    _update_orders, _rewrite_orders, _insert_orders, _delete_orders, _move_order, _swap_orders,
    _swap_pairs, _change_pairs, _update_lines, _insert_lines, _delete_lines, _move_lines,
)  # fmt: skip
_WEIGHTS: Final = (20, 14, 10, 6, 6, 3, 6, 6, 12, 8, 6, 4)
_RARE: Final[tuple[Operation, ...]] = (_truncate, _alter, _truncate_pairs, _alter)
"""What each session does now and then, beside the others."""
