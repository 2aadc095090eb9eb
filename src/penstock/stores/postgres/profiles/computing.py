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
Cursor = psycopg.AsyncCursor[Any]

LAST_EVENTS: Final = 10_000
"""The last session is looked for among so many of a person's last events."""
_SHOWN: Final = 20
"""Values of the last session that are shown."""

# One row for each profile, a text of JSON for each group of values in it. The rows of a window are
# read once, however many groups look at them: PostgreSQL keeps what is named twice, and puts what
# is named once in its place. Each scan costs: policies are looked up for each.
_WHOLE: Final = """
SELECT p.id, v.* FROM unnest(%(profiles)s::text[]) p (id) CROSS JOIN LATERAL (
    WITH o AS (
        SELECT r.id, r.source, r.stream FROM penstock.profile_records r
        WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.profile = p.id COLLATE "C"){named}
    SELECT {groups}) v
"""
# OFFSET: a person's records by their profile, and of each the rows of the time that is wanted, is
# the plan, whatever statistics say.
_ROWS: Final = """(
    SELECT f.at, f.key, f.columns FROM o CROSS JOIN LATERAL (
        SELECT f.at, f.key, f.columns FROM penstock.profile_facts f
        WHERE f.owner = o.id AND f.columns IS NOT NULL AND {time} OFFSET 0) f
    WHERE o.source = {source} COLLATE "C" AND o.stream = {stream} COLLATE "C")"""
# What is taken out of a row is taken out once (OFFSET), however many values look at it.
_VALUES: Final = """(
    SELECT jsonb_build_array({values})::text
    FROM (SELECT f.at, f.key, f.columns{taken} FROM {rows} f OFFSET 0) f)"""

# A session begins with a row before which nothing was for longer than the gap.
_SESSIONS: Final = """(
    SELECT jsonb_build_array(count(*) FILTER (WHERE before IS NULL OR at - before > {gap}),
                             count(*))::text
    FROM (SELECT f.at, lag(f.at) OVER (ORDER BY f.at) AS before FROM {rows} f WHERE {where}) s)"""
_LAST_SESSION: Final = """(
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
                FROM {rows} f WHERE {where}
                ORDER BY f.at DESC, f.key DESC LIMIT {most}) s) s
    WHERE breaks = 0)"""

