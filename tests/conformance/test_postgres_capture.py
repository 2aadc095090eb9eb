"""What the PostgreSQL source makes of PostgreSQL: types, keys, transactions, schema changes."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
from psycopg import sql

from penstock.clock import SystemClock
from penstock.records import UNCHANGED, Change, Key, Op, Row, Schema
from penstock.sources.base import SourceBatch
from penstock.sources.postgres.source import PostgresSource

DEADLINE_S = 25.0

# Type as declared, type as captured, a literal, and the text that comes.
TYPES = [
    ("smallint", "smallint", "'-32768'", "-32768"),
    ("integer", "integer", "'2147483647'", "2147483647"),
    ("bigint", "bigint", "'-9223372036854775808'", "-9223372036854775808"),
    ("numeric(12,2)", "numeric(12,2)", "'1234567890.1'", "1234567890.10"),
    ("numeric", "numeric", "'NaN'", "NaN"),
    ("real", "real", "'0.1'", "0.1"),
    ("double precision", "double precision", "'0.30000000000000004'", "0.30000000000000004"),
    ("double precision", "double precision", "'-Infinity'", "-Infinity"),
    ("money", "money", "'1234.5'::numeric::money", "$1,234.50"),
    ("text", "text", "E'a\\tb\\nc\\\\N\\\\'", "a\tb\nc\\N\\"),
    ("text", "text", "''", ""),
    ("text", "text", "'\\N'", "\\N"),
    ("text", "text", "'žluťoučký 🐎'", "žluťoučký 🐎"),
    ("character varying(10)", "character varying(10)", "'abc'", "abc"),
    ("character(5)", "character(5)", "'ab'", "ab   "),
    ('"char"', '"char"', "'x'", "x"),
    ("name", "name", "'a name'", "a name"),
    ("bytea", "bytea", "'\\x00ff'", "\\x00ff"),
    ("boolean", "boolean", "true", "t"),
    ("date", "date", "'0044-03-15 BC'", "0044-03-15 BC"),
    ("date", "date", "'infinity'", "infinity"),
    ("time(3) without time zone", "time(3) without time zone", "'24:00'", "24:00:00"),
    ("time with time zone", "time with time zone", "'12:34:56.5+05:30'", "12:34:56.5+05:30"),
    (
        "timestamp(0) without time zone",
        "timestamp(0) without time zone",
        "'2026-03-29 02:30'",
        "2026-03-29 02:30:00",
    ),
    (
        "timestamp with time zone",
        "timestamp with time zone",
        "'2026-07-01 12:00:00.123456+02'",
        "2026-07-01 10:00:00.123456+00",
    ),
    (
        "interval",
        "interval",
        "'1 year 2 mons 3 days 04:05:06.7'",
        "1 year 2 mons 3 days 04:05:06.7",
    ),
    ("interval day to second(3)", "interval day to second(3)", "'-1 day'", "-1 days"),
    (
        "uuid",
        "uuid",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    ("json", "json", """'{"a":  1, "a": 2}'""", '{"a":  1, "a": 2}'),
    ("jsonb", "jsonb", """'{"b":1,"a":[null]}'""", '{"a": [null], "b": 1}'),
    ("jsonpath", "jsonpath", "'$.a[*]'", '$."a"[*]'),
    ("xml", "text", None, None),
    ("inet", "inet", "'10.0.0.1/8'", "10.0.0.1/8"),
    ("cidr", "cidr", "'10.0.0.0/8'", "10.0.0.0/8"),
    ("macaddr", "macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
    ("macaddr8", "macaddr8", "'08:00:2b:01:02:03:04:05'", "08:00:2b:01:02:03:04:05"),
    ("bit(3)", "bit(3)", "B'101'", "101"),
    ("bit varying(5)", "bit varying(5)", "B'1'", "1"),
    ("point", "point", "'(1,2)'", "(1,2)"),
    ("line", "line", "'{1,2,3}'", "{1,2,3}"),
    ("lseg", "lseg", "'[(0,0),(1,1)]'", "[(0,0),(1,1)]"),
    ("box", "box", "'(1,1),(0,0)'", "(1,1),(0,0)"),
    ("path", "path", "'((0,0),(1,1))'", "((0,0),(1,1))"),
    ("polygon", "polygon", "'((0,0),(1,1))'", "((0,0),(1,1))"),
    ("circle", "circle", "'<(0,0),1>'", "<(0,0),1>"),
    ("tsvector", "tsvector", "'a:1 b'", "'a':1 'b'"),
    ("tsquery", "tsquery", "'a & b'", "'a' & 'b'"),
    ("int4range", "int4range", "'[1,5]'", "[1,6)"),
    ("nummultirange", "nummultirange", "'{[1,2),[5,6)}'", "{[1,2),[5,6)}"),
    ("tstzrange", "tstzrange", "'empty'", "empty"),
    ("pg_lsn", "pg_lsn", "'0/1'", "0/1"),
    ("oid", "oid", "'4294967295'", "4294967295"),
    ("xid8", "xid8", "'7'", "7"),
    ("regclass", "text", "'pg_class'", "pg_class"),
    ("integer[]", "integer[]", "'{{1,2},{3,NULL}}'", "{{1,2},{3,NULL}}"),
    ("text[]", "text[]", """'{"a b","",NULL,"\\"q\\""}'""", '{"a b","",NULL,"\\"q\\""}'),
    ("numeric(5,1)[]", "numeric(5,1)[]", "'{1.25}'", "{1.3}"),
    ("mood", "text", "'sad'", "sad"),
    ("mood[]", "text[]", "'{sad,ok}'", "{sad,ok}"),
    ("price", "numeric(8,3)", "'1.5'", "1.500"),
    ("price_in_shop", "numeric(8,3)", "'2.5'", "2.500"),
    ("price[]", "numeric(8,3)[]", "'{1.5}'", "{1.500}"),
    ("numbers", "integer[]", "'{1}'", "{1}"),
    ("pair", "text", "ROW(1,'x')::pair", "(1,x)"),
    ("floats", "text", "'[1,2]'", "[1,2]"),
]


class Reader:
    """Reads a source step by step and keeps what it learned."""

    def __init__(self, dsn: str, *tables: str, **options: float) -> None:
        self._dsn, self._tables, self._options = dsn, tables or ("public.*",), options
        self.state: dict[str, str] = {}
        self.changes: list[Change] = []
        self.batches: list[SourceBatch] = []
        self.rows: dict[tuple[str, Key], Row] = {}
        self._newest: dict[tuple[str, Key], str] = {}
        self._source: PostgresSource | None = None
        self._iterator: AsyncIterator[SourceBatch] | None = None

    @property
    def source(self) -> PostgresSource:
        if self._source is None:
            options = {"heartbeat_s": 0.05, **self._options}
            self._source = PostgresSource(
                "shop",
                self._dsn,
                self._tables,
                clock=SystemClock(),
                **options,  # type: ignore[arg-type]
            )
        return self._source

    async def until(self, condition: Callable[[], bool], *, acknowledge: bool = True) -> None:
        """Read until it is so, and all that is known belongs to complete batches."""
        if self._iterator is None:
            self._iterator = self.source.read(dict(self.state))
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                batch = await anext(self._iterator)
                self._take(batch)
                if acknowledge:
                    await self.source.acknowledge(batch.state)

    async def caught_up(self, connection: psycopg.AsyncConnection) -> list[Change]:
        """Read all that was committed so far; returns what came."""
        cursor = await connection.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        )
        (now,) = (await cursor.fetchone()) or (0,)
        before = len(self.changes)
        seen = len(self.batches)
        await self.until(lambda: any((b.as_of or 0) >= now for b in self.batches[seen:]))
        return self.changes[before:]

    async def stop(self) -> None:
        """As if our process had been killed: nothing more is acknowledged."""
        source, self._source, self._iterator = self._source, None, None
        if source is not None:
            await source.close()

    def names(self, tables: tuple[str, ...]) -> None:
        """The project file names other tables from the next start on."""
        self._tables = tables

    def _take(self, batch: SourceBatch) -> None:
        self.batches.append(batch)
        self.changes += batch.changes
        for name, value in batch.state.items():
            if value is None:
                self.state.pop(name, None)
            else:
                self.state[name] = value
        for change in batch.changes:
            self._apply(change)

    def _apply(self, change: Change) -> None:
        stream = change.schema.stream
        if change.op is Op.TRUNCATE:  # what is older goes; that is not always all
            self.rows = {
                name: row
                for name, row in self.rows.items()
                if name[0] != stream or self._newest[name] > change.position
            }
            return
        self._newest[stream, change.key] = change.position
        if change.after is None:
            # A row that a copy has yet to come to may be deleted before it was known.
            self.rows.pop((stream, change.key), None)
            return
        old = self.rows.pop((stream, change.old_key or change.key), None)
        self.rows[stream, change.key] = tuple(
            old[i] if value is UNCHANGED and old is not None else value
            for i, value in enumerate(change.after)
        )


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection to the source's database."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def reader(source_url: str) -> AsyncIterator[Reader]:
    """A reader of all its tables."""
    reader = Reader(source_url)
    yield reader
    await reader.stop()


async def run(connection: psycopg.AsyncConnection, *statements: str) -> None:
    """Statements, each its own transaction."""
    for statement in statements:
        await connection.execute(statement)


async def test_all_types_come_alike_by_copy_and_by_stream(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """Each built-in type has its exact name, and one text form whichever way it comes."""
    await run(
        shop,
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE DOMAIN price AS numeric(8, 3)",
        "CREATE DOMAIN price_in_shop AS price CHECK (VALUE > 0)",
        "CREATE DOMAIN numbers AS integer[]",
        "CREATE TYPE pair AS (a integer, b text)",
        "CREATE TYPE floats AS RANGE (subtype = float8)",
        "CREATE TABLE types (id integer PRIMARY KEY, "
        + ", ".join(f"c{i} {declared}" for i, (declared, *_) in enumerate(TYPES))
        + ")",
    )
    values = ", ".join(literal or "NULL" for _, _, literal, _ in TYPES)
    expected = tuple(text for *_, text in TYPES)
    await run(shop, f"INSERT INTO types VALUES (1, {values})", "INSERT INTO types (id) VALUES (2)")
    await reader.until(lambda: len(reader.rows) == 2)
    await run(shop, f"INSERT INTO types VALUES (3, {values})", "INSERT INTO types (id) VALUES (4)")
    await reader.until(lambda: len(reader.rows) == 4)
    for number in ("1", "3"):
        assert reader.rows["public.types", (number,)] == (number, *expected)
    for number in ("2", "4"):
        assert reader.rows["public.types", (number,)] == (number, *[None] * len(TYPES))
    copied, streamed = reader.changes[0].schema, reader.changes[-1].schema
    assert [column.type for column in copied.columns[1:]] == [wanted for _, wanted, *_ in TYPES]
    assert copied == streamed


async def test_values_do_not_depend_on_the_defaults_of_database_and_role(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """Times, floats and bytes come in one form whatever the database's settings say."""
    for setting, value in (
        ("datestyle", "German, DMY"),
        ("timezone", "Asia/Kolkata"),
        ("intervalstyle", "iso_8601"),
        ("extra_float_digits", "-3"),
        ("bytea_output", "escape"),
    ):
        await shop.execute(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                sql.Identifier(shop.info.dbname), sql.Identifier(setting), value
            )
        )
    await run(
        shop,
        "CREATE TABLE t (id int PRIMARY KEY, a timestamptz, b float8, c bytea, d interval)",
        "INSERT INTO t VALUES (1, '2026-01-02 00:00Z', 0.1::float8 + 0.2, '\\x00', '1 day')",
    )
    await reader.until(lambda: len(reader.rows) == 1)
    await run(shop, "INSERT INTO t SELECT 2, a, b, c, d FROM t")
    await reader.until(lambda: len(reader.rows) == 2)
    wanted = ("2026-01-02 00:00:00+00", "0.30000000000000004", "\\x00", "1 day")
    assert [row[1:] for row in reader.rows.values()] == [wanted, wanted]


