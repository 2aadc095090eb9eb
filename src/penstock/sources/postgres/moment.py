"""Reading tables as of an exported moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from penstock.errors import RetryableError
from penstock.sources.postgres.catalogue import Table, fetch
from penstock.sources.postgres.connections import translate

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
            f"table {rewritten[0][0]} of {what} was rewritten or truncated while it was looked at: "
            "begin again"
        )
