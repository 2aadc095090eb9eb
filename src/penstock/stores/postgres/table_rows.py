"""Rows of one live table by equality, as they are in a snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from penstock.errors import RetryableError
from penstock.records import Column
from penstock.stores.base import TableRow, TableRows, TableWanted
from penstock.stores.postgres.live_names import COMMITTED_AT, KEY, POSITION, live_columns
from penstock.stores.postgres.live_rows import lenient_cursor

_TABLES: Final = """
SELECT l.stream, l.schema_name, l.table_name, l.columns FROM penstock.live_tables l
WHERE l.tenant = penstock.tenant() AND l.source = %s ORDER BY l.stream
"""
_PATIENCE: Final = "SELECT set_config('statement_timeout', '10s', true)"
_TOO_SLOW: Final = (
    "expected rows that are found within 10 seconds, got none: name the columns of the key, or "
    "others that an index holds"
)
_ROWS: Final = """
SELECT t.{version}, t.{committed}, {shown} FROM {table} t WHERE {conditions}
ORDER BY {key} LIMIT %(limit)s
"""


async def columns_of(
    connection: psycopg.AsyncConnection[Any], source: str
) -> Mapping[str, Sequence[str]]:
    """The live tables of a source with their columns, as the source calls both."""
    cursor = await connection.execute(_TABLES, [source], prepare=True)
    return {
        stream: [name for name, _, _ in columns]
        for stream, _, _, columns in await cursor.fetchall()
    }


async def table_rows(
    connection: psycopg.AsyncConnection[Any], wanted: TableWanted
) -> TableRows | None:
    """See `penstock.stores.base.TableSnapshot`."""
    cursor = await connection.execute(_TABLES, [wanted.source], prepare=True)
    found = next((row for row in await cursor.fetchall() if row[0] == wanted.table), None)
    if found is None:
        return None
    statement, values = _composed(wanted, *found[1:])
    try:
        # Within: a mistake of who asks leaves the snapshot, and its connection, whole.
        async with connection.transaction():
            await connection.execute(_PATIENCE)
            cursor = await lenient_cursor(connection).execute(statement, values)
            rows = await cursor.fetchall()
    except (errors.UndefinedColumn, errors.UndefinedTable) as error:
        raise RetryableError(
            f"expected the live table {wanted.table!r} to keep its columns while it is read, but "
            "it has just changed: ask again"
        ) from error
    except errors.QueryCanceled:
        return TableRows(problem=_TOO_SLOW)
    except (psycopg.DataError, errors.UndefinedFunction) as error:
        said = error.diag.message_primary or str(error)
        return TableRows(problem=f"expected values that the columns can hold, got: {said}")
    return TableRows(
        tuple(
            TableRow(dict(zip(wanted.columns, row, strict=True)), version, committed_at)
            for version, committed_at, *row in rows[: wanted.limit]
        ),
        len(rows) > wanted.limit,
    )


def _composed(
    wanted: TableWanted, schema: str, table: str, registered: Sequence[Any]
) -> tuple[sql.Composed, dict[str, Any]]:
    columns = [Column(*column) for column in registered]
    live = dict(zip([c.name for c in columns], live_columns(columns), strict=True))
    keys = [live[column.name] for column in columns if column.key]
    if len(keys) == len(columns):  # then a digest of the row stands for the key
        keys = [KEY]
    values: dict[str, Any] = {"limit": wanted.limit + 1}
    conditions: list[sql.Composable] = []
    for place, (name, value) in enumerate(wanted.equal.items()):
        column = sql.Identifier("t", live[name])
        if value is None:
            conditions.append(sql.SQL("{} IS NULL").format(column))
        else:
            values[f"value{place}"] = value
            conditions.append(sql.SQL("{} = {}").format(column, sql.Placeholder(f"value{place}")))
    if wanted.rule is not None:  # whatever row-level security does besides
        values["rule"] = Jsonb(wanted.rule)
        conditions.append(sql.SQL("penstock.row_readable(to_jsonb(t.*), %(rule)s)"))
    statement = sql.SQL(_ROWS).format(
        version=sql.Identifier(POSITION),
        committed=sql.Identifier(COMMITTED_AT),
        shown=sql.SQL(", ").join(sql.Identifier("t", live[name]) for name in wanted.columns),
        table=sql.Identifier(schema, table),
        conditions=sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"),
        key=sql.SQL(", ").join(sql.Identifier("t", name) for name in keys),
    )
    return statement, values
