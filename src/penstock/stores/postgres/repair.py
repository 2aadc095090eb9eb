"""The stores' side of a repair by comparison: keys, searched texts, positions that lie."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.records import Column, Key, Position
from penstock.stores.base import DEFAULT_TENANT
from penstock.stores.postgres import compare, live_names, live_tables
from penstock.stores.postgres.live_tables import LiveTable

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]

_QUERIES: Final = load_queries(Path(__file__).with_suffix(".sql"))
_PAGE: Final = 1000


class PostgresLiveSide:
    """See `penstock.sources.base.LiveSide`. ``searched`` are the columns that the texts of each
    stream's rows are made of."""

    def __init__(
        self,
        pool: Pool,
        source: str,
        searched: dict[str, tuple[str, ...]],
        *,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self._pool = pool
        self._source = source
        self._searched = searched
        self._tenant = tenant

    async def columns(self, stream: str) -> Sequence[Column] | None:
        """The live table's columns as the source names them; None when there is no such table."""
        table = await self._table(stream)
        return None if table is None else table.columns

    async def row_hashes(
        self, stream: str, columns: Sequence[str]
    ) -> AsyncGenerator[tuple[Key, str]]:
        """A hash of every live row, ordered by the key's texts."""
        table = await self._expect(stream)
        async for row in compare.row_hashes(self._pool, table, columns):
            yield row

    async def exact_keys(self, stream: str, keys: Sequence[Key]) -> Sequence[Key]:
        """These keys as the output functions of their types print them."""
        table = await self._expect(stream)
        if table.whole_row_key:
            return await self._exact_rows(table, keys)
        pairs = [(table.names[i], table.types[i]) for i in table.schema.key_indexes]
        matches = sql.SQL(" AND ").join(
            sql.SQL("l.{} = w.{}::{}").format(
                sql.Identifier(name), sql.Identifier(f"k{place}"), live_tables.raw_type(of)
            )
            for place, (name, of) in enumerate(pairs)
        )
        statement = sql.SQL("SELECT {} FROM {} l JOIN unnest({}) w ({}) ON {}").format(
            sql.SQL(", ").join(sql.Identifier("l", name) for name, _ in pairs),
            table.identifier,
            sql.SQL(", ").join(sql.SQL(f"${place + 1}::text[]") for place in range(len(pairs))),
            sql.SQL(", ").join(sql.Identifier(f"k{place}") for place in range(len(pairs))),
            matches,
        )
        return await self._printed(statement, [list(part) for part in zip(*keys, strict=True)])

    async def _exact_rows(self, table: LiveTable, keys: Sequence[Key]) -> Sequence[Key]:
        """Of a table without a key: the rows themselves, found by their texts."""
        texts = sql.SQL(", ").join(
            sql.SQL("l.{}::text").format(sql.Identifier(name)) for name in table.names
        )
        statement = sql.SQL("SELECT {} FROM {} l WHERE to_jsonb(ARRAY[{}]) = ANY ($1::jsonb[])")
        return await self._printed(
            statement.format(
                sql.SQL(", ").join(sql.Identifier("l", name) for name in table.names),
                table.identifier,
                texts,
            ),
            [[live_names.key_json(key) for key in keys]],
        )

    async def stale_texts(self, stream: str) -> AsyncGenerator[Key]:
        """Keys of live rows whose searched text is missing, or is not that of the row."""
        columns = self._searched.get(stream)
        table = await self._table(stream)
        if not columns or table is None or table.whole_row_key:
            return
        live = dict(zip(table.schema.names, table.names, strict=True))
        have = [name for name in columns if name in live]
        keys = [table.names[i] for i in table.schema.key_indexes]
        values = [
            sql.SQL("{}, CASE WHEN l.{} IS NOT NULL THEN concat(l.{}) END").format(
                sql.Literal(name), sql.Identifier(live[name]), sql.Identifier(live[name])
            )
            for name in have
        ]
        statement = sql.SQL(
            "SELECT {} FROM {} l LEFT JOIN penstock.documents d ON d.tenant = {} AND d.source = {}"
            " AND d.stream = {} AND d.deleted_at IS NULL AND d.row_key = jsonb_build_array({})"
            " WHERE d.id IS NULL OR d.metadata <> jsonb_strip_nulls(jsonb_build_object({}))"
        ).format(
            sql.SQL(", ").join(sql.SQL("l.{}::text").format(sql.Identifier(k)) for k in keys),
            table.identifier,
            sql.Literal(self._tenant),
            sql.Literal(self._source),
            sql.Literal(stream),
            sql.SQL(", ").join(sql.SQL("concat(l.{})").format(sql.Identifier(k)) for k in keys),
            sql.SQL(", ").join(values),
        )
        async for row in self._paged(statement):
            yield row

    async def orphaned_texts(self, stream: str) -> AsyncGenerator[Key]:
        """Keys of searched texts whose row is not in the live table."""
        table = await self._table(stream)
        if table is None or table.whole_row_key or stream not in self._searched:
            return
        keys = [table.names[i] for i in table.schema.key_indexes]
        statement = sql.SQL(
            "SELECT {} FROM penstock.documents d WHERE d.tenant = {} AND d.source = {}"
            " AND d.stream = {} AND d.deleted_at IS NULL AND NOT EXISTS (SELECT FROM {} l"
            " WHERE d.row_key = jsonb_build_array({}))"
        ).format(
            sql.SQL(", ").join(sql.SQL("d.row_key ->> {}").format(i) for i in range(len(keys))),
            sql.Literal(self._tenant),
            sql.Literal(self._source),
            sql.Literal(stream),
            table.identifier,
            sql.SQL(", ").join(sql.SQL("concat(l.{})").format(sql.Identifier(k)) for k in keys),
        )
        async for row in self._paged(statement):
            yield row

    async def forget_later(self, position: Position) -> None:
        """Make everything that claims to come from later than this position give way to it."""
        values = {"source": self._source, "tenant": self._tenant, "position": position}
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                for name in ("lower_tombstones", "lower_documents", "lower_registry"):
                    await connection.execute(_QUERIES[name], values)
                for table in await live_tables.all_tables(connection, self._source):
                    await psycopg.AsyncRawCursor(connection).execute(
                        sql.SQL('UPDATE {} SET {} = $1 WHERE {} > $1 COLLATE "C"').format(
                            table.identifier,
                            sql.Identifier(live_names.POSITION),
                            sql.Identifier(live_names.POSITION),
                        ),
                        [position],
                    )

    async def compared(self, streams: Sequence[str]) -> None:
        """All rows of these streams are as at the source: none is in doubt any more."""
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(
                    _QUERIES["compared"], {"source": self._source, "streams": list(streams)}
                )

    async def _table(self, stream: str) -> LiveTable | None:
        with translated():
            async with self._pool.connection() as connection:
                found = await live_tables.registered(connection, [(self._source, stream)])
                row = found.get((self._source, stream))
                return None if row is None else await live_tables.load(connection, row)

    async def _expect(self, stream: str) -> LiveTable:
        table = await self._table(stream)
        assert table is not None, stream
        return table

    async def _printed(self, statement: sql.Composed, values: Sequence[Any]) -> list[Key]:
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(compare.PRINTING)
                # Raw: a percent sign in a name would be taken for a placeholder.
                cursor = psycopg.AsyncRawCursor(connection)
                await cursor.execute(statement, values)
                result = cursor.pgresult
                assert result is not None
                return [
                    tuple(
                        None if (value := result.get_value(row, place)) is None else value.decode()
                        for place in range(result.nfields)
                    )
                    for row in range(result.ntuples)
                ]

    async def _paged(self, statement: sql.Composed) -> AsyncGenerator[Key]:
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(compare.PRINTING)
                async with connection.cursor("penstock_repair") as cursor:
                    cursor.itersize = _PAGE
                    await cursor.execute(statement)
                    async for row in cursor:
                        yield tuple(row)
