"""Live tables in PostgreSQL: types, names, rights, changing columns, comparing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
from psycopg import sql

from penstock.database.connect import open_pool
from penstock.errors import BadRecordError, ConfigError, SourceError
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
)
from penstock.stores.base import ApplyRows
from penstock.stores.postgres.live_tables import LiveTable
from penstock.stores.postgres.store import PostgresStore


class Database:
    """A store and a look at its tables."""

    def __init__(self, store: PostgresStore, dsn: str) -> None:
        self.store = store
        self.dsn = dsn
        self._last = 0

    async def apply(self, *changes: Change) -> None:
        async with self.store.transaction() as transaction:
            await transaction.apply(ApplyRows(changes))

    async def query(self, statement: str) -> list[tuple[object, ...]]:
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            cursor = await connection.execute(sql.SQL(statement))
            return await cursor.fetchall() if cursor.description else []

    def change(
        self, schema: Schema, *after: str | None, op: Op = Op.CREATE, old: str | None = None
    ) -> Change:
        self._last += 1
        row: Row = after
        return Change(
            schema,
            op,
            tuple(after[i] for i in schema.key_indexes),
            Position(f"{self._last:08X}"),
            Microseconds(self._last),
            None if op is Op.DELETE else row,
            None,
            None if old is None else (old,),
        )

    async def table(self, stream: str) -> LiveTable:
        [found] = [t for t in await self.store.live_tables() if t.stream == stream]
        return found


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    pool = await open_pool(database_url, max_size=3)
    yield Database(PostgresStore(pool), database_url)
    await pool.close()


def schema(
    *columns: tuple[str, str], stream: str = "public.things", source: str = "shop"
) -> Schema:
    """The first column is the key."""
    made = [Column(name, of, i == 0) for i, (name, of) in enumerate(columns)]
    return Schema(source, stream, tuple(made))


# ------------------------------------------------------------------ values

VALUES: Sequence[tuple[str, str]] = [
    ("smallint", "-32768"),
    ("integer", "2147483647"),
    ("bigint", "-9223372036854775808"),
    ("numeric", "NaN"),
    ("numeric", "-Infinity"),
    ("numeric", "123456789012345678901234567890.000000000000000000000001"),
    ("numeric(10,2)", "99999999.50"),
    ("numeric(3,-2)", "12300"),
    ("real", "3.4028235e+38"),
    ("double precision", "0.1"),
    ("double precision", "-Infinity"),
    ("money", "$1,000.50"),
    ("boolean", "t"),
    ("text", ""),
    ("text", 'quote " back \\ comma , brace { } null NULL tab \t line \n \U0001f30a'),
    ("text", "NULL"),
    ("character varying(5)", "abcde"),
    ("character(5)", "ab   "),
    ('"char"', "x"),
    ("name", "a name"),
    ("bytea", "\\x00ff5c22"),
    ("bit(3)", "101"),
    ("bit varying(5)", "10"),
    ("date", "0044-03-15 BC"),
    ("date", "infinity"),
    ("time without time zone", "24:00:00"),
    ("time(3) without time zone", "10:11:12.123"),
    ("time with time zone", "10:11:12.5+02"),
    ("timestamp without time zone", "294276-12-31 23:59:59.999999"),
    ("timestamp(3) without time zone", "2026-01-02 03:04:05.678"),
    ("timestamp with time zone", "2026-01-02 03:04:05.678+00"),
    ("timestamp with time zone", "-infinity"),
    ("interval", "-1 years -2 mons +3 days -04:05:06.7"),
    ("interval day to second(3)", "3 days 04:05:06.789"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", '{"a": 1,  "a": [null, "x"]}'),
    ("jsonb", '{"a": [1, "é", null]}'),
    ("jsonpath", '$."a"[*]?(@ > 1)'),
    ("xml", "<a/>"),
    ("inet", "192.168.0.1/24"),
    ("cidr", "10.0.0.0/8"),
    ("macaddr", "08:00:2b:01:02:03"),
    ("macaddr8", "08:00:2b:01:02:03:04:05"),
    ("point", "(1.5,2)"),
    ("line", "{1,2,3}"),
    ("lseg", "[(1,2),(3,4)]"),
    ("box", "(3,4),(1,2)"),
    ("path", "((1,2),(3,4))"),
    ("polygon", "((0,0),(1,1),(1,0))"),
    ("circle", "<(1,2),3>"),
    ("tsvector", "'a':1A 'b c':2"),
    ("tsquery", "'a' & !'b'"),
    ("int4range", "[1,5)"),
    ("tstzrange", '["2026-01-01 00:00:00+00",)'),
    ("numrange", "empty"),
    ("int4multirange", "{[1,2),[5,7)}"),
    ("oid", "4294967295"),
    ("regclass", "some.table"),
    ("pg_lsn", "16/B374D848"),
    ("xid8", "123"),
    ("integer[]", "{1,NULL,3}"),
    ("integer[]", "[0:1]={1,2}"),
    ("text[]", '{{"a b",NULL},{"c\\"d","NULL"}}'),
    ("numeric(10,2)[]", "{1.50,2.00}"),
    ("box[]", "{(3,4),(1,2);(1,1),(0,0)}"),
    ("timestamp with time zone[]", '{"2026-01-02 03:04:05+00"}'),
    ("mood", "happy"),
    ("public.mood[]", "{happy,sad}"),
    ("shop.money_amount", "12"),
    ('weird "type); DROP TABLE x; --', "1"),
]


async def test_every_type_keeps_its_value(database: Database) -> None:
    """What the source prints is what the live table prints, for built-in types and foreign ones."""
    columns = [("id", "integer"), *((f"c{i}", of) for i, (of, _) in enumerate(VALUES))]
    wide = schema(*columns)
    values = [value for _, value in VALUES]
    await database.apply(
        database.change(wide, "1", *values), database.change(wide, "2", *([None] * len(values)))
    )
    async with await psycopg.AsyncConnection.connect(
        database.dsn, options="-c timezone=UTC -c extra_float_digits=3"
    ) as connection:
        cursor = await connection.execute("SELECT * FROM shop.things ORDER BY id", prepare=False)
        # The text format of the protocol is what the source sends; psycopg would convert it.
        result = cursor.pgresult
        assert result is not None
        found = [result.get_value(0, i + 1) for i in range(len(values))]
        empty = [result.get_value(1, i + 1) for i in range(len(values))]
    assert [None if f is None else f.decode() for f in found] == values
    assert set(empty) == {None}


async def test_types_stay_types(database: Database) -> None:
    """A live table can be computed with: built-in types are kept, what is foreign is text."""
    await database.store.prepare_tables(
        [schema(("id", "bigint"), ("price", "numeric(10,2)"), ("m", "mood"), ("at", "date"))]
    )
    found = await database.query(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'shop.things'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert found == [
        ("id", "bigint"),
        ("price", "numeric(10,2)"),
        ("m", "text"),
        ("at", "date"),
        ("_penstock_position", "text"),
        ("_penstock_committed_at", "bigint"),
        ("_penstock_tenant", "text"),
    ]


@pytest.mark.parametrize(
    ("of", "value"),
    [("integer", "abc"), ("smallint", "70000"), ("character varying(3)", "abcd"), ("text", "a\0b")],
)
async def test_g13_a_refused_value_names_its_change(
    database: Database, of: str, value: str
) -> None:
    """A value that the type refuses is a bad record with the key and the position; never cut."""
    change = database.change(schema(("id", "integer"), ("v", of)), "7", value)
    with pytest.raises(BadRecordError) as caught:
        await database.apply(change)
    assert caught.value.facts["key"] == ("7",)
    assert caught.value.facts["position"] == change.position
    assert "('7',)" in str(caught.value)
    assert "public.things" in str(caught.value)


async def test_a_missing_key_value_is_a_bad_record(database: Database) -> None:
    """NULL in a key is refused by the row, not by the stream."""
    with pytest.raises(BadRecordError):
        await database.apply(database.change(schema(("id", "integer"), ("v", "text")), None, "a"))


async def test_large_batches_are_cut(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of large values goes in pieces, and still all of it arrives."""
    monkeypatch.setattr("penstock.stores.postgres.tables.MAX_CHARACTERS", 10_000)
    large = schema(("id", "integer"), ("body", "text"))
    await database.apply(*(database.change(large, str(i), "x" * 3000) for i in range(50)))
    partial = [
        database.change(large, str(i), UNCHANGED, op=Op.UPDATE)  # type: ignore[arg-type]
        for i in range(50)
    ]
    await database.apply(*partial)
    assert await database.query("SELECT count(*), min(length(body)) FROM shop.things") == [
        (50, 3000)
    ]


