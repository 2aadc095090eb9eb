"""Values that are computed from a person's rows, as of a moment.

Nothing is kept of them: a window moves without any change coming in, and rows follow merges and
splits with the record that they belong to. One statement reads each table's rows of the profiles
that are asked for, by an index over record and time, and makes all values of it in one pass. What
stands in it are fixed pieces; names of columns and values are bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import psycopg
from psycopg import sql

from penstock.identity.details import NUMERIC, Computed
from penstock.records import Microseconds
from penstock.stores.details import ComputedValue

Connection = psycopg.AsyncConnection[Any]

LAST_EVENTS: Final = 10_000
"""The last session is looked for among so many of a person's last events."""
_SHOWN: Final = 20
"""Values of the last session that are shown."""

# OFFSET: a person's records by their profile, and of each the rows of the time that is wanted, is
# the plan, whatever statistics say.
_ROWS: Final = """
    penstock.profile_records r
    CROSS JOIN LATERAL (
        SELECT f.at, f.key, f.columns FROM penstock.profile_facts f
        WHERE f.owner = r.id AND f.columns IS NOT NULL AND {time} OFFSET 0) f
    WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.profile = p.id COLLATE "C"
      AND r.source = {source} COLLATE "C" AND r.stream = {stream} COLLATE "C"
"""
_ALL: Final = """
SELECT p.id, {group}::int, (SELECT jsonb_build_array({values})::text FROM """
_UNTIMED: Final = """
SELECT p.id, {group}::int, (SELECT jsonb_build_array(count(*))::text FROM """
_EACH: Final = ") FROM unnest(%(profiles)s::text[]) p (id)"

# A session begins with a row before which nothing was for longer than the gap.
_SESSIONS: Final = """
SELECT p.id, {group}::int, (
    SELECT jsonb_build_array(count(*) FILTER (WHERE before IS NULL OR at - before > {gap}),
                             count(*))::text
    FROM (SELECT f.at, lag(f.at) OVER (ORDER BY f.at) AS before FROM """
_LAST_SESSION: Final = """
SELECT p.id, {group}::int, (
    SELECT jsonb_build_array(
        CASE WHEN count(*) > 0 THEN jsonb_build_object(
            'from', min(at), 'to', max(at), 'events', count(*),
            'values',
            (array_agg(value ORDER BY at, key) FILTER (WHERE value IS NOT NULL))[1:{shown}])
        END, count(*))::text
    FROM (SELECT at, key, value,
                 count(*) FILTER (WHERE later - at > {gap})
                     OVER (ORDER BY at DESC, key DESC) AS breaks
          FROM (SELECT f.at, f.key, f.columns ->> {column}::text AS value,
                       lag(f.at) OVER (ORDER BY f.at DESC, f.key DESC) AS later
                FROM """
_LAST_ROWS: Final = " ORDER BY f.at DESC, f.key DESC LIMIT {most}) s) s WHERE breaks = 0"

# A number that is none counts as no number, like NULL.
_NUMBER: Final = (
    "CASE WHEN {text} ~ '^\\s*[-+]?(\\d{{1,60}}(\\.\\d{{0,60}})?|\\.\\d{{1,60}})"
    "([eE][-+]?\\d{{1,2}})?\\s*$'"
    " THEN ({text})::numeric END"
)
_MEASURES: Final[Mapping[str, str]] = {
    "count": "to_jsonb(count(*) FILTER (WHERE {rows}))",
    "sum": "to_jsonb(trim_scale(sum({number}) FILTER (WHERE {rows}))::text)",
    "average": "to_jsonb(trim_scale(round(avg({number}) FILTER (WHERE {rows}), 6))::text)",
    "min": "to_jsonb(trim_scale(min({number}) FILTER (WHERE {rows}))::text)",
    "max": "to_jsonb(trim_scale(max({number}) FILTER (WHERE {rows}))::text)",
    "distinct": 'to_jsonb(count(DISTINCT {text} COLLATE "C") FILTER (WHERE {rows}))',
    "most_frequent": 'to_jsonb(mode() WITHIN GROUP (ORDER BY {text} COLLATE "C")'
    " FILTER (WHERE {rows} AND {text} IS NOT NULL))",
    "first": "to_jsonb((array_agg({text} ORDER BY f.at, f.key)"
    " FILTER (WHERE {rows} AND {text} IS NOT NULL AND f.at IS NOT NULL))[1])",
    "last": "to_jsonb((array_agg({text} ORDER BY f.at DESC, f.key DESC)"
    " FILTER (WHERE {rows} AND {text} IS NOT NULL AND f.at IS NOT NULL))[1])",
    "first time": "to_jsonb(min(f.at) FILTER (WHERE {rows}))",
    "last time": "to_jsonb(max(f.at) FILTER (WHERE {rows}))",
}
_PAST: Final = "(f.at IS NULL OR f.at <= %(now)s)"
_WINDOW: Final = "f.at > %(now)s - {within} AND f.at <= %(now)s"
_TIMED: Final = "f.at <= %(now)s"


