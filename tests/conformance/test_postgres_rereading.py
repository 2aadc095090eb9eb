"""A PostgreSQL source that is asked to copy a table again while it runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import psycopg
import pytest

from penstock.clock import SystemClock
from penstock.errors import RetryableError
from penstock.records import Change, Key, Op, Row
from penstock.sources.base import RereadableSource, SourceBatch
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.source import PostgresSource
from penstock.torture.proxy import Proxy
from penstock.torture.shop import port_of, through

ROWS = 3000
DEADLINE_S = 25.0
LIMITS = PostgresLimits(chunk_blocks=2)


class Life:
    """One process with the source; ``state`` is what the log holds of it."""

    def __init__(
        self, dsn: str, state: dict[str, str], batch: int = 500, limits: PostgresLimits = LIMITS
    ) -> None:
        self.state = state
        self.changes: list[Change] = []
        self.rows: dict[Key, Row] = {}
        self.newest: dict[Key, str] = {}
        self.source = PostgresSource(
            "shop",
            dsn,
            ["t", "other"],
            clock=SystemClock(),
            heartbeat_s=0.05,
            max_batch_changes=batch,
            limits=limits,
        )
        self._batches: AsyncGenerator[SourceBatch] = self.source.read(dict(state))

    async def until(self, condition: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
        """Read until it is so."""
        async with asyncio.timeout(within_s):
            while not condition():
                await self.take(await anext(self._batches))

    async def take(self, batch: SourceBatch) -> None:
        """The batch is durable."""
        for name, value in batch.state.items():
            if value is None:
                self.state.pop(name, None)
            else:
                self.state[name] = value
        for change in batch.changes:
            if change.schema.stream == "public.t":
                self._apply(change)
        self.changes += batch.changes
        await self.source.acknowledge(batch.state)

    def _apply(self, change: Change) -> None:
        if change.op is Op.TRUNCATE:  # what is older goes, here and in the stores
            self.rows = {k: r for k, r in self.rows.items() if self.newest[k] > change.position}
            return
        self.newest[change.key] = change.position
        if change.after is None:
            self.rows.pop(change.key, None)
        else:
            self.rows[change.key] = change.after

    def truncates(self) -> int:
        return sum(c.op is Op.TRUNCATE and c.schema.stream == "public.t" for c in self.changes)

    async def aclose(self) -> None:
        await self._batches.aclose()
        await self.source.close()


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """The source's database."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
        await connection.execute("CREATE TABLE other (id int PRIMARY KEY)")
        await connection.execute(f"INSERT INTO t SELECT n, 0 FROM generate_series(1, {ROWS}) n")
        yield connection


@pytest.fixture
async def life(shop: psycopg.AsyncConnection, source_url: str) -> AsyncIterator[Life]:
    """A first life that has loaded everything."""
    life = Life(source_url, {})
    await life.until(lambda: len(life.rows) == ROWS and "table:public.t" in life.state)
    yield life
    await life.aclose()


async def at_source(shop: psycopg.AsyncConnection) -> dict[Key, Row]:
    cursor = await shop.execute("SELECT id::text, v::text FROM t")
    return {(row[0],): tuple(row) for row in await cursor.fetchall()}


async def test_g1_g2_copied_again_under_writers(
    shop: psycopg.AsyncConnection, source_url: str, life: Life
) -> None:
    """Nothing is lost, what was deleted meanwhile stays away, and positions only grow."""
    assert isinstance(life.source, RereadableSource)
    stop = asyncio.Event()

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as writer:
            await writer.execute("SET synchronous_commit = on")  # and so sent at once
            number = 0
            while not stop.is_set():
                number += 1
                await writer.execute("UPDATE t SET v = v + 1 WHERE id %% 50 = %s", [number % 50])
                await writer.execute("DELETE FROM t WHERE id = %s", [number])
                await writer.execute("INSERT INTO t VALUES (%s, 1)", [ROWS + number])

    seen = len(life.changes)
    writing = asyncio.create_task(write())
    for copies in (2, 3):
        await life.source.reread_streams(["public.t"])
        await life.source.reread_streams(["public.t", "public.unknown"])
        await life.until(lambda copies=copies: life.truncates() == copies)  # type: ignore[misc]
        await life.until(lambda: "table:public.t" in life.state)
    stop.set()
    await writing
    wanted = await at_source(shop)
    await life.until(lambda: life.rows == wanted)
    # A truncate that ends a copy speaks of what was there before the copy began.
    positions = [c.position for c in life.changes[seen:] if c.op is not Op.TRUNCATE]
    assert positions == sorted(set(positions))
    assert life.truncates() == 3


