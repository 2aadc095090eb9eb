"""Alterations of tables that no change tells of. Pure, but for `fetch_shapes`.

The stream describes a table anew only before its next change, and says nothing of what altering did
to the rows that were there: a default of a new column, values converted to another type. So the
heartbeat also looks at the catalogue. What the stream has described is left to those who follow it;
what it does not describe for a while, though rows may look different by now, is to be copied again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, LiteralString, NamedTuple

import psycopg

from penstock.sources.postgres.catalogue import fetch
from penstock.sources.postgres.decoder import Relation

STATE: Final = "shape:"
"""What the name of a table's shape in the source's state begins with."""

PATIENCE_S: Final = 2.0
"""How long a change of an altered table may take to come, and describe it."""

# A column has a number for life: it outlives renaming, and is never given again.
_SHAPES: Final[LiteralString] = """
SELECT n.nspname || '.' || c.relname,
       json_agg(json_build_array(a.attnum, a.attname, a.atttypid::bigint, a.atttypmod)
                ORDER BY a.attnum),
       c.relnatts, p.rowfilter, coalesce(max(r.oid::bigint), 0),
       coalesce(array_agg(a.attnum) FILTER (WHERE a.atthasmissing OR a.atthasdef), '{}')
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY (p.attnames)
    -- Early releases of 15 list generated columns, which they do not send.
    AND (a.attgenerated = '' OR current_setting('server_version_num')::integer >= 180000)
JOIN pg_publication b ON b.pubname = p.pubname
LEFT JOIN pg_publication_rel r ON r.prpubid = b.oid AND r.prrelid = c.oid
WHERE p.pubname = %s
GROUP BY n.nspname, c.relname, c.relnatts, p.rowfilter
"""


class ShapeColumn(NamedTuple):
    """A published column: its number in the table, and what a relation message says of it."""

    number: int
    name: str
    type_oid: int
    type_modifier: int


class Shape(NamedTuple):
    """What a table looked like. ``width`` counts the columns that it ever had."""

    columns: tuple[ShapeColumn, ...]
    width: int
    row_filter: str | None = None
    membership: int = 0
    """Of the publication: another number when the table was taken out and put back, and changes in
    between are lost. 0: not known, or the publication names schemas."""

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Of the source's state."""
        columns, width, row_filter, *more = json.loads(text)
        return cls(tuple(ShapeColumn(*column) for column in columns), width, row_filter, *more)

    def format(self) -> str:
        """For the source's state."""
        return json.dumps(self, separators=(",", ":"))

    def is_described_by(self, relation: Relation) -> bool:
        """Whether the stream told of these columns."""
        return [column[1:] for column in self.columns] == [c[:3] for c in relation.columns]


class Found(NamedTuple):
    """A shape, and the numbers of columns that rows from before may have values in."""

    shape: Shape
    filled: frozenset[int]


async def fetch_shapes(
    connection: psycopg.AsyncConnection, what: str, publication: str
) -> dict[str, Found]:
    """The shapes of all published tables, by stream."""
    return {
        stream: Found(
            Shape(tuple(ShapeColumn(*column) for column in columns), width, row_filter, member),
            frozenset(filled),
        )
        for stream, columns, width, row_filter, member, filled in await fetch(
            connection, what, _SHAPES, (publication,)
        )
    }


def hides_something(before: Shape, now: Shape) -> bool:
    """Whether rows changed though the stream, comparing names and types, would see nothing: other
    rows are published, more of their columns, or a column of the same name is another one."""
    if before.row_filter != now.row_filter:
        return True
    if before.membership and before.membership != now.membership:
        return True
    numbers = {column.number for column in before.columns}
    names = {column.name: column.number for column in before.columns}
    return any(
        (column.number not in numbers and column.number <= before.width)
        or (column.name in names and names[column.name] not in {c.number for c in now.columns})
        for column in now.columns
    )


def only_adds_empty(before: Shape, found: Found) -> bool:
    """Whether all that is new are columns that are empty in every row so far."""
    new = found.shape.columns[len(before.columns) :]
    kept = found.shape.columns[: len(before.columns)]
    return kept == before.columns and not any(column.number in found.filled for column in new)


class ShapeWatch:
    """Compares what the catalogue says with what is known, beat by beat."""

    def __init__(self, known: Mapping[str, Shape]) -> None:
        self._known = dict(known)
        self._described: dict[str, Relation] = {}
        self._odd: dict[str, tuple[Shape, float]] = {}
        self._asked: dict[str, Shape] = {}
        self._noted: dict[str, str | None] = {}

    def describe(self, stream: str, relation: Relation) -> None:
        """The stream tells what its next changes look like."""
        self._described[stream] = relation

    def copied(self, stream: str, shape: Shape) -> None:
        """A copy of the table with this shape is in the log (and in the state, with it)."""
        self._known[stream] = shape
        self._asked.pop(stream, None)
        self._noted.pop(stream, None)

    def compare(
        self, found: Mapping[str, Found], streams: Iterable[str], now_s: float
    ) -> list[str]:
        """Which of these streams should be copied again. Each is named once for one alteration."""
        return [
            stream
            for stream in streams
            if stream in found and self._is_lost(stream, found[stream], now_s)
        ]

    def note(self, facts: Mapping[str, str | None]) -> None:
        """Something else that the state should say from now on."""
        self._noted |= facts

    @property
    def has_news(self) -> bool:
        """Whether the state should say something that it was not told."""
        return bool(self._noted)

    def take_noted(self) -> dict[str, str | None]:
        """What the state should say from now on."""
        noted, self._noted = self._noted, {}
        return noted

    def _is_lost(self, stream: str, found: Found, now_s: float) -> bool:
        now, before = found.shape, self._known.get(stream)
        if before == now:
            self._odd.pop(stream, None)
            return False
        if self._asked.get(stream) == now:
            return False
        hidden = before is not None and hides_something(before, now)
        if before is None or not (hidden or self._is_unexplained(stream, before, found)):
            self._known[stream] = now
            self._noted[STATE + stream] = now.format()
            return False
        first, since_s = self._odd.get(stream, (now, now_s))
        if first != now:
            since_s = now_s
        self._odd[stream] = (now, since_s)
        if hidden or now_s - since_s >= PATIENCE_S:
            self._asked[stream] = now
            return True
        return False

    def _is_unexplained(self, stream: str, before: Shape, found: Found) -> bool:
        described = self._described.get(stream)
        if described is not None and found.shape.is_described_by(described):
            return False
        return not only_adds_empty(before, found)
