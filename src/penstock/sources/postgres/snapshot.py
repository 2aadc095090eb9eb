"""The first load: what the tables hold at one consistent moment, as changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg import pq, sql

from penstock.errors import RetryableError
from penstock.records import Change, Microseconds, Op, Schema
from penstock.sources.base import SourceBatch, StateChange
from penstock.sources.postgres.catalogue import Table, fetch
from penstock.sources.postgres.changes import TablePlan
from penstock.sources.postgres.connections import translate
from penstock.sources.postgres.copy_text import parse_copy_row
from penstock.sources.postgres.positions import snapshot_position
from penstock.sources.postgres.stream import CopyReader

_SLICE: Final = 500
"""How many rows are parsed before other tasks get a turn: about 2 ms."""

# The catalogue as of our snapshot beside the catalogue of now: a table that was rewritten or
# truncated in between would look empty, because that is not versioned.
_REWRITTEN: Final[LiteralString] = """
WITH RECURSIVE parts (oid) AS (
    SELECT unnest(%s::bigint[])::oid
    UNION
    SELECT i.inhrelid FROM parts JOIN pg_inherits i ON i.inhparent = parts.oid)
SELECT c.oid::regclass::text
FROM parts JOIN pg_class c ON c.oid = parts.oid
WHERE c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid)
"""


async def enter_snapshot(
    connection: psycopg.AsyncConnection, what: str, snapshot: str, tables: Sequence[Table]
) -> None:
    """Let the connection see the exported snapshot, and keep the tables' shapes from changing for
    as long as it is open."""
    names = [sql.Identifier(table.namespace, table.name) for table in tables]
    try:
        await connection.execute("SET lock_timeout = '30s'")
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await connection.execute(
            sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot))
        )
        await connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.SQL(", ").join(names))
        )
    except psycopg.Error as error:
        raise translate(error, what) from error
    rewritten = await fetch(connection, what, _REWRITTEN, ([table.oid for table in tables],))
    if rewritten:
        raise RetryableError(
            f"table {rewritten[0][0]} of {what} was rewritten or truncated while its copy began: "
            "it is begun again"
        )


class TableCopier:
    """Copies tables one after the other; positions go on from table to table."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection,
        what: str,
        consistent_point: int,
        committed_at: Microseconds,
        *,
        batch_rows: int,
    ) -> None:
        self._connection = connection
        self._what = what
        self._point = consistent_point
        self._committed_at = committed_at
        self._batch_rows = batch_rows
        self._place = 0

    async def copy(
        self,
        table: Table,
        plan: TablePlan,
        row_filter: str | None,
        finished: StateChange,
    ) -> AsyncGenerator[SourceBatch]:
        """Batches of one table: first the word that what was there before is gone, then its rows.
        The last batch carries ``finished``."""
        schema = plan.schema
        reader = CopyReader(self._connection, self._what)
        statement = _select(table, schema, row_filter).as_bytes(self._connection)
        await reader.start(statement, pq.ExecStatus.COPY_OUT)
        changes: list[Change] = [Change(schema, Op.TRUNCATE, (), self._next(), self._committed_at)]
        try:
            while True:
                await reader.wait()
                ended = reader.ended
                lines = reader.take()
                for start in range(0, len(lines), _SLICE):
                    self._add(changes, plan, lines[start : start + _SLICE])
                    if len(changes) >= self._batch_rows:
                        yield SourceBatch(changes)
                        changes = []
                    await asyncio.sleep(0)
                if ended and not lines:
                    break
        finally:
            reader.stop()
        yield SourceBatch(changes, finished)

    def _next(self) -> Any:
        position = snapshot_position(self._point, self._place)
        self._place += 1
        return position

    def _add(self, changes: list[Change], plan: TablePlan, lines: Sequence[bytes]) -> None:
        schema, key, committed_at, point = plan.schema, plan.key, self._committed_at, self._point
        place = self._place
        for line in lines:
            row = parse_copy_row(line)
            position = snapshot_position(point, place)
            place += 1
            changes.append(Change(schema, Op.READ, key(row), position, committed_at, row))
        self._place = place


def _select(table: Table, schema: Schema, row_filter: str | None) -> sql.Composed:
    query = sql.SQL("SELECT {} FROM {}{}").format(
        sql.SQL(", ").join(map(sql.Identifier, schema.names)),
        sql.SQL("ONLY " if table.kind == "r" else ""),
        sql.Identifier(table.namespace, table.name),
    )
    if row_filter:
        # The server's own rendering of the publication's filter.
        query += sql.SQL(" WHERE ") + sql.SQL(row_filter)
    return sql.SQL("COPY ({}) TO STDOUT").format(query)
