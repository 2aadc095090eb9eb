"""The statements that depend on a live table's columns. Pure.

Each takes a whole batch: one array of texts for each column, of which ``unnest`` makes rows. Every
statement guards itself by positions, so that replays, lanes and retries may overlap: an older
version never replaces a newer one, and does not bring back what was deleted or truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import LiteralString

from psycopg import sql

from penstock.stores.postgres import live_names
from penstock.stores.postgres.live_tables import LiveTable, identifiers, raw_type

# Positions compare COLLATE "C" on both sides, or PostgreSQL would not know which order is meant.
_LATER = """
s.position COLLATE "C" > {truncated_at} COLLATE "C"
AND s.position COLLATE "C" > coalesce(
    (SELECT d.position FROM penstock.tombstones d
     WHERE d.source = {source} AND d.stream = {stream} AND d.key = s.tombstone), '')
"""

_PUT = """
INSERT INTO {table} AS l ({stored})
SELECT {values}, s.position, s.committed_at::bigint, {tenant}
FROM {rows}
WHERE {later}
ON CONFLICT ({key}) DO UPDATE SET {assignments}
WHERE l.{position} < excluded.{position}
"""

_PATCH = """
UPDATE {table} l SET {assignments}
FROM {rows}
WHERE {matches} AND l.{position} < s.position COLLATE "C" AND {later}
"""

_REMOVE = """
WITH s AS MATERIALIZED (SELECT * FROM {rows} {unless}),
gone AS (
    DELETE FROM {table} l USING s WHERE {matches} AND l.{position} < s.position COLLATE "C"
)
INSERT INTO penstock.tombstones AS d (source, stream, key, position)
SELECT {source}, {stream}, s.tombstone, s.position FROM s
WHERE s.position COLLATE "C" > {truncated_at} COLLATE "C"
ON CONFLICT (source, stream, key) DO UPDATE
SET position = excluded.position, buried_at = excluded.buried_at
WHERE d.position < excluded.position
"""

# Where something stands that was there before what is undone, nothing is.
_OLDER_STAYS = """
WHERE NOT EXISTS (
    SELECT FROM {table} l WHERE {matches} AND l.{position} < s.since COLLATE "C")
"""

# Which of these changes are neither in the table nor made void by something later?
_UNMET = """
SELECT s.number::int FROM {rows}
WHERE {later} AND NOT EXISTS (
    SELECT FROM {table} l WHERE {matches} AND l.{position} >= s.position COLLATE "C")
