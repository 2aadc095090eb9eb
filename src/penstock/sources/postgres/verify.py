"""What ``penstock verify`` asks of the source: how far it is, and a hash of every row."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq, sql

from penstock.database.row_hash import hash_expression
from penstock.sources.base import RowHash
from penstock.sources.postgres.catalogue import fetch
from penstock.sources.postgres.connections import translate
from penstock.sources.postgres.copy_text import parse_copy_row
from penstock.sources.postgres.stream import CopyReader


@dataclass(frozen=True, slots=True)
class HashedTable:
    """Which columns of which table are compared. ``relation`` is schema and name."""

    relation: tuple[str, str]
    columns: Sequence[str]
    key: Sequence[str]
    only: bool = False
    """Leave out tables that inherit from it."""
    row_filter: str | None = None
    """The publication's, as the server renders it."""


async def current_lsn(connection: psycopg.AsyncConnection, what: str) -> str:
    """Where the server's log ends now, as far as it is on disk: the stream will come to here."""
    rows = await fetch(connection, what, "SELECT pg_current_wal_flush_lsn()::text")
    return str(rows[0][0])


async def row_hashes(
    connection: psycopg.AsyncConnection, what: str, table: HashedTable
) -> AsyncGenerator[RowHash]:
    """All rows of a table, ordered by the key's texts byte by byte, as they come.

    Two such streams can be compared by walking them side by side; nothing is collected.
    """
    keys = [sql.SQL('{}::text COLLATE "C"').format(sql.Identifier(column)) for column in table.key]
    statement = sql.SQL("COPY (SELECT {}, {} FROM {}{}{} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(keys),
        hash_expression(table.columns),
        sql.SQL("ONLY " if table.only else ""),
        sql.Identifier(*table.relation),
        sql.SQL(f" WHERE {table.row_filter}" if table.row_filter else ""),
        sql.SQL(", ").join(sql.SQL(str(place + 1)) for place in range(len(keys))),
    )
    reader = CopyReader(connection, what)
    try:
        await reader.start(statement.as_bytes(connection), pq.ExecStatus.COPY_OUT)
        while True:
            await reader.wait()
            ended = reader.ended
            lines = reader.take()
            for line in lines:
                *key, digest = parse_copy_row(line)
                assert isinstance(digest, str)
                yield RowHash(tuple(key), digest)  # type: ignore[arg-type] # COPY has no UNCHANGED
            if ended and not lines:
                return
    except psycopg.Error as error:
        raise translate(error, what) from error
    finally:
        reader.stop()