async def test_g2_killed_in_a_copy_the_next_life_completes_it(
    shop: psycopg.AsyncConnection, source_url: str, life: Life
) -> None:
    """Wherever a copy breaks off, the state says how far it was; other tables lose nothing."""
    await life.source.reread_streams(["public.t"])
    await life.until(lambda: '"block":2,' in life.state.get("copy:public.t", ""))
    assert "table:public.t" not in life.state
    await life.aclose()
    await shop.execute("DELETE FROM t WHERE id <= 10 OR id > 2990")
    await shop.execute("INSERT INTO other VALUES (1)")
    again = Life(source_url, life.state)
    again.rows, again.newest = life.rows, life.newest
    async with aclosing(again):
        await again.until(lambda: "table:public.t" in again.state)
        wanted = await at_source(shop)
        await again.until(lambda: again.rows == wanted)
        await again.until(lambda: any(c.schema.stream == "public.other" for c in again.changes))
        assert sum(c.op is Op.READ for c in again.changes) < ROWS


async def test_g2_a_table_is_whole_while_it_is_copied_again(
    shop: psycopg.AsyncConnection, life: Life
) -> None:
    """Rows stay until their copies come; what nobody knew to be gone goes at the end."""
    life.rows["99999",], life.newest["99999",] = ("99999", "0"), "0"
    fewest = ROWS
    await life.source.reread_streams(["public.t"])
    batches = life._batches
    async with asyncio.timeout(DEADLINE_S):
        while ("99999",) in life.rows:
            await life.take(await anext(batches))
            fewest = min(fewest, len(life.rows))
    assert fewest == ROWS
    assert life.rows == await at_source(shop)


async def test_g2_a_wish_outlives_an_error(
    shop: psycopg.AsyncConnection, source_url: str, life: Life
) -> None:
    """Asked, and the connection breaks before anything was durable: the next read does it."""
    await life.source.reread_streams(["public.t"])
    await life._batches.aclose()
    life._batches = life.source.read(dict(life.state))
    await life.until(lambda: life.truncates() == 2)
    await life.until(lambda: "table:public.t" in life.state)
    assert life.rows == await at_source(shop)


async def test_g12_a_writer_that_stays_open_stops_neither_stream_nor_copy(
    shop: psycopg.AsyncConnection, source_url: str, life: Life
) -> None:
    """A copy needs no moment at which nobody writes: what is open comes by the stream."""
    async with await psycopg.AsyncConnection.connect(source_url) as writer:
        await writer.execute("INSERT INTO t VALUES (7777, 7)")
        await life.source.reread_streams(["public.t"])
        await life.until(lambda: "table:public.t" not in life.state)
        await shop.execute("UPDATE t SET v = 5 WHERE id = 5")
        await life.until(lambda: life.truncates() == 2 and "table:public.t" in life.state)
        await life.until(lambda: life.rows["5",] == ("5", "5"))
        assert ("7777",) not in life.rows
        await writer.commit()
    await life.until(lambda: ("7777",) in life.rows)
    assert life.rows == await at_source(shop)


async def test_each_table_is_copied_once(shop: psycopg.AsyncConnection, source_url: str) -> None:
    """However batches and rows fall: a copy that ends with an empty batch is complete too."""
    await shop.execute("INSERT INTO other SELECT n FROM generate_series(1, 2000) n")
    life = Life(source_url, {}, batch=1)
    async with aclosing(life):
        await life.until(lambda: {"table:public.t", "table:public.other"} <= life.state.keys())
        await shop.execute("UPDATE t SET v = 9 WHERE id = 9")
        await life.until(lambda: life.rows["9",] == ("9", "9"))
        assert sum(change.op is Op.TRUNCATE for change in life.changes) == 2


