"""What ``penstock verify`` asks of the stores: hashes of rows, and whether documents are whole.

Hashes come in the order of the keys' texts, as from the source: walked side by side, the two
streams are compared without collecting either.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.database.row_hash import hash_expression
from penstock.records import Key
from penstock.stores.base import DEFAULT_TENANT
from penstock.stores.postgres import live_tables
from penstock.stores.postgres.live_tables import Connection, LiveTable

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]

_QUERIES: Final = load_queries(Path(__file__).with_name("compare.sql"))
_PAGE: Final = 5000

PRINTING: Final = """
SELECT set_config('datestyle', 'ISO, MDY', true), set_config('intervalstyle', 'postgres', true),
       set_config('extra_float_digits', '3', true), set_config('timezone', 'UTC', true),
       set_config('bytea_output', 'hex', true), set_config('lc_monetary', 'C', true)
"""
"""Values are printed as by the sessions that read the source."""


class LiveRowHash(NamedTuple):
    """A live row's key as text, and the hash of all of it."""

    key: Key
    hash: str


async def row_hashes(
    pool: Pool, table: LiveTable, columns: Sequence[str] | None = None
) -> AsyncGenerator[LiveRowHash]:
    """All rows of a live table, ordered by the key's texts byte by byte, as they come.

    ``columns`` are the source's names of those that are compared, in the source's order.
    """
    statement = _hashes(table, columns or table.schema.names)
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(PRINTING)
            async with connection.cursor("penstock_row_hashes") as cursor:
                cursor.itersize = _PAGE
                await cursor.execute(statement)
                async for *key, digest in cursor:
                    yield LiveRowHash(tuple(key), digest)


def _hashes(table: LiveTable, columns: Sequence[str]) -> sql.Composed:
    live = dict(zip(table.schema.names, table.names, strict=True))
    keys = [
        sql.SQL('{}::text COLLATE "C"').format(sql.Identifier(table.names[i]))
        for i in table.schema.key_indexes
    ]
    return sql.SQL("SELECT {}, {} FROM {} ORDER BY {}").format(
        sql.SQL(", ").join(keys),
        hash_expression([live[name] for name in columns]),
        table.identifier,
        sql.SQL(", ").join(sql.SQL(str(place + 1)) for place in range(len(keys))),
    )


async def document_digests(
    pool: Pool, source: str, *, tenant: str = DEFAULT_TENANT
) -> dict[str, str]:
    """The documents of a source that are there, each with the hash of its original."""
    with translated():
        async with pool.connection() as connection:
            cursor = await connection.execute(
                _QUERIES["document_digests"], {"source": source, "tenant": tenant}
            )
            return dict(await cursor.fetchall())


async def consistency(pool: Pool, *, tenant: str = DEFAULT_TENANT) -> tuple[int, dict[str, str]]:
    """How many documents (and texts of rows) there are, and what does not fit together: chunks that
    are missing or too many, chunks without vector, texts of rows that are gone."""
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute(PRINTING)
            asked = {"tenant": tenant}
            cursor = await connection.execute(_QUERIES["count_documents"], asked)
            [(documents,)] = await cursor.fetchall()
            found: dict[str, str] = {}
            for name in ("broken_documents", "orphans"):
                cursor = await connection.execute(_QUERIES[name], asked)
                found.update(await cursor.fetchall())
            for table in await live_tables.all_tables(connection):
                found.update(await _texts_without_row(connection, table, tenant))
    return documents, found


async def _texts_without_row(
    connection: Connection, table: LiveTable, tenant: str
) -> dict[str, str]:
    keys = [table.names[i] for i in table.schema.key_indexes]
    matches = [
        # concat prints a value as the source does: a cast to text would cut a char(n).
        sql.SQL("concat(l.{}) = coalesce(d.row_key ->> {}, '')").format(
            sql.Identifier(name), sql.Literal(i)
        )
        for i, name in enumerate(keys)
    ]
    # Raw: a percent sign in a name would be taken for a placeholder.
    cursor = psycopg.AsyncRawCursor(connection)
    await cursor.execute(
        sql.SQL(
            "SELECT d.source || '/' || d.key, 'is searched, but its row is not in the live table'"
            " FROM penstock.documents d"
            " WHERE d.tenant = $1 AND d.source = $2 AND d.stream = $3"
            " AND d.deleted_at IS NULL AND NOT EXISTS (SELECT FROM {} l WHERE {})"
        ).format(table.identifier, sql.SQL(" AND ").join(matches)),
        [tenant, table.source, table.stream],
    )
    return dict(await cursor.fetchall())
