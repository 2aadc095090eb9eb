"""Appends of one process that share a transaction: each is still on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest

from penstock.bench.waiting import until
from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.errors import FatalError, UnavailableError
from penstock.log.base import Producer
from penstock.log.embedded import EmbeddedLog
from penstock.testing.logs import change, changes_of, keys

LOCK = "SELECT FROM penstock.log_partitions WHERE topic = %s FOR UPDATE"
LOCKED = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND datname = current_database()"
)


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[EmbeddedLog]:
    pool = await open_pool(database_url, max_size=4)
    log = EmbeddedLog(pool, database_url, clock=SystemClock())
    for topic in ("t", "u"):
        await log.create_topic(topic)
    yield log
    await log.close()
    await pool.close()


@pytest.fixture
async def blocker(database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        yield connection


async def waiting_for_locks(blocker: psycopg.AsyncConnection) -> list[int]:
    """The processes that wait for a lock, also those that connected since the last look."""
    await blocker.execute("SELECT pg_stat_clear_snapshot()")
    return [pid for (pid,) in await (await blocker.execute(LOCKED)).fetchall()]


async def blocked(blocker: psycopg.AsyncConnection) -> None:
    """Until some process waits for a lock."""

    async def seen() -> bool:
        return bool(await waiting_for_locks(blocker))

    await until(seen, limit_s=20)


async def opened(log: EmbeddedLog, count: int) -> Sequence[Producer]:
    return [await log.open_producer(f"p{number}") for number in range(count)]


async def stored_rows(connection: psycopg.AsyncConnection) -> int:
    cursor = await connection.execute("SELECT count(*) FROM penstock.log_batches")
    ((count,),) = await cursor.fetchall()
    return int(count)


async def test_appends_of_the_same_moment_share_transactions(
    log: EmbeddedLog, blocker: psycopg.AsyncConnection
) -> None:
    """The first goes at once, all that come meanwhile are the next."""
    producers = await opened(log, 30)
    await asyncio.gather(
        *(producer.append("t", [change(i)]) for i, producer in enumerate(producers))
    )
    assert await stored_rows(blocker) <= 5
    assert sorted(keys(await changes_of(log, "t")), key=int) == [str(i) for i in range(30)]


async def test_what_one_cannot_store_does_not_harm_the_others(log: EmbeddedLog) -> None:
    """Neither a change that is no text nor a state that the database refuses."""
    producers = await opened(log, 20)
    bad = change(4)._replace(after=("4", 5))  # type: ignore[arg-type]
    outcomes = await asyncio.gather(
        *(
            producer.append(
                "t", [bad if i == 4 else change(i)], state={"at": "\0" if i == 9 else "x"}
            )
            for i, producer in enumerate(producers)
        ),
        return_exceptions=True,
    )
    refused = {i: str(outcome) for i, outcome in enumerate(outcomes) if outcome is not None}
    assert set(refused) == {4, 9}
    assert "got ['int']" in refused[4]
    assert "without NUL" in refused[9]
    expected = sorted({str(i) for i in range(20)} - {"4", "9"}, key=int)
    assert sorted(keys(await changes_of(log, "t")), key=int) == expected
    await producers[4].append("t", [change(44)])  # nothing of it was sent: it may go on
    with pytest.raises(FatalError, match="open the producer again"):
        await producers[9].append("t", [change(99)])


async def test_a_group_that_is_held_up_lets_others_pass(
    log: EmbeddedLog, blocker: psycopg.AsyncConnection
) -> None:
    """Another process has locked one topic: appends to other topics do not wait for it."""
    producers = await opened(log, 4)
    await blocker.execute(LOCK, ["t"])
    held = [asyncio.create_task(producer.append("t", [change(1)])) for producer in producers[:1]]
    await blocked(blocker)
    held.append(asyncio.create_task(producers[1].append("t", [change(2)])))
    async with asyncio.timeout(20):
        await asyncio.gather(*(producer.append("u", [change(7)]) for producer in producers[2:]))
    assert not any(task.done() for task in held)
    await blocker.rollback()
    await asyncio.gather(*held)
    assert sorted(keys(await changes_of(log, "t"))) == ["1", "2"]


async def test_an_append_cancelled_while_it_waits_is_never_stored(
    log: EmbeddedLog, blocker: psycopg.AsyncConnection
) -> None:
    """It leaves the queue; those beside it are stored."""
    producers = await opened(log, 5)
    await blocker.execute(LOCK, ["t"])
    appends = [
        asyncio.create_task(producer.append("t", [change(i)], state={"at": str(i)}))
        for i, producer in enumerate(producers[:4])
    ]
    await blocked(blocker)
    late = asyncio.create_task(producers[4].append("t", [change(4)], state={"at": "4"}))
    await asyncio.sleep(0)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    await blocker.rollback()
    await asyncio.gather(*appends)
    with pytest.raises(FatalError, match="open the producer again"):
        await producers[4].append("t", [change(5)])
    happened = dict((await log.open_producer("p4")).state) == {"at": "4"}
    assert sorted(keys(await changes_of(log, "t"))) == ["0", "1", "2", "3", "4"][: 4 + happened]


async def test_l3_a_connection_killed_under_a_group_is_told_to_each(
    log: EmbeddedLog, blocker: psycopg.AsyncConnection
) -> None:
    """All of the group or nothing; each must open again, and finds what the log holds."""
    producers = await opened(log, 12)
    await blocker.execute(LOCK, ["t"])
    appends = [
        asyncio.create_task(producer.append("t", [change(i)], state={"at": str(i)}))
        for i, producer in enumerate(producers)
    ]
    killed = set()

    async def all_told() -> bool:
        for pid in await waiting_for_locks(blocker):
            await blocker.execute("SELECT pg_terminate_backend(%s)", [pid])
            killed.add(pid)
        return all(task.done() for task in appends)

    await until(all_told, limit_s=20)
    await blocker.rollback()
    assert len(killed) >= 2
    for i, task in enumerate(appends):
        with pytest.raises(UnavailableError):
            await task
        with pytest.raises(FatalError, match="open the producer again"):
            await producers[i].append("t", [change(i)])
        assert dict((await log.open_producer(f"p{i}")).state) == {}
    assert await changes_of(log, "t") == []
