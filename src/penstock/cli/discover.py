"""What is in a PostgreSQL, as far as `penstock init` wants to know."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from penstock.config import substitute
from penstock.errors import ConfigError, FatalError, RetryableError

_TABLES = """
SELECT n.nspname, c.relname,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_key,
       coalesce(array_agg(a.attname::text ORDER BY a.attnum)
           FILTER (WHERE a.atttypid IN ('text'::regtype, 'varchar'::regtype)), '{}') AS texts
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'penstock')
GROUP BY n.nspname, c.relname, c.oid
ORDER BY n.nspname, c.relname
"""


class Table(NamedTuple):
    """A table that may be captured; ``text_columns`` are candidates for being searched."""

    name: str
    has_key: bool
    text_columns: list[str]


class Found(NamedTuple):
    """A database with its tables, those outside ``public`` with their schema."""

    database: str
    tables: list[Table]


def discover(dsn: str) -> Found:
    """What the DSN leads to."""

    async def look() -> Found:
        from penstock.database.connect import connect, translated

        try:
            connection = await connect(substitute(dsn))
        except (RetryableError, FatalError) as error:
            raise ConfigError(
                f"expected to reach the database to capture, got {str(error)!r}: start it, or "
                "mend the DSN"
            ) from error
        with translated():
            async with connection:
                name = connection.info.dbname
                rows = await (await connection.execute(_TABLES)).fetchall()
        tables = [
            Table(table if schema == "public" else f"{schema}.{table}", has_key, texts)
            for schema, table, has_key, texts in rows
        ]
        return Found(name, tables)

    found = asyncio.run(look())
    if not found.tables:
        raise ConfigError(
            "expected tables in that database, found none that this user can see: "
            "look at the DSN's database and the user's rights"
        )
    return found
