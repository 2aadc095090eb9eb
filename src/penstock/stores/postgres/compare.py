"""What ``penstock verify`` asks of the stores: hashes of live rows, and whether the knowledge base
fits together.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.row_hash import hash_expression
from penstock.records import Key
from penstock.stores.postgres.live_tables import LiveTable

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]

# As the source's connections are set: both sides must print values alike.
_PRINTED_ALIKE: Final = """
SELECT set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true),
       set_config('extra_float_digits', '1', true), set_config('timezone', 'UTC', true),
       set_config('bytea_output', 'hex', true), set_config('lc_monetary', 'C', true)
"""
_DIGESTS: Final = """
SELECT key, content_hash FROM penstock.documents
WHERE source = %s AND stream IS NULL AND deleted_at IS NULL
"""
_COUNT: Final = "SELECT count(*) FROM penstock.chunks"
_UNFIT: Final = """
SELECT 'chunk ' || c.id, 'belongs to no present document' FROM penstock.chunks c
LEFT JOIN penstock.documents d ON d.id = c.document_id AND d.deleted_at IS NULL
WHERE d.id IS NULL
UNION ALL
SELECT 'chunk ' || c.id, 'has no vector' FROM penstock.chunks c
LEFT JOIN penstock.vectors v USING (tenant, model, hash) WHERE v.hash IS NULL
UNION ALL
SELECT d.source || ' ' || d.key, 'names a chunk that does not exist'
FROM penstock.documents d
WHERE d.deleted_at IS NULL
  AND EXISTS (SELECT FROM unnest(d.layout) l (id)
              WHERE NOT EXISTS (SELECT FROM penstock.chunks c
                                WHERE c.id = l.id AND c.document_id = d.id))
UNION ALL
SELECT d.source || ' ' || d.key, 'does not name one of its chunks'
FROM penstock.documents d JOIN penstock.chunks c ON c.document_id = d.id
WHERE d.deleted_at IS NULL AND c.id <> ALL (d.layout)
GROUP BY d.source, d.key
LIMIT 10000
"""
_SEARCHED: Final = """
SELECT l.source, l.stream, l.schema_name, l.table_name, count(*)
FROM penstock.documents d JOIN penstock.live_tables l USING (source, stream)
WHERE d.deleted_at IS NULL
GROUP BY l.source, l.stream, l.schema_name, l.table_name
"""


async def row_hashes(pool: Pool, table: LiveTable) -> AsyncGenerator[tuple[Key, str]]:
    """All rows of a live table as (key, hash), ordered by the key's texts byte by byte."""
    keys = [table.names[i] for i in table.schema.key_indexes]
    texts = [sql.SQL('{}::text COLLATE "C"').format(sql.Identifier(key)) for key in keys]
    order = [sql.SQL(str(place + 1)) for place in range(len(keys))]
    query = sql.SQL("COPY (SELECT {}, {} FROM {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(texts),
        hash_expression(table.names),
        table.identifier,
        sql.SQL(", ").join(order),
    )
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(_PRINTED_ALIKE)
            async with connection.cursor() as cursor, cursor.copy(query) as copy:
                async for *key, digest in copy.rows():
                    yield tuple(key), digest


async def document_digests(pool: Pool, source: str) -> dict[str, str]:
    """The content's SHA-256 of every present document of a source, by path."""
    with translated():
        async with pool.connection() as connection:
            return dict(await (await connection.execute(_DIGESTS, [source])).fetchall())


async def consistency(pool: Pool) -> tuple[int, dict[str, str]]:
    """How many chunks were looked at, and what does not fit together, in words."""
    with translated():
        async with (
            pool.connection() as connection,
            connection.transaction(),
        ):
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            [(count,)] = await (await connection.execute(_COUNT)).fetchall()
            found = dict(await (await connection.execute(_UNFIT)).fetchall())
            searched = await (await connection.execute(_SEARCHED)).fetchall()
            for source, stream, schema, name, documents in searched:
                counting = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
                [(rows,)] = await (await connection.execute(counting)).fetchall()
                if rows != documents:
                    found[f"{source} {stream}"] = (
                        f"has {rows:,} live rows and {documents:,} searched ones"
                    )
    return int(count), found