# ------------------------------------------------------------------ names, rights, keys


async def test_streams_of_one_name_get_tables_of_two(database: Database) -> None:
    """The second stream of a name carries its schema; a name of ours is moved out of the way."""
    first = schema(("id", "integer"), stream="public.flights", source="Travel-1")
    second = schema(
        ("id", "integer"), ("_penstock_position", "text"), stream="old.flights", source="Travel-1"
    )
    await database.store.prepare_tables([first, second])
    await database.apply(database.change(second, "1", "theirs"))
    one, two = await database.table("public.flights"), await database.table("old.flights")
    assert (one.schema_name, one.table_name) == ("travel_1", "flights")
    assert two.table_name == "old_flights"
    assert await database.query(
        "SELECT source_penstock_position, _penstock_position FROM travel_1.old_flights"
    ) == [("theirs", "00000001")]


async def test_a_table_that_is_not_ours_is_left_alone(database: Database) -> None:
    """A name that is taken by something else is refused with a sentence."""
    await database.query("CREATE SCHEMA shop")
    await database.query("CREATE TABLE shop.things (x integer)")
    with pytest.raises(ConfigError, match="not ours"):
        await database.store.prepare_tables([schema(("id", "integer"))])


async def test_a_stream_without_key_is_refused(database: Database) -> None:
    """Rows that cannot be told apart cannot be kept."""
    keyless = Schema("shop", "public.things", (Column("a", "integer"),))
    with pytest.raises(SourceError, match="key"):
        await database.store.prepare_tables([keyless])


