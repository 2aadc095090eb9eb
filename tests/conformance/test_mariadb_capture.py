"""What the MySQL source makes of a real MariaDB: values, alterations, restarts, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from penstock.clock import SystemClock
from penstock.errors import SourceError
from penstock.records import Change, Key, Op, Row, Schema
from penstock.sources.base import SourceBatch
from penstock.sources.mysql.connections import Session, connect
from penstock.sources.mysql.source import MySQLLimits, MySQLSource
from penstock.sources.mysql.verify import row_hash
from penstock.testing.mariadb import PASSWORD, MariaDBServer

pytestmark = pytest.mark.servers

EVERYTHING = """
CREATE TABLE things (
    id int unsigned PRIMARY KEY, tiny tinyint, utiny tinyint(3) unsigned, small smallint,
    usmall smallint unsigned, medium mediumint, umedium mediumint unsigned, whole int,
    uwhole int unsigned,
    big bigint, ubig bigint unsigned, padded int(8) zerofill, flag tinyint(1), year_ year,
    price decimal(20,5), long_price decimal(65,30), udecimal decimal(10,0) unsigned,
    fraction decimal(5,5), f float, f74 float(7,4), d double, d102 double(10,2),
    bits bit(10), bit1 bit(1), bits64 bit(64),
    day_ date, at datetime, at3 datetime(3), at6 datetime(6), stamp timestamp NULL,
    stamp2 timestamp(2) NULL, stamp6 timestamp(6) NULL, span time, span1 time(1), span6 time(6),
    letters char(10), vletters varchar(300), latin varchar(50) CHARACTER SET latin1,
    wide varchar(20) CHARACTER SET utf16, ucs varchar(20) CHARACTER SET ucs2,
    jis varchar(20) CHARACTER SET sjis,
    tiny_text tinytext, text_ text, medium_text mediumtext, long_text longtext,
    bin binary(6), bin300 varbinary(300), blob_ blob, long_blob longblob,
    colour enum('red', 'it''s', 'gr,een') CHARACTER SET latin1, tags set('a', 'b', 'c d'),
    doc json, place point, shape geometry, u uuid, v4 inet4, v6 inet6,
    doubled int AS (whole * 2) STORED, tripled int AS (whole * 3) VIRTUAL
) CHARACTER SET utf8mb4
"""

COLUMNS = (
    "id, tiny, utiny, small, usmall, medium, umedium, whole, uwhole, big, ubig, padded, flag, "
    "year_, price, long_price, udecimal, fraction, f, f74, d, d102, bits, bit1, bits64, day_, at, "
    "at3, at6, stamp, stamp2, stamp6, span, span1, span6, letters, vletters, latin, "
    "wide, ucs, jis, "
    "tiny_text, text_, medium_text, long_text, bin, bin300, blob_, long_blob, colour, tags, doc, "
    "place, shape, u, v4, v6"
)

ROWS = (
    # the largest
    (
        "1, 127, 255, 32767, 65535, 8388607, 16777215, 2147483647 DIV 3, 4294967295, "
        "9223372036854775807, 18446744073709551615, 42, 1, 2155, 999999999999999.99999, "
        "99999999999999999999999999999999999.999999999999999999999999999999, 9999999999, 0.99999, "
        "3.4028235e38, 999.9999, 1.7976931348623157e308, 99999999.99, b'1111111111', b'1', "
        "0xffffffffffffffff, '9999-12-31', '9999-12-31 23:59:59', '9999-12-31 23:59:59.999', "
        "'9999-12-31 23:59:59.999999', '2038-01-19 03:14:07', '2038-01-19 03:14:07.99', "
        "'2038-01-19 03:14:07.999999', '838:59:59', '838:59:59.9', '838:59:58.999999', 'x   ', "
        "REPEAT('é', 300), 'caf\u00e9 \u20ac', '\U0001f600 wide', 'ucs é', 'ｶﾅ日本', 'tiny', "
        "REPEAT('t', 65535), 'm', REPEAT('long ', 20000), x'0102', x'00ff00', x'000102ff', "
        "REPEAT(x'00', 70000), 'it''s', 'a,c d', '{\"a\": [1, 2.50, null], \"é\": \"\\\\u0000\"}', "
        "ST_GeomFromText('POINT(1.5 -2)', 4326), "
        "ST_GeomFromText('GEOMETRYCOLLECTION(POLYGON((0 0,4 0,4 4,0 0),(1 1,2 1,2 2,1 1)),"
        "MULTIPOINT(1 2,3 4),LINESTRING(0 0,1e30 1),MULTILINESTRING((0 0,1 1),(2 2,3 3)),"
        "MULTIPOLYGON(((0 0,1 0,1 1,0 0))))'), '123e4567-e89b-12d3-a456-426614174000', "
        "'192.168.0.1', '::ffff:10.0.0.1'"
    ),
    # the smallest, and zeros
    (
        "0, -128, 0, -32768, 0, -8388608, 0, -700000000, 0, -9223372036854775808, 0, 0, 0, 0, "
        "-999999999999999.99999, -0.000000000000000000000000000001, 0, -0.00001, "
        "-1.5e-45, -0.0001, "
        "-5e-324, -0.01, b'0', b'0', 0, '1000-01-01', '1000-01-01 00:00:00', "
        "'1000-01-01 00:00:00.001', '1000-01-01 00:00:00.000001', '1970-01-01 00:00:01', "
        "'1970-01-01 00:00:01.01', '1970-01-01 00:00:00.000001', '-838:59:59', '-00:00:00.1', "
        "'-00:00:01.000001', '', '', '', '', '', '', '', '', '', '', '', '', '', '', 'red', '', "
        "'null', ST_GeomFromText('POINT(0 0)'), ST_GeomFromText('GEOMETRYCOLLECTION EMPTY'), "
        "'00000000-0000-0000-0000-000000000000', '0.0.0.0', '::'"
    ),
    # oddities: zero dates, controls, invalid enum, shortest floats
    (
        "7, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, 1, -1, 1901, 0.1, 123456789.123456789, 1, 0.5, 0.1, "
        "0.1, 0.1, 0.1, b'101', NULL, 5, '0000-00-00', '0000-00-00 00:00:00', "
        "'2024-00-10 01:02:03', "
        "'2024-05-00 00:00:00', '0000-00-00', '0000-00-00', '0000-00-00', '25:00:00', "
        "'00:00:00.5', "
        "'00:00:00', 'a\\0b', 'tab\\tnew\\nline\\\\', "
        "CONVERT(x'80819fa0ff' USING latin1), 'x', 'x', "
        "'x', '\\0', 'z', 'z', 'z', x'ff', x'', x'00', x'00', 3, 'a,b', '[]', NULL, "
        "NULL, NULL, NULL, NULL"
    ),
    "9" + ", NULL" * 56,
)
FLOATS = (
    "1e5", "123456", "1234567", "1e6", "1e15", "123456789012345680", "1e-4", "1e-5", "0.00012345",
    "16777217", "3.14159274", "100000", "99999.9", "-1e22", "2.5e-7", "-0e0", "1e14",
    "4503599627370497.5",
)  # fmt: skip


class Reader:
    """Reads a source in the background and keeps what it gives, across restarts."""

    def __init__(self, dsn: str, *tables: str, server_id: int = 4712, **options: float) -> None:
        self._dsn = dsn
        self._tables = tables
        self._server_id = server_id
        self._options = options
        self.limits = MySQLLimits()
        self.state: dict[str, str] = {}
        self.changes: list[Change] = []
        self.batches: list[SourceBatch] = []
        self.rows: dict[tuple[str, Key], tuple[Schema, Row]] = {}
        self.batch_changes = 5000
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    def source(self) -> MySQLSource:
        return MySQLSource(
            "shop",
            self._dsn,
            self._tables,
            clock=SystemClock(),
            server_id=self._server_id,
            heartbeat_s=0.1,
            max_batch_changes=self.batch_changes,
            limits=self.limits,
        )

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        source = self.source()
        try:
            async for batch in source.read(dict(self.state)):
                self._take(batch)
                await source.acknowledge(batch.state)
                async with self._changed:
                    self._changed.notify_all()
        finally:
            await source.close()
            async with self._changed:
                self._changed.notify_all()

    async def until(self, condition: Callable[[], bool], seconds: float = 25) -> None:
        """Read until it is so; raises what ended the reading."""
        if self._task is None:
            self.start()
        assert self._task is not None
        async with asyncio.timeout(seconds), self._changed:
            while not condition():
                if self._task.done():
                    self._task.result()
                    raise AssertionError("reading ended")
                await self._changed.wait()

    async def fails(self, seconds: float = 10) -> BaseException:
        """What ends the reading."""
        if self._task is None:
            self.start()
        assert self._task is not None
        async with asyncio.timeout(seconds):
            await asyncio.wait([self._task])
        error = self._task.exception()
        assert error is not None
        self._task = None
        return error

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _take(self, batch: SourceBatch) -> None:
        self.batches.append(batch)
        for change in batch.changes:
            self.changes.append(change)
            stream = change.schema.stream
            if change.op is Op.TRUNCATE:
                self.rows = {k: v for k, v in self.rows.items() if k[0] != stream}
                continue
            if change.old_key is not None:
                self.rows.pop((stream, change.old_key), None)
            if change.after is None:
                self.rows.pop((stream, change.key), None)
            else:
                self.rows[stream, change.key] = (change.schema, change.after)
        for name, value in batch.state.items():
            if value is None:
                self.state.pop(name, None)
            else:
                self.state[name] = value

    def table(self, stream: str) -> dict[Key, dict[str, object]]:
        return {
            key: dict(zip(schema.names, row, strict=True))
            for (name, key), (schema, row) in self.rows.items()
            if name == stream
        }


@pytest.fixture
async def shop(mariadb: MariaDBServer, mariadb_database: str) -> AsyncIterator[Session]:
    session = await connect(mariadb.dsn(mariadb_database), "test")
    await session.fetch("SET sql_mode = 'ALLOW_INVALID_DATES'")
    yield session
    await session.close()


@pytest.fixture
async def reader(mariadb: MariaDBServer, mariadb_database: str) -> AsyncIterator[Reader]:
    made = Reader(mariadb.dsn(), f"{mariadb_database}.*")
    yield made
    await made.stop()


async def run(session: Session, *statements: str) -> None:
    for statement in statements:
        await session.fetch(statement)


async def test_all_types_come_alike_by_copy_and_by_stream(
    shop: Session, reader: Reader, mariadb_database: str, source_url: str
) -> None:
    """What a copy gives, the stream gives, and PostgreSQL prints it just so."""
    await run(shop, EVERYTHING)
    await run(shop, *(f"INSERT INTO things ({COLUMNS}) VALUES ({row})" for row in ROWS))
    await run(shop, "CREATE TABLE floats (id int PRIMARY KEY AUTO_INCREMENT, f float, d double)")
    for value in FLOATS:
        await run(shop, f"INSERT INTO floats (f, d) VALUES ({value}, {value})")
    stream = f"{mariadb_database}.things"
    await reader.until(lambda: len(reader.rows) == len(ROWS) + len(FLOATS))
    copied = dict(reader.rows)
    reader.rows.clear()
    await run(shop, "UPDATE things SET id = id + 100", "UPDATE floats SET id = id + 100")
    await reader.until(lambda: len(reader.rows) == len(ROWS) + len(FLOATS))
    for (name, key), (schema, row) in copied.items():
        assert key[0] is not None
        moved = str(int(key[0]) + 100)
        other, streamed = reader.rows[name, (moved,)]
        assert other.columns == schema.columns
        for column, before, after in zip(schema.columns[1:], row[1:], streamed[1:], strict=True):
            assert before == after, (key, column)
        assert streamed[1:] == row[1:], key
    await printed_alike(source_url, [reader.rows[k] for k in reader.rows])
    odd = reader.table(stream)[("107",)]
    assert odd["letters"] == "a\u2400b"
    assert odd["latin"] == "\u20ac\x81\u0178\xa0\xff"
    assert odd["at3"] is None
    assert odd["bin"] == "\\xff0000000000"
    assert reader.table(stream)[("101",)]["ubig"] == "18446744073709551615"
    assert reader.table(stream)[("101",)]["place"] == "SRID=4326;POINT(1.5 -2)"


async def printed_alike(url: str, rows: list[tuple[Schema, Row]]) -> None:
    """PostgreSQL reads each text as the column's type and prints the same text."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("SET timezone = 'UTC'; SET extra_float_digits = 3")
        await connection.execute("SET intervalstyle = 'postgres'; SET bytea_output = 'hex'")
        for schema, row in rows:
            for column, value in zip(schema.columns, row, strict=True):
                if value is None:
                    continue
                statement = f"SELECT (%s::text::{column.type})::text"
                cursor = await connection.execute(statement.encode(), [value])
                [(printed,)] = await cursor.fetchall()
                assert printed == value, (schema.stream, row[0], column)


