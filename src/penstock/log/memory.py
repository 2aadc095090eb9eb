"""The log in memory: the twin of the embedded one, for tests. It keeps the same promises, but for
as long as the process lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock.clock import Clock
from penstock.log.base import PartitionInfo
from penstock.log.codec import Codec
from penstock.log.partitions import parted
from penstock.log.recent import Stored, joined
from penstock.log.refusals import check_kept, fenced, no_topic, other_partitions
from penstock.log.tail import tail
from penstock.log.waiters import Waiters
from penstock.records import BEGINNING, Batch, Change, LogPosition, Microseconds

FIRST: Final = LogPosition(BEGINNING + 1)


@dataclass
class _Partition:
    first: LogPosition = FIRST
    last: LogPosition = BEGINNING
    appends: list[tuple[Microseconds, Stored]] = field(default_factory=list)


class MemoryLog:
    """Topics in this process. ``consumers`` maps (consumer, topic, partition) to a position:
    retention waits for what stands there."""

    def __init__(self, clock: Clock) -> None:
        self.consumers: dict[tuple[str, str, int], LogPosition] = {}
        self._clock = clock
        self._codec = Codec()
        self._topics: dict[str, list[_Partition]] = {}
        self._producers: dict[str, tuple[int, dict[str, str]]] = {}
        self._waiters = Waiters()

    async def create_topic(self, topic: str, partitions: int = 1) -> None:
        """See `Log.create_topic`."""
        present = self._topics.setdefault(topic, [_Partition() for _ in range(partitions)])
        if len(present) != partitions:
            raise other_partitions(topic, partitions, len(present))

    async def drop_topic(self, topic: str) -> None:
        """See `Log.drop_topic`."""
        self._topics.pop(topic, None)
        for consumer in [known for known in self.consumers if known[1] == topic]:
            del self.consumers[consumer]
        self._waiters.forget(topic)

    async def open_producer(self, name: str) -> MemoryProducer:
        """See `Log.open_producer`."""
        epoch, state = self._producers.get(name, (0, {}))
        self._producers[name] = (epoch + 1, state)
        return MemoryProducer(self, name, epoch + 1, dict(state))

    def append(
        self,
        producer: str,
        epoch: int,
        topic: str,
        changes: Sequence[Change],
        state: Mapping[str, str | None],
        as_of: Microseconds | None,
    ) -> None:
        """One step of a producer; nothing in it waits. Only producers call this."""
        present, stored_state = self._producers[producer]
        if present != epoch:
            raise fenced(producer)
        partitions = self._partitions(topic)
        parts = parted(changes, as_of, len(partitions))
        # Through the codec, so that what the real log would refuse or change is found here too.
        sizes = {n: self._codec.encode(part).size if part else 0 for n, part in parts.items()}
        now = self._clock.now()
        for number, part in parts.items():
            partition = partitions[number]
            first = LogPosition(partition.last + 1)
            partition.last = LogPosition(partition.last + max(len(part), 1))
            streams = frozenset(change.schema.stream for change in part)
            stored = Stored(first, partition.last, tuple(part), streams, as_of, sizes[number])
            partition.appends.append((now, stored))
        for name, value in state.items():
            if value is None:
                stored_state.pop(name, None)
            else:
                stored_state[name] = value
        for number in parts:
            self._waiters.advance((topic, number), partitions[number].last)

    async def read(
        self,
        topic: str,
        partition: int,
        after: LogPosition,
        *,
        max_changes: int = 5000,
        streams: frozenset[str] | None = None,
    ) -> Batch | None:
        """See `Log.read`."""
        held = self._partition(topic, partition)
        check_kept(topic, partition, after, held.first, held.last)
        pieces = []
        for _, stored in held.appends:
            if after < stored.last and stored.first <= after + max_changes:
                pieces.append((stored.last, stored.since(after).of(streams), stored.as_of))
        return joined(pieces, after) if pieces else None

    async def wait(self, topic: str, partition: int, after: LogPosition) -> None:
        """See `Log.wait`."""
        future = self._waiters.register((topic, partition), after)
        try:
            if self._partition(topic, partition).last <= after:
                await future
        finally:
            self._waiters.unregister((topic, partition), future)

    async def seek(self, topic: str, partition: int, time: Microseconds) -> LogPosition:
        """See `Log.seek`."""
        held = self._partition(topic, partition)
        found = [stored.first - 1 for at, stored in held.appends if at >= time]
        return LogPosition(min(found)) if found else held.last

    async def describe(self, topic: str | None = None) -> Sequence[PartitionInfo]:
        """See `Log.describe`."""
        return [
            PartitionInfo(
                name,
                number,
                held.first,
                held.last,
                sum(len(stored.changes) for _, stored in held.appends),
                sum(stored.size for _, stored in held.appends),
            )
            for name, partitions in sorted(self._topics.items())
            if topic is None or name == topic
            for number, held in enumerate(partitions)
        ]

    async def trim(
        self, topic: str, *, before: Microseconds | None = None, max_bytes: int | None = None
    ) -> int:
        """See `Log.trim`; ``max_bytes`` is for all partitions of the topic together."""
        partitions = self._topics.get(topic, [])
        appends = [
            (at, n, stored) for n, held in enumerate(partitions) for at, stored in held.appends
        ]
        # An append of a state alone has a place, too: as in a log on disk, it takes some room.
        room = sum(max(1, stored.size) for _, _, stored in appends)
        removed = 0
        waited_for: set[int] = set()
        for at, number, stored in sorted(appends, key=lambda append: append[:2]):
            wanted = (before is not None and at < before) or (
                max_bytes is not None and room > max_bytes
            )
            room -= max(1, stored.size)
            if number in waited_for:
                continue
            if not wanted or self._processed(topic, number) < stored.last:
                waited_for.add(number)
                continue
            held = partitions[number]
            del held.appends[0]
            held.first = LogPosition(stored.last + 1)
            removed += len(stored.changes)
        return removed

    def _processed(self, topic: str, partition: int) -> LogPosition:
        """What the slowest consumer has behind it; without consumers, everything."""
        positions = [
            position
            for (_, of, number), position in self.consumers.items()
            if (of, number) == (topic, partition)
        ]
        return min(positions, default=self._topics[topic][partition].last)

    def tail(self, topic: str, after: LogPosition | None = None) -> AsyncIterator[Batch]:
        """See `TailableLog.tail`."""
        return tail(self, topic, after)

    async def close(self) -> None:
        """See `Log.close`."""
        self._waiters.close()

    def _partitions(self, topic: str) -> list[_Partition]:
        found = self._topics.get(topic)
        if found is None:
            raise no_topic(topic)
        return found

    def _partition(self, topic: str, partition: int) -> _Partition:
        partitions = self._topics.get(topic, [])
        if not 0 <= partition < len(partitions):
            raise no_topic(topic, partition)
        return partitions[partition]


class MemoryProducer:
    """The one writer of a name."""

    def __init__(self, log: MemoryLog, name: str, epoch: int, state: Mapping[str, str]) -> None:
        self.name = name
        self.state = state
        self._log = log
        self._epoch = epoch

    async def append(
        self,
        topic: str,
        changes: Sequence[Change],
        *,
        state: Mapping[str, str | None] | None = None,
        as_of: Microseconds | None = None,
    ) -> None:
        """See `Producer.append`."""
        await asyncio.sleep(0)
        self._log.append(self.name, self._epoch, topic, changes, state or {}, as_of)
