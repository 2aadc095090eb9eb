"""Rows of a table by their keys, as the server prints them: for repairs and for chosen copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from penstock.database.row_hash import hash_expression
from penstock.records import Key, Row
from penstock.sources.postgres.catalogue import Table, fetch
from penstock.sources.postgres.connections import translate

# format_type quotes what must be quoted: the name of a type can stand in a statement. With -1 it is
# the type without a length (bpchar, not character, which would cut).
_KEY_TYPES: Final[LiteralString] = """
SELECT a.attname::text, format_type(a.atttypid, -1)
FROM pg_attribute a WHERE a.attrelid = %s AND a.attname = ANY (%s)
"""


class KeyedRows:
    """Fetches rows of one table on one connection, in whatever snapshot that has."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection,
        what: str,
        table: Table,
        columns: Sequence[str],
        key: Sequence[str],
    ) -> None:
        self._connection = connection
        self._what = what
        self._relation = sql.SQL("{}{}").format(
            sql.SQL("ONLY " if table.kind == "r" else ""),
            sql.Identifier(table.namespace, table.name),
        )
        self._oid = table.oid
        self._columns = columns
        self._key = key
        self._whole = len(key) == len(columns)
        self._types: dict[str, str] = {}

    async def fetch(self, keys: Sequence[Key], hashes: Sequence[str]) -> list[Row]:
        """The rows with these keys (of a table whose whole rows are the key: these hashes)."""
        if self._whole:
            # Values without an equality of their own, and NULL: the hash tells rows apart.
            rows = await self._rows(
                sql.SQL("WHERE {} = ANY ($1)").format(hash_expression(self._columns)),
                [list(hashes)],
            )
            return list(dict.fromkeys(rows))
        if not self._types:
            found = await fetch(
                self._connection, self._what, _KEY_TYPES, (self._oid, list(self._key))
            )
            self._types = dict(found)
        places = [f"k{i}" for i in range(len(self._key))]
        matches = sql.SQL(" AND ").join(
            sql.SQL("t.{} = w.{}::{}").format(
                sql.Identifier(name),
                sql.Identifier(place),
                sql.SQL(self._types[name]),
            )
            for name, place in zip(self._key, places, strict=True)
        )
        joined = sql.SQL("JOIN unnest({}) w ({}) ON {}").format(
            sql.SQL(", ").join(sql.SQL(f"${i + 1}::text[]") for i in range(len(places))),
            sql.SQL(", ").join(map(sql.Identifier, places)),
            matches,
        )
        return await self._rows(joined, [list(part) for part in zip(*keys, strict=True)])

    async def _rows(
        self, wanted: sql.Composed, values: Sequence[Sequence[str | None]]
    ) -> list[Row]:
        statement = sql.SQL("SELECT {} FROM {} t {}").format(
            sql.SQL(", ").join(sql.Identifier("t", name) for name in self._columns),
            self._relation,
            wanted,
        )
        try:
            # Raw: a percent sign in a name would be taken for a placeholder.
            cursor = psycopg.AsyncRawCursor(self._connection)
            await cursor.execute(statement, values)
        except psycopg.Error as error:
            raise translate(error, self._what) from error
        return printed(cursor)


def printed(cursor: psycopg.AsyncRawCursor[tuple[object, ...]]) -> list[Row]:
    """The rows of a result exactly as the server printed them."""
    result = cursor.pgresult
    assert result is not None
    return [
        tuple(
            None if (value := result.get_value(row, column)) is None else value.decode()
            for column in range(result.nfields)
        )
        for row in range(result.ntuples)
    ]
