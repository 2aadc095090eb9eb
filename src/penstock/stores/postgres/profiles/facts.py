"""Rows with the time of what they tell: orders, calls, page views, consents.

Each is kept under a record, by its number: a record that moves to another profile takes its rows
along, without a write. Of a table of people the record is the row itself. Rows of a table of events
that bear the same identifiers have one record together, which is there as long as one of them is:
the graph has a node for each device, not for each page that it saw.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple

import orjson
import psycopg

from penstock.database.queries import load_queries
from penstock.errors import BadRecordError
from penstock.identity.evidence import RecordKey
from penstock.identity.graph import RecordChange, incorporate, reread
from penstock.identity.moments import event_time
from penstock.identity.reading import crowd_key, identifiers_in
from penstock.identity.rules import Rules, TableRule, columns_in
from penstock.records import Microseconds, Position
from penstock.stores.postgres.arrays import array_literal, numbers_literal
from penstock.stores.postgres.profiles.graph import PostgresGraph

Connection = psycopg.AsyncConnection[Any]
Values = Mapping[str, str | None]

SQL: Final = load_queries(Path(__file__).with_name("facts.sql"))


class Evidence:
    """Takes up changes of the tables of one kind: as records, as rows that are kept, or both."""

    def __init__(
        self, connection: Connection, tenant: str, kind: str, rules: Rules, graph: PostgresGraph
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._kind = kind
        self._rules = rules
        self._graph = graph

    async def take(self, changes: Sequence[RecordChange], *, anew: bool = False) -> None:
        """At most one change for each row, all of one table. ``anew``: they are read by other
        rules, and count whatever is stored."""
        if not changes:
            return
        first = changes[0].key
        table = self._rules.tables.get((first.source, first.table), TableRule())
        facts = _Facts(self, table, first.source, first.table, changes, anew=anew)
        if table.events:
            await facts.take_events()
            return
        own = set(table.own_columns())
        await self.incorporate([_narrow(change, own) for change in changes], anew=anew)
        if table.kept is not None:
            await facts.take_rows()
        await self.note(await self._numbers(changes))

    async def sweep(self, source: str, table: str, position: Position) -> None:
        """Everything of a table before a position is gone; its records, where they are its rows,
        are swept by who calls."""
        cursor = await self.run("sweep", source=source, stream=table, position=position)
        owners = [owner for (owner,) in await cursor.fetchall()]
        rule = self._rules.tables.get((source, table))
        if rule is not None and rule.events:
            await self.leave(source, table, owners, position)
        await self.note(owners)

    async def incorporate(self, changes: Sequence[RecordChange], *, anew: bool = False) -> None:
        """Bring the graph to what these say."""
        if changes:
            await (reread if anew else incorporate)(self._graph, self._graph.rules, changes)
            await self._graph.flush()

    async def leave(
        self, source: str, table: str, owners: Collection[int], position: Position
    ) -> None:
        """Take away the records of events that have none any more."""
        if not owners:
            return
        cursor = await self.run("left_alone", owner=numbers_literal(sorted(owners)))
        gone = [
            RecordChange(RecordKey(source, table, key), max(own, position), at, None, sure=True)
            for key, own, at in await cursor.fetchall()
        ]
        await self.incorporate(gone)

    async def note(self, owners: Iterable[int]) -> None:
        """Remember whose segments have to be looked at."""
        touched, self._graph.touched = self._graph.touched, set()
        if not self._rules.noted:
            return
        await self.run(
            "due", owner=numbers_literal(sorted(owners)), profiles=array_literal(sorted(touched))
        )

    async def _numbers(self, changes: Sequence[RecordChange]) -> list[int]:
        if not self._rules.noted:
            return []
        first = changes[0].key
        found = await self.records(first.source, first.table, [c.key.key for c in changes])
        return [number for number, _ in found.values()]

    async def records(
        self, source: str, table: str, keys: Sequence[str]
    ) -> dict[str, tuple[int, bool]]:
        """The numbers of records by their keys, and whether they are there."""
        cursor = await self.run("records", source=source, stream=table, key=array_literal(keys))
        return {key: (number, there) for key, number, there in await cursor.fetchall()}

    async def run(self, statement: LiteralString, **parameters: Any) -> psycopg.AsyncCursor[Any]:
        """One of the statements, for this kind."""
        return await self._connection.execute(
            SQL[statement],
            {"tenant": self._tenant, "kind": self._kind, **parameters},
            prepare=True,
        )

    @property
    def rules(self) -> Rules:
        """The rules of the kind."""
        return self._rules

    @property
    def graph(self) -> PostgresGraph:
        """The kind's graph, in this transaction."""
        return self._graph


class _Stored(NamedTuple):
    owner: int | None
    columns: Values | None
    position: Position


