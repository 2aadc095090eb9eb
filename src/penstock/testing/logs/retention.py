"""Finding a time, and removing what is old."""

from __future__ import annotations

import pytest

from penstock.errors import FatalError
from penstock.log.base import Log
from penstock.records import BEGINNING, LogPosition, Microseconds
from penstock.testing.logs.instances import Instances
from penstock.testing.logs.sample import change, keys, present_time, read_all


class RetentionSuite(Instances):
    """Time and retention."""

    async def test_seek_finds_what_was_appended_since(self, log: Log, other: Log) -> None:
        """The position after which everything was appended at that time or later."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        start = present_time()
        await producer.append("t", [change(1), change(2)])
        middle = present_time()
        await producer.append("t", [change(3)])
        end = present_time()
        for each in (log, other):
            found = [await each.seek("t", 0, when) for when in (start, middle, end)]
            assert found == sorted(found)
            assert found == [0, 2, 3] or not self.counts_records
            after = [
                [c for b in await read_all(each, "t", 0, at) for c in b.changes] for at in found
            ]
            assert [keys(changes) for changes in after] == [["1", "2", "3"], ["3"], []]

    async def test_trim_by_time_removes_whole_appends(self, log: Log, other: Log) -> None:
        """What is older goes, positions stay, and reading what is gone says what is left."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1), change(2)])
        await producer.append("t", [], as_of=Microseconds(5))
        middle = present_time()
        await producer.append("t", [change(3)])
        assert await log.trim("t", before=middle) == 2
        assert await log.trim("t", before=middle) == 0
        (kept,) = await log.describe("t")
        assert (kept.first, kept.last) == (4, 4) or not self.counts_records
        for each in (log, other):
            with pytest.raises(FatalError, match=f"{kept.first} is the oldest"):
                await each.read("t", 0, BEGINNING)
            left = await read_all(each, "t", 0, LogPosition(kept.first - 1))
            assert keys([c for b in left for c in b.changes]) == ["3"]
            (info,) = await each.describe("t")
            assert (info.first, info.last, info.records) == (kept.first, kept.last, 1)
        assert await log.trim("t", before=present_time()) == 1
        assert await log.read("t", 0, kept.last) is None
        await producer.append("t", [change(4)])
        batch = await other.read("t", 0, kept.last)
        assert batch is not None
        assert (batch.first, keys(batch.changes)) == (kept.last + 1, ["4"])

    async def test_trim_by_size_keeps_the_newest(self, log: Log) -> None:
        """As much as fits is kept; without limits nothing is removed."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        for i in range(10):
            await producer.append("t", [change(i, "x" * 100)])
            present_time()
        (info,) = await log.describe("t")
        assert await log.trim("t") == 0
        assert await log.trim("t", max_bytes=info.size_bytes) == 0
        assert await log.trim("t", max_bytes=info.size_bytes // 2) == 5
        (left,) = await log.describe("t")
        assert left.size_bytes <= info.size_bytes // 2
        assert (left.first, left.last) == (6, 10) or not self.counts_records
        kept = await read_all(log, "t", 0, LogPosition(left.first - 1))
        assert keys([c for b in kept for c in b.changes]) == ["5", "6", "7", "8", "9"]
        assert await log.trim("t", max_bytes=0) == 5
        (empty,) = await log.describe("t")
        assert (empty.first, empty.last, empty.records) == (left.last + 1, left.last, 0)
        assert await log.read("t", 0, empty.last) is None

    async def test_trim_waits_for_the_slowest_consumer(self, log: Log) -> None:
        """What a registered consumer has not processed stays, however old or large."""
        await log.create_topic("t")
        await log.create_topic("u")
        await self.register(log, "elsewhere", "u", 0, BEGINNING)
        producer = await log.open_producer("p")
        for i in range(3):
            await producer.append("t", [change(i), change(i)])
            present_time()
        ends = [batch.last for batch in await read_all(log, "t", max_changes=1)]
        await self.register(log, "quick", "t", 0, ends[2])
        await self.register(log, "slow", "t", 0, ends[0])
        assert await log.trim("t", max_bytes=0, before=present_time()) == 2
        await self.register(log, "slow", "t", 0, ends[2])
        assert await log.trim("t", before=present_time()) == 4
