"""Segments: who fits a condition, kept, with an event whenever somebody comes or leaves.

Whose evidence changes is noted in the transaction that changes it. Whose values change by time
alone is known beforehand: when the next of their rows leaves a window. Both wait in one table, by
time, and are looked at soon after (`Segments.step`), some hundreds at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

import orjson
import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.clock import Clock
from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.identity.conditions import Values
from penstock.identity.details import Details
from penstock.records import Microseconds
from penstock.stores.details import ComputedValue, SegmentEvent, SegmentMember
from penstock.stores.postgres.arrays import array_literal, numbers_literal
from penstock.stores.postgres.profiles.computing import Computing, NextChange
from penstock.stores.postgres.profiles.graph import SQL as GRAPH

Connection = psycopg.AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]

SQL: Final = load_queries(Path(__file__).with_name("segments.sql"))
LOT: Final = 500


class Segments:
    """The segments of one kind of profile."""

    def __init__(self, pool: Pool, tenant: str, kind: str, details: Details, clock: Clock) -> None:
        named = {name for condition in details.segments.values() for name in condition.names()}
        computed = {name: one for name, one in details.computed.items() if name in named}
        self._pool = pool
        self._names = {"tenant": tenant, "kind": kind}
        self._segments = details.segments
        self._definitions = {
            name: f"{condition} of {sorted(computed.items())}"
            for name, condition in details.segments.items()
        }
        self._computing = Computing(computed)
        self._next = NextChange(computed)
        self._clock = clock

    async def declare(self) -> bool:
        """Make the segments known; where one is new or another, everybody is looked at anew."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(GRAPH["lock"], self._names)
                cursor = await self._run(connection, "defined")
                if dict(await cursor.fetchall()) == self._definitions:
                    return False
                names = list(self._definitions)
                if not names:
                    await self._run(connection, "nobody_is_member", now=self._clock.now())
                    await self._run(connection, "nobody_is_due")
                await self._run(connection, "define_no_more", segment=names)
                await self._run(
                    connection,
                    "define",
                    segment=array_literal(names),
                    definition=array_literal(list(self._definitions.values())),
                )
                if names:
                    await self._run(connection, "everybody_is_due")
        return True

    async def step(self) -> int:
        """Look at whoever is due by now; returns how many these were."""
        count = looked = LOT
        total = 0
        with translated():
            while looked == count:
                async with self._pool.connection() as connection, connection.transaction():
                    looked = await self._look(connection, count)
                total += looked
        return total

    async def _look(self, connection: Connection, count: int) -> int:
        now = self._clock.now()
        cursor = await self._run(connection, "due", now=now, count=count)
        if await cursor.fetchone() is None:
            return 0
        await connection.execute(GRAPH["lock"], self._names)
        now = self._clock.now()
        cursor = await self._run(connection, "due", now=now, count=count)
        profiles = [id_ for (id_,) in await cursor.fetchall()]
        values = await self._values(connection, profiles, now)
        named = array_literal(profiles)
        cursor = await self._run(connection, "memberships", profiles=named)
        were = set(await cursor.fetchall())
        are = {
            (segment, id_)
            for segment, condition in self._segments.items()
            for id_, known in values.items()
            if condition.holds(known)
        }
        await self._turn(connection, sorted(were - are), sorted(are - were), now)
        await self._run(connection, "looked_at", profiles=named)
        there = list(values)
        then = await self._next.times(
            connection, self._names["tenant"], self._names["kind"], there, now
        )
        if then:
            await self._run(
                connection,
                "due_then",
                profile=array_literal(list(then)),
                due_at=numbers_literal(then.values()),
            )
        return len(profiles)

    async def _values(
        self, connection: Connection, profiles: Sequence[str], now: Microseconds
    ) -> dict[str, Values]:
        cursor = await self._run(connection, "traits", profiles=array_literal(profiles))
        known = {
            id_: {name: [one[0] for one in said] for name, said in orjson.loads(traits).items()}
            for id_, traits in await cursor.fetchall()
        }
        computed = await self._computing.values(
            connection, self._names["tenant"], self._names["kind"], list(known), now
        )
        return {id_: {**traits, **_texts(computed[id_])} for id_, traits in known.items()}

    async def _turn(
        self,
        connection: Connection,
        left: Sequence[tuple[str, str]],
        entered: Sequence[tuple[str, str]],
        now: Microseconds,
    ) -> None:
        for statement, pairs in (("leave", left), ("enter", entered)):
            if pairs:
                named = {"now": now} if statement == "enter" else {}
                await self._run(connection, statement, **_pairs(pairs), **named)
        if left or entered:
            events = ["left"] * len(left) + ["entered"] * len(entered)
            await self._run(
                connection,
                "happened",
                **_pairs([*left, *entered]),
                event=array_literal(events),
                now=now,
            )

    async def _run(
        self, connection: Connection, statement: LiteralString, **parameters: Any
    ) -> psycopg.AsyncCursor[Any]:
        return await connection.execute(SQL[statement], {**self._names, **parameters}, prepare=True)


async def members_of(
    connection: Connection, tenant: str, kind: str, segment: str, *, after: str, limit: int
) -> list[SegmentMember] | None:
    """Profiles of a segment behind an id; None where there is no such segment."""
    named = {"tenant": tenant, "kind": kind, "segment": segment}
    cursor = await connection.execute(SQL["exists"], named, prepare=True)
    if await cursor.fetchone() is None:
        return None
    cursor = await connection.execute(
        SQL["members"], {**named, "after": after, "count": limit}, prepare=True
    )
    return [SegmentMember(*row) for row in await cursor.fetchall()]


async def events_of(
    connection: Connection, tenant: str, kind: str, segment: str, *, after: int, limit: int
) -> list[SegmentEvent]:
    """Who came and left behind a number: whoever reads on from the last one misses nothing."""
    cursor = await connection.execute(
        SQL["events"],
        {"tenant": tenant, "kind": kind, "segment": segment, "after": after, "count": limit},
        prepare=True,
    )
    return [SegmentEvent(*row) for row in await cursor.fetchall()]


def _texts(values: Mapping[str, ComputedValue]) -> dict[str, list[str]]:
    """As conditions compare them; what is no single value is only known or not."""
    return {
        name: [one.value if isinstance(one.value, str) else orjson.dumps(one.value).decode()]
        for name, one in values.items()
    }


def _pairs(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    named = list(pairs)
    return {
        "segment": array_literal([segment for segment, _ in named]),
        "profile": array_literal([id_ for _, id_ in named]),
    }