async def test_g12_a_reader_that_takes_nothing_holds_nothing(
    shop: psycopg.AsyncConnection, life: Life
) -> None:
    """Rows of a copy wait to be taken: the table can be altered and emptied meanwhile."""
    await life.source.reread_streams(["public.t"])
    await life.until(lambda: '"block":2,' in life.state.get("copy:public.t", ""))
    capture = life.source._capture
    assert capture is not None
    async with asyncio.timeout(DEADLINE_S):
        while not capture.copies.pieces:
            await asyncio.sleep(0.01)
        await shop.execute("ALTER TABLE t ADD COLUMN w int")
        await shop.execute("TRUNCATE t")
    await life.until(lambda: not life.rows and "table:public.t" in life.state)


async def test_g1_what_a_copy_has_seen_does_not_come_by_the_stream_again(
    shop: psycopg.AsyncConnection, life: Life
) -> None:
    """The server is slow to send what committed before a chunk was read: the chunk waits for it."""
    cursor = await shop.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'")
    [(sender,)] = await cursor.fetchall()
    seen = len(life.changes)
    await shop.execute("SET synchronous_commit = on")
    os.kill(sender, signal.SIGSTOP)
    try:
        await shop.execute("UPDATE t SET v = 7 WHERE id <= 100")
        await life.source.reread_streams(["public.t"])
        reading = asyncio.create_task(
            life.until(lambda: sum(c.op is Op.READ for c in life.changes[seen:]) == ROWS)
        )
        # Long enough for the table to be read and given, were it not for the sender.
        await asyncio.wait({reading}, timeout=1.0)
    finally:
        os.kill(sender, signal.SIGCONT)
    await reading
    await life.until(lambda: "table:public.t" in life.state)
    await shop.execute("UPDATE t SET v = 8 WHERE id = 1")
    await life.until(lambda: life.rows["1",] == ("1", "8"))
    copied: set[Key] = set()
    for change in life.changes[seen:]:
        if change.op is Op.READ:
            copied.add(change.key)
        elif change.op is Op.UPDATE and change.after != ("1", "8"):
            assert change.key not in copied, f"{change} is in the copy before it already"
    assert len(copied) == ROWS


async def test_g12_a_copy_that_waits_for_a_silent_server_is_given_up(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """Connections that stay open and are never answered again end the reading, in a copy too."""
    proxy = Proxy(replication=True)
    await proxy.open(port_of(source_url))
    life = Life(through(source_url, proxy), {})
    await life.until(lambda: "table:public.t" in life.state)
    cursor = await shop.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'")
    [(sender,)] = await cursor.fetchall()
    os.kill(sender, signal.SIGSTOP)
    try:
        await shop.execute("UPDATE t SET v = 7 WHERE id <= 100")
        await life.source.reread_streams(["public.t"])
        await life.until(lambda: "copy:public.t" in life.state)
        proxy.forget()
        with pytest.raises(RetryableError):
            await life.until(lambda: False, within_s=50)
    finally:
        os.kill(sender, signal.SIGCONT)
    await life.aclose()
    await proxy.close()


async def test_g12_a_server_that_falls_silent_while_reading_begins_is_given_up(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """There is no heartbeat yet: each question has an end of its own."""
    proxy = Proxy(replication=True)
    await proxy.open(port_of(source_url))
    life = Life(through(source_url, proxy), {}, limits=PostgresLimits(answer_s=1.0))
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
    async with shop.transaction():  # so that the publication cannot be made for now
        await shop.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(life.until(lambda: False, within_s=50))
        async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as beside:
            while (await (await beside.execute(asked, [shop.info.dbname])).fetchall()) == [(0,)]:
                await asyncio.sleep(0.01)
        proxy.forget()
        with pytest.raises(RetryableError):
            await reading
    await life.aclose()
    await proxy.close()
