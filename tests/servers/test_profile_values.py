"""Values over windows, sessions and segments in PostgreSQL, against what a few lines of Python make
of the same rows; whatever the order, the batches and the time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.identity.conditions import parse
from penstock.identity.details import Computed, Details
from penstock.identity.rules import KindRule, Rules, TableRule
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.profiles.computing import Computing
from penstock.stores.postgres.profiles.detailing import Detailing
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.profiles.reading import PostgresProfiles
from penstock.stores.postgres.profiles.segments import Segments, events_of
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.clock import ManualClock

KIND = "customer"
DAY = 86_400_000_000
SCHEMA = Schema(
    "web",
    "visits",
    (
        Column("id", "int", key=True),
        *(Column(name, "text") for name in ("cookie", "email", "page", "amount", "at")),
    ),
)
RULES = Rules(
    kinds={"cookie": KindRule("exact"), "email": KindRule("email")},
    tables={
        ("web", "visits"): TableRule(
            identifiers=(("cookie", "cookie"), ("email", "email")),
            at="at",
            kept=("page", "amount"),
            events=True,
        )
    },
    noted=True,
)


def computed(measure: Any, column: str | None = None, within: int | None = None) -> Computed:
    return Computed("web", "visits", measure, column, within=within and within * DAY)


DETAILS = Details(
    computed={
        "all": computed("count"),
        "week": computed("count", within=7),
        "spent": computed("sum", "amount", within=30),
        "most": computed("max", "amount"),
        "page": computed("most_frequent", "page"),
        "pages": computed("distinct", "page"),
        "last": computed("last"),
        "last_page": computed("last", "page"),
        "sessions": computed("sessions", within=30),
        "session": computed("last_session", "page"),
    },
    segments={"busy": parse("week >= 3")},
    latest=3,
)
Pool = AsyncConnectionPool[Any]


class Row(NamedTuple):
    key: int
    cookie: str | None
    email: str | None
    page: str | None
    amount: str | None
    at: str | None


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, max_size=4) as opened:
        async with opened.connection() as connection:
            await declare(connection, "default", KIND, RULES)
        yield opened


def change(row: Row, position: int, now: int, op: Op = Op.UPDATE) -> Change:
    after = None if op is Op.DELETE else (str(row.key), *row[1:])
    return Change(SCHEMA, op, (str(row.key),), Position(f"{position:09}"), Microseconds(now), after)


async def take(pool: Pool, changes: Sequence[Change]) -> None:
    async with PostgresStore(pool).transaction() as transaction:
        await transaction.apply(ApplyEvidence(KIND, RULES, changes))


async def values(pool: Pool, identifier: str, now: int) -> dict[str, Any]:
    async with pool.connection() as connection:
        [id_] = await PostgresProfiles(connection, "default", KIND).bearing([identifier])
        detailing = Detailing(connection, "default", KIND)
        found = await detailing.read(id_, DETAILS, Microseconds(now))
    return {name: one.value for name, one in found.computed.items()}


def micros(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def plain(number: Decimal | int) -> str:
    """Without zeros behind the point."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def expected(rows: Sequence[Row], now: int) -> dict[str, Any]:
    """What the rows come to, worked out from the beginning."""
    timed = {row: micros(row.at) for row in rows if row.at and micros(row.at) > 1e15 / 2}
    timed = {row: at for row, at in timed.items() if at < now + 700 * DAY}
    past = sorted((at, str(row.key), row) for row, at in timed.items() if at <= now)
    there = [row for row in rows if row not in timed] + [row for _, _, row in past]
    week = [row for at, _, row in past if at > now - 7 * DAY]
    month = [(at, row) for at, _, row in past if at > now - 30 * DAY]
    spent = [Decimal(row.amount) for _, row in month if row.amount not in (None, "x")]
    most = [Decimal(row.amount) for row in there if row.amount not in (None, "x")]
    pages = Counter(row.page for row in there if row.page is not None)
    gap = 30 * 60 * 1_000_000
    found: dict[str, Any] = {
        "all": len(there),
        "week": len(week),
        "pages": len(pages),
        "sessions": sum(
            1 for i, (at, _) in enumerate(month) if i == 0 or at - month[i - 1][0] > gap
        ),
    }
    if spent:
        found["spent"] = plain(sum(spent))
    if most:
        found["most"] = plain(max(most))
    if pages:
        found["page"] = min(pages, key=lambda page: (-pages[page], page))
    if past:
        found["last"] = past[-1][0]
        session = [past[-1]]
        for one in reversed(past[:-1]):
            if session[0][0] - one[0] > gap:
                break
            session.insert(0, one)
        seen = [row.page for _, _, row in session if row.page is not None]
        found["session"] = {
            "from": session[0][0],
            "to": past[-1][0],
            "events": len(session),
            "values": seen[:20] or None,
        }
    if last := [row.page for _, _, row in past if row.page is not None]:
        found["last_page"] = last[-1]
    return found


