"""Reading a table in chunks, each as of its own short snapshot.

A chunk is a range of the table's blocks: no index is needed, blocks are read one after the other,
and any table can be read so, whatever its key. Rows that an update moves from a block that is yet
to be read to one that has been are in the stream. A chunk may also be some rows by their keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import pq, sql

from penstock.errors import RetryableError
from penstock.records import Key, Microseconds, Row
from penstock.sources.postgres.catalogue import Table, fetch, fetch_relation, fetch_types
from penstock.sources.postgres.changes import TablePlan, table_schema
from penstock.sources.postgres.connections import translate
from penstock.sources.postgres.copy_text import parse_copy_rows
from penstock.sources.postgres.marks import Visibility
from penstock.sources.postgres.positions import parse_lsn
from penstock.sources.postgres.shapes import Shape, fetch_shapes
from penstock.sources.postgres.stream import CopyReader

_SLICE: Final = 500
"""How many rows are parsed before other tasks get a turn: about 2 ms."""

# Committed, sent to us perhaps, and not yet seen by any snapshot: who waits for a standby.
_MOMENT: Final[LiteralString] = """
WITH RECURSIVE parts (oid) AS (
    SELECT %s::bigint::oid
    UNION
    SELECT i.inhrelid FROM parts JOIN pg_inherits i ON i.inhparent = parts.oid)
SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
       ARRAY(SELECT a.backend_xid::text::bigint FROM pg_stat_activity a
             WHERE a.wait_event = 'SyncRep' AND a.backend_xid IS NOT NULL),
       (SELECT json_agg(json_build_array(a.attnum, a.attname, a.atttypid::bigint, a.atttypmod)
                        ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum = ANY (%s) AND NOT a.attisdropped),
       coalesce(string_agg(pg_relation_filenode(c.oid)::text, ' ' ORDER BY c.oid), ''),
       coalesce(max(pg_relation_size(c.oid)) / current_setting('block_size')::bigint, 0)::bigint
FROM parts JOIN pg_class c ON c.oid = parts.oid
WHERE c.relkind = 'r'
"""

_FLUSHED: Final[LiteralString] = "SELECT pg_current_wal_flush_lsn()::text"


class Look(NamedTuple):
    """How the rows of a table looked at a time."""

    shape: Shape
    plan: TablePlan
    time: Microseconds


class Moment(NamedTuple):
    """What a chunk is read as of: all that it sees had committed by ``lsn``. ``files`` names the
    files that hold the table's blocks: other ones have the rows in other places."""

    visible: Visibility
    lsn: int
    waiting: Sequence[int]
    files: str
    blocks: int
    look: Look


class ChunkReader:
    """Chunks of one table on a connection of its own: ``begin``, ``read``, ``end``, again."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection,
        what: str,
        source: str,
        publication: str,
        table: Table,
    ) -> None:
        self._connection = connection
        self._what = what
        self._source = source
        self._publication = publication
        self._table = table
        self._filter: str | None = None
        self._only = sql.SQL("ONLY " if table.kind == "r" else "")
        self._name = sql.Identifier(table.namespace, table.name)

    async def begin(self) -> Moment | None:
        """Take a snapshot; None when that cannot be had just now. Until ``end`` nobody can alter,
        rewrite or truncate the table, which would make it look empty to the snapshot: so it is held
        first, as any SELECT holds it. No other table is touched meanwhile (looking at a publication
        does), or we and who locks several tables might wait for each other."""
        shape, plan = await self.look()
        self._filter = shape.row_filter
        try:
            await self._connection.execute("SET lock_timeout = '2s'")
            await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await self._connection.execute(
                sql.SQL("LOCK TABLE {}{} IN ACCESS SHARE MODE").format(self._only, self._name)
            )
        except psycopg.errors.LockNotAvailable:
            await self.end()
            return None
        except psycopg.Error as error:
            raise translate(error, self._what) from error
        numbers = [column.number for column in shape.columns]
        oid = self._table.oid
        rows = await fetch(self._connection, self._what, _MOMENT, (oid, oid, numbers))
        snapshot, lsn, time, waiting, columns, files, blocks = rows[0]
        if [list(column) for column in shape.columns] != columns:
            await self.end()
            return None
        visible = Visibility.parse(snapshot)
        look = Look(shape, plan, Microseconds(time))
        return Moment(visible, parse_lsn(lsn), waiting, files, blocks, look)

    async def look(self) -> tuple[Shape, TablePlan]:
        """How the table's rows look now."""
        found = (await fetch_shapes(self._connection, self._what, self._publication)).get(
            self._table.stream
        )
        if found is None:
            raise RetryableError(
                f"table {self._table.stream!r} of {self._what} left publication "
                f"{self._publication!r} while it was copied; looking again"
            )
        relation = await fetch_relation(
            self._connection, self._what, self._publication, self._table
        )
        wanted = [(column.type_oid, column.type_modifier) for column in relation.columns]
        types = await fetch_types(self._connection, self._what, wanted)
        key = tuple(self._table.primary_key or ())
        return found.shape, TablePlan.make(table_schema(self._source, relation, types, key))

    async def flushed(self) -> int:
        """How far the server's log is on disk."""
        rows = await fetch(self._connection, self._what, _FLUSHED)
        return parse_lsn(rows[0][0])

    async def end(self) -> None:
        """Let the snapshot go."""
        try:
            await self._connection.execute("COMMIT")
        except psycopg.Error as error:
            raise translate(error, self._what) from error

    async def blocks(
        self, plan: TablePlan, first: int, end: int, batch_rows: int, batch_bytes: int
    ) -> AsyncGenerator[list[Row]]:
        """The rows in the blocks from ``first`` to before ``end``, some at a time."""
        where = sql.SQL("ctid >= {}::tid AND ctid < {}::tid").format(
            sql.Literal(f"({first},0)"), sql.Literal(f"({end},0)")
        )
        async for rows in self._rows(plan, where, batch_rows, batch_bytes):
            yield rows

    async def by_key(
        self, plan: TablePlan, keys: Collection[Key], batch_rows: int, batch_bytes: int
    ) -> AsyncGenerator[list[Row]]:
        """The rows that have these keys, as far as there are any."""
        names = [plan.schema.names[index] for index in plan.schema.key_indexes]
        where = sql.SQL(" OR ").join(
            sql.SQL("({})").format(
                sql.SQL(" AND ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
                    for name, value in zip(names, key, strict=True)
                )
            )
            for key in keys
        )
        async for rows in self._rows(plan, where, batch_rows, batch_bytes):
            yield rows

    async def _rows(
        self, plan: TablePlan, where: sql.Composable, batch_rows: int, batch_bytes: int
    ) -> AsyncGenerator[list[Row]]:
        if self._filter:
            # The server's own rendering of the publication's filter.
            where = sql.SQL("({}) AND ({})").format(where, sql.SQL(self._filter))
        statement = sql.SQL("COPY (SELECT {} FROM {}{} WHERE {}) TO STDOUT").format(
            sql.SQL(", ").join(map(sql.Identifier, plan.schema.names)),
            self._only,
            self._name,
            where,
        )
        reader = CopyReader(self._connection, self._what)
        await reader.start(statement.as_bytes(self._connection), pq.ExecStatus.COPY_OUT)
        rows: list[Row] = []
        size = 0
        try:
            while True:
                await reader.wait()
                ended = reader.ended
                lines = reader.take()
                for start in range(0, len(lines), _SLICE):
                    part = lines[start : start + _SLICE]
                    rows += parse_copy_rows(part)
                    size += sum(map(len, part))
                    if len(rows) >= batch_rows or size >= batch_bytes:
                        yield rows
                        rows, size = [], 0
                    await asyncio.sleep(0)
                if ended and not lines:
                    break
        finally:
            reader.stop()
        if rows:
            yield rows