class _Group(NamedTuple):
    """One part of the statement, and the names of the values that it gives."""

    part: sql.Composable
    names: tuple[str, ...]
    table: tuple[str, str]


class Computing:
    """The values of one kind of profile, composed once."""

    def __init__(self, wanted: Mapping[str, Computed]) -> None:
        self._wanted = wanted
        self._values: dict[str, Any] = {}
        self._groups: list[_Group] = []
        scans: dict[tuple[str, str, bool], list[str]] = {}
        for name, one in wanted.items():
            if one.measure in ("sessions", "last_session"):
                self._add((name,), one, self._session(one))
            else:
                key = (one.source, one.table, one.within is not None)
                scans.setdefault(key, []).append(name)
        for (source, table, windowed), names in scans.items():
            self._scan(source, table, names, windowed=windowed)
        self._tables = sorted({(one.source, one.table) for one in wanted.values()})
        for source, table in self._tables:
            self._untimed(source, table)
        self._statement = sql.SQL(" UNION ALL ").join(group.part for group in self._groups)

    async def values(
        self,
        connection: Connection,
        tenant: str,
        kind: str,
        profiles: Sequence[str],
        now: Microseconds,
    ) -> dict[str, dict[str, ComputedValue]]:
        """The values of each profile, by its id. What is not known is not among them."""
        if not self._wanted:
            return {id_: {} for id_ in profiles}
        cursor = await connection.execute(
            self._statement,
            {
                **self._values,
                "tenant": tenant,
                "kind": kind,
                "profiles": list(profiles),
                "now": now,
            },
            prepare=True,
        )
        said: dict[str, dict[str, tuple[Any, int]]] = {id_: {} for id_ in profiles}
        untimed: dict[tuple[str, tuple[str, str]], int] = {}
        for id_, number, text in await cursor.fetchall():
            group, found = self._groups[number], orjson.loads(text)
            if not group.names:
                untimed[id_, group.table] = found[0]
            for place, name in enumerate(group.names):
                said[id_][name] = (found[2 * place], found[2 * place + 1])
        return {
            id_: {
                name: ComputedValue(
                    values[name][0], values[name][1], untimed[id_, (one.source, one.table)]
                )
                for name, one in self._wanted.items()
                if values[name][0] is not None
            }
            for id_, values in said.items()
        }

    @property
    def statement(self) -> tuple[sql.Composed, dict[str, Any]]:
        """The statement, and what is bound in it beside who is asked for and when."""
        return self._statement, self._values

    # ------------------------------------------------------------------ composing

    def _scan(self, source: str, table: str, names: Sequence[str], *, windowed: bool) -> None:
        pieces: list[sql.Composable] = []
        widest = 0
        for name in names:
            one = self._wanted[name]
            widest = max(widest, one.within or 0)
            rows = self._where(one, windowed=windowed)
            text = sql.SQL("(f.columns ->> {}::text)").format(self._bound(one.column))
            measure = one.measure
            if measure in ("first", "last") and one.column is None:
                piece = _MEASURES[f"{measure} time"]
            else:
                piece = _MEASURES[measure]
            number = sql.SQL(_NUMBER).format(text=text) if measure in NUMERIC else text
            pieces.append(sql.SQL(piece).format(rows=rows, text=text, number=number))
            pieces.append(sql.SQL("count(*) FILTER (WHERE {})").format(rows))
        time = self._window(widest) if windowed else sql.SQL(_PAST)
        values = sql.SQL(", ").join(pieces)
        part = (
            sql.SQL(_ALL).format(group=self._bound(len(self._groups)), values=values)
            + self._rows(source, table, time)
            + sql.SQL(_EACH)
        )
        self._groups.append(_Group(part, tuple(names), (source, table)))

    def _session(self, one: Computed) -> sql.Composable:
        time = sql.SQL(_TIMED) if one.within is None else self._window(one.within)
        rows = self._rows(one.source, one.table, sql.SQL("{} AND {}").format(time, self._said(one)))
        group, gap = self._bound(len(self._groups)), self._bound(one.gap)
        if one.measure == "sessions":
            return (
                sql.SQL(_SESSIONS).format(group=group, gap=gap)
                + rows
                + sql.SQL(") s")
                + sql.SQL(_EACH)
            )
        head = sql.SQL(_LAST_SESSION).format(
            group=group, gap=gap, column=self._bound(one.column), shown=self._bound(_SHOWN)
        )
        last = sql.SQL(_LAST_ROWS).format(most=self._bound(LAST_EVENTS))
        return head + rows + last + sql.SQL(_EACH)

    def _add(self, names: tuple[str, ...], one: Computed, part: sql.Composable) -> None:
        self._groups.append(_Group(part, names, (one.source, one.table)))

    def _untimed(self, source: str, table: str) -> None:
        part = (
            sql.SQL(_UNTIMED).format(group=self._bound(len(self._groups)))
            + self._rows(source, table, sql.SQL("f.at IS NULL"))
            + sql.SQL(_EACH)
        )
        self._groups.append(_Group(part, (), (source, table)))

    def _rows(self, source: str, table: str, time: sql.Composable) -> sql.Composable:
        return sql.SQL(_ROWS).format(
            source=self._bound(source), stream=self._bound(table), time=time
        )

    def _window(self, within: int) -> sql.Composable:
        return sql.SQL(_WINDOW).format(within=self._bound(within))

    def _where(self, one: Computed, *, windowed: bool) -> sql.Composable:
        said = self._said(one)
        if not windowed or one.within is None:
            return said
        return sql.SQL("f.at > %(now)s - {} AND {}").format(self._bound(one.within), said)

    def _said(self, one: Computed) -> sql.Composable:
        parts: list[sql.Composable] = [
            sql.SQL("(f.columns ->> {}::text) = ANY ({}::text[])").format(
                self._bound(column), self._bound(list(values))
            )
            for column, values in one.where
        ]
        return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")

    def _bound(self, value: Any) -> sql.Placeholder:
        name = f"v{len(self._values)}"
        self._values[name] = value
        return sql.Placeholder(name)


