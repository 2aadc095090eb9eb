"""Rows of live tables as they are in a snapshot, found by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import psycopg
from psycopg import errors, sql
from psycopg.abc import Buffer
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader
from psycopg.types.json import Jsonb

from penstock.errors import RetryableError
from penstock.records import Column, Key, Position
from penstock.stores.base import LiveRow, Passage
from penstock.stores.postgres.live_names import (
    COMMITTED_AT,
    KEY,
    POSITION,
    key_texts,
    live_columns,
)

_Place: TypeAlias = tuple[str, str, Key]

_TABLES: Final = """
SELECT l.source, l.stream, l.schema_name, l.table_name, l.columns
FROM unnest(%s::text[], %s::text[]) w (source, stream)
JOIN penstock.live_tables l USING (source, stream)
WHERE l.tenant = penstock.tenant()
"""
# The record of the table gives each text of a key the type of its column.
_ROWS: Final = """
SELECT w.ordinality, t.{version}, t.{committed}, {shown}
FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb) WITH ORDINALITY w
JOIN {table} t ON {same_key}
"""


class _Table(NamedTuple):
    """A live table; ``registered`` are the source's columns: name, type, whether of the key."""

    source: str
    stream: str
    schema: str
    name: str
    registered: Sequence[tuple[str, str, bool]]

    @property
    def names(self) -> list[str]:
        """The columns as the source calls them."""
        return [name for name, _, _ in self.registered]


async def read_rows(
    connection: psycopg.AsyncConnection[Any], wanted: Sequence[Passage]
) -> list[LiveRow]:
    """The rows that these passages stand for, in their order; rows that are gone are left out."""
    asked: dict[tuple[str, str], list[Key]] = {}
    for passage in wanted:
        if passage.stream is not None and passage.row_key is not None:
            asked.setdefault((passage.source, passage.stream), []).append(tuple(passage.row_key))
    if not asked:
        return []
    cursor = await connection.execute(
        _TABLES, [[s for s, _ in asked], [t for _, t in asked]], prepare=True
    )
    tables = [_Table(*row) for row in await cursor.fetchall()]
    found: dict[_Place, LiveRow] = {}
    try:
        # All tables are asked before one answers.
        answers = [await _ask(connection, table, asked[table[:2]]) for table in tables]
        for table, answer in zip(tables, answers, strict=True):
            keys = asked[table[:2]]
            found.update(_live(table, keys, row) for row in await answer.fetchall())
    except (errors.UndefinedColumn, errors.UndefinedTable) as error:
        # Columns are looked up in the present, the register was read in the snapshot.
        raise RetryableError(
            "expected live tables to keep their columns while they are read, but one has just "
            "changed: ask again"
        ) from error
    places = dict.fromkeys(
        (p.source, p.stream, tuple(p.row_key))
        for p in wanted
        if p.stream is not None and p.row_key is not None
    )
    return [found[place] for place in places if place in found]


async def _ask(
    connection: psycopg.AsyncConnection[Any], table: _Table, keys: Sequence[Key]
) -> psycopg.AsyncCursor[Any]:
    columns = live_columns([Column(*column) for column in table.registered])
    key_names = [
        name for name, (_, _, of_key) in zip(columns, table.registered, strict=True) if of_key
    ]
    records: list[dict[str, str | None]]
    if len(key_names) == len(columns):  # then a digest of the row stands for the key
        records = [{KEY: text} for text in key_texts(keys)]
        key_names = [KEY]
    else:
        records = [dict(zip(key_names, key, strict=True)) for key in keys]
    statement = sql.SQL(_ROWS).format(
        version=sql.Identifier(POSITION),
        committed=sql.Identifier(COMMITTED_AT),
        same_key=sql.SQL(" AND ").join(
            sql.SQL("t.{name} = w.{name}").format(name=sql.Identifier(name)) for name in key_names
        ),
        shown=sql.SQL(", ").join(sql.Identifier("t", name) for name in columns),
        table=sql.Identifier(table.schema, table.name),
    )
    return await lenient_cursor(connection).execute(statement, [Jsonb(records)], prepare=True)


def lenient_cursor(connection: psycopg.AsyncConnection[Any]) -> psycopg.AsyncCursor[Any]:
    """One that gives times for which Python has no value as texts."""
    cursor = connection.cursor()
    for kind, loader in (
        ("date", _DateLoader),
        ("timestamp", _TimestampLoader),
        ("timestamptz", _TimestamptzLoader),
    ):
        cursor.adapters.register_loader(kind, loader)
    return cursor


def _live(table: _Table, keys: Sequence[Key], row: Sequence[Any]) -> tuple[_Place, LiveRow]:
    place, version, committed_at, *values = row
    key = keys[place - 1]
    live = LiveRow(
        table.source,
        table.stream,
        key,
        dict(zip(table.names, values, strict=True)),
        Position(version),
        committed_at,
    )
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
