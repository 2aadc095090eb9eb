"""What language models cost, in PostgreSQL: budgets over processes, and canaries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.database.migrate import migrate
from penstock.errors import FatalError, RetryableError
from penstock.models.base import Usage, Who
from penstock.models.gateway.account import NANOS, Budgets
from penstock.models.gateway.canary import CanaryRules
from penstock.stores.postgres.model_costs import PostgresModelCosts
from penstock.testing.clock import ManualClock
from penstock.wiring.spending import StoredAccount

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
TABLES = ("model_spending", "model_budgets", "model_canaries", "model_canary_events")


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    await migrate(database_url)
    opened = await open_pool(database_url)
    yield opened
    await opened.close()


def account(pool: Pool, tenant: str = "default") -> StoredAccount:
    return StoredAccount(PostgresModelCosts(pool), tenant, SystemClock())


async def test_processes_together_never_overshoot_a_budget(pool: Pool) -> None:
    """Two of them ask at once; what each call can cost is put aside in one transaction."""
    one, two = account(pool), account(pool)
    budgets = Budgets(per_tenant=100 / NANOS, per_key=60 / NANOS)

    async def call(number: int) -> int:
        asks = (one, two)[number % 2]
        try:
            reserved = await asks.reserve(Who(key="ab"[number % 3 % 2]), 10, budgets)
        except RetryableError:
            return 0
        asks.settle(reserved, "m", Usage(1, 5, 5, 9 / NANOS))
        return 9

    spent = sum(await asyncio.gather(*map(call, range(60))))
    await asyncio.gather(one.close(), two.close())
    assert 0 < spent <= 100
    async with pool.connection() as connection:
        rows = await (await connection.execute(
            "SELECT key, nanos FROM penstock.model_budgets ORDER BY key"
        )).fetchall()  # fmt: skip
        lines = await (await connection.execute(
            "SELECT sum(nanos), sum(requests), sum(input_tokens) FROM penstock.model_spending"
        )).fetchone()  # fmt: skip
    assert rows[0] == ("", spent)
    assert all(nanos <= 60 for key, nanos in rows if key)
    assert lines == (spent, spent // 9, 5 * spent // 9)


async def test_what_took_more_than_was_put_aside_counts_at_once(pool: Pool) -> None:
    """Calls in quick succession see each other's excess."""
    asks = account(pool)
    budgets = Budgets(per_tenant=25 / NANOS)
    reserved = await asks.reserve(Who(), 10, budgets)
    asks.settle(reserved, "m", Usage(1, 5, 5, 20 / NANOS))
    with pytest.raises(RetryableError, match="holds no further call"):
        await asks.reserve(Who(), 10, budgets)
    await asks.close()


async def test_a_budget_that_refuses_puts_nothing_aside(pool: Pool) -> None:
    """Neither for the key nor for the whole."""
    asks = account(pool)
    budgets = Budgets(per_tenant=100 / NANOS, keys={"k": 5 / NANOS})
    with pytest.raises(RetryableError, match="the key k holds no further call"):
        await asks.reserve(Who(key="k"), 6, budgets)
    await asks.reserve(Who(key="other"), 100, budgets)
    with pytest.raises(RetryableError, match="of the project holds no further call"):
        await asks.reserve(Who(), 1, budgets)
    await asks.reserve(Who("another tenant"), 1, budgets)
    await asks.close()


async def test_what_is_unknown_stays_put_aside_and_what_failed_does_not(pool: Pool) -> None:
    asks = account(pool)
    budgets = Budgets(per_tenant=100 / NANOS)
    for usage in (Usage(1, None, None, None), None, Usage(1, 1, 1, 3 / NANOS)):
        asks.settle(await asks.reserve(Who(), 10, budgets), "m", usage)
    await asks.close()
    costs = PostgresModelCosts(pool)
    [(_, key, model, *counts)] = await costs.spent("default", date(2020, 1, 1))
    assert (key, model) == ("", "m")
    assert counts == [3, 1, 1, 1, 0, 3, 1]
    assert await costs.reserve("default", 88, {"": 100}) == ("", 13)


async def test_a_canary_is_rolled_back_for_all_processes(pool: Pool) -> None:
    """What each of them saw counts together; and a person's word holds."""
    rules = CanaryRules("new", 0.5, least_requests=10)
    one, two = account(pool), account(pool)
    for asks in (one, two):
        for _ in range(6):
            asks.count(rules, canary=True, failed=True)
            asks.count(rules, canary=False, failed=False)
        await asks.flush()
    assert (await two.refresh("new")).state == "rolled back"
    assert (await one.refresh("new")).state == "rolled back"
    assert "12 of 12 requests failed" in (await one.refresh("new")).reason
    await one.costs.decide("default", "new", "running", "")
    standing = await two.refresh("new")
    assert (standing.state, standing.canary.requests) == ("running", 0)
    await one.costs.decide("default", "new", "promoted", "")
    one.count(rules, canary=True, failed=True)
    assert (await one.refresh("new")).state == "promoted"
    await asyncio.gather(one.close(), two.close())