_NEXT: Final = """
SELECT p.id, (SELECT min(f.at + {within}) FROM {past}), (SELECT min(f.at) FROM {future})
FROM unnest(%(profiles)s::text[]) p (id)
"""


class NextChange:
    """When a value of somebody changes next, though nothing comes in: a row leaves a window, or its
    time comes."""

    def __init__(self, wanted: Mapping[str, Computed]) -> None:
        self._spans = sorted({(c.source, c.table, c.within) for c in wanted.values()}, key=str)

    async def times(
        self,
        connection: Connection,
        tenant: str,
        kind: str,
        profiles: Sequence[str],
        now: Microseconds,
    ) -> dict[str, Microseconds]:
        """The time for each profile that has one."""
        found: dict[str, Microseconds] = {}
        for source, table, within in self._spans:
            cursor = await connection.execute(
                sql.SQL(_NEXT).format(
                    within=sql.SQL("%(within)s::bigint"),
                    past=_fixed_rows(sql.SQL("f.at > %(now)s - %(within)s AND f.at <= %(now)s")),
                    future=_fixed_rows(sql.SQL("f.at > %(now)s")),
                ),
                {
                    "tenant": tenant,
                    "kind": kind,
                    "profiles": list(profiles),
                    "now": now,
                    "source": source,
                    "stream": table,
                    "within": within or 0,
                },
                prepare=True,
            )
            for id_, *times in await cursor.fetchall():
                for time in times:
                    if time is not None:
                        found[id_] = min(found.get(id_, time), time)
        return found


def _fixed_rows(time: sql.Composable) -> sql.Composable:
    return sql.SQL(_ROWS).format(
        source=sql.SQL("%(source)s"), stream=sql.SQL("%(stream)s"), time=time
    )