async def test_zero_dates_in_a_key_are_not_null(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """A date with a zero in it is NULL, and -infinity where it is part of a key."""
    await run(shop, "CREATE TABLE days (d date, n int, PRIMARY KEY (d, n))")
    await run(shop, "INSERT INTO days VALUES ('0000-00-00', 1), ('2024-02-03', 1)")
    await reader.until(lambda: len(reader.rows) == 2)
    await run(shop, "INSERT INTO days VALUES ('0000-00-00', 2)")
    await reader.until(lambda: len(reader.rows) == 3)
    assert set(reader.table(f"{mariadb_database}.days")) == {
        ("-infinity", "1"),
        ("2024-02-03", "1"),
        ("-infinity", "2"),
    }


async def test_g4_truncate_drop_and_rename_are_changes(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """A table that is emptied, dropped or renamed away is empty; one renamed to is copied."""
    db = mariadb_database
    await run(shop, *(f"CREATE TABLE {t} (id int PRIMARY KEY, v text)" for t in "abc"))
    await run(shop, *(f"INSERT INTO {t} VALUES (1, '{t}')" for t in "abc"))
    await reader.until(lambda: len(reader.rows) == 3)
    await run(shop, "TRUNCATE a", "INSERT INTO a VALUES (2, 'again')")
    await reader.until(lambda: set(reader.table(f"{db}.a")) == {("2",)})
    await run(shop, "DROP TABLE b")
    await reader.until(lambda: not reader.table(f"{db}.b"))
    await run(shop, "CREATE TABLE b (id int PRIMARY KEY, other int)", "INSERT INTO b VALUES (9, 9)")
    await reader.until(lambda: reader.table(f"{db}.b") == {("9",): {"id": "9", "other": "9"}})
    await run(shop, "RENAME TABLE c TO old_c, a TO c", "INSERT INTO c VALUES (3, 'new')")
    await reader.until(
        lambda: (
            set(reader.table(f"{db}.c")) == {("2",), ("3",)}
            and set(reader.table(f"{db}.old_c")) == {("1",)}
            and not reader.table(f"{db}.a")
        )
    )


async def altered(shop: Session, reader: Reader, db: str) -> None:
    """A story of alterations, each seen in the rows."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY, a varchar(10), b int)")
    await run(shop, "INSERT INTO t VALUES (1, 'x', 1)")
    await reader.until(lambda: len(reader.rows) == 1)

    async def becomes(statement: str, **rows: dict[str, str | None]) -> None:
        await run(shop, *statement.split(";"))
        wanted = {(name[1:],): row for name, row in rows.items()}
        await reader.until(lambda: reader.table(f"{db}.t") == wanted)

    await becomes(
        "ALTER TABLE t ADD COLUMN c int DEFAULT 5;INSERT INTO t VALUES (2, 'y', 2, 7)",
        _1={"id": "1", "a": "x", "b": "1", "c": "5"},
        _2={"id": "2", "a": "y", "b": "2", "c": "7"},
    )
    await becomes(
        "ALTER TABLE t CHANGE b `b``b` bigint unsigned AFTER c;UPDATE t SET c = 9",
        _1={"id": "1", "a": "x", "c": "9", "b`b": "1"},
        _2={"id": "2", "a": "y", "c": "9", "b`b": "2"},
    )
    await becomes(
        "ALTER TABLE t DROP a, ADD e enum('p','q');UPDATE t SET e = 'q' WHERE id = 2;"
        "UPDATE t SET e = 'p' WHERE id = 1",
        _1={"id": "1", "c": "9", "b`b": "1", "e": "p"},
        _2={"id": "2", "c": "9", "b`b": "2", "e": "q"},
    )
    await becomes(
        "ALTER TABLE t MODIFY e enum('q','p','r') FIRST;DELETE FROM t WHERE id = 2;"
        "INSERT INTO t VALUES ('r', 3, 1, 1)",
        _1={"e": "p", "id": "1", "c": "9", "b`b": "1"},
        _3={"e": "r", "id": "3", "c": "1", "b`b": "1"},
    )
    await becomes(
        "ALTER TABLE t RENAME COLUMN c TO d;UPDATE t SET d = d + 1",
        _1={"e": "p", "id": "1", "d": "10", "b`b": "1"},
        _3={"e": "r", "id": "3", "d": "2", "b`b": "1"},
    )


async def test_tables_are_altered_while_it_runs(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """Rows are decoded with the shape that was valid where they stand."""
    await altered(shop, reader, mariadb_database)


async def test_tables_are_altered_where_the_log_names_no_columns(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """Without binlog_row_metadata = FULL the shapes are followed by the statements."""
    await run(shop, "SET GLOBAL binlog_row_metadata = NO_LOG")
    try:
        again = await connect_again(shop)
        await altered(again, reader, mariadb_database)
        await again.close()
    finally:
        await run(shop, "SET GLOBAL binlog_row_metadata = FULL")


async def connect_again(shop: Session) -> Session:
    [(port, database)] = await shop.fetch("SELECT @@port, DATABASE()")
    return await connect(f"mysql://root:{PASSWORD}@127.0.0.1:{port}/{database}", "test")


async def test_alterations_that_happened_while_we_were_away(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """Rows from before an alteration are read as they were then."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(9))")
    await run(shop, "INSERT INTO t VALUES (1, 1, 'one')")
    await reader.until(lambda: len(reader.rows) == 1 and "place" in reader.state)
    await reader.stop()
    await run(shop, "INSERT INTO t VALUES (2, 2, 'two')", "ALTER TABLE t DROP a")
    await run(shop, "INSERT INTO t VALUES (3, 'three')", "ALTER TABLE t ADD z int FIRST")
    await run(shop, "INSERT INTO t VALUES (4, 4, 'four')")
    await reader.until(lambda: len(reader.table(f"{mariadb_database}.t")) == 4)
    names = {change.key: change.schema.names for change in reader.changes}
    assert names["2",] == ("id", "a", "b")
    assert names["3",] == ("id", "b")
    assert names["4",] == ("z", "id", "b")


async def test_odd_names_are_only_names(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """Names with quotes, signs and words of SQL are captured and hurt nobody."""
    await run(shop, "CREATE TABLE canary (id int PRIMARY KEY)", "INSERT INTO canary VALUES (1)")
    names = [
        "a`b",
        'q"u',
        "; DROP TABLE canary; --",
        "select",
        "ünï ¤ \u202e",
        "%s{}",
        "new\nline",
        "dot.ted",
        "Case",
    ]
    for name in names:
        quoted = "`" + name.replace("`", "``") + "`"
        await run(shop, f"CREATE TABLE {quoted} ({quoted} int PRIMARY KEY, `v` int)")
        await run(shop, f"INSERT INTO {quoted} VALUES (1, 1)")
    await reader.until(lambda: len(reader.rows) == len(names) + 1)
    for name in names:
        quoted = "`" + name.replace("`", "``") + "`"
        await run(shop, f"INSERT INTO {quoted} VALUES (2, 1)")
    await reader.until(lambda: len(reader.rows) == 2 * len(names) + 1)
    assert reader.table(f"{mariadb_database}.canary") == {("1",): {"id": "1"}}


async def test_g12_a_large_transaction_comes_in_pieces_and_is_resumed_in_the_middle(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """A transaction that is larger than a batch is cut; whoever resumes inside misses nothing."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY, v int)")
    await reader.until(lambda: f"table:{mariadb_database}.t" in reader.state)
    await reader.stop()
    reader.batch_changes = 100
    await run(shop, "INSERT INTO t SELECT seq, seq FROM seq_1_to_50000")
    states = []
    await reader.until(lambda: len(reader.rows) == 50000)
    await reader.stop()
    changes = [change for change in reader.changes if change.op is Op.CREATE]
    assert len(changes) == 50000
    assert [c.position for c in changes] == sorted({c.position for c in changes})
    states = [i for i, batch in enumerate(reader.batches) if len(batch.changes) == 100]
    middle = states[len(states) // 2]
    whole, reader.batches, reader.rows, reader.state = reader.batches, [], {}, {}
    reader.changes = []
    for batch in whole[: middle + 1]:
        reader._take(batch)
    await reader.until(lambda: len(reader.rows) == 50000)
    assert len([c for c in reader.changes if c.op is Op.CREATE]) == 50000


async def test_a_purged_binlog_is_named(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """Changes that the server has thrown away are not jumped over."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    await reader.until(lambda: len(reader.rows) == 1)
    await reader.stop()
    await run(shop, "INSERT INTO t VALUES (2)", "FLUSH BINARY LOGS", "FLUSH BINARY LOGS")
    while len(rows := await shop.fetch("SHOW BINARY LOGS")) > 1:
        # Files that our stream was reading are kept until the server notices that it is gone.
        await run(shop, f"PURGE BINARY LOGS TO '{rows[-1][0]}'")
    error = await reader.fails()
    assert isinstance(error, SourceError)
    assert "purged" in str(error)


async def test_two_readers_with_one_number_are_told(
    shop: Session, reader: Reader, mariadb: MariaDBServer, mariadb_database: str
) -> None:
    """A second reader with our number ends our stream with an error, and not in silence."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    await reader.until(lambda: len(reader.rows) == 1)
    second = Reader(mariadb.dsn(), f"{mariadb_database}.*")
    await second.until(lambda: len(second.rows) == 1)
    error = await reader.fails()
    assert "source 'shop'" in str(error)
    await second.stop()


@pytest.mark.parametrize(
    ("setting", "value", "usual"),
    [("binlog_format", "MIXED", "ROW"), ("binlog_row_image", "MINIMAL", "FULL")],
)
async def test_settings_that_lose_changes_are_refused(
    shop: Session, reader: Reader, setting: str, value: str, usual: str
) -> None:
    """The server must log rows, and all of them."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY)", f"SET GLOBAL {setting} = {value}")
    try:
        error = await reader.fails()
        findings = [f for f in await reader.source().check() if f.level == "error"]
    finally:
        await run(shop, f"SET GLOBAL {setting} = {usual}")
    assert isinstance(error, SourceError)
    assert f"SET GLOBAL {setting} = {usual}" in str(error)
    assert [f.mend.split(" (")[0] for f in findings] == [f"SET GLOBAL {setting} = {usual}"]


async def test_tables_that_cannot_be_captured_are_refused(
    shop: Session, mariadb: MariaDBServer, mariadb_database: str
) -> None:
    """No key, no transactions, no table: a sentence each, with what to do."""
    await run(
        shop,
        "CREATE TABLE keyless (id int)",
        "CREATE TABLE isam (id int PRIMARY KEY) ENGINE=MyISAM",
    )
    await run(shop, "CREATE VIEW seen AS SELECT 1 AS one")
    for table, said in (
        ("keyless", "add a primary key"),
        ("isam", "ENGINE = InnoDB"),
        ("seen", "view"),
        ("nothing", "mend the name"),
    ):
        made = Reader(mariadb.dsn(), f"{mariadb_database}.{table}")
        error = await made.fails()
        assert isinstance(error, SourceError)
        assert said in str(error)


async def test_g1_keys_move_and_swap(shop: Session, reader: Reader, mariadb_database: str) -> None:
    """A row that takes another key leaves the one it had."""
    await run(
        shop, "CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1,1),(2,2)"
    )
    await reader.until(lambda: len(reader.rows) == 2)
    await run(
        shop, "BEGIN", "UPDATE t SET id = 3 WHERE id = 1", "UPDATE t SET id = 1 WHERE id = 2",
        "UPDATE t SET id = 2 WHERE id = 3", "COMMIT",
    )  # fmt: skip
    await reader.until(lambda: len(reader.changes) >= 6)
    rows = reader.table(f"{mariadb_database}.t")
    assert {key: row["v"] for key, row in rows.items()} == {("1",): "2", ("2",): "1"}


async def test_prepared_transactions_come_when_they_commit(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """What is prepared is not there yet; what is rolled back never was; a restart in between
    changes nothing."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1,1)")
    await reader.until(lambda: len(reader.rows) == 1)
    db = mariadb_database
    for name, number in (("kept", 10), ("gone", 20)):
        await run(
            shop, f"XA START '{name}'", f"INSERT INTO t VALUES ({number}, 1)", f"XA END '{name}'",
            f"XA PREPARE '{name}'",
        )  # fmt: skip
        other = await connect_again(shop)
        if name == "kept":
            await run(other, f"INSERT INTO t VALUES ({number + 1}, 1)")
            await reader.until(lambda: ("11",) in reader.table(f"{db}.t"))
            assert ("10",) not in reader.table(f"{db}.t")
            await reader.stop()
            await run(shop, "XA COMMIT 'kept'")
            await reader.until(lambda: ("10",) in reader.table(f"{db}.t"))
        else:
            await run(shop, "XA ROLLBACK 'gone'", "INSERT INTO t VALUES (21, 1)")
            await reader.until(lambda: ("21",) in reader.table(f"{db}.t"))
        await other.close()
    assert set(reader.table(f"{db}.t")) == {("1",), ("10",), ("11",), ("21",)}


async def test_compressed_events_are_read(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """MariaDB may compress rows and statements."""
    await run(shop, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')")
    await reader.until(lambda: len(reader.rows) == 1)
    await run(shop, "SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress_min_len = 10")
    try:
        await run(
            shop, "INSERT INTO t VALUES (2, REPEAT('x', 5000))", "UPDATE t SET v = 'b' WHERE id = 1"
        )
        await run(
            shop,
            "DELETE FROM t WHERE id = 2",
            "ALTER TABLE t ADD COLUMN extra varchar(200) DEFAULT 'a long default'",
        )
        await reader.until(
            lambda: (
                reader.table(f"{mariadb_database}.t")
                == {("1",): {"id": "1", "v": "b", "extra": "a long default"}}
            )
        )
    finally:
        await run(shop, "SET GLOBAL log_bin_compress = OFF")


async def test_row_hashes_are_those_of_the_changes(
    shop: Session, reader: Reader, mariadb_database: str
) -> None:
    """What verify computes at the source is the hash of what changes carry, in the keys' order."""
    await run(shop, EVERYTHING)
    await run(shop, *(f"INSERT INTO things ({COLUMNS}) VALUES ({row})" for row in ROWS))
    await reader.until(lambda: len(reader.rows) == len(ROWS))
    schema = next(iter(reader.rows.values()))[0]
    found = [row async for row in reader.source().row_hashes(schema)]
    assert [row.key for row in found] == sorted(row.key for row in found)
    wanted = {key: row_hash(row) for (_, key), (_, row) in reader.rows.items()}  # type: ignore[arg-type]
    assert dict(found) == wanted