async def test_a_row_may_be_its_own_key(database: Database) -> None:
    """A table without key sends whole old rows; its values may be NULL and long."""
    whole = Schema(
        "shop", "public.things", (Column("a", "integer", True), Column("b", "text", True))
    )
    long = "x" * 5000
    await database.apply(
        database.change(whole, "1", None),
        database.change(whole, "1", long),
        database.change(whole, "2", None),
    )
    gone = database.change(whole, "1", None, op=Op.DELETE)
    moved = database.change(whole, "2", "now", op=Op.UPDATE)._replace(old_key=("2", None))
    await database.apply(gone, moved)
    assert await database.query("SELECT a, b FROM shop.things ORDER BY a") == [
        (1, long),
        (2, "now"),
    ]


async def test_readers_see_their_tenant_only(database: Database) -> None:
    """Row-level security is forced: the reading role sees rows of the tenant it names, or none."""
    await database.apply(database.change(schema(("id", "integer")), "1"))
    seen = []
    for tenant in ("default", "other", ""):
        async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
            await connection.execute("SELECT set_config('penstock.tenant', %s, true)", [tenant])
            await connection.execute("SET LOCAL ROLE penstock_reader")
            cursor = await connection.execute("SELECT count(*) FROM shop.things")
            seen.append(await cursor.fetchone())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute("DELETE FROM shop.things")
    assert seen == [(1,), (0,), (0,)]


# ------------------------------------------------------------------ columns that change


async def rows(database: Database, columns: str) -> list[tuple[object, ...]]:
    return await database.query(f"SELECT {columns} FROM shop.things ORDER BY id")


