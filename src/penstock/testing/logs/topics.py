"""Topics: made once, described, dropped, and refused where there are none."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError, FatalError
from penstock.log.base import Log
from penstock.records import BEGINNING, LogPosition
from penstock.testing.logs.instances import Instances
from penstock.testing.logs.sample import change, changes_of, keys


class TopicSuite(Instances):
    """What there is to append to and read from."""

    async def test_topics_are_made_once(self, log: Log, other: Log) -> None:
        """Making one again changes nothing; another number of partitions is refused."""
        await log.create_topic("t", 2)
        await (await log.open_producer("p")).append("t", [change(1)])
        await other.create_topic("t", 2)
        for each in (log, other):
            with pytest.raises(ConfigError, match="2"):
                await each.create_topic("t", 3)
        assert sum(info.records for info in await other.describe("t")) == 1

    async def test_topics_are_described_in_order(self, log: Log, other: Log) -> None:
        """By name and partition; one topic alone when asked."""
        for name, partitions in (("b", 1), ("a", 2), ("C:x", 1)):
            await log.create_topic(name, partitions)
        described = [(info.topic, info.partition) for info in await other.describe()]
        assert described == [("C:x", 0), ("a", 0), ("a", 1), ("b", 0)]
        assert [info.partition for info in await other.describe("a")] == [0, 1]
        assert list(await other.describe("absent")) == []

    async def test_what_is_not_there_is_refused(self, log: Log) -> None:
        """Unknown topics and partitions, and positions that the log never reached."""
        await log.create_topic("t")
        with pytest.raises(FatalError, match="absent"):
            await log.read("absent", 0, BEGINNING)
        with pytest.raises(FatalError, match="partition 1"):
            await log.read("t", 1, BEGINNING)
        with pytest.raises(FatalError, match="made anew"):
            await log.read("t", 0, LogPosition(1))

    async def test_a_dropped_topic_is_gone(self, log: Log, other: Log) -> None:
        """With all it held; made again it begins anew, for all instances."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1), change(2)])
        assert keys(await changes_of(other, "t")) == ["1", "2"]
        await log.drop_topic("t")
        await log.drop_topic("t")
        with pytest.raises(FatalError, match="'t'"):
            await log.read("t", 0, BEGINNING)
        await log.create_topic("t", 2)
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(20, 30)])
        assert sum(info.records for info in await log.describe("t")) == 10
        assert {"1", "2"}.isdisjoint(keys(await changes_of(log, "t")))
