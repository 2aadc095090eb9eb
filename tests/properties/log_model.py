"""What a log is, in plain Python, and a machine that drives a real one beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from penstock.errors import ConfigError, FatalError, FencedError
from penstock.log.base import Log, Producer
from penstock.log.partitions import parted
from penstock.records import BEGINNING, Change, LogPosition, Microseconds, Op
from penstock.testing.clock import ManualClock
from penstock.testing.logs import change


@dataclass
class Row:
    """What one transaction put into one partition."""

    first: int
    last: int
    changes: list[Change]
    as_of: int | None
    time: int


@dataclass
class Partition:
    """Rows in order; ``first`` is the oldest position kept."""

    rows: list[Row] = field(default_factory=list)
    first: int = 1
    last: int = 0

    def put(self, changes: Sequence[Change], as_of: int | None, time: int) -> None:
        first = self.last + 1
        self.last += max(len(changes), 1)
        self.rows.append(Row(first, self.last, list(changes), as_of, time))

    def read(
        self, after: int, most: int, streams: frozenset[str] | None
    ) -> tuple[list[Change], int, int, int | None] | None:
        """Whole rows that begin within the next ``most`` positions."""
        rows = [row for row in self.rows if row.last > after and row.first <= after + most]
        if not rows:
            return None
        changes = [
            each
            for row in rows
            for each in row.changes[max(0, after - row.first + 1) :]
            if streams is None or each.schema.stream in streams
        ]
        times = [row.as_of for row in rows if row.as_of is not None]
        return changes, after + 1, rows[-1].last, max(times, default=None)

    def trim(self, before: int | None, *, everything: bool, processed: int) -> int:
        """Remove the oldest rows, as far as they are wanted gone and processed."""
        removed = 0
        while self.rows:
            oldest = self.rows[0]
            wanted = everything or (before is not None and oldest.time < before)
            if not wanted or oldest.last > processed:
                break
            self.rows.pop(0)
            self.first = oldest.last + 1
            removed += len(oldest.changes)
        return removed


@dataclass
class Handle:
    """A producer and the epoch that the model gave it. After an append that was cut off, or to a
    topic that is gone, some logs want it to be opened again."""

    producer: Producer
    name: str
    epoch: int


NAMES = st.sampled_from(["a", "b"])
TOPICS = st.sampled_from(["t", "u"])
KEYS = st.sampled_from(["1", "2", "3", "4"])
STREAMS = st.sampled_from(["public.x", "public.y"])
CHANGES = st.builds(
    lambda key, stream, op, moved: (
        change(key, stream=stream, op=op)._replace(old_key=(moved,))
        if moved and op is Op.UPDATE
        else change(key, stream=stream, op=op)
    ),
    KEYS,
    STREAMS,
    st.sampled_from([Op.CREATE, Op.UPDATE, Op.DELETE, Op.TRUNCATE]),
    st.none() | KEYS,
)
BATCHES = st.lists(CHANGES, max_size=4)
STATES = st.dictionaries(
    st.sampled_from(["x", "y", "é"]), st.none() | st.text("ab'\"\\{", max_size=3)
)


class LogMachine(RuleBasedStateMachine):
    """Everything that can be done with a log, in any order, against the model. Derive and say how
    a log is made (`make`), read by another instance (`beside`) and told of a consumer
    (`register`)."""

    handles: Bundle[Any] = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.topics: dict[str, list[Partition]] = {}
        self.epochs: dict[str, int] = {}
        self.states: dict[str, dict[str, str]] = {}
        self.consumers: dict[tuple[str, str, int], int] = {}
        self.log = self.run(self.make())

    def run(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(20):
                return await work

        return self.runner.run(bounded())

    async def make(self) -> Log:
        raise NotImplementedError

    async def register(self, consumer: str, topic: str, partition: int, position: int) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        await self.log.close()

    def name(self, short: str) -> str:
        """The name that a topic, producer or consumer has in the log."""
        return short

    def teardown(self) -> None:
        self.run(self.end())
        self.runner.close()

    # ------------------------------------------------------------------ topics

    @initialize(target=handles)
    def begin(self) -> Any:
        """Something to append to, and producers for it, so that few steps are in vain."""
        self.create_topic("t", 1)
        self.create_topic("u", 2)
        return multiple(*(self._open(name) for name in ("a", "b", "a")))

    @rule(topic=TOPICS, partitions=st.integers(1, 2))
    def create_topic(self, topic: str, partitions: int) -> None:
        known = self.topics.get(topic)
        making = self.log.create_topic(self.name(topic), partitions)
        if known is not None and len(known) != partitions:
            with pytest.raises(ConfigError):
                self.run(making)
            return
        self.run(making)
        self.topics.setdefault(topic, [Partition() for _ in range(partitions)])

    @rule(topic=TOPICS)
    def drop_topic(self, topic: str) -> None:
        self.run(self.log.drop_topic(self.name(topic)))
        self.topics.pop(topic, None)
        self.consumers = {k: v for k, v in self.consumers.items() if k[1] != topic}

    # ------------------------------------------------------------------ writing

    @rule(target=handles, name=NAMES)
    def open_producer(self, name: str) -> Handle:
        return self._open(name)

    def _open(self, name: str) -> Handle:
        producer = self.run(self.log.open_producer(self.name(name)))
        assert dict(producer.state) == self.states.get(name, {})
        self.epochs[name] = self.epochs.get(name, 0) + 1
        return Handle(producer, name, self.epochs[name])

    @rule(
        target=handles,
        handle=consumes(handles),
        topic=TOPICS,
        changes=BATCHES,
        state=STATES,
        as_of=st.none() | st.integers(1, 99),
    )
    def append(
        self,
        handle: Handle,
        topic: str,
        changes: list[Change],
        state: dict[str, str | None],
        as_of: int | None,
    ) -> Handle:
        self.clock.advance(1)
        time = None if as_of is None else Microseconds(as_of)
        appending = handle.producer.append(self.name(topic), changes, state=state, as_of=time)
        if handle.epoch != self.epochs[handle.name] or topic not in self.topics:
            fenced = handle.epoch != self.epochs[handle.name]
            with pytest.raises(FatalError) as caught:
                self.run(appending)
            assert isinstance(caught.value, FencedError) or not (fenced and topic in self.topics)
            return handle
        self.run(appending)
        self._appended(handle, topic, changes, state, as_of)
        return handle

    @rule(
        topics=st.tuples(TOPICS, TOPICS, TOPICS),
        changes=st.lists(CHANGES, min_size=3, max_size=3),
        times=st.lists(st.none() | st.integers(1, 99), min_size=3, max_size=3),
    )
    def append_at_once(
        self, topics: tuple[str, str, str], changes: list[Change], times: list[int | None]
    ) -> None:
        """Several producers in the same moment: as if one after the other.

        Time alone may or may not use up a position then, so it goes only where changes go too."""
        if not set(topics) <= self.topics.keys():
            return
        self.clock.advance(1)
        steps = [
            (self._open(name), topic, each, time if len(self.topics[topic]) == 1 else None)
            for name, topic, each, time in zip("cde", topics, changes, times, strict=True)
        ]

        async def together() -> None:
            await asyncio.gather(
                *(
                    handle.producer.append(
                        self.name(topic),
                        [each],
                        state={"n": each.op.value},
                        as_of=None if time is None else Microseconds(time),
                    )
                    for handle, topic, each, time in steps
                )
            )

        self.run(together())
        for handle, topic, each, time in steps:
            self._appended(handle, topic, [each], {"n": each.op.value}, time)
        for topic in set(topics):
            self._learn_rows(topic)

    def _appended(
        self,
        handle: Handle,
        topic: str,
        changes: Sequence[Change],
        state: Mapping[str, str | None],
        as_of: int | None,
    ) -> None:
        partitions = self.topics[topic]
        time = None if as_of is None else Microseconds(as_of)
        for number, part in parted(changes, time, len(partitions)).items():
            partitions[number].put(part, as_of, self.clock.now())
        stored = self.states.setdefault(handle.name, {})
        for name, value in state.items():
            if value is None:
                stored.pop(name, None)
            else:
                stored[name] = value

    def _learn_rows(self, topic: str) -> None:
        """Which appends of the same moment share a row is up to the log: look, and join them."""
        now = self.clock.now()
        for number, partition in enumerate(self.topics[topic]):
            news = [row for row in partition.rows if row.time == now]
            while news:
                after = LogPosition(news[0].first - 1)
                batch = self.run(self.log.read(self.name(topic), number, after, max_changes=1))
                joined = [row for row in news if row.last <= batch.last]
                assert joined[-1].last == batch.last
                news = news[len(joined) :]
                for row in joined[1:]:
                    joined[0].changes += row.changes
                    joined[0].last = row.last
                    times = [each.as_of for each in (joined[0], row) if each.as_of is not None]
                    joined[0].as_of = max(times, default=None)
                    partition.rows.remove(row)

    # ------------------------------------------------------------------ reading

    @rule(
        topic=TOPICS,
        partition=st.integers(0, 1),
        place=st.floats(0, 1),
        most=st.integers(1, 6),
        streams=st.none() | st.frozensets(STREAMS, min_size=1),
    )
    def read(
        self,
        topic: str,
        partition: int,
        place: float,
        most: int,
        streams: frozenset[str] | None,
    ) -> None:
        """From any position that there ever was, and one more."""
        partitions = self.topics.get(topic, [])
        known = partitions[partition] if partition < len(partitions) else None
        after = 0 if known is None else round(place * (known.last + 1))
        for log in self.readers():
            reading = log.read(
                self.name(topic), partition, LogPosition(after), max_changes=most, streams=streams
            )
            if known is None or not known.first - 1 <= after <= known.last:
                with pytest.raises(FatalError):
                    self.run(reading)
                continue
            batch = self.run(reading)
            expected = known.read(after, most, streams)
            if expected is None:
                assert batch is None
            else:
                found, *rest = batch
                assert (list(found), *rest) == expected

    def readers(self) -> Sequence[Log]:
        """The instances that must read the same."""
        return [self.log]

    @rule(topic=TOPICS, partition=st.integers(0, 1), back_s=st.integers(0, 6))
    def seek(self, topic: str, partition: int, back_s: int) -> None:
        partitions = self.topics.get(topic, [])
        if partition >= len(partitions):
            return
        known = partitions[partition]
        time = Microseconds(self.clock.now() - back_s * 1_000_000)
        later = [row.first - 1 for row in known.rows if row.time >= time]
        found = self.run(self.log.seek(self.name(topic), partition, time))
        assert found == min(later, default=known.last)

    # ------------------------------------------------------------------ retention

    @rule(topic=TOPICS, partition=st.integers(0, 1), consumer=NAMES, place=st.integers(0, 9))
    def consume(self, topic: str, partition: int, consumer: str, place: int) -> None:
        """A consumer stands at the end of some row, or at the beginning."""
        partitions = self.topics.get(topic, [])
        if partition >= len(partitions):
            return
        ends = [BEGINNING, *(row.last for row in partitions[partition].rows)]
        position = ends[place % len(ends)]
        self.consumers[consumer, topic, partition] = position
        self.run(self.register(self.name(consumer), self.name(topic), partition, position))

    @rule(topic=TOPICS, back_s=st.none() | st.integers(0, 5))
    def trim(self, topic: str, back_s: int | None) -> None:
        """By time, or as much as may go."""
        before = None if back_s is None else Microseconds(self.clock.now() - back_s * 1_000_000)
        trimming = self.log.trim(
            self.name(topic), before=before, max_bytes=0 if back_s is None else None
        )
        removed = self.run(trimming)
        expected = 0
        for number, partition in enumerate(self.topics.get(topic, [])):
            processed = [
                position
                for (_, of, at), position in self.consumers.items()
                if (of, at) == (topic, number)
            ]
            slowest = min(processed, default=partition.last)
            expected += partition.trim(before, everything=back_s is None, processed=slowest)
        assert removed == expected

    @invariant()
    def the_log_describes_itself(self) -> None:
        for topic in ("t", "u"):
            found = [
                (info.first, info.last, info.records)
                for info in self.run(self.log.describe(self.name(topic)))
            ]
            assert found == [
                (p.first, p.last, sum(len(row.changes) for row in p.rows))
                for p in self.topics.get(topic, [])
            ]
