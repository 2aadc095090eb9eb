"""A live table gets the columns that its source has now.

Columns follow the source in stream order: a change whose schema differs from the registered one,
and whose position is later than that one's, alters the table before its row is stored, in the same
transaction (G1). An earlier schema (a replay, a slower partition) does not.
"""

from __future__ import annotations

import psycopg
from psycopg import errors as pg
from psycopg import sql

from penstock.records import Position, Schema
from penstock.stores.postgres import live_names
from penstock.stores.postgres.evolution import Evolution, evolution
from penstock.stores.postgres.live_tables import (
    QUERIES,
    Connection,
    LiveTable,
    columns_json,
    expect_key,
    identifiers,
    present_types,
    raw_type,
)


async def adopt(
    connection: Connection, table: LiveTable, schema: Schema, position: Position
) -> None:
    """Give a table the columns of a later schema; the caller holds the lock ``alone``."""
    expect_key(schema)
    steps = evolution(table.columns, schema.columns)
    doubts = list(steps.doubts) if await _has_rows(connection, table) else []
    doubts += await _alter(connection, table, schema, steps)
    reread = table.reread
    if doubts:
        reread = "; ".join([*([reread] if reread else []), *doubts])
    await connection.execute(
        QUERIES["adopt"],
        {
            "source": table.source,
            "stream": table.stream,
            "columns": columns_json(schema.columns),
            "columns_at": position,
            "reread": reread,
        },
    )
    # Its key and columns, as what follows it for permissions knows them, may be others now.
    [(tenant,)] = await (
        await connection.execute(QUERIES["tenant_of"], [table.source, table.stream])
    ).fetchall()
    await connection.execute(QUERIES["attach"], [tenant, table.source, table.stream])


async def _has_rows(connection: Connection, table: LiveTable) -> bool:
    cursor = await connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table.identifier)
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def _alter(
    connection: Connection, table: LiveTable, schema: Schema, steps: Evolution
) -> list[str]:
    """Do the steps; returns doubts that came up while doing them."""
    now = LiveTable(table.source, table.stream, table.schema_name, table.table_name, schema.columns)
    # The name of a live column may depend on the others, so each is looked up on its own side.
    was = dict(zip(table.schema.names, table.names, strict=True))
    here = dict(zip(schema.names, now.names, strict=True))
    types = dict(zip(schema.names, await present_types(connection, schema.columns), strict=True))
    head = sql.SQL("ALTER TABLE {} ").format(table.identifier)
    whole = table.whole_row_key or now.whole_row_key
    rekeyed = steps.new_key or (whole and table.schema.names != schema.names)
    if rekeyed:
        await _drop_key(connection, table)
    for name in steps.drop:
        await connection.execute(head + sql.SQL("DROP COLUMN {}").format(sql.Identifier(was[name])))
    for old, new in _renames(steps, was, here):
        await connection.execute(
            head
            + sql.SQL("RENAME COLUMN {} TO {}").format(sql.Identifier(old), sql.Identifier(new))
        )
    doubts: list[str] = []
    for column in steps.retype:
        doubts += await _retype(connection, table.identifier, here[column.name], types[column.name])
    for column in steps.add:
        await connection.execute(
            head
            + sql.SQL("ADD COLUMN {} {}").format(
                sql.Identifier(here[column.name]), raw_type(types[column.name])
            )
        )
    if rekeyed:
        doubts += await _add_key(connection, table, now)
    return doubts


def _renames(steps: Evolution, was: dict[str, str], here: dict[str, str]) -> list[tuple[str, str]]:
    """Live names that change, by renaming at the source or because they depend on other columns."""
    new_names = {new for _, new in steps.rename}
    kept = [(name, name) for name in here if name in was and name not in new_names]
    pairs = [(was[old], here[new]) for old, new in (*steps.rename, *kept)]
    return [(old, new) for old, new in pairs if old != new]


async def _retype(connection: Connection, table: sql.Identifier, name: str, to: str) -> list[str]:
    """Change a column's type: by PostgreSQL's own conversion, else by way of text, else empty."""
    column, of = sql.Identifier(name), raw_type(to)
    change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {}").format(table, column, of)
    ways = [
        change,
        change + sql.SQL(" USING {}::text::{}").format(column, of),
        change + sql.SQL(" USING NULL::{}").format(of),
    ]
    for number, way in enumerate(ways):
        try:
            async with connection.transaction():
                await connection.execute(way)
        except (pg.DatatypeMismatch, pg.CannotCoerce, psycopg.DataError, psycopg.IntegrityError):
            continue
        return [f"{name!r} could not be converted to {to}"] if number == len(ways) - 1 else []
    # Part of the key: there is nothing that the rows could keep.
    await connection.execute(sql.SQL("DELETE FROM {}").format(table))
    await connection.execute(ways[-1])
    return [f"the key {name!r} could not be converted to {to}, so all rows were taken away"]


async def _drop_key(connection: Connection, table: LiveTable) -> None:
    cursor = await connection.execute(QUERIES["primary_key"], [table.schema_name, table.table_name])
    row = await cursor.fetchone()
    steps = [sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(row[0]))] if row else []
    steps += [
        sql.SQL("ALTER COLUMN {} DROP NOT NULL").format(sql.Identifier(name))
        for name in table.key_names
    ]
    if table.whole_row_key:
        steps.append(sql.SQL("DROP COLUMN {}").format(sql.Identifier(live_names.KEY)))
    # One by one: PostgreSQL refuses to touch a column twice in one statement.
    for step in steps:
        await connection.execute(sql.SQL("ALTER TABLE {} ").format(table.identifier) + step)


async def _add_key(connection: Connection, table: LiveTable, now: LiveTable) -> list[str]:
    """Make the primary key anew; where the rows do not allow it (the new key has values that no
    change has carried yet) they go, and the table waits to be read again."""
    head = sql.SQL("ALTER TABLE {} ").format(table.identifier)
    add = head + sql.SQL("ADD PRIMARY KEY ({})").format(identifiers(now.key_names))
    if now.whole_row_key:
        await connection.execute(
            head + sql.SQL("ADD COLUMN {} text").format(sql.Identifier(live_names.KEY))
        )
    try:
        async with connection.transaction():
            await connection.execute(add)
    except psycopg.IntegrityError:
        await connection.execute(sql.SQL("DELETE FROM {}").format(table.identifier))
        await connection.execute(add)
        return ["its key changed, so all rows were taken away"]
    return []
