"""The registry of live tables, and how one is made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import orjson
import psycopg
from psycopg import errors as pg
from psycopg import sql

from penstock.database.queries import load_queries
from penstock.errors import ConfigError, SourceError
from penstock.records import Column, Position, Schema
from penstock.stores.postgres import live_names

QUERIES: Final = load_queries(Path(__file__).with_name("live_tables.sql"))

Connection = psycopg.AsyncConnection[Any]

# Only plain names of types are written into statements; whatever else a source calls a type is
# stored as text.
_PLAIN_TYPE: Final = re.compile(
    r'(?:"char"|[A-Za-z_][A-Za-z0-9_]*)(?:[ .][A-Za-z_][A-Za-z0-9_]*)*'
    r"(?:\(\d+(?:,-?\d+)?\)(?: [a-z]+)*)?(?:\[\])*"
)
# Their text means something only in the database that printed it (names of objects, a locale), or
# needs what a build of PostgreSQL may lack (xml).
_FOREIGN_TYPE: Final = re.compile(r"(?:reg[a-z]+|xml|money|aclitem|pg_node_tree|refcursor)(\[\])*")


@dataclass(frozen=True)
class LiveTable:
    """A live table as it is registered. ``types`` are those of its columns in the database."""

    source: str
    stream: str
    schema_name: str
    table_name: str
    columns: tuple[Column, ...]
    columns_at: Position | None = None
    truncated_at: Position | None = None
    reread: str | None = None
    types: tuple[str, ...] = ()

    @cached_property
    def schema(self) -> Schema:
        """As the source has it."""
        return Schema(self.source, self.stream, self.columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns' names here."""
        return tuple(live_names.live_columns(self.columns))

    @cached_property
    def whole_row_key(self) -> bool:
        """Is every column part of the key? Then there may be no key at all (values may be NULL and
        long), and a digest of the row stands for it."""
        return all(column.key for column in self.columns)

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """The columns of the primary key here."""
        if self.whole_row_key:
            return (live_names.KEY,)
        return tuple(self.names[i] for i in self.schema.key_indexes)

    @property
    def identifier(self) -> sql.Identifier:
        """The table's name in statements."""
        return sql.Identifier(self.schema_name, self.table_name)


class Registered(NamedTuple):
    """One row of the registry, and what names this version of it."""

    version: str
    row: Mapping[str, Any]


async def lock(connection: Connection, streams: Mapping[tuple[str, str], bool]) -> None:
    """Until the end of the transaction: nobody alters or truncates these tables; where True is
    said, nobody else applies changes to them either."""
    await connection.execute(
        QUERIES["lock"],
        [
            [source for source, _ in streams],
            [stream for _, stream in streams],
            list(streams.values()),
        ],
        prepare=True,
    )


async def registered(
    connection: Connection, streams: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Registered]:
    """What the registry has of these streams."""
    cursor = await connection.execute(
        QUERIES["registered"],
        [[source for source, _ in streams], [stream for _, stream in streams]],
        prepare=True,
    )
    return {
        (source, stream): Registered(version, row)
        for version, source, stream, row in await cursor.fetchall()
    }


async def load(connection: Connection, found: Registered) -> LiveTable:
    """The live table that a row of the registry is about."""
    row = found.row
    table = _table(row)
    cursor = await connection.execute(
        QUERIES["column_types"], [table.schema_name, table.table_name], prepare=True
    )
    types = dict(await cursor.fetchall())
    missing = [name for name in table.names if name not in types]
    if missing:
        raise ConfigError(
            f"expected the live table {table.schema_name}.{table.table_name} with a column "
            f"{missing[0]!r}, found none: the table was altered or dropped by hand; put it back, "
            f"or run `penstock drop` and load the source {table.source!r} again",
            source=table.source,
            stream=table.stream,
        )
    return _table(row, tuple(types[name] for name in table.names))


async def all_tables(connection: Connection, source: str | None = None) -> list[LiveTable]:
    """The registered tables, without their types."""
    cursor = await connection.execute(QUERIES["all_tables"], {"source": source})
    return [_table(row) for (row,) in await cursor.fetchall()]


def _table(row: Mapping[str, Any], types: tuple[str, ...] = ()) -> LiveTable:
    columns = tuple(Column(name, of, bool(key)) for name, of, key in row["columns"])
    return LiveTable(
        row["source"],
        row["stream"],
        row["schema_name"],
        row["table_name"],
        columns,
        row["columns_at"],
        row["truncated_at"],
        row["reread"],
        types,
    )


# --------------------------------------------------------------------------- making