async def test_columns_follow_within_one_batch(database: Database) -> None:
    """Rows of the old shape, then of the new, in one transaction: each with its own columns."""
    old = schema(("id", "integer"), ("name", "text"), ("gone", "text"))
    new = schema(("id", "integer"), ("name", "text"), ("price", "numeric(10,2)"))
    await database.apply(
        database.change(old, "1", "a", "x"),
        database.change(old, "2", "b", "y"),
        database.change(new, "2", "b", "2.50", op=Op.UPDATE),
        database.change(new, "3", "c", None),
    )
    assert [tuple(map(str, row)) for row in await rows(database, "id, name, price")] == [
        ("1", "a", "None"),
        ("2", "b", "2.50"),
        ("3", "c", "None"),
    ]
    table = await database.table("public.things")
    assert table.columns == new.columns
    assert "'price' was added" in (table.reread or "")


async def test_a_renamed_column_keeps_its_values(database: Database) -> None:
    """Rows that nobody touched since the renaming have their values under the new name."""
    old = schema(("id", "integer"), ("name", "text"), ("price", "integer"))
    new = schema(("id", "integer"), ("title", "text"), ("price", "integer"))
    await database.apply(database.change(old, "1", "a", "5"))
    await database.apply(database.change(new, "2", "b", "6"))
    assert await rows(database, "id, title, price") == [(1, "a", 5), (2, "b", 6)]
    assert (await database.table("public.things")).reread is None


async def test_a_doubtful_renaming_is_said(database: Database) -> None:
    """The last column gone and another come: values are kept, and the table asks to be read."""
    old = schema(("id", "integer"), ("name", "text"))
    new = schema(("id", "integer"), ("title", "text"))
    await database.apply(database.change(old, "1", "a"))
    await database.apply(database.change(new, "2", "b"))
    assert await rows(database, "id, title") == [(1, "a"), (2, "b")]
    assert "'title'" in ((await database.table("public.things")).reread or "")


async def test_a_later_truncate_ends_the_doubt(database: Database) -> None:
    """Nothing is left of the rows in doubt; an earlier truncate, coming late, leaves the others."""
    old = schema(("id", "integer"), ("name", "text"))
    new = schema(("id", "integer"), ("title", "text"))
    early = database.change(old, "", op=Op.TRUNCATE)._replace(key=(), after=None)
    await database.apply(database.change(old, "1", "a"))
    await database.apply(database.change(new, "2", "b"))
    await database.apply(early)
    assert (await database.table("public.things")).reread is not None
    late = database.change(new, "", op=Op.TRUNCATE)._replace(key=(), after=None)
    await database.apply(late, database.change(new, "3", "c"))
    assert (await database.table("public.things")).reread is None
    assert await rows(database, "id, title") == [(3, "c")]


async def test_a_type_widens(database: Database) -> None:
    """Values stay, and larger ones fit; no doubt arises."""
    old = schema(("id", "integer"), ("n", "integer"), ("v", "character varying(3)"))
    new = schema(("id", "bigint"), ("n", "bigint"), ("v", "text"))
    await database.apply(database.change(old, "1", "5", "abc"))
    await database.apply(database.change(new, "9999999999", "9999999999", "abcdef"))
    assert await rows(database, "id, n, v") == [
        (1, 5, "abc"),
        (9999999999, 9999999999, "abcdef"),
    ]
    assert (await database.table("public.things")).reread is None


async def test_a_type_that_cannot_be_converted_is_emptied(database: Database) -> None:
    """The stream goes on; the table says what it lost."""
    old = schema(("id", "integer"), ("v", "text"))
    new = schema(("id", "integer"), ("v", "date"))
    await database.apply(database.change(old, "1", "soon"))
    await database.apply(database.change(new, "2", "2026-01-01"))
    assert [str(row[1]) for row in await rows(database, "id, v")] == ["None", "2026-01-01"]
    assert "could not be converted" in ((await database.table("public.things")).reread or "")