ORDER BY 1
"""

_STORED = """
SELECT s.number::int, {texts} FROM {rows} JOIN {table} l ON {matches}
"""

_TRUNCATE = "DELETE FROM {table} WHERE {position} < $1"


class RowStatements:
    """The statements of one table. Their parameters are arrays, one for each name in the method's
    description, then the source, the stream and its truncation mark (but for `stored`)."""

    def __init__(self, table: LiveTable) -> None:
        self.table = table
        self._patches: dict[tuple[int, ...], str] = {}

    @cached_property
    def put(self) -> str:
        """Store complete rows. Each column (and the digest of the row where that is the key),
        positions, commit times, tombstone keys; after the marks the tenant."""
        table = self.table
        inputs = list(zip(table.names, table.types, strict=True))
        if table.whole_row_key:
            inputs.append((live_names.KEY, "text"))
        names = [name for name, _ in inputs]
        names += [live_names.POSITION, live_names.COMMITTED_AT, live_names.TENANT]
        return self._compose(
            _PUT,
            len(inputs),
            ("position", "committed_at", "tombstone"),
            stored=identifiers(names),
            values=sql.SQL(", ").join(_value(i, of) for i, (_, of) in enumerate(inputs)),
            assignments=sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names
            ),
            key=identifiers(table.key_names),
        )

    def patch(self, present: tuple[int, ...]) -> str:
        """Update the columns ``present`` of rows that are there, and leave the others as they are.
        The key's columns, the present columns, positions, commit times, tombstone keys."""
        if present not in self._patches:
            self._patches[present] = self._make_patch(present)
        return self._patches[present]

    def _make_patch(self, present: tuple[int, ...]) -> str:
        table, width = self.table, len(self._keys)
        assignments = [
            sql.SQL("{} = {}").format(
                sql.Identifier(table.names[i]), _value(width + place, table.types[i])
            )
            for place, i in enumerate(present)
        ]
        assignments += [
            sql.SQL("{} = s.position").format(sql.Identifier(live_names.POSITION)),
            sql.SQL("{} = s.committed_at::bigint").format(sql.Identifier(live_names.COMMITTED_AT)),
        ]
        return self._compose(
            _PATCH,
            width + len(present),
            ("position", "committed_at", "tombstone"),
            assignments=sql.SQL(", ").join(assignments),
        )

    @cached_property
    def remove(self) -> str:
        """Delete rows and remember it. The key's columns, positions, tombstone keys."""
        names = ("position", "tombstone")
        return self._compose(_REMOVE, len(self._keys), names, unless=sql.SQL(""))

    @cached_property
    def undo(self) -> str:
        """Delete rows that came from a position on, and remember it. The key's columns, positions,
        tombstone keys, the positions from which on."""
        older = sql.SQL(_OLDER_STAYS).format(
            table=self.table.identifier,
            position=sql.Identifier(live_names.POSITION),
            matches=self._matches,
        )
        names = ("position", "tombstone", "since")
        return self._compose(_REMOVE, len(self._keys), names, unless=older)

    @cached_property
    def unmet(self) -> str:
        """The numbers of changes that should be visible and are not. The key's columns, positions,
        tombstone keys, numbers."""
        return self._compose(_UNMET, len(self._keys), ("position", "tombstone", "number"))

    @cached_property
    def stored(self) -> str:
        """Rows as they are stored, as text. The key's columns, numbers."""
        texts = sql.SQL(", ").join(
            sql.SQL("l.{}::text").format(sql.Identifier(name)) for name in self.table.names
        )
        return self._compose(_STORED, len(self._keys), ("number",), texts=texts)

    @cached_property
    def truncate(self) -> str:
        """Delete all rows before a position. Not TRUNCATE, which snapshots would see at once."""
        statement = sql.SQL(_TRUNCATE).format(
            table=self.table.identifier, position=sql.Identifier(live_names.POSITION)
        )
        return statement.as_string()

    @cached_property
    def _keys(self) -> list[tuple[str, str]]:
        """The columns of the primary key, with their types."""
        table = self.table
        if table.whole_row_key:
            return [(live_names.KEY, "text")]
        return [(table.names[i], table.types[i]) for i in table.schema.key_indexes]

    @cached_property
    def _matches(self) -> sql.Composable:
        return sql.SQL(" AND ").join(
            sql.SQL("l.{} = {}").format(sql.Identifier(name), _value(i, of))
            for i, (name, of) in enumerate(self._keys)
        )

    def _compose(
        self, template: LiteralString, width: int, own: Sequence[str], **parts: sql.Composable
    ) -> str:
        names = [*(f"c{i}" for i in range(width)), *own]
        arrays = [_parameter(i, "text[]") for i in range(len(names))]
        marks = {
            name: _parameter(len(names) + i, "text")
            for i, name in enumerate(("source", "stream", "truncated_at", "tenant"))
        }
        statement = sql.SQL(template).format(
            table=self.table.identifier,
            position=sql.Identifier(live_names.POSITION),
            rows=sql.SQL("unnest({}) s ({})").format(
                sql.SQL(", ").join(arrays), identifiers(names)
            ),
            matches=self._matches,
            later=sql.SQL(_LATER).format(**marks),
            **marks,
            **parts,
        )
        return statement.as_string()


def _value(number: int, of: str) -> sql.Composed:
    return sql.SQL("s.{}::{}").format(sql.Identifier(f"c{number}"), raw_type(of))


def _parameter(number: int, of: str) -> sql.SQL:
    return raw_type(f"${number + 1}::{of}")