async def create(
    connection: Connection, schema: Schema, tenant: str, position: Position | None
) -> None:
    """Make and register the live table of a schema; the caller holds the lock ``alone``."""
    expect_key(schema)
    in_schema = live_names.live_schema(schema.source)
    # Two streams that would like one name are told apart by whoever comes first.
    await connection.execute(QUERIES["lock_names"], [in_schema])
    cursor = await connection.execute(QUERIES["taken_names"], [in_schema])
    taken = {name for (name,) in await cursor.fetchall()}
    names = live_names.live_table_names(schema.stream)
    name = next((name for name in names if name not in taken), names[-1])
    table = LiveTable(
        schema.source, schema.stream, in_schema, name, schema.columns, None, None, None
    )
    types = await present_types(connection, schema.columns)
    try:
        async with connection.transaction():
            for statement in _creating(table, types, tenant):
                await connection.execute(statement)
    except (pg.DuplicateTable, pg.DuplicateObject) as error:
        raise ConfigError(
            f"expected to make the live table {in_schema}.{name}, but something of that name "
            f"exists and is not ours: rename it, or the source {schema.source!r}",
            source=schema.source,
            stream=schema.stream,
        ) from error
    await connection.execute(
        QUERIES["register"],
        {
            "source": schema.source,
            "stream": schema.stream,
            "tenant": tenant,
            "schema_name": in_schema,
            "table_name": name,
            "columns": columns_json(schema.columns),
            "columns_at": position,
        },
    )
    await connection.execute(QUERIES["attach"], [tenant, schema.source, schema.stream])


def expect_key(schema: Schema) -> None:
    """Raise `SourceError` for a schema without a key: its rows could not be told apart."""
    if not schema.key_indexes:
        raise SourceError(
            f"expected a key on {schema.stream!r} of source {schema.source!r}, got none: add a "
            "primary key, or choose a unique index as its replica identity",
            source=schema.source,
            stream=schema.stream,
        )


def _creating(table: LiveTable, types: Sequence[str], tenant: str) -> list[sql.Composed]:
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(name), raw_type(of))
        for name, of in zip(table.names, types, strict=True)
    ]
    if table.whole_row_key:
        columns.append(sql.SQL("{} text").format(sql.Identifier(live_names.KEY)))
    make = sql.SQL(
        'CREATE TABLE {} ({}, {} text COLLATE "C" NOT NULL, {} bigint NOT NULL,'
        " {} text NOT NULL DEFAULT {}, PRIMARY KEY ({}))"
        # Room in each page keeps an update beside its row, without touching the index.
        " WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05)"
    ).format(
        table.identifier,
        sql.SQL(", ").join(columns),
        sql.Identifier(live_names.POSITION),
        sql.Identifier(live_names.COMMITTED_AT),
        sql.Identifier(live_names.TENANT),
        sql.Literal(tenant),
        identifiers(table.key_names),
    )
    schema = sql.Identifier(table.schema_name)
    return [
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema),
        make,
        sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY").format(
            table.identifier
        ),
        sql.SQL(
            "CREATE POLICY readable ON {} TO penstock_reader USING ({} = penstock.tenant())"
        ).format(table.identifier, sql.Identifier(live_names.TENANT)),
        sql.SQL(
            "CREATE POLICY written ON {} TO CURRENT_USER USING (true) WITH CHECK (true)"
        ).format(table.identifier),
        sql.SQL("GRANT USAGE ON SCHEMA {} TO penstock_reader").format(schema),
        sql.SQL("GRANT SELECT ON {} TO penstock_reader").format(table.identifier),
    ]


async def present_types(connection: Connection, columns: Sequence[Column]) -> list[str]:
    """The columns' types as far as this database has them; text for others."""
    asked = {
        column.type
        for column in columns
        if _PLAIN_TYPE.fullmatch(column.type) and not _FOREIGN_TYPE.fullmatch(column.type)
    }
    cursor = await connection.execute(QUERIES["present_types"], [sorted(asked)])
    present = {name for (name,) in await cursor.fetchall()}
    return [column.type if column.type in present else "text" for column in columns]


def raw_type(plain_type: str) -> sql.SQL:
    """A type as `present_types` or PostgreSQL itself wrote it: safe to stand in a statement."""
    return sql.SQL(cast("Any", plain_type))


def identifiers(names: Sequence[str]) -> sql.Composed:
    """Names of columns, with commas between."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


def columns_json(columns: Sequence[Column]) -> str:
    """Columns as the registry keeps them."""
    return orjson.dumps([list(column) for column in columns]).decode()
