"""The source of profile events passes the suite of sources. What the system "holds" is what the
database says: what happened, and who is in which segment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.identity.conditions import parse
from penstock.identity.details import Details
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.records import Change, Column, Microseconds, Op, Position, Row, Schema
from penstock.sources.profile_events import ProfileEventsSource
from penstock.sources.profile_events.rows import EVENTS, MEMBERS
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.profiles.segments import Segments
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.sources import RowName, SourceSuite

KIND = "customer"
PEOPLE = Schema(
    "crm",
    "people",
    (Column("id", "int", key=True), Column("email", "text"), Column("city", "text")),
)
RULES = Rules(
    kinds={"email": KindRule("email")},
    traits={"city": TraitRule()},
    tables={
        ("crm", "people"): TableRule(identifiers=(("email", "email"),), traits={"city": "city"})
    },
    noted=True,
)
DETAILS = Details(segments={"berliners": parse("city = 'Berlin'")})


class People:
    """Two who move to and from Berlin with every other write, and a third who is the first one now
    and then."""

    def __init__(self, url: str, pool: AsyncConnectionPool[Any]) -> None:
        self._url = url
        self._pool = pool
        self._store = PostgresStore(pool)
        self._segments = Segments(pool, "default", KIND, DETAILS, SystemClock())

    def source(self) -> ProfileEventsSource:
        return ProfileEventsSource(
            "people",
            lambda: self._url,
            tenant="default",
            kind=KIND,
            streams=(EVENTS, MEMBERS),
            heartbeat_s=0.05,
        )

    async def write(self, number: int) -> None:
        if number == 0:
            await self._segments.declare()
        mover, city = number % 2 + 1, "Berlin" if number // 2 % 2 == 0 else "Bonn"
        third = "p1@x.org" if number % 3 else "p3@x.org"
        changes = [
            Change(
                PEOPLE,
                Op.UPDATE,
                (str(key),),
                Position(f"{number:08}"),
                Microseconds(number),
                (str(key), email, where),
            )
            for key, email, where in ((mover, f"p{mover}@x.org", city), (3, third, "Rome"))
        ]
        async with self._store.transaction() as transaction:
            await transaction.apply(ApplyEvidence(KIND, RULES, changes))
        await self._segments.step()

    async def contents(self) -> Mapping[RowName, Hashable]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT number::text, event, profile, other FROM penstock.profile_events"
            )
            found: dict[RowName, Hashable] = {
                (EVENTS, (number,)): tuple(said) for number, *said in await cursor.fetchall()
            }
            cursor = await connection.execute(
                "SELECT segment, profile FROM penstock.profile_members"
            )
            for row in await cursor.fetchall():
                found[MEMBERS, row] = "in"
        return found

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[2:5] if schema.stream == EVENTS else "in"


class TestProfileEventsSource(SourceSuite):
    """The behaviours of any source."""

    @pytest.fixture
    async def system(self, database_url: str) -> AsyncIterator[People]:
        async with await open_pool(database_url, max_size=4) as pool:
            async with pool.connection() as connection:
                await declare(connection, "default", KIND, RULES)
            yield People(database_url, pool)