async def test_g1_composite_keys_move_and_swap(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """An update of the key names the key that it left; two rows can swap keys."""
    await run(
        shop,
        "CREATE TABLE t (a int, b text, v text, PRIMARY KEY (a, b) DEFERRABLE INITIALLY IMMEDIATE)",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "CREATE TABLE u (v text, b text, a int, PRIMARY KEY (a, b))",
        "INSERT INTO t VALUES (1, 'x', 'one'), (2, 'y', 'two')",
        "INSERT INTO u VALUES ('one', 'x', 1), ('two', 'y', 2)",
    )
    await reader.until(lambda: len(reader.rows) == 4)
    await run(
        shop,
        "UPDATE u SET a = 3 WHERE a = 1",
        "UPDATE t SET a = 3 - a, b = CASE b WHEN 'x' THEN 'y' ELSE 'x' END",
        "UPDATE u SET a = 7, v = 'seven' WHERE a = 2",
    )
    changes = await reader.caught_up(shop)
    moved = [(c.schema.stream, c.old_key, c.key) for c in changes]
    assert moved == [
        ("public.u", ("x", "1"), ("x", "3")),
        ("public.t", ("1", "x"), ("2", "y")),
        ("public.t", ("2", "y"), ("1", "x")),
        ("public.u", ("y", "2"), ("y", "7")),
    ]
    await run(shop, "DELETE FROM u WHERE a = 3")
    (gone,) = await reader.caught_up(shop)
    assert (gone.op, gone.key, gone.before) == (Op.DELETE, ("x", "3"), (None, "x", "3"))


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
async def test_an_unchanged_large_value_is_neither_null_nor_lost(
    shop: psycopg.AsyncConnection, reader: Reader, identity: str
) -> None:
    """An update beside a large value marks it as unchanged, or fills it from the old row."""
    await run(
        shop,
        "CREATE TABLE t (id int PRIMARY KEY, big text, n int)",
        "ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
        "INSERT INTO t VALUES (1, repeat('large ', 2000), 1)",
    )
    big = "large " * 2000
    await reader.until(lambda: len(reader.rows) == 1)
    await run(shop, "UPDATE t SET n = 2", "UPDATE t SET id = 5", "UPDATE t SET big = NULL")
    beside, moved, gone = await reader.caught_up(shop)
    kept = UNCHANGED if identity == "DEFAULT" else big
    assert beside.after == ("1", kept, "2")
    assert (moved.after, moved.old_key) == (("5", kept, "2"), ("1",))
    assert gone.after == ("5", None, "2")
    assert reader.rows == {("public.t", ("5",)): ("5", None, "2")}


async def test_a_large_key_comes_whole(shop: psycopg.AsyncConnection, reader: Reader) -> None:
    """A key that is stored out of line is known in every change."""
    await run(
        shop,
        "CREATE TABLE t (id text, n int)",
        "ALTER TABLE t ALTER COLUMN id SET STORAGE EXTERNAL, ALTER COLUMN id SET NOT NULL",
        "CREATE UNIQUE INDEX t_id ON t (id)",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_id",
        "INSERT INTO t VALUES (repeat('k', 2500), 1)",
    )
    await reader.until(lambda: len(reader.rows) == 1)
    await run(shop, "UPDATE t SET n = 2", "DELETE FROM t")
    changed, gone = await reader.caught_up(shop)
    assert changed.key == gone.key == ("k" * 2500,)
    assert changed.old_key is None
    assert changed.after == ("k" * 2500, "2")


async def test_g4_truncate_reaches_each_table(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """TRUNCATE CASCADE is one change per table, in its place among the others."""
    await run(
        shop,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO b VALUES (1, 1)",
    )
    await reader.until(lambda: len(reader.rows) == 2)
    await run(
        shop,
        "BEGIN",
        "INSERT INTO a VALUES (2)",
        "TRUNCATE a CASCADE",
        "INSERT INTO a VALUES (3)",
        "COMMIT",
    )
    changes = await reader.caught_up(shop)
    assert [(c.op, c.schema.stream, c.key) for c in changes] == [
        (Op.CREATE, "public.a", ("2",)),
        (Op.TRUNCATE, "public.a", ()),
        (Op.TRUNCATE, "public.b", ()),
        (Op.CREATE, "public.a", ("3",)),
    ]
    assert list(reader.rows) == [("public.a", ("3",))]


async def test_g1_what_a_transaction_does_to_one_key_stays_in_order(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """Delete and insert of a key in one transaction come in that order; what is rolled back, also
    to a savepoint, does not come."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')")
    await reader.until(lambda: len(reader.rows) == 1)
    async with shop.transaction():
        await run(shop, "DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 'b')")
        await run(shop, "SAVEPOINT s", "INSERT INTO t VALUES (2, 'no')", "ROLLBACK TO s")
        await run(shop, "SAVEPOINT r", "UPDATE t SET v = 'c'", "RELEASE r")
    await run(shop, "BEGIN", "INSERT INTO t VALUES (3, 'no')", "ROLLBACK")
    changes = await reader.caught_up(shop)
    assert [(c.op, c.after and c.after[1]) for c in changes] == [
        (Op.DELETE, None),
        (Op.CREATE, "b"),
        (Op.UPDATE, "c"),
    ]
    assert len({c.position.partition(".")[0] for c in changes}) == 1
    assert len({c.transaction for c in changes}) == 1


async def test_interleaved_transactions_come_in_the_order_of_their_commits(
    shop: psycopg.AsyncConnection, reader: Reader, source_url: str
) -> None:
    """A transaction that began first and committed last comes last, whole."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY)")
    await reader.caught_up(shop)
    async with await psycopg.AsyncConnection.connect(source_url) as slow:
        await slow.execute("INSERT INTO t VALUES (1)")
        await run(shop, "INSERT INTO t VALUES (2)")
        await slow.execute("INSERT INTO t VALUES (3)")
        await run(shop, "INSERT INTO t VALUES (4)")
        await slow.commit()
    changes = await reader.caught_up(shop)
    assert [c.key for c in changes] == [("2",), ("4",), ("1",), ("3",)]
    positions = [c.position for c in changes]
    assert positions == sorted(positions)


async def test_g12_a_large_transaction_comes_in_pieces(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """100,000 rows in one transaction: batches stay small, memory too, and reading resumes in the
    middle of it."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    await reader.caught_up(shop)
    await run(shop, "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 100000) g")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await reader.until(lambda: len(reader.changes) > 20_000)
    half = len(reader.changes)
    await reader.stop()
    await reader.caught_up(shop)
    creates = [c for c in reader.changes if c.op is Op.CREATE]
    assert len(reader.rows) == len(creates) == 100_000
    assert max(len(batch.changes) for batch in reader.batches) <= 5000
    assert half < len(reader.changes)
    positions = [c.position for c in creates]
    assert positions == sorted(set(positions))
    # What the test itself keeps is most of it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


async def test_ten_thousand_small_transactions_stay_whole(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """Batches end where transactions end, and each change comes once, in order."""
    await run(
        shop,
        "CREATE TABLE t (id int PRIMARY KEY, n int)",
        "INSERT INTO t SELECT g, 0 FROM generate_series(1, 3) g",
    )
    await reader.caught_up(shop)
    seen = len(reader.batches)
    await run(
        shop,
        "DO $$ BEGIN FOR i IN 1..10000 LOOP UPDATE t SET n = i; COMMIT; END LOOP; END $$",
    )
    changes = await reader.caught_up(shop)
    assert [c.after and c.after[1] for c in changes[::3]] == [str(i) for i in range(1, 10_001)]
    for batch in reader.batches[seen:]:
        assert len(batch.changes) % 3 == 0


async def test_g2_confirmed_changes_that_come_again_are_dropped(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """A slot that stands earlier than our log (as after a crash of the server) offers changes
    again: those at or before the state's position do not come twice."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY)")
    await reader.caught_up(shop)
    for number in range(1, 21):
        await run(shop, f"INSERT INTO t VALUES ({number}), ({number + 100})")
    await reader.until(lambda: len(reader.rows) == 40, acknowledge=False)
    await reader.stop()
    position = reader.state["position"]
    # The resume point of the state is put back, as if the slot had been: all is offered again.
    reader.state["lsn"] = next(b.state["lsn"] for b in reader.batches if "lsn" in b.state) or ""
    await run(shop, "INSERT INTO t VALUES (999)")
    await reader.until(lambda: ("public.t", ("999",)) in reader.rows)
    assert [c.key for c in reader.changes if c.position > position] == [("999",)]
    assert len(reader.changes) == 42  # one truncate before the copy


async def test_tables_are_added_and_removed_later(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """A table that the project names later is copied at one moment and followed from there, without
    gap or overlap, beside tables that go on; one that it no longer names is left alone."""
    await run(shop, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    await run(shop, "INSERT INTO b SELECT generate_series(1, 1000)", "INSERT INTO a VALUES (1)")
    reader.names(("a",))
    await reader.until(lambda: len(reader.rows) == 1)
    await reader.caught_up(shop)
    await reader.stop()
    await run(shop, "INSERT INTO a VALUES (2)", "DELETE FROM b WHERE id <= 10")
    reader.names(("a", "b"))
    done = asyncio.Event()

    async def write() -> None:
        for number in range(1001, 1201):
            await run(
                shop, f"INSERT INTO b VALUES ({number})", f"DELETE FROM b WHERE id = {number - 900}"
            )
            await run(shop, f"INSERT INTO a VALUES ({number})")
        done.set()

    writer = asyncio.create_task(write())
    await reader.until(done.is_set)
    await writer
    await reader.caught_up(shop)
    cursor = await shop.execute("SELECT id::text FROM b")
    expected = {row[0] for row in await cursor.fetchall()}
    assert {key[0] for stream, key in reader.rows if stream == "public.b"} == expected
    assert len([key for stream, key in reader.rows if stream == "public.a"]) == 202
    positions = [c.position for c in reader.changes]
    assert positions == sorted(set(positions))
    await reader.stop()
    reader.names(("b",))
    await run(shop, "INSERT INTO a VALUES (5000)", "INSERT INTO b VALUES (5000)")
    changes = await reader.caught_up(shop)
    assert [c.schema.stream for c in changes] == ["public.b"]
    assert "table:public.a" not in reader.state
    cursor = await shop.execute("SELECT tablename FROM pg_publication_tables")
    assert await cursor.fetchall() == [("b",)]


async def test_g2_an_interrupted_copy_is_resumed(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """A copy that was cut off goes on where it was; what was deleted meanwhile is not missed."""
    await run(
        shop,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t SELECT generate_series(1, 20000)",
    )
    reader = Reader(source_url, max_batch_changes=1000)
    await reader.until(lambda: len(reader.rows) > 5000)
    await reader.stop()
    await run(shop, "DELETE FROM t WHERE id <= 3000", "INSERT INTO t VALUES (30000)")
    await reader.caught_up(shop)
    await reader.stop()
    assert len(reader.rows) == 17_001
    assert [c.op for c in reader.changes].count(Op.TRUNCATE) == 1
    assert sum(c.op is Op.READ for c in reader.changes) < 30_000
    positions = [c.position for c in reader.changes]
    assert positions == sorted(set(positions))


async def test_columns_change_while_it_runs(shop: psycopg.AsyncConnection, reader: Reader) -> None:
    """Columns added, renamed, retyped and dropped: each change has the schema of its moment."""
    await run(
        shop, "CREATE TABLE t (id int PRIMARY KEY, v varchar(10))", "INSERT INTO t VALUES (1, 'a')"
    )
    await reader.caught_up(shop)
    await run(
        shop,
        "ALTER TABLE t ADD COLUMN w numeric(6, 2) DEFAULT 7",
        "UPDATE t SET v = 'b'",
        "ALTER TABLE t RENAME COLUMN v TO label",
        "UPDATE t SET label = 'c'",
        "ALTER TABLE t ALTER COLUMN id TYPE bigint, ALTER COLUMN label TYPE text",
        "UPDATE t SET label = 'd'",
        "ALTER TABLE t DROP COLUMN w",
        "UPDATE t SET label = 'e'",
    )
    changes = await reader.caught_up(shop)

    def shape(schema: Schema) -> list[tuple[str, str]]:
        return [(column.name, column.type) for column in schema.columns]

    last = [c for c in changes if c.op is Op.UPDATE and c.after is not None]
    assert [(shape(c.schema), c.after) for c in last] == [
        (
            [("id", "integer"), ("v", "character varying(10)"), ("w", "numeric(6,2)")],
            ("1", "b", "7.00"),
        ),
        (
            [("id", "integer"), ("label", "character varying(10)"), ("w", "numeric(6,2)")],
            ("1", "c", "7.00"),
        ),
        ([("id", "bigint"), ("label", "text"), ("w", "numeric(6,2)")], ("1", "d", "7.00")),
        ([("id", "bigint"), ("label", "text")], ("1", "e")),
    ]


async def test_partitions_are_one_table(shop: psycopg.AsyncConnection, reader: Reader) -> None:
    """A partitioned table is captured under its own name, through new partitions and moves."""
    await run(
        shop,
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100)",
        "INSERT INTO p VALUES (1, 'a')",
    )
    await reader.until(lambda: len(reader.rows) == 1)
    await run(
        shop,
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
        "INSERT INTO p VALUES (150, 'b')",
        "UPDATE p SET id = 160 WHERE id = 1",
    )
    await reader.caught_up(shop)
    assert {c.schema.stream for c in reader.changes} == {"public.p"}
    assert sorted(reader.rows.values()) == [("150", "b"), ("160", "a")]


async def test_stored_generated_columns_are_captured(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """Stored generated columns come by copy and by stream (PostgreSQL 18); virtual ones do not."""
    await run(
        shop,
        "CREATE TABLE t (id int PRIMARY KEY, double int GENERATED ALWAYS AS (id * 2) STORED, "
        "triple int GENERATED ALWAYS AS (id * 3) VIRTUAL)",
        "INSERT INTO t VALUES (1)",
    )
    await reader.until(lambda: len(reader.rows) == 1)
    await run(shop, "INSERT INTO t VALUES (2)")
    await reader.caught_up(shop)
    assert sorted(reader.rows.values()) == [("1", "2"), ("2", "4")]
    assert reader.changes[0].schema == reader.changes[-1].schema


async def test_tables_without_primary_key_need_full_identity(
    shop: psycopg.AsyncConnection, reader: Reader
) -> None:
    """With REPLICA IDENTITY FULL the whole row is the key."""
    await run(
        shop,
        "CREATE TABLE t (a int, b text)",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "INSERT INTO t VALUES (1, NULL)",
    )
    await reader.until(lambda: len(reader.rows) == 1)
    await run(shop, "UPDATE t SET b = 'x'", "DELETE FROM t")
    changed, gone = await reader.caught_up(shop)
    assert (changed.old_key, changed.key) == (("1", None), ("1", "x"))
    assert (gone.key, gone.before) == (("1", "x"), ("1", "x"))


async def test_odd_names_are_only_names(shop: psycopg.AsyncConnection, reader: Reader) -> None:
    """Quotes, dots, spaces and percent signs in names do no harm."""
    await run(
        shop,
        'CREATE TABLE "we""ird.tab %s le" ("a ""b" int PRIMARY KEY, "%s" text, "{x}" int)',
        'INSERT INTO "we""ird.tab %s le" VALUES (1, \'a\', 2)',
    )
    await reader.until(lambda: len(reader.rows) == 1)
    await run(shop, 'UPDATE "we""ird.tab %s le" SET "{x}" = 3')
    (changed,) = await reader.caught_up(shop)
    assert changed.schema.stream == 'public.we"ird.tab %s le'
    assert changed.schema.names == ('a "b', "%s", "{x}")


async def test_row_hashes_see_any_difference(shop: psycopg.AsyncConnection, reader: Reader) -> None:
    """Hashes come for every row in the order of keys, and change with any value."""
    await run(
        shop,
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
        "INSERT INTO t VALUES (1, 'x', NULL), (2, NULL, 'x'), (10, 'x', ''), (3, '1:x', NULL)",
    )
    await reader.until(lambda: len(reader.rows) == 4)
    schema = reader.changes[0].schema
    hashes = [row async for row in reader.source.row_hashes(schema)]
    assert [row.key for row in hashes] == [("1",), ("10",), ("2",), ("3",)]
    assert len({row.hash for row in hashes}) == 4
    await run(shop, "UPDATE t SET b = 'y' WHERE id = 10")
    again = [row async for row in reader.source.row_hashes(schema)]
    assert [one != other for one, other in zip(hashes, again, strict=True)] == [0, 1, 0, 0]
