"""L1 and L2: positions count records in the order of appending, and hide nothing."""

from __future__ import annotations

import asyncio

import pytest

from penstock.log.base import Log, Producer
from penstock.records import BEGINNING, LogPosition
from penstock.testing.logs.instances import Instances
from penstock.testing.logs.sample import DEADLINE_S, change, changes_of, keys, read_all


class OrderSuite(Instances):
    """Positions, and what a reader sees of them."""

    async def test_l1_positions_ascend_in_the_order_of_appending(self, log: Log) -> None:
        """A batch says the first and the last of its own; the next begins right after."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1), change(2)])
        await producer.append("t", [change(3)])
        batch = await log.read("t", 0, BEGINNING)
        assert batch is not None
        assert (keys(batch.changes), batch.first) == (["1", "2", "3"], 1)
        assert batch.last == 3 or not self.counts_records
        assert await log.read("t", 0, batch.last) is None
        await producer.append("t", [change(4)])
        after = await log.read("t", 0, batch.last)
        assert after is not None
        assert (keys(after.changes), after.first) == (["4"], batch.last + 1)
        assert after.last >= after.first

    async def test_an_empty_topic_has_nothing_to_read(self, log: Log, other: Log) -> None:
        """Reading never waits."""
        await log.create_topic("t")
        assert await log.read("t", 0, BEGINNING) is None
        assert await other.read("t", 0, BEGINNING) is None

    async def test_an_append_is_read_whole(self, log: Log, other: Log) -> None:
        """At least one append, however large; more of them only up to what was asked for."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(2500)])
        for i in range(10):
            await producer.append("t", [change(i), change(i)])
        for each in (log, other):
            sizes = [len(b.changes) for b in await read_all(each, "t", max_changes=5)]
            assert sizes[0] == 2500
            assert sum(sizes) == 2520
            assert all(size in (2, 4, 6) for size in sizes[1:])
            assert len(sizes) > 3

    async def test_reading_goes_on_inside_an_append(self, log: Log, other: Log) -> None:
        """A position in the middle of an append resumes after exactly that record."""
        if not self.counts_records:
            pytest.skip("there are no positions inside an append")
        await log.create_topic("t")
        await (await log.open_producer("p")).append("t", [change(i) for i in range(1, 6)])
        for each in (other, log):
            batch = await each.read("t", 0, LogPosition(3))
            assert batch is not None
            assert (keys(batch.changes), batch.first, batch.last) == (["4", "5"], 4, 5)

    async def test_l2_racing_writers_hide_nothing_from_a_reader(self, log: Log, other: Log) -> None:
        """Two producers append to one partition; who resumes from what was seen misses nothing."""
        await log.create_topic("t")

        async def write(producer: Producer, name: str) -> None:
            for i in range(60):
                await producer.append("t", [change(f"{name}{i}"), change(f"{name}{i}+")])

        writing = asyncio.gather(
            write(await log.open_producer("a"), "a"), write(await other.open_producer("b"), "b")
        )
        seen: list[str] = []
        at = BEGINNING
        async with asyncio.timeout(DEADLINE_S):
            while len(seen) < 240:
                batch = await other.read("t", 0, at, max_changes=3)
                if batch is None:
                    await other.wait("t", 0, at)
                    continue
                assert batch.first == at + 1
                assert len(batch.changes) == batch.last - at or not self.counts_records
                seen.extend(keys(batch.changes))
                at = batch.last
            await writing
        for name in "ab":
            mine = [key for key in seen if key.startswith(name)]
            assert mine == [f"{name}{i}{end}" for i in range(60) for end in ("", "+")]
        assert await changes_of(log, "t") == await changes_of(other, "t")

    async def test_l2_many_producers_at_once_keep_their_order(self, log: Log, other: Log) -> None:
        """Of each producer everything, once, in its order, in one partition and in several; no
        position is left out."""
        await log.create_topic("t")
        await log.create_topic("u", 3)

        async def write(instance: Log, number: int) -> None:
            producer = await instance.open_producer(f"p{number}")
            for step in range(15):
                pair = [change(f"{number}", f"{step}"), change(f"{number}", f"{step}+")]
                await producer.append("tu"[number % 2], pair, state={"steps": str(step + 1)})

        writers = [write((log, other)[number % 3 % 2], number) for number in range(20)]
        await asyncio.gather(*writers)
        expected = [f"{step}{end}" for step in range(15) for end in ("", "+")]
        found: dict[str, list[object]] = {}
        for topic, partition in (("t", 0), ("u", 0), ("u", 1), ("u", 2)):
            batches = await read_all(other, topic, partition, max_changes=10)
            at = BEGINNING
            for batch in batches:
                assert batch.first == at + 1
                assert len(batch.changes) == batch.last - at or not self.counts_records
                at = batch.last
                for each in batch.changes:
                    found.setdefault(each.key[0] or "", []).append(each.value("name"))
        assert found == {f"{number}": expected for number in range(20)}
