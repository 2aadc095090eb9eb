"""What processes that serve the API share through the database."""

from __future__ import annotations

import asyncio
import time

from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.database.migrate import migrate
from penstock.serving.api.limits import ADMITTED, Admission, Limit, Limits
from penstock.serving.api.problems import ProblemError
from penstock.stores.postgres.pushes import PostgresPushes
from penstock.stores.postgres.rates import PostgresRates


async def let_in(limits: Limits, key: str, until: float) -> int:
    """How many requests of a key get in until then, asked as often as one can."""
    found = 0
    while time.monotonic() < until:
        try:
            await limits.admit({ADMITTED: Admission()}, key)
            found += 1
        except ProblemError:
            await asyncio.sleep(0)
    return found


async def test_a_rate_holds_for_all_processes_together(database_url: str) -> None:
    """Three that ask all the time get what one would get."""
    await migrate(database_url)
    pools = [await open_pool(database_url, max_size=2) for _ in range(3)]
    try:
        several = [
            Limits(
                SystemClock(),
                key=Limit(rate=50, burst=20),
                rates=PostgresRates(pool, tenant="default"),
            )
            for pool in pools
        ]
        began = time.monotonic()
        counts = await asyncio.gather(*(let_in(one, "a", began + 1.5) for one in several))
        spent = time.monotonic() - began
        assert 20 + 50 * 1.2 <= sum(counts) <= 20 + 50 * spent + 1
        assert min(counts) > 0
        assert await let_in(several[0], "b", time.monotonic() + 0.05) > 0
    finally:
        for pool in pools:
            await pool.close()


async def test_while_the_database_is_away_each_process_counts_for_itself(
    database_url: str,
) -> None:
    """Rather than refusing all or letting all in."""
    await migrate(database_url)
    pool = await open_pool(database_url, max_size=1)
    limits = Limits(
        SystemClock(), key=Limit(rate=20, burst=5), rates=PostgresRates(pool, tenant="default")
    )
    await limits.admit({ADMITTED: Admission()}, "a")
    await pool.close()
    assert 3 <= await let_in(limits, "a", time.monotonic() + 0.4) <= 14


async def test_g1_pushes_are_taken_once_and_in_order(database_url: str) -> None:
    """Two that take share them; one that nobody waits for any more is not taken."""
    await migrate(database_url)
    pool = await open_pool(database_url, max_size=4)
    try:
        pushes = PostgresPushes(pool, tenant="default")
        other = PostgresPushes(pool, tenant="other")
        sent = [await pushes.send("notes", None, b"%d" % n, 30) for n in range(20)]
        late = await pushes.send("notes", None, b"late", 0)
        assert await other.take(["notes"], 100) == []
        taken = [*await pushes.take(["notes"], 5), *await pushes.take(["notes", "more"], 100)]
        assert [mail.id for mail in taken] == sent
        assert [mail.parcel for mail in taken] == [b"%d" % n for n in range(20)]
        assert not await pushes.withdraw(sent[0])
        assert await pushes.withdraw(late)
        await pushes.settle(sent[0], {"at": 1, "repeated": False})
        found = await pushes.look(sent[0])
        assert found is not None
        assert found.answer == {"at": 1, "repeated": False}
        assert await other.look(sent[0]) is None
        await pushes.forget(sent[0])
        assert await pushes.look(sent[0]) is None
    finally:
        await pool.close()