async def test_quality_decides_for_all_processes_and_is_recorded(pool: Pool) -> None:
    """What each of them saw counts together, also after a restart; decisions stay, with reasons."""
    rules = CanaryRules("new", 0.5, least_requests=1, least_judged=100)
    one, two = account(pool), account(pool)
    for number in range(60):
        for asks in (one, two):
            asks.count(rules, canary=True, failed=False)
            asks.judge(rules, canary=True, good=number % 2 == 0)
            asks.judge(rules, canary=False, good=True)
    await asyncio.gather(one.close(), two.close())
    later = account(pool)
    standing = await later.refresh("new")
    assert standing.state == "rolled back"
    assert (standing.canary.judged, standing.canary.good) == (120, 60)
    await later.costs.decide("default", "new", "running", "")
    assert (await later.refresh("new")).others.judged == 0
    for _ in range(5000):
        later.count(rules, canary=True, failed=False)
        later.judge(rules, canary=True, good=True)
        later.judge(rules, canary=False, good=True)
    await later.flush()
    assert (await later.refresh("new")).state == "promoted"
    events = await later.costs.events("default", "new", 10)
    assert [state for _, state, _ in events] == ["promoted", "running", "rolled back"]
    assert "60 of 120 answers and ratings were good" in events[-1][2]
    await later.costs.decide("default", "new", "rolled back", "too late", anyway=False)
    assert len(await later.costs.events("default", "new", 10)) == 3
    await later.close()


async def test_nobody_who_only_reads_sees_what_is_spent(pool: Pool) -> None:
    async with pool.connection() as connection:
        for table in TABLES:
            row = await (await connection.execute(
                "SELECT relrowsecurity AND relforcerowsecurity, "
                "has_table_privilege('penstock_reader', oid, 'SELECT') "
                "FROM pg_class WHERE oid = %s::regclass",
                [f"penstock.{table}"],
            )).fetchone()  # fmt: skip
            assert row == (True, False)


async def test_what_could_not_be_written_is_written_later(pool: Pool) -> None:
    asks = account(pool)
    asks.settle(await asks.reserve(Who(), 10, Budgets()), "m", Usage(1, 1, 1, 3 / NANOS))
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE penstock.model_spending RENAME TO away")
    with pytest.raises(FatalError, match="does not exist"):
        await asks.flush()
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE penstock.away RENAME TO model_spending")
    await asks.flush()
    assert len(await asks.costs.spent("default", date(2020, 1, 1))) == 1
    await asks.close()


async def test_most_calls_need_not_ask_the_database(pool: Pool) -> None:
    """What is put aside for several is given back when nobody takes it; nothing is lost of it."""
    clock = ManualClock(SystemClock().now())
    asks = StoredAccount(Counting(pool), "default", clock)
    budgets = Budgets(per_tenant=100_000 / NANOS, per_key=50_000 / NANOS)
    for _ in range(33):
        reserved = await asks.reserve(Who(key="a"), 10, budgets)
        asks.settle(reserved, "m", Usage(1, 5, 5, 9 / NANOS))
    assert Counting.reserved == [160, 160, 160]
    await asks.flush()
    assert await held(pool) == {"": 480 - 33, "a": 480 - 33}
    while clock.sleeping:  # it is written, and what is idle given back
        clock.advance(1)
        await asks.flush()
        await asyncio.sleep(0)
    assert await held(pool) == {"": 33 * 9, "a": 33 * 9}
    await asks.reserve(Who(key="a"), 10, budgets)
    await asks.close()  # the rest of a block is given back, what the call may cost is not
    assert await held(pool) == {"": 33 * 9 + 10, "a": 33 * 9 + 10}


class Counting(PostgresModelCosts):
    """Says how much was put aside each time."""

    reserved: ClassVar[list[int]] = []

    async def reserve(
        self, tenant: str, nanos: int, most: Mapping[str, int | None]
    ) -> date | tuple[str, int]:
        self.reserved.append(nanos)
        return await super().reserve(tenant, nanos, most)


async def held(pool: Pool) -> dict[str, int]:
    """Spent and put aside, by key."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(
            "SELECT key, nanos FROM penstock.model_budgets"
        )).fetchall()  # fmt: skip
    return dict(rows)