class _Facts:
    """The rows of one lot, on their way."""

    def __init__(
        self,
        evidence: Evidence,
        table: TableRule,
        source: str,
        name: str,
        changes: Sequence[RecordChange],
        *,
        anew: bool,
    ) -> None:
        self._evidence = evidence
        self._table = table
        self._source = source
        self._name = name
        self._changes = changes
        self._anew = anew
        kept = table.columns() if table.events else (*(table.kept or ()), *_only(table.at))
        # Of an event all that is read: an update that leaves columns out finds them here.
        self._kept = frozenset(kept)

    async def take_rows(self) -> None:
        """Keep rows that are records themselves, each under itself."""
        stored = await self._stored()
        fresh = self._fresh(stored)
        found = await self._evidence.records(self._source, self._name, list(fresh))
        owners = {key: number for key, (number, there) in found.items() if there}
        await self._write(fresh, owners)

    async def take_events(self) -> None:
        """Keep events under the records of their identifiers, which come and go with them."""
        stored = await self._stored()
        fresh = self._fresh(stored)
        crowds = self._crowds(fresh)
        await self._gather(fresh, crowds)
        names = sorted({key.key for key in crowds.values()})
        found = await self._evidence.records(self._source, self._name, names)
        owners = {key: found[crowd.key][0] for key, crowd in crowds.items()}
        before = {
            owner
            for key in fresh
            if (row := stored.get(key)) is not None and (owner := row.owner) is not None
        }
        await self._write(fresh, owners)
        latest = max((change.position for change in fresh.values()), default=Position(""))
        left = before - set(owners.values())
        # Noted before they are gone, and after: who loses the last event is another then.
        await self._evidence.note(before | set(owners.values()))
        await self._evidence.leave(self._source, self._name, left, latest)
        await self._evidence.note(())

    async def _gather(
        self, fresh: Mapping[str, RecordChange], crowds: Mapping[str, RecordKey]
    ) -> None:
        """Make the records that are not there yet."""
        wanted = {crowd: fresh[key] for key, crowd in crowds.items()}
        there = {} if self._anew else await self._evidence.graph.stored(sorted(wanted))
        own = {column for _, said in self._table.identifiers for column in columns_in(said)}
        new = [
            RecordChange(
                crowd,
                change.position,
                change.committed_at,
                {name: value for name, value in (change.values or {}).items() if name in own},
                sure=True,
            )
            for crowd, change in wanted.items()
            if (row := there.get(crowd)) is None or row.values is None
        ]
        await self._evidence.incorporate(new, anew=self._anew)

    def _crowds(self, fresh: Mapping[str, RecordChange]) -> dict[str, RecordKey]:
        found = {}
        for key, change in fresh.items():
            if change.values is not None:
                borne = identifiers_in(change.key, change.values, self._evidence.rules)
                if borne:
                    found[key] = crowd_key(self._source, self._name, borne)
        return found

    async def _stored(self) -> dict[str, _Stored]:
        keys = {change.key.key for change in self._changes}
        keys |= {change.base.key for change in self._changes if change.base is not None}
        cursor = await self._evidence.run(
            "stored", source=self._source, stream=self._name, key=array_literal(sorted(keys))
        )
        return {
            key: _Stored(owner, None if columns is None else orjson.loads(columns), position)
            for key, owner, columns, position in await cursor.fetchall()
        }

    def _fresh(self, stored: Mapping[str, _Stored]) -> dict[str, RecordChange]:
        """Changes that are newer than what is stored, whole."""
        fresh = {}
        for change in self._changes:
            known = stored.get(change.key.key)
            if known is not None and change.position <= known.position and not self._anew:
                continue
            if change.since is not None and (known is None or known.position < change.since):
                continue
            values = change.values
            if values is not None and change.base is not None:
                base = stored.get(change.base.key)
                if base is None or base.columns is None:
                    raise _missing(change)
                values = {**base.columns, **values}
            if values is not None:
                values = {name: value for name, value in values.items() if name in self._kept}
            fresh[change.key.key] = RecordChange(
                change.key, change.position, change.committed_at, values
            )
        return fresh

    async def _write(self, fresh: Mapping[str, RecordChange], owners: Mapping[str, int]) -> None:
        if not fresh:
            return
        rows = list(fresh.values())
        await self._evidence.run(
            "write",
            source=self._source,
            stream=self._name,
            key=array_literal(list(fresh)),
            owner=array_literal([_number(owners.get(key)) for key in fresh]),
            at=array_literal([_number(self._at(row)) for row in rows]),
            columns=array_literal(
                [None if r.values is None else orjson.dumps(r.values).decode() for r in rows]
            ),
            position=array_literal([row.position for row in rows]),
        )

    def _at(self, row: RecordChange) -> Microseconds | None:
        if row.values is None:
            return None
        if self._table.at is None:
            return row.committed_at
        return event_time(row.values.get(self._table.at), row.committed_at)


def _narrow(change: RecordChange, own: Collection[str]) -> RecordChange:
    if change.values is None:
        return change
    values = {name: value for name, value in change.values.items() if name in own}
    return replace(change, values=values)


def _only(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def _missing(change: RecordChange) -> BadRecordError:
    return BadRecordError(
        f"expected the row {change.base} for an update that leaves out unchanged values, got none: "
        "its insert is missing (see the dead letters); read the table again from the source",
        source=change.key.source,
        stream=change.key.table,
        key=change.key.key,
        position=change.position,
    )
