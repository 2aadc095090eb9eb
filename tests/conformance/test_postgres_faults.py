"""What goes wrong with a PostgreSQL source is named in one sentence, soon, and loses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final, LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from penstock.clock import SystemClock
from penstock.errors import PenstockError, RetryableError, SourceError, UnavailableError
from penstock.records import Change
from penstock.sources.base import SourceBatch
from penstock.sources.postgres.catalogue import Slot, fetch_server, fetch_tables
from penstock.sources.postgres.checks import require_logical
from penstock.sources.postgres.chunks import ChunkReader
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.positions import parse_lsn
from penstock.sources.postgres.publication import check_slot
from penstock.sources.postgres.source import PostgresSource

DEADLINE_S = 20.0
NEVER = 1_000_000
CUT_OFF: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def make(dsn: str, *tables: str, **options: object) -> PostgresSource:
    """A source that hurries."""
    settings = {"heartbeat_s": 0.05, **options}
    return PostgresSource("shop", dsn, tables or ("t",), clock=SystemClock(), **settings)  # type: ignore[arg-type]


async def read_until(
    source: PostgresSource,
    state: dict[str, str],
    changes: int,
    *,
    acknowledge: bool = True,
    as_of: bool = False,
    then: LiteralString | None = None,
    shop: psycopg.AsyncConnection | None = None,
) -> list[Change]:
    """Read that many changes (and, if wanted, a word about time); the state is brought along.
    With ``then``, that statement is run in the source whenever time has passed there."""
    taken: list[Change] = []
    async with asyncio.timeout(DEADLINE_S), aclosing(source.read(dict(state))) as batches:
        async for batch in batches:
            taken += batch.changes
            merge(state, batch)
            if acknowledge:
                await source.acknowledge(batch.state)
            if then is not None and shop is not None and batch.as_of:
                await shop.execute(then)
            if len(taken) >= changes and (batch.as_of or not as_of):
                break
    return taken


def merge(state: dict[str, str], batch: SourceBatch) -> None:
    state.update({name: value for name, value in batch.state.items() if value is not None})


async def fault(source: PostgresSource, state: dict[str, str] | None = None) -> PenstockError:
    """The error that reading ends with; it must come within 10 seconds."""
    begin = time.monotonic()
    with pytest.raises(PenstockError) as caught:
        await read_until(source, {} if state is None else state, NEVER, acknowledge=False)
    assert time.monotonic() - begin < 10
    await source.close()
    sentence = str(caught.value)
    assert "expected" in sentence or "source 'shop'" in sentence
    assert "\n" not in sentence
    return caught.value


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection to the source's database, which has one table with three rows."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        # The server of the tests commits without waiting for the disk; here its end matters.
        await connection.execute("SET synchronous_commit = on")
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        await connection.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
        yield connection


@pytest.fixture
def state() -> dict[str, str]:
    """What the log would hold."""
    return {}


async def test_unreachable() -> None:
    """No server at that address can be tried again."""
    error = await fault(make("postgresql://postgres@127.0.0.1:9/shop"))
    assert isinstance(error, UnavailableError)


@pytest.mark.parametrize("part", [{"password": "wrong"}, {"dbname": "nosuch"}, {"user": "nosuch"}])
async def test_refused(source_url: str, part: dict[str, str]) -> None:
    """A wrong password, database or user needs a person; the password is not repeated."""
    error = await fault(make(make_conninfo(source_url, **part)))
    assert isinstance(error, SourceError)
    assert "wrong" not in str(error)


async def test_wal_level_and_version(source_url: str) -> None:
    """Settings of the server that cannot work say what to set."""
    connection = await connect(source_url, "source 'shop'")
    server = await fetch_server(connection, "source 'shop'")
    await connection.close()
    require_logical(server, "source 'shop'")
    for changed in (
        replace(server, wal_level="replica"),
        replace(server, version=140012),
        replace(server, in_recovery=True),
    ):
        with pytest.raises(SourceError, match="expected"):
            require_logical(changed, "source 'shop'")


async def test_a_role_without_rights(shop: psycopg.AsyncConnection, source_url: str) -> None:
    """Each right that is missing is named, one after the other."""
    role = f"reader_{shop.info.dbname}"
    await shop.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    dsn = make_conninfo(source_url, user=role, password="secret")
    try:
        error = await fault(make(dsn))
        assert isinstance(error, SourceError)
        assert "REPLICATION" in str(error)
        await shop.execute(f"ALTER ROLE {role} REPLICATION")
        error = await fault(make(dsn))
        assert isinstance(error, SourceError)
        assert "GRANT SELECT" in str(error)
        await shop.execute(f"GRANT SELECT ON t TO {role}")
        error = await fault(make(dsn))
        assert isinstance(error, SourceError)
        assert "permission denied" in str(error)
        findings = {f.subject: f for f in await make(dsn).check()}
        assert findings["shop: publication"].level == "error"
        assert "CREATE PUBLICATION" in findings["shop: publication"].mend
        # The owner makes the publication: then REPLICATION and SELECT are enough.
        await shop.execute("CREATE PUBLICATION penstock_shop FOR TABLE t")
        assert len(await read_until(make(dsn), {}, 4)) == 4
        assert await make(dsn).drop() == ["replication slot penstock_shop"]
    finally:
        await shop.execute(f"DROP OWNED BY {role}")
        await shop.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("ddl", "tables", "said"),
    [
        ("SELECT 1", ["nosuch"], "nosuch"),
        ("SELECT 1", ["nothing.*"], "nothing"),
        ("CREATE TABLE u (a int)", ["u"], "REPLICA IDENTITY FULL"),
        ("CREATE TABLE u (a int)", ["public.*"], "REPLICA IDENTITY FULL"),
        ("CREATE VIEW u AS SELECT 1 AS a", ["u"], "view"),
        ("CREATE UNLOGGED TABLE u (a int PRIMARY KEY)", ["u"], "SET LOGGED"),
    ],
)
async def test_tables_that_cannot_be_captured(
    shop: psycopg.AsyncConnection, source_url: str, ddl: str, tables: list[str], said: str
) -> None:
    """A table that is missing or cannot be keyed is named with what to do, and nothing is left in
    the source: above all no publication, which would forbid updates of a table without key."""
    await shop.execute(ddl)
    error = await fault(make(source_url, *tables))
    assert isinstance(error, SourceError)
    assert said in str(error)
    cursor = await shop.execute("SELECT count(*) FROM pg_publication")
    assert await cursor.fetchone() == (0,)


async def test_g2_a_slot_that_is_gone(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """Where the slot is gone and the log has begun, going on would lose changes."""
    await read_until(make(source_url), state, 4)
    await _drop_slot(shop)
    error = await fault(make(source_url), state)
    assert isinstance(error, SourceError)
    assert "is gone" in str(error)


async def test_g2_a_slot_that_somebody_else_moved(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """A slot that is ahead of our log has lost changes for us: both places are named."""
    await read_until(make(source_url), state, 4)
    await shop.execute("INSERT INTO t VALUES (4, 'd')")
    cursor = await shop.execute(
        "SELECT end_lsn::text FROM pg_replication_slot_advance('penstock_shop', "
        "pg_current_wal_flush_lsn())"
    )
    (moved,) = (await cursor.fetchone()) or ("",)
    error = await fault(make(source_url), state)
    assert isinstance(error, SourceError)
    assert moved in str(error)
    assert state["lsn"] in str(error)


def test_g2_a_slot_that_is_lost() -> None:
    """A slot that the server has invalidated is named as such."""
    slot = Slot("s", "pgoutput", "d", None, 1, 1, "lost", "wal_removed", 0, None)
    with pytest.raises(SourceError, match="wal_removed"):
        check_slot(slot, "source 'shop'", "s", 5)


async def test_a_slot_in_use(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """A second process on one slot is refused and may try again; it takes over when the first
    one ends."""
    first = make(source_url)
    async with aclosing(first.read({})) as batches:
        async for batch in batches:
            merge(state, batch)
            if batch.as_of and "lsn" not in batch.state and not batch.changes:
                cursor = await shop.execute("SELECT active FROM pg_replication_slots")
                if await cursor.fetchone() == (True,):
                    break
        second = make(source_url, limits=PostgresLimits(slot_s=0.3))
        error = await fault(second, dict(state))
        assert isinstance(error, RetryableError)
        assert "penstock_shop" in str(error)
    await first.close()
    await shop.execute("INSERT INTO t VALUES (4, 'd')")
    assert [change.key for change in await read_until(second, state, 1)] == [("4",)]


async def test_another_server(source_url: str, shop: object, state: dict[str, str]) -> None:
    """Another database system, or a history that left ours, is not mistaken for ours."""
    await read_until(make(source_url), state, 4)
    error = await fault(make(source_url), {**state, "system": "7"})
    assert isinstance(error, SourceError)
    assert "another server" in str(error)
    error = await fault(make(source_url), {**state, "timeline": "9"})
    assert isinstance(error, SourceError)
    assert "timeline 9" in str(error)


async def test_a_state_that_is_not_ours(source_url: str, shop: object) -> None:
    """Nonsense in the state is named, not guessed at."""
    assert isinstance(await fault(make(source_url), {"lsn": "x/y"}), SourceError)
    assert isinstance(await fault(make(source_url), {"position": "12"}), SourceError)


async def test_open_transactions_are_not_waited_for_for_ever(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """A copy needs the end of transactions that write; who keeps it waiting is named."""
    async with await psycopg.AsyncConnection.connect(source_url) as slow:
        await slow.execute("INSERT INTO t VALUES (4, 'd')")
        limits = PostgresLimits(consistent_point_s=0.5)
        error = await fault(make(source_url, limits=limits))
        assert isinstance(error, RetryableError)
        assert str(slow.info.backend_pid) in str(error)
        await slow.commit()
    assert len(await read_until(make(source_url), {}, 5)) == 5


async def test_g2_a_table_made_anew(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """A table that is dropped and made again is noticed, and copied anew."""
    await read_until(make(source_url), state, 4)
    await shop.execute("DROP TABLE t")
    await shop.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await shop.execute("INSERT INTO t VALUES (7, 'x')")
    changes = await read_until(make(source_url), state, 2)
    assert [(change.op, change.key) for change in changes] == [("t", ()), ("r", ("7",))]


async def test_g2_a_table_that_was_not_published_for_a_while(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """Changes were missed while somebody had taken the table out: it is copied anew."""
    await read_until(make(source_url), state, 4)
    await shop.execute("CREATE TABLE u (id int PRIMARY KEY)")
    await shop.execute("ALTER PUBLICATION penstock_shop SET TABLE u")
    await shop.execute("DELETE FROM t WHERE id = 2")
    changes = await read_until(make(source_url), state, 3)
    assert [(change.op, change.key) for change in changes] == [
        ("t", ()),
        ("r", ("1",)),
        ("r", ("3",)),
    ]


async def test_a_table_that_leaves_while_it_runs(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """A table dropped under a running source ends the reading; the next one says it is missing."""
    source = make(source_url)
    with pytest.raises(RetryableError, match=r"public\.t"):
        await read_until(source, state, NEVER, then="DROP TABLE IF EXISTS t", shop=shop)
    assert isinstance(await fault(source, state), SourceError)


async def test_g2_a_connection_that_breaks(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """A connection that the server ends can be opened again, by the same source, without loss."""
    source = make(source_url)
    await read_until(source, state, 4, as_of=True)
    for number in range(10, 15):
        with pytest.raises(UnavailableError):
            await read_until(source, state, NEVER, then=CUT_OFF, shop=shop)
        await shop.execute("INSERT INTO t VALUES (%s, 'x')", [number])
        changes = await read_until(source, state, 1)
        assert [change.key for change in changes] == [(str(number),)]


async def test_g2_only_what_is_durable_is_confirmed(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """The slot moves when a batch is acknowledged, and not before."""
    source = make(source_url)
    await read_until(source, state, 4, as_of=True)
    begin = await _confirmed(shop)
    await shop.execute("INSERT INTO t VALUES (4, 'd')")
    later = dict(state)
    await read_until(source, later, 1, acknowledge=False, as_of=True)
    assert await _confirmed(shop) == begin
    async with asyncio.timeout(DEADLINE_S), aclosing(source.read(dict(state))) as batches:
        async for batch in batches:
            if not batch.changes:
                continue
            await source.acknowledge(batch.state)
            assert batch.state["lsn"] is not None
            while await _confirmed(shop) < parse_lsn(batch.state["lsn"]):
                await asyncio.sleep(0)
            break


async def test_g12_an_idle_slot_lets_go_of_what_others_write(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """WAL of tables that are not captured is not retained."""
    await shop.execute("CREATE TABLE other (v text)")
    source = make(source_url)
    async with asyncio.timeout(DEADLINE_S), aclosing(source.read({})) as batches:
        wanted = None
        async for batch in batches:
            await source.acknowledge(batch.state)
            if batch.as_of and wanted is None:
                await shop.execute(
                    "INSERT INTO other SELECT repeat('x', 500) FROM generate_series(1, 5000)"
                )
                cursor = await shop.execute("SELECT pg_current_wal_flush_lsn()::text")
                (text,) = (await cursor.fetchone()) or ("",)
                wanted = parse_lsn(text)
            if wanted is not None and await _confirmed(shop) >= wanted:
                break
    status = await source.status()
    assert status is not None
    assert status.confirmed_lsn is not None
    assert status.retained_wal_bytes >= 0


async def test_g12_a_slow_consumer_is_waited_for(
    shop: psycopg.AsyncConnection, source_url: str, state: dict[str, str]
) -> None:
    """A consumer that takes nothing for longer than wal_sender_timeout keeps its connection, and
    what is read ahead is bounded."""
    dsn = make_conninfo(source_url, options="-c wal_sender_timeout=900ms")
    source = make(dsn, heartbeat_s=60.0, limits=PostgresLimits(read_ahead_bytes=100_000))
    async with asyncio.timeout(DEADLINE_S), aclosing(source.read({})) as batches:
        seen = 0
        filled = False
        async for batch in batches:
            seen += len(batch.changes)
            if batch.as_of and not filled:
                filled = True
                await shop.execute(
                    "INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(10, 20009) g"
                )
            elif filled and batch.changes:
                begin = time.monotonic()
                while time.monotonic() < begin + 2.5:
                    cursor = await shop.execute("SELECT count(*) FROM pg_stat_replication")
                    assert await cursor.fetchone() == (1,)
                    assert source._capture is not None
                    assert source._capture._stream._bytes < 1_000_000
                break
        async for batch in batches:
            seen += len(batch.changes)
            if seen == 20_004:
                break


async def test_check_names_what_is_there(shop: psycopg.AsyncConnection, source_url: str) -> None:
    """On a sound source there is no error, and each table is listed with its key."""
    source = make(source_url, "public.*", "nosuch")
    findings = {finding.subject: finding for finding in await source.check()}
    assert findings["shop: wal_level"].level == "ok"
    assert "id" in findings["shop: public.t"].message
    assert findings["shop: nosuch"].level == "error"
    assert findings["shop: nosuch"].mend
    assert [f.subject for f in findings.values() if f.level == "error"] == ["shop: nosuch"]
    unreachable = await make("postgresql://postgres@127.0.0.1:9/shop").check()
    assert [finding.level for finding in unreachable] == ["error"]


async def test_drop_takes_away_what_was_made(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """Slot and publication go; dropping again finds nothing; the next reading begins anew."""
    source = make(source_url)
    await read_until(source, {}, 4)
    assert await source.drop() == [
        "replication slot penstock_shop",
        "publication penstock_shop",
    ]
    assert await source.drop() == []
    assert len(await read_until(source, {}, 4)) == 4


async def test_a_publication_of_somebody_else(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """A publication that we did not make must hold the tables, is used with its row filter and
    columns, and stays."""
    await shop.execute("CREATE TABLE u (id int PRIMARY KEY)")
    await shop.execute("CREATE PUBLICATION theirs FOR TABLE t (id) WHERE (id > 1)")
    error = await fault(make(source_url, "t", "u", publication="theirs"))
    assert isinstance(error, SourceError)
    assert "public.u" in str(error)
    source = make(source_url, publication="theirs")
    changes = await read_until(source, {}, 3)
    assert [change.after for change in changes] == [None, ("2",), ("3",)]
    assert await source.drop() == ["replication slot penstock_shop"]


async def _drop_slot(shop: psycopg.AsyncConnection) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await shop.execute("SELECT pg_drop_replication_slot('penstock_shop')")
            except psycopg.errors.ObjectInUse:
                continue
            return


async def _confirmed(shop: psycopg.AsyncConnection) -> int:
    cursor = await shop.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots "
        "WHERE slot_name = 'penstock_shop'"
    )
    (text,) = (await cursor.fetchone()) or ("",)
    return parse_lsn(text)


@pytest.mark.parametrize("ddl", ["ALTER TABLE t ALTER id TYPE bigint", "TRUNCATE t"])
async def test_g2_a_table_is_not_rewritten_while_a_chunk_is_read(
    shop: psycopg.AsyncConnection, source_url: str, ddl: LiteralString
) -> None:
    """A table that is rewritten after the moment of a chunk would look empty: until the chunk is
    read it cannot be, and afterwards its blocks are in other files."""
    what = "source 'shop'"
    (table,) = await fetch_tables(shop, what)
    await shop.execute("CREATE PUBLICATION chunks FOR TABLE t")
    reading = await connect(source_url, what)
    try:
        chunks = ChunkReader(reading, what, "shop", "chunks", table)
        before = await chunks.begin()
        assert before is not None
        await shop.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await shop.execute(ddl)
        rows = [
            row async for rows in chunks.blocks(before.look.plan, 0, 9, 10, 1000) for row in rows
        ]
        assert rows == [("1", "a"), ("2", "b"), ("3", "c")]
        await chunks.end()
        await shop.execute(ddl)
        after = await chunks.begin()
        assert after is not None
        assert after.files != before.files
    finally:
        await reading.close()
