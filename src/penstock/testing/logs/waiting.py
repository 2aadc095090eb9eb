"""Waiting for what is not there yet, and following it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from penstock.errors import FatalError
from penstock.log.base import Log, TailableLog
from penstock.records import BEGINNING
from penstock.testing.logs.instances import Instances
from penstock.testing.logs.sample import DEADLINE_S, change, changes_of, keys


class WaitingSuite(Instances):
    """Readers that came before the append."""

    async def test_an_append_wakes_waiting_readers_of_all_instances(
        self, log: Log, other: Log
    ) -> None:
        """Each append is seen by readers that only read after they were woken."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        appended = asyncio.Semaphore(0)

        async def follow(instance: Log) -> list[str]:
            seen: list[str] = []
            at = BEGINNING
            while len(seen) < 30:
                batch = await instance.read("t", 0, at)
                if batch is None:
                    await instance.wait("t", 0, at)
                    continue
                seen.extend(keys(batch.changes))
                at = batch.last
                appended.release()
            return seen

        async with asyncio.timeout(DEADLINE_S):
            readers = [asyncio.create_task(follow(each)) for each in (log, other, other)]
            for i in range(30):
                await producer.append("t", [change(i)])
                for _ in readers:
                    await appended.acquire()
            for reader in readers:
                assert await reader == [str(i) for i in range(30)]

    async def test_waiting_for_what_is_there_returns(self, log: Log, other: Log) -> None:
        """A reader that comes late is not left waiting for the next append."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        at = BEGINNING
        async with asyncio.timeout(DEADLINE_S):
            for i in range(5):
                await producer.append("t", [change(i)])
                await other.wait("t", 0, at)
                await log.wait("t", 0, at)
                batch = await log.read("t", 0, at)
                assert batch is not None
                at = batch.last

    async def test_a_wait_can_be_cancelled(self, log: Log) -> None:
        """And what is appended later is read as if there had been no wait."""
        await log.create_topic("t")

        async def wait_for_ever() -> None:
            while True:
                await log.wait("t", 0, BEGINNING)

        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait_for_ever(), 0.05)
        await (await log.open_producer("p")).append("t", [change(1)])
        assert keys(await changes_of(log, "t")) == ["1"]

    async def test_closing_ends_waits_with_an_error(self, log: Log) -> None:
        """Nobody waits on a closed log for ever."""
        await log.create_topic("t")

        async def wait_for_ever() -> None:
            while True:
                await log.wait("t", 0, BEGINNING)

        waiting = asyncio.create_task(wait_for_ever())
        await asyncio.sleep(0)
        await log.close()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(FatalError, match="closed"):
                await waiting
        await log.close()

    async def test_tail_follows_all_partitions(self, log: Log, other: Log) -> None:
        """From a position what is there, then what comes; from now on only what comes."""
        assert isinstance(other, TailableLog)
        await log.create_topic("t", 2)
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(10)])
        from_now = other.tail("t")
        first = asyncio.ensure_future(anext(from_now))
        from_start = other.tail("t", BEGINNING)
        seen: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(seen) < 10:
                seen.extend(keys((await anext(from_start)).changes))
            assert sorted(seen, key=int) == [str(i) for i in range(10)]
            await producer.append("t", [change(99)])
            assert keys((await first).changes) == ["99"]
            assert keys((await anext(from_start)).changes) == ["99"]
        for following in (from_now, from_start):
            if isinstance(following, AsyncGenerator):
                await following.aclose()
