"""Profiles in PostgreSQL: several writers, crowds, decisions, and plans of hot statements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool
from structlog.testing import capture_logs

from penstock.database.connect import open_pool
from penstock.errors import ConfigError, FatalError
from penstock.identity.evidence import RecordKey
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence, StoredProfile
from penstock.stores.postgres.profiles.deciding import Deciding
from penstock.stores.postgres.profiles.graph import SQL as GRAPH
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.profiles.reading import PostgresProfiles
from penstock.stores.postgres.store import PostgresStore

KIND = "customer"
COLUMNS = (Column("id", "int", key=True), Column("email", "text"), Column("name", "text"))
SOURCES = ("crm", "shop", "desk")
TABLE = TableRule(identifiers=(("email", "email"),), traits={"name": "name"})
RULES = Rules(
    kinds={"email": KindRule("email", shared_by_at_most=20)},
    traits={"name": TraitRule()},
    tables={(source, "people"): TABLE for source in SOURCES},
    largest=15,
)

Pool = AsyncConnectionPool[Any]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, max_size=6) as opened:
        async with opened.connection() as connection:
            await declare(connection, "default", KIND, RULES)
        yield opened


def change(source: str, key: int, email: str | None, at: int, name: str = "Ada") -> Change:
    gone = email is None
    return Change(
        Schema(source, "people", COLUMNS),
        Op.DELETE if gone else Op.UPDATE,
        (str(key),),
        Position(f"{at:09}"),
        Microseconds(at),
        None if gone else (str(key), email, name),
    )


async def take(store: PostgresStore, changes: Sequence[Change], kind: str = KIND) -> None:
    async with store.transaction() as transaction:
        await transaction.apply(ApplyEvidence(kind, RULES, changes))


async def profile(pool: Pool, source: str, key: int) -> StoredProfile:
    async with pool.connection() as connection:
        reading = PostgresProfiles(connection, "default", KIND)
        id_ = await reading.of_record(RecordKey(source, "people", str(key)))
        assert id_ is not None
        found = await reading.profile(id_)
    assert found is not None
    return found


async def test_g10_writers_of_several_sources_take_turns(pool: Pool) -> None:
    """Each source has its own loop; they meet in the same people at the same time."""
    stores = {source: PostgresStore(pool) for source in SOURCES}

    async def carry(source: str) -> None:
        for lot in range(0, 60, 6):
            people = range(lot, lot + 6)
            await take(stores[source], [change(source, n, f"p{n % 20}@x.org", n) for n in people])

    await asyncio.gather(*map(carry, SOURCES))
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(DISTINCT profile), count(*), count(DISTINCT identifiers) "
            "FROM penstock.profile_records"
        )
        assert await cursor.fetchone() == (20, 180, 20)
        totals = await PostgresProfiles(connection, "default", KIND).totals()
    assert (totals.profiles, totals.records, totals.largest) == (20, 180, 9)


async def test_a_crowd_with_one_address_merges_nobody_and_comes_back_to_it(pool: Pool) -> None:
    store = PostgresStore(pool)
    await take(store, [change("crm", n, "info@x.org", 1) for n in range(12)])
    assert len((await profile(pool, "crm", 0)).records) == 12
    await take(store, [change("shop", n, "info@x.org", 2) for n in range(2000)])
    async with pool.connection() as connection:
        totals = await PostgresProfiles(connection, "default", KIND).totals()
    assert (totals.profiles, totals.largest) == (2012, 1)
    await take(store, [change("shop", n, None, 3) for n in range(2000)])
    assert len((await profile(pool, "crm", 0)).records) == 12


async def test_what_is_too_large_is_held_until_a_person_says_so(pool: Pool) -> None:
    store = PostgresStore(pool)
    with capture_logs() as told:
        await take(store, [change("crm", n, "a@x.org", 1) for n in range(17)])
        await take(store, [change("shop", 1, "b@x.org", 1)])
    assert [(one["event"], one["ties"]) for one in told] == [("profiles.held", 2)]
    async with pool.connection() as connection:
        reading = PostgresProfiles(connection, "default", KIND)
        totals, held = await reading.totals(), await reading.held("size")
    assert (totals.profiles, totals.largest, totals.held) == (3, 15, 2)
    assert {(one.via, one.detail) for one in held} == {("email:a@x.org", "16")}
    keys = [RecordKey("crm", "people", str(n)) for n in range(17)]
    async with pool.connection() as connection, connection.transaction():
        deciding = Deciding(connection, "default", KIND, RULES)
        number = await deciding.decide("merge", keys, by="tester", reason="a firm")
    async with pool.connection() as connection:
        reading = PostgresProfiles(connection, "default", KIND)
        totals = await reading.totals()
        assert (totals.profiles, totals.held) == (2, 0)
        [decision] = await reading.decisions()
    assert (decision["number"], decision["by"], decision["reason"]) == (number, "tester", "a firm")
    async with pool.connection() as connection, connection.transaction():
        await Deciding(connection, "default", KIND, RULES).revoke(number)
    async with pool.connection() as connection, connection.transaction():
        with pytest.raises(ConfigError, match="decision that stands, got 1"):
            await Deciding(connection, "default", KIND, RULES).revoke(number)


async def test_events_are_a_feed_that_is_read_on_from_the_last_number(pool: Pool) -> None:
    store = PostgresStore(pool)
    await take(store, [change("crm", 1, "a@x.org", 1), change("shop", 1, "b@x.org", 1)])
    async with pool.connection() as connection:
        reading = PostgresProfiles(connection, "default", KIND)
        first = await reading.events()
    await take(store, [change("shop", 1, "a@x.org", 2)])
    await take(store, [change("shop", 1, None, 3)])
    async with pool.connection() as connection:
        reading = PostgresProfiles(connection, "default", KIND)
        later = await reading.events(after=first[-1].number)
    assert [event.event for event in first] == ["created", "created"]
    [merged] = later
    assert (merged.event, merged.profile, merged.other) == ("merged", "customer-2", "customer-1")
    assert merged.detail["ties"] == [["crm/people/1", "shop/people/1", "email:a@x.org"]]


async def test_what_is_done_again_changes_nothing(pool: Pool) -> None:
    store = PostgresStore(pool)
    changes = [change("crm", n, f"p{n % 3}@x.org", n + 1) for n in range(9)]
    await take(store, changes)

    async def everything() -> list[Any]:
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT to_jsonb(p), NULL FROM penstock.profiles p UNION ALL "
                "SELECT to_jsonb(r), NULL FROM penstock.profile_records r UNION ALL "
                "SELECT to_jsonb(e), NULL FROM penstock.profile_events e"
            )
            return sorted(map(str, await cursor.fetchall()))

    before = await everything()
    await take(store, changes)
    await take(store, changes[3:])
    assert await everything() == before


async def test_a_kind_that_nobody_declared_is_refused(pool: Pool) -> None:
    with pytest.raises(FatalError, match="'ghost' to be declared"):
        await take(PostgresStore(pool), [change("crm", 1, "a@x.org", 1)], kind="ghost")


async def test_rows_are_found_by_their_keys_whatever_statistics_say(pool: Pool) -> None:
    await take(PostgresStore(pool), [change("crm", n, f"p{n}@x.org", 1) for n in range(3000)])
    parameters: dict[str, Any] = {
        "tenant": "default",
        "kind": KIND,
        "source": ["crm"] * 500,
        "stream": ["people"] * 500,
        "key": [str(n) for n in range(500)],
    }
    async with pool.connection() as connection:
        cursor = await connection.execute("EXPLAIN " + GRAPH["stored"], parameters)
        plan = "\n".join(line for (line,) in await cursor.fetchall())
    assert "Index Scan using profile_records_pkey" in plan
    assert "key = (w.key)" in plan.replace("::text", "")
