"""Rows of live tables as they are in a snapshot, found by their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader

from penstock.records import Position
from penstock.stores.base import LiveRow, Passage

OWN: Final = "_penstock_"
"""Columns of ours in a live table begin so; they are never shown."""
VERSION: Final = "_penstock_position"
COMMITTED: Final = "_penstock_committed_at"

# The types are those of the live table itself, as PostgreSQL writes them: keys are cast to them.
_COLUMNS = """
SELECT l.source, l.stream, l.schema_name, l.table_name, l.columns,
       array_agg(a.attname::text ORDER BY a.attnum),
       array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
FROM unnest(%s::text[], %s::text[]) w (source, stream)
JOIN penstock.live_tables l USING (source, stream)
JOIN pg_attribute a
  ON a.attrelid = to_regclass(format('%%I.%%I', l.schema_name, l.table_name))
 AND a.attnum > 0 AND NOT a.attisdropped
WHERE l.tenant = penstock.tenant()
GROUP BY l.source, l.stream
"""


class _Table(NamedTuple):
    """A live table: its columns with types, and which of them are the key, in the key's order."""

    source: str
    stream: str
    schema: str
    name: str
    registered: Sequence[tuple[str, str, bool]]
    columns: Sequence[str]
    types: Sequence[str]

    @property
    def key(self) -> list[str]:
        return [name for name, _, is_key in self.registered if is_key]

    @property
    def shown(self) -> list[str]:
        return [name for name in self.columns if not name.startswith(OWN)]


async def read_rows(
    connection: psycopg.AsyncConnection[Any], wanted: Sequence[Passage]
) -> list[LiveRow]:
    """The rows that these passages stand for, in their order; rows that are gone are left out."""
    asked: dict[tuple[str, str], list[Sequence[str | None]]] = {}
    for passage in wanted:
        if passage.stream is not None and passage.row_key is not None:
            asked.setdefault((passage.source, passage.stream), []).append(passage.row_key)
    if not asked:
        return []
    cursor = await connection.execute(
        _COLUMNS, [[s for s, _ in asked], [t for _, t in asked]], prepare=True
    )
    tables = [_Table(*row) for row in await cursor.fetchall()]
    # All tables are asked before one answers.
    answers = [
        (table, await _ask(connection, table, asked[table.source, table.stream]))
        for table in tables
    ]
    found: dict[tuple[str, str, tuple[str | None, ...]], LiveRow] = {}
    for table, answer in answers:
        if answer is not None:
            rows = await answer.fetchall()
            found.update(_live(table, asked[table.source, table.stream], row) for row in rows)
    places = dict.fromkeys(
        (p.source, p.stream, tuple(p.row_key))
        for p in wanted
        if p.stream is not None and p.row_key is not None
    )
    return [found[place] for place in places if place in found]


async def _ask(
    connection: psycopg.AsyncConnection[Any], table: _Table, keys: Sequence[Sequence[str | None]]
) -> psycopg.AsyncCursor[Any] | None:
    names = table.key
    if not names or not set(names) <= set(table.columns):
        return None
    types = dict(zip(table.columns, table.types, strict=True))
    arrays = [[key[i] if i < len(key) else None for key in keys] for i in range(len(names))]
    statement = sql.SQL(
        "SELECT w.place, t.{version}, t.{committed}, {shown}"
        " FROM unnest({arrays}) WITH ORDINALITY w ({aliases}, place) JOIN {table} t ON {matches}"
    ).format(
        version=sql.Identifier(VERSION),
        committed=sql.Identifier(COMMITTED),
        shown=sql.SQL(", ").join(sql.Identifier("t", name) for name in table.shown),
        arrays=sql.SQL(", ").join(sql.SQL("%s::text[]") for _ in names),
        aliases=sql.SQL(", ").join(sql.Identifier(f"k{i}") for i in range(len(names))),
        table=sql.Identifier(table.schema, table.name),
        matches=sql.SQL(" AND ").join(
            sql.SQL("{} = CAST({} AS {})").format(
                sql.Identifier("t", name), sql.Identifier("w", f"k{i}"), _type(types[name])
            )
            for i, name in enumerate(names)
        ),
    )
    cursor = connection.cursor()
    for kind, loader in (
        ("date", _DateLoader),
        ("timestamp", _TimestampLoader),
        ("timestamptz", _TimestamptzLoader),
    ):
        cursor.adapters.register_loader(kind, loader)
    return await cursor.execute(statement, arrays, prepare=True)


def _type(name: str) -> sql.SQL:
    """A type as ``format_type`` wrote it: quoted by PostgreSQL where it needs to be."""
    return sql.SQL(cast("Any", name))


def _live(
    table: _Table, keys: Sequence[Sequence[str | None]], row: Sequence[Any]
) -> tuple[tuple[str, str, tuple[str | None, ...]], LiveRow]:
    place, version, committed, *values = row
    key = tuple(keys[place - 1])
    shown: Mapping[str, Any] = dict(zip(table.shown, values, strict=True))
    live = LiveRow(table.source, table.stream, key, shown, Position(version), committed)
    return (table.source, table.stream, key), live


# What Python has no value for (infinity, years before 1 or after 9999) stays PostgreSQL's text.


class _DateLoader(DateLoader):
    def load(self, data: Buffer) -> Any:
        return _or_text(super().load, data)


class _TimestampLoader(TimestampLoader):
    def load(self, data: Buffer) -> Any:
        return _or_text(super().load, data)


class _TimestamptzLoader(TimestamptzLoader):
    def load(self, data: Buffer) -> Any:
        return _or_text(super().load, data)


def _or_text(load: Any, data: Buffer) -> Any:
    try:
        return load(data)
    except psycopg.DataError:
        return bytes(data).decode()
