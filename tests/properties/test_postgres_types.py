"""Every type of PostgreSQL, with values that nobody would think of, is in the live table as it is
at the source: by the copy, by the stream, and by a repair."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from penstock.operate.resync import resync
from penstock.operate.verify import verify
from penstock.project import Project
from penstock.settings import Settings

DEADLINE_S = 20.0

Texts = st.SearchStrategy[str]

integers = st.integers
text: Texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12
)
floats: Texts = st.floats().map(repr).map(lambda t: t.replace("inf", "Infinity"))
decimals: Texts = st.one_of(
    st.decimals(-(10**30), 10**30, places=4).map(lambda d: format(d, "f")),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "0.00000000000000000000000001"]),
)  # fmt: skip
days: Texts = st.one_of(
    st.dates().map(str),
    st.sampled_from(
        ["infinity", "-infinity", "4713-01-01 BC", "0044-03-15 BC", "5874897-12-31", "0001-01-01"]
    ),
)
times: Texts = st.one_of(st.times().map(str), st.just("24:00:00"))
moments: Texts = st.one_of(
    st.datetimes().map(str),
    st.sampled_from(["infinity", "-infinity", "4713-01-01 00:00 BC", "294276-12-31 23:59:59"]),
)  # fmt: skip
zones = st.sampled_from(["+00", "-12:30", "+14", "+05:45"])
intervals: Texts = st.tuples(
    integers(-9999, 9999), integers(-9999, 9999), integers(-(10**12), 10**12)
).map(lambda p: f"{p[0]} mons {p[1]} days {p[2]} microseconds")
bits: Texts = st.text("01", max_size=20)
octets: Texts = st.binary(max_size=20).map(lambda b: "\\x" + b.hex())
documents: Texts = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
).map(lambda value: json.dumps(value, ensure_ascii=False))
numbers: Texts = st.integers(-1000, 1000).map(str)
point: Texts = st.tuples(numbers, numbers).map(lambda p: f"({p[0]},{p[1]})")


def ranges(bounds: st.SearchStrategy[int]) -> Texts:
    return st.one_of(
        st.just("empty"),
        st.tuples(bounds, bounds).map(lambda p: f"[{min(p)},{max(p)})"),
        bounds.map(lambda b: f"(,{b}]"),
        bounds.map(lambda b: f"[{b},)"),
        st.just("(,)"),
    )


def day_ranges() -> Texts:
    return st.tuples(st.dates(), st.dates()).map(lambda p: f"[{min(p)},{max(p)}]")


def arrays(of: Texts) -> Texts:
    """As PostgreSQL reads them, NULLs and quotes included."""

    def quoted(value: str | None) -> str:
        if value is None:
            return "NULL"
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    one = st.lists(st.none() | of, max_size=3).map(lambda v: "{" + ",".join(map(quoted, v)) + "}")
    two = st.tuples(of, of).map(lambda p: "{{" + quoted(p[0]) + "},{" + quoted(p[1]) + "}}")
    return one | two


short = text.map(lambda t: t[:5])
# SQL type -> texts that it reads. What is not built in is made by MADE.
TYPES: Final[dict[str, Texts]] = {
    "smallint": integers(-(2**15), 2**15 - 1).map(str),
    "integer": integers(-(2**31), 2**31 - 1).map(str),
    "bigint": integers(-(2**63), 2**63 - 1).map(str),
    "oid": integers(0, 2**32 - 1).map(str),
    "real": st.floats(width=32).map(repr).map(lambda t: t.replace("inf", "Infinity")),
    "double precision": floats,
    "numeric": decimals,
    "numeric(20,8)": st.one_of(
        st.just("NaN"), st.decimals("-99999999", "99999999", places=8).map(str)
    ),
    "money": integers(-(10**15), 10**15).map(lambda n: f"{n / 100:.2f}"),
    "boolean": st.sampled_from(["t", "f"]),
    "text": text,
    "character varying(5)": short,
    "character(5)": short,
    '"char"': st.characters(min_codepoint=1, max_codepoint=126).map(str),
    "name": text.map(lambda t: t[:10]),
    "citext_like": text,
    "bytea": octets,
    "bit(7)": st.text("01", min_size=7, max_size=7),
    "bit varying": bits,
    "bit varying(24)": bits,
    "date": days,
    "time without time zone": times,
    "time(3) without time zone": times,
    "time with time zone": st.tuples(times, zones).map("".join),
    "timestamp without time zone": moments,
    "timestamp(3) without time zone": st.datetimes().map(str),
    "timestamp with time zone": moments,
    "interval": intervals,
    "inet": st.one_of(
        st.ip_addresses().map(str),
        st.tuples(st.ip_addresses(v=4), integers(0, 32)).map(lambda p: f"{p[0]}/{p[1]}"),
    ),
    "cidr": st.ip_addresses().map(str),
    "macaddr": st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":")),
    "macaddr8": st.binary(min_size=8, max_size=8).map(lambda b: b.hex(":")),
    "uuid": st.uuids().map(str),
    "json": documents.filter(lambda t: "\\u0000" not in t),
    "jsonb": documents.filter(lambda t: "\\u0000" not in t),
    "point": point,
    "line": st.tuples(integers(1, 9), numbers, numbers).map(lambda p: f"{{{p[0]},{p[1]},{p[2]}}}"),
    "lseg": st.tuples(point, point).map(lambda p: f"[{p[0]},{p[1]}]"),
    "box": st.tuples(point, point).map(",".join),
    "path": st.lists(point, min_size=1, max_size=3).map(lambda p: f"[{','.join(p)}]"),
    "polygon": st.lists(point, min_size=1, max_size=3).map(lambda p: f"({','.join(p)})"),
    "circle": st.tuples(point, integers(0, 99)).map(lambda p: f"<{p[0]},{p[1]}>"),
    "tsvector": st.lists(st.text("abcxyz", min_size=1), max_size=4).map(" ".join),
    "tsquery": st.lists(st.text("abcxyz", min_size=1), min_size=1, max_size=4).map(" & ".join),
    "int4range": ranges(integers(-(10**6), 10**6)),
    "int8range": ranges(integers(-(10**15), 10**15)),
    "numrange": ranges(integers(-(10**6), 10**6)),
    "daterange": day_ranges(),
    "tsrange": day_ranges(),
    "tstzrange": day_ranges(),
    "int4multirange": st.lists(
        ranges(integers(-99, 99)).filter(lambda r: r != "empty"), max_size=3
    ).map(lambda r: "{" + ",".join(r) + "}"),
    "pg_lsn": integers(0, 2**63).map(lambda n: f"{n >> 32:X}/{n & 0xFFFFFFFF:X}"),
    "integer[]": arrays(numbers),
    "text[]": arrays(text),
    "numeric[]": arrays(decimals),
    "boolean[]": arrays(st.sampled_from(["t", "f"])),
    "date[]": arrays(days),
    "bytea[]": arrays(octets),
    "inet[]": arrays(st.ip_addresses().map(str)),
    "uuid[]": arrays(st.uuids().map(str)),
    "jsonb[]": arrays(documents.filter(lambda t: "\\u0000" not in t)),
    "int4range[]": arrays(ranges(integers(-99, 99))),
    "character(10)[]": arrays(short),
    "mood": st.sampled_from(["sad", "it's ok", 'very "good"']),
    "mood[]": arrays(st.sampled_from(["sad", "it's ok", 'very "good"'])),
    "price": st.decimals("0", "9999", places=3).map(str),
    "price_of_price": st.decimals("0", "9999", places=3).map(str),
    "price[]": arrays(st.decimals("0", "9999", places=3).map(str)),
    "pair": st.tuples(numbers, text).map(
        lambda p: f'({p[0]},"' + p[1].replace("\\", "\\\\").replace('"', '""') + '")'
    ),
    "pair[]": arrays(numbers.map(lambda n: f"({n},x)")),
    "span": ranges(integers(-99, 99)),
    "vector(3)": st.tuples(numbers, numbers, numbers).map(lambda p: f"[{','.join(p)}]"),
}
MADE: Final = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    """CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'very "good"')""",
    "CREATE DOMAIN price AS numeric(8,3) CHECK (VALUE >= 0)",
    "CREATE DOMAIN price_of_price AS price",
    'CREATE DOMAIN citext_like AS text COLLATE "C"',
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE TYPE span AS RANGE (subtype = float8)",
)


def name(number: int) -> str:
    return f"c{number}"


rows = st.lists(
    st.tuples(*(st.none() | values for values in TYPES.values())), min_size=1, max_size=2
)


@pytest.fixture
async def shop(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A database with one column for each type."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        for statement in MADE:
            await connection.execute(statement)
        columns = ", ".join(f"{name(i)} {of}" for i, of in enumerate(TYPES))
        await connection.execute(f"CREATE TABLE everything (id serial PRIMARY KEY, {columns})")
        yield connection


@pytest.fixture
async def project(
    shop: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> AsyncIterator[Project]:
    settings = Settings.model_validate(
        {
            "project": "types",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.1,
                    "tables": ["public.*"],
                }
            },
        }
    )
    project = Project(settings)
    try:
        await project.start()
        yield project
    finally:
        await project.close()


async def differences(project: Project) -> list[str]:
    project.meters.sources.clear()  # the source stands still: one look is enough
    report = await verify(project)
    return [f"{part.what} {found}" for part in report.sources for found in part.named]


async def put(shop: psycopg.AsyncConnection, values: list[tuple[Any, ...]]) -> None:
    """Insert rows; each value is read by its type from text."""
    statement = sql.SQL("INSERT INTO everything ({}) VALUES ({})").format(
        sql.SQL(", ").join(sql.Identifier(name(i)) for i in range(len(TYPES))),
        sql.SQL(", ").join(sql.SQL("%s::text::" + of) for of in TYPES),
    )
    for row in values:
        await shop.execute(statement, row)


@settings(
    max_examples=4,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking 70 columns takes an hour
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, *HealthCheck],
)
@given(copied=rows, streamed=rows, changed=rows)
async def test_every_type_byte_for_byte(
    project: Project,
    shop: psycopg.AsyncConnection,
    copied: list[tuple[Any, ...]],
    streamed: list[tuple[Any, ...]],
    changed: list[tuple[Any, ...]],
) -> None:
    """Rows that are copied, streamed and repaired are equal byte by byte."""
    await put(shop, copied)
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        await put(shop, streamed)
        await shop.execute("UPDATE everything SET c0 = 1 WHERE id % 2 = 0")
        await project.caught_up(limit_s=DEADLINE_S)
    assert await differences(project) == []
    await put(shop, changed)
    await resync(project, "shop")
    assert await differences(project) == []