async def test_a_key_may_change(database: Database) -> None:
    """A key of other columns works where rows allow it; else rows go and the table says so."""
    old = schema(("id", "integer"), ("code", "text"))
    by_code = Schema("shop", old.stream, (Column("id", "integer"), Column("code", "text", True)))
    added = Schema(
        "shop",
        old.stream,
        (*by_code.columns[:1], Column("code", "text"), Column("n", "bigint", True)),
    )
    await database.apply(database.change(old, "1", "a"))
    await database.apply(database.change(by_code, "2", "a", op=Op.UPDATE))
    assert await rows(database, "id, code") == [(2, "a")]
    await database.apply(database.change(added, "3", "b", "1"))
    assert await rows(database, "id, code, n") == [(3, "b", 1)]
    assert "all rows were taken away" in ((await database.table(old.stream)).reread or "")


async def test_a_table_without_key_changes_its_columns(database: Database) -> None:
    """Where the row is the key, other columns mean other keys: rows are read again."""
    old = Schema("shop", "public.things", (Column("id", "integer", True),))
    new = Schema("shop", "public.things", (*old.columns, Column("b", "text", True)))
    keyed = schema(("id", "integer"), ("b", "text"))
    await database.apply(database.change(old, "1"))
    await database.apply(database.change(new, "2", None))
    assert await rows(database, "id, b") == [(2, None)]
    await database.apply(database.change(keyed, "3", "c"))
    assert await rows(database, "id, b") == [(2, None), (3, "c")]


async def test_g1_an_older_schema_does_not_come_back(database: Database) -> None:
    """A replay of changes from before the columns changed alters nothing."""
    old = schema(("id", "integer"), ("name", "text"))
    new = schema(("id", "integer"), ("name", "text"), ("price", "integer"))
    first = [database.change(old, "1", "a"), database.change(old, "2", "b")]
    second = [database.change(new, "2", "b", "5", op=Op.UPDATE)]
    await database.apply(*first)
    await database.apply(*second)
    before = await rows(database, "*")
    await database.apply(*first)
    await database.apply(*first, *second)
    assert await rows(database, "*") == before
    late = database.change(old, "3", "late")._replace(position=first[0].position)
    await database.apply(late)
    assert await rows(database, "id, name, price") == [
        (1, "a", None),
        (2, "b", 5),
        (3, "late", None),
    ]


async def test_an_undone_transaction_undoes_the_columns(database: Database) -> None:
    """What a store remembers of a table follows what was committed, not what was tried."""
    old = schema(("id", "integer"))
    new = schema(("id", "integer"), ("price", "integer"))
    await database.apply(database.change(old, "1"))
    bad = [database.change(new, "2", "5"), database.change(new, "3", "abc")]
    with pytest.raises(BadRecordError):
        await database.apply(*bad)
    assert (await database.table(old.stream)).columns == old.columns
    await database.apply(database.change(old, "4"))
    await database.apply(database.change(new, "5", "6"))
    assert await rows(database, "id, price") == [(1, None), (4, None), (5, 6)]


async def test_two_stores_follow_each_other(database: Database) -> None:
    """Another process altered and truncated the table: the next batch here knows."""
    other_pool = await open_pool(database.dsn, max_size=1)
    other = Database(PostgresStore(other_pool), database.dsn)
    old = schema(("id", "integer"), ("name", "text"))
    new = schema(("id", "integer"), ("name", "text"), ("price", "integer"))
    await database.apply(database.change(old, "1", "a"))
    await other.apply(database.change(new, "2", "b", "5"))
    late = database.change(old, "3", "c")._replace(position=Position("00000001"))
    await database.apply(late, database.change(new, "4", "d", "6"))
    assert await rows(database, "id, price") == [(1, None), (2, 5), (3, None), (4, 6)]
    gone = database.change(new, "9", op=Op.TRUNCATE)._replace(key=(), after=None)
    await other.apply(gone)
    await database.apply(
        database.change(new, "5", "e", "7")._replace(position=Position("00000002"))
    )
    assert await rows(database, "id") == []
    await other_pool.close()
