"""L3 and L4: an append is one step, and only the newest producer of a name takes it."""

from __future__ import annotations

import asyncio

import pytest

from penstock.errors import FatalError, FencedError
from penstock.log.base import Log
from penstock.records import Microseconds
from penstock.testing.logs.instances import Instances
from penstock.testing.logs.sample import change, changes_of, keys, read_all


class StepSuite(Instances):
    """What one append does, wholly or not at all, and who may."""

    async def test_l3_state_is_merged_and_removed_with_the_changes(
        self, log: Log, other: Log
    ) -> None:
        """A producer that is opened again finds what all appends left."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        assert dict(producer.state) == {}
        await producer.append("t", [change(1)], state={"a": "1", "b": "2", "c": ""})
        await producer.append("t", [change(2)], state={"a": "3", "b": None, "absent": None})
        await producer.append("t", [], state={"d": "é \U0001f600"})
        assert dict((await other.open_producer("p")).state) == {
            "a": "3",
            "c": "",
            "d": "é \U0001f600",
        }
        assert dict((await other.open_producer("q")).state) == {}
        assert keys(await changes_of(other, "t")) == ["1", "2"]

    async def test_l3_many_names_of_state_at_once(self, log: Log, other: Log) -> None:
        """A folder's worth of fingerprints is one step."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        state = {f"dir/{i}": f"sha-{i}" for i in range(1000)}
        await producer.append("t", [change(1)], state=state)
        await producer.append("t", [], state=dict.fromkeys(list(state)[:500]))
        left = dict(list(state.items())[500:])
        assert dict((await other.open_producer("p")).state) == left

    async def test_l3_a_refused_append_leaves_nothing(self, log: Log, other: Log) -> None:
        """Neither changes nor state of an append that was fenced, or went to no topic."""
        await log.create_topic("t")
        old = await log.open_producer("p")
        new = await other.open_producer("p")
        with pytest.raises(FencedError):
            await old.append("t", [change(1)], state={"a": "old"}, as_of=Microseconds(9))
        with pytest.raises(FatalError):
            await new.append("absent", [change(1)], state={"a": "lost"})
        assert await changes_of(log, "t") == []
        assert dict((await log.open_producer("p")).state) == {}

    async def test_l3_time_alone_is_readable_everywhere(self, log: Log, other: Log) -> None:
        """With no changes only time is stored; every partition's readers see it."""
        await log.create_topic("t", 3)
        producer = await log.open_producer("p")
        await producer.append("t", [], as_of=Microseconds(70))
        await producer.append("t", [change(1)], as_of=Microseconds(80))
        for partition in range(3):
            batches = await read_all(other, "t", partition)
            assert batches[-1].as_of == 80
        await producer.append("t", [], state={"only": "state"})
        assert await read_all(other, "t", 0, batches[-1].last) == []

    # ------------------------------------------------------------------ L4: fencing

    async def test_l4_opening_again_fences_the_one_before(self, log: Log, other: Log) -> None:
        """The older producer of a name is refused, for good; others are not concerned."""
        await log.create_topic("t")
        bystander = await log.open_producer("q")
        old = await log.open_producer("p")
        await old.append("t", [change(1)])
        new = await other.open_producer("p")
        for _ in range(2):
            with pytest.raises(FencedError):
                await old.append("t", [change(2)])
        await new.append("t", [change(3)])
        await bystander.append("t", [change(4)])
        assert keys(await changes_of(log, "t")) == ["1", "3", "4"]

    async def test_l4_in_company_each_producer_answers_for_itself(
        self, log: Log, other: Log
    ) -> None:
        """Of many appends at the same moment only those are refused whose producer was opened
        again, or whose topic is not there; all others are stored, each with its state."""
        await log.create_topic("t")
        await log.create_topic("u", 2)
        producers = [await log.open_producer(f"p{i}") for i in range(24)]
        for number in (3, 11):
            await other.open_producer(f"p{number}")
        topics = ["absent" if number in (5, 12) else "tu"[number % 2] for number in range(24)]
        outcomes = await asyncio.gather(
            *(
                producer.append(topic, [change(number)], state={"at": str(number)})
                for number, (producer, topic) in enumerate(zip(producers, topics, strict=True))
            ),
            return_exceptions=True,
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert [number for number, kind in enumerate(kinds) if kind is FencedError] == [3, 11]
        assert [number for number, kind in enumerate(kinds) if kind is FatalError] == [5, 12]
        stored = [number for number, outcome in enumerate(outcomes) if outcome is None]
        assert len(stored) == 20
        found = [each for p in (0, 1) for each in await changes_of(other, "u", p)]
        found += await changes_of(other, "t")
        assert sorted(keys(found), key=int) == [str(number) for number in stored]
        for number in range(24):
            state = (await other.open_producer(f"p{number}")).state
            assert dict(state) == ({"at": str(number)} if number in stored else {})