def visits(chance: random.Random, now: datetime, count: int) -> list[Row]:
    def at() -> str | None:
        if chance.random() < 0.1:
            return chance.choice([None, "1970-01-01T00:00:00+00:00", "2090-01-01T00:00:00+00:00"])
        ago = timedelta(minutes=chance.choice([5, 20, 2000]) * chance.randrange(-3, 60))
        return (now - ago).isoformat()

    return [
        Row(
            number,
            chance.choice(["c1", "c2", "c3"]),
            "ada@x.org" if chance.random() < 0.3 else None,
            chance.choice([None, "/", "/buy", "/help"]),
            chance.choice([None, "x", "3", "1.5", "12"]),
            at(),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_g11_values_are_those_of_the_batch_in_any_order_at_any_time(
    pool: Pool, seed: int
) -> None:
    """Rows come in any order, in batches of any size, change and go; then time passes."""
    chance = random.Random(seed)
    moment = datetime(2026, 11, 26, tzinfo=UTC)
    now = micros(moment.isoformat())
    rows = {row.key: row for row in visits(chance, moment, 60)}
    rows[100] = Row(100, "c1", "ada@x.org", "/", None, moment.isoformat())
    rows[101] = Row(101, "c2", "ada@x.org", None, None, None)
    rows[102] = Row(102, "c3", "ada@x.org", None, None, None)
    changes = [change(row, 1, now) for row in rows.values()]
    for key in chance.sample(range(60), 15):
        rows[key] = rows[key]._replace(page="/new", cookie=chance.choice(["c1", "c3"]))
        changes.append(change(rows[key], 2, now))
    gone = chance.sample(range(60), 10)
    changes += [change(rows.pop(key), 3, now, Op.DELETE) for key in gone]
    chance.shuffle(changes)  # positions say what is newer, within a batch too
    while changes:
        size = chance.randrange(1, 20)
        lot, changes = changes[:size], changes[size:]
        await take(pool, sorted(lot, key=lambda one: one.position))
    for later in (0, 5, 12, 40):
        then = now + later * DAY
        assert await values(pool, "email:ada@x.org", then) == expected([*rows.values()], then)


async def test_an_event_is_no_node_of_the_graph_and_goes_with_its_device(pool: Pool) -> None:
    """A thousand events of one device are one record; a login adopts them; without it they part."""
    now = 1_790_000_000_000_000
    at = datetime.fromtimestamp(now / 1e6, UTC).isoformat()
    await take(pool, [change(Row(n, "c1", None, "/", None, at), 1, now) for n in range(1000)])
    await take(pool, [change(Row(2000, None, "ada@x.org", "/", None, at), 1, now)])
    assert (await values(pool, "cookie:c1", now))["all"] == 1000
    login = Row(3000, "c1", "Ada@X.org", "/login", None, at)
    await take(pool, [change(login, 1, now)])
    async with pool.connection() as connection:
        totals = await PostgresProfiles(connection, "default", KIND).totals()
    assert (totals.profiles, totals.records) == (1, 3)
    assert (await values(pool, "email:ada@x.org", now))["all"] == 1002
    await take(pool, [change(login, 2, now, Op.DELETE)])
    assert (await values(pool, "email:ada@x.org", now))["all"] == 1
    await take(pool, [change(Row(n, None, None, "/", None, at), 3, now) for n in range(1000)])
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(*) FILTER (WHERE owner IS NULL), count(*) FROM penstock.profile_facts "
            "WHERE columns IS NOT NULL"
        )
        assert await cursor.fetchone() == (1000, 1001)  # kept, though they are nobody's
        totals = await PostgresProfiles(connection, "default", KIND).totals()
    assert (totals.profiles, totals.records) == (1, 1)


async def test_impossible_times_are_counted_and_poison_nothing(pool: Pool) -> None:
    now = 1_790_000_000_000_000
    times = [None, "1970-01-01", "2090-01-01", "yesterday", "0001-01-01", "infinity"]
    await take(
        pool, [change(Row(n, "c1", None, "/", None, t), 1, now) for n, t in enumerate(times)]
    )
    async with pool.connection() as connection:
        [id_] = await PostgresProfiles(connection, "default", KIND).bearing(["cookie:c1"])
        found = await Detailing(connection, "default", KIND).read(id_, DETAILS, Microseconds(now))
    assert found.computed["all"] == (6, 6, 6)
    assert found.computed["week"] == (0, 0, 6)
    assert not {"last", "session", "last_page"} & set(found.computed)


async def test_members_enter_and_leave_a_segment_by_time_alone(pool: Pool) -> None:
    """Nothing comes in: three visits leave the window one after the other, and one is to come."""
    clock = ManualClock(now=1_790_000_000_000_000)
    now = clock.now()
    segments = Segments(pool, "default", KIND, DETAILS, clock)
    assert await segments.declare()
    assert not await segments.declare()

    def visit(number: int, days: float) -> Change:
        at = datetime.fromtimestamp((now + days * DAY) / 1e6, UTC).isoformat()
        return change(Row(number, "c1", None, "/", None, at), 1, now)

    await take(pool, [visit(0, -6), visit(1, -5), visit(2, -4), visit(3, 3)])

    async def turned() -> list[str]:
        await segments.step()
        async with pool.connection() as connection:
            found = await events_of(connection, "default", KIND, "busy", after=0, limit=100)
        return [one.event for one in found]

    assert await turned() == ["entered"]
    assert await segments.step() == 0  # nobody is due
    clock.advance(1.5 * 86400)
    assert await turned() == ["entered", "left"]
    clock.advance(1.6 * 86400)  # the first two are out, the last one has come: two
    assert await turned() == ["entered", "left"]
    await take(pool, [visit(4, 3), visit(5, 3)])
    assert await turned() == ["entered", "left", "entered"]
    clock.advance(30 * 86400)
    assert await turned() == ["entered", "left", "entered", "left"]
    await take(pool, [visit(6, 33), visit(7, 33), visit(8, 33)])
    clock.advance(3 * 86400)
    assert (await turned())[4:] == ["entered"]
    # There are no segments any more: whoever follows is told.
    bare = Segments(pool, "default", KIND, Details(computed=DETAILS.computed), clock)
    assert await bare.declare()
    assert (await turned())[5:] == ["left"]
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM penstock.profile_due")
        assert await cursor.fetchone() == (0,)


async def test_a_window_reads_the_rows_that_are_in_it(pool: Pool) -> None:
    """By the index over record and time, not all rows of a busy device."""
    now = 1_790_000_000_000_000

    def seen(number: int) -> Row:
        at = datetime.fromtimestamp((now - number * DAY / 100) / 1e6, UTC).isoformat()
        return Row(number, "c1", None, "/", None, at)

    await take(pool, [change(seen(number), 1, now) for number in range(5000)])
    statement = Computing({"week": computed("count", within=7)}).statement
    named = {"tenant": "default", "kind": KIND, "now": now}
    async with pool.connection() as connection:
        [id_] = await PostgresProfiles(connection, "default", KIND).bearing(["cookie:c1"])
        await connection.execute("ANALYZE")
        cursor = await connection.execute(
            b"EXPLAIN (ANALYZE, FORMAT JSON) " + statement[0],
            {**statement[1], **named, "profiles": [id_]},
        )
        row = await cursor.fetchone()
    assert row is not None
    scans = [
        node
        for node in nodes(row[0][0]["Plan"])
        if node.get("Relation Name") == "profile_facts" and node["Actual Rows"] > 0
    ]
    assert [node["Actual Rows"] for node in scans] == [700]
    assert scans[0]["Node Type"].startswith(("Index", "Bitmap"))


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in nodes(part))]