# A number that is none counts as no number, like NULL. Most are plain, which is found out sooner.
_NUMBER: Final = (
    "CASE WHEN length({text}) <= 30 AND {text} ~ '^-?[0-9]+(\\.[0-9]+)?$' THEN ({text})::numeric"
    " WHEN {text} ~ '^\\s*[-+]?(\\d{{1,60}}(\\.\\d{{0,60}})?|\\.\\d{{1,60}})"
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
_IN_ORDER: Final = frozenset({"sessions", "last_session"})


class _Group(NamedTuple):
    """One column of the statement, and the names of the values that it gives."""

    part: sql.Composable
    names: tuple[str, ...]
    untimed: tuple[str, str] | None = None
    """The table whose rows without a time are counted behind the values."""


class Computing:
    """The values of one kind of profile, composed once."""

    def __init__(self, wanted: Mapping[str, Computed]) -> None:
        self._wanted = wanted
        self._values: dict[str, Any] = {}
        self._groups: list[_Group] = []
        self._named: list[sql.Composable] = []
        for table in sorted({(one.source, one.table) for one in wanted.values()}):
            self._table(table)
        # As bytes: hundreds of pieces would be put together again for each read.
        self._statement = self._whole().as_bytes()

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
        return await self.told(await self.ask(connection, tenant, kind, profiles, now))

    async def ask(
        self,
        connection: Connection,
        tenant: str,
        kind: str,
        profiles: Sequence[str],
        now: Microseconds,
    ) -> Cursor:
        """Send the statement, of which `told` makes values: in libpq's pipeline mode the server
        may be asked for more before the first answer is read."""
        return await connection.execute(
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

    async def told(self, cursor: Cursor) -> dict[str, dict[str, ComputedValue]]:
        """See `ask`."""
        return {id_: self._read(texts) for id_, *texts in await cursor.fetchall()}

    def _read(self, texts: Sequence[str]) -> dict[str, ComputedValue]:
        said: dict[str, tuple[Any, int]] = {}
        untimed: dict[tuple[str, str], int] = {}
        for group, text in zip(self._groups, texts, strict=True):
            found = orjson.loads(text)
            for place, name in enumerate(group.names):
                said[name] = (found[2 * place], found[2 * place + 1])
            if group.untimed is not None:
                untimed[group.untimed] = found[-1]
        return {
            name: ComputedValue(*said[name], untimed[one.source, one.table])
            for name, one in self._wanted.items()
            if said[name][0] is not None
        }

    @property
    def statement(self) -> tuple[bytes, dict[str, Any]]:
        """The statement, and what is bound in it beside who is asked for and when."""
        return self._statement, self._values

    # ------------------------------------------------------------------ composing

    def _whole(self) -> sql.Composed:
        named = [sql.SQL(", ") + one for one in self._named]
        return sql.SQL(_WHOLE).format(
            named=sql.Composed(named),
            groups=sql.SQL(", ").join(
                group.part + sql.SQL(" AS ") + sql.Identifier(f"g{number}")
                for number, group in enumerate(self._groups)
            ),
        )

    def _table(self, table: tuple[str, str]) -> None:
        """The groups of one table: values over all its rows, those over windows of them, and
        sessions, each of which needs its rows in their order."""
        mine = {n: one for n, one in self._wanted.items() if (one.source, one.table) == table}
        plain = {n: one for n, one in mine.items() if one.measure not in _IN_ORDER}
        window = self._widest(table, [one.within for one in mine.values() if one.within])
        for windowed in (False, True):
            names = [n for n, one in plain.items() if (one.within is not None) == windowed]
            if windowed and names:
                self._scan(names, window)
            elif not windowed:
                rows = self._rows(table, sql.SQL(_PAST if names else "f.at IS NULL"))
                self._scan(names, rows, untimed=table)
        for name, one in mine.items():
            if one.measure in _IN_ORDER:
                timed = self._rows(table, sql.SQL(_TIMED)) if one.within is None else window
                self._groups.append(_Group(self._session(one, timed), (name,)))

    def _widest(self, table: tuple[str, str], windows: Sequence[int]) -> sql.Composable:
        """The name of the rows of a table in the widest of its windows."""
        name = sql.Identifier(f"w{len(self._named)}")
        if windows:
            rows = self._rows(table, self._window(max(windows)))
            self._named.append(name + sql.SQL(" AS ") + rows)
        return name

    def _scan(
        self, names: Sequence[str], rows: sql.Composable, untimed: tuple[str, str] | None = None
    ) -> None:
        pieces: list[sql.Composable] = []
        taken: dict[tuple[str | None, bool], sql.Composable] = {}
        for name in names:
            one = self._wanted[name]
            where = self._where(one)
            measure = one.measure
            what = (one.column, measure in NUMERIC)
            if one.column is not None and what not in taken:
                text = sql.SQL("(f.columns ->> {}::text)").format(self._bound(one.column))
                taken[what] = sql.SQL(_NUMBER).format(text=text) if what[1] else text
            said = sql.Identifier("f", f"t{[*taken].index(what)}" if what in taken else "columns")
            if measure in ("first", "last") and one.column is None:
                piece = _MEASURES[f"{measure} time"]
            else:
                piece = _MEASURES[measure]
            pieces.append(sql.SQL(piece).format(rows=where, text=said, number=said))
            pieces.append(sql.SQL("count(*) FILTER (WHERE {})").format(where))
        if untimed is not None:
            pieces.append(sql.SQL("count(*) FILTER (WHERE f.at IS NULL)"))
        values = sql.SQL(", ").join(pieces)
        named = [
            sql.SQL(", {} AS {}").format(one, sql.Identifier(f"t{place}"))
            for place, one in enumerate(taken.values())
        ]
        part = sql.SQL(_VALUES).format(values=values, taken=sql.Composed(named), rows=rows)
        self._groups.append(_Group(part, tuple(names), untimed))

    def _session(self, one: Computed, rows: sql.Composable) -> sql.Composable:
        where, gap = self._where(one), self._bound(one.gap)
        if one.measure == "sessions":
            return sql.SQL(_SESSIONS).format(gap=gap, rows=rows, where=where)
        return sql.SQL(_LAST_SESSION).format(
            gap=gap,
            rows=rows,
            where=where,
            column=self._bound(one.column),
            shown=self._bound(_SHOWN),
            most=self._bound(LAST_EVENTS),
        )

    def _rows(self, table: tuple[str, str], time: sql.Composable) -> sql.Composable:
        source, stream = map(self._bound, table)
        return sql.SQL(_ROWS).format(source=source, stream=stream, time=time)

    def _window(self, within: int) -> sql.Composable:
        return sql.SQL(_WINDOW).format(within=self._bound(within))

    def _where(self, one: Computed) -> sql.Composable:
        parts: list[sql.Composable] = [
            sql.SQL("(f.columns ->> {}::text) = ANY ({}::text[])").format(
                self._bound(column), self._bound(list(values))
            )
            for column, values in one.where
        ]
        if one.within is not None:
            parts.insert(0, sql.SQL("f.at > %(now)s - {}").format(self._bound(one.within)))
        return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")

    def _bound(self, value: Any) -> sql.Placeholder:
        name = f"v{len(self._values)}"
        self._values[name] = value
        return sql.Placeholder(name)


_NEXT: Final = """
SELECT p.id, (SELECT min(f.at + %(within)s::bigint) FROM {past}),
       (SELECT min(f.at) FROM {future})
FROM unnest(%(profiles)s::text[]) p (id)
"""
_ROWS_OF: Final = """
    penstock.profile_records r
    CROSS JOIN LATERAL (
        SELECT f.at FROM penstock.profile_facts f
        WHERE f.owner = r.id AND f.columns IS NOT NULL AND {time} OFFSET 0) f
    WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.profile = p.id COLLATE "C"
      AND r.source = %(source)s COLLATE "C" AND r.stream = %(stream)s COLLATE "C"
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
                    past=sql.SQL(_ROWS_OF).format(
                        time=sql.SQL("f.at > %(now)s - %(within)s AND f.at <= %(now)s")
                    ),
                    future=sql.SQL(_ROWS_OF).format(time=sql.SQL("f.at > %(now)s")),
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
