"""Where things are in partitions: both ends, the first record since a time, totals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from penstock.errors import UnavailableError
from penstock.log.kafka.client import REQUEST_S, Client, library
from penstock.log.kafka.frames import Append, Totals
from penstock.log.kafka.readers import Partition, Reader, Readers
from penstock.records import LogPosition, Microseconds

T = TypeVar("T")

_BACK: Final = 16
_PAUSE_S: Final = 0.05


class Bounds(NamedTuple):
    """The offset of the oldest record kept, and the one after the newest that is committed."""

    low: LogPosition
    end: LogPosition


class Newest(NamedTuple):
    """The position of the newest record of ours, and what the partition has held up to it."""

    last: LogPosition
    totals: Totals


class Places:
    """Answers of the brokers about offsets. What was learned of ends is remembered."""

    def __init__(self, client: Client, readers: Readers) -> None:
        self._client = client
        self._readers = readers
        self._newest: dict[Partition, tuple[LogPosition, Newest]] = {}
        self._lows: dict[Partition, tuple[LogPosition, Totals]] = {}

    # ------------------------------------------------------------------ ends

    async def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        """Both ends of each. Partitions that do not exist are left out."""
        return await self._client.call(self._bounds, partitions)

    def _bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        if not partitions:
            return {}
        kafka = library()
        admin = self._client.admin()

        def ask(spec: Any) -> Mapping[Any, Any]:
            wanted = {kafka.TopicPartition(*partition): spec for partition in partitions}
            return admin.list_offsets(
                wanted,
                isolation_level=kafka.IsolationLevel.READ_COMMITTED,
                request_timeout=REQUEST_S,
            )

        deadline = time.monotonic() + REQUEST_S
        while True:
            try:
                return self._both_ends(
                    partitions,
                    [ask(kafka.admin.OffsetSpec.earliest()), ask(kafka.admin.OffsetSpec.latest())],
                )
            except kafka.KafkaException as error:
                # A topic was made a moment ago, or its leader is another since: look again.
                if error.args[0].code() not in _moving() or time.monotonic() > deadline:
                    raise
                admin.list_topics(timeout=REQUEST_S)
                time.sleep(_PAUSE_S)

    def _both_ends(
        self, partitions: Sequence[Partition], futures: Sequence[Mapping[Any, Any]]
    ) -> Mapping[Partition, Bounds]:
        kafka = library()
        found: list[dict[Partition, LogPosition]] = []
        for answers in futures:
            ends: dict[Partition, LogPosition] = {}
            for place, answer in answers.items():
                try:
                    offset = answer.result().offset
                except kafka.KafkaException as error:
                    if error.args[0].code() not in _absent():
                        raise
                    continue
                if offset < 0:
                    # The library's mark of "not known", without an error: the connection broke.
                    # Taken for an end, all positions would lie behind it.
                    raise UnavailableError(
                        f"expected Kafka to say where partition {place.partition} of "
                        f"{place.topic!r} begins and ends, got no answer ({offset})"
                    )
                ends[place.topic, place.partition] = LogPosition(offset)
            found.append(ends)
        lows, highs = found
        return {p: Bounds(lows[p], highs[p]) for p in partitions if p in lows and p in highs}

    # ------------------------------------------------------------------ time

    async def since(
        self, partition: Partition, moment: Microseconds, bounds: Bounds
    ) -> LogPosition:
        """The beginning of the first append that has a record of that time or later, or the end."""
        offset = await self._client.call(self._at_time, partition, moment)
        newest = await self.newest(partition, bounds)
        if offset is None or offset >= newest.last:
            return newest.last
        return await self._beginning(partition, offset, bounds)

    def _at_time(self, partition: Partition, moment: Microseconds) -> LogPosition | None:
        kafka = library()
        place = kafka.TopicPartition(*partition)
        # Kafka knows milliseconds; rounding down finds a little more, and never less.
        spec = kafka.admin.OffsetSpec.for_timestamp(max(0, moment // 1000))
        answers = self._client.admin().list_offsets(
            {place: spec},
            isolation_level=kafka.IsolationLevel.READ_COMMITTED,
            request_timeout=REQUEST_S,
        )
        offset = answers[place].result().offset
        return None if offset < 0 else LogPosition(offset)

    async def _beginning(
        self, partition: Partition, offset: LogPosition, bounds: Bounds
    ) -> LogPosition:
        """Where the append begins that has a piece at or right after an offset."""

        def look(reader: Reader) -> LogPosition:
            found = next(reader.scan(partition, offset, bounds.end), None)
            if found is None:
                return bounds.end
            at, frame = found
            back = frame.piece
            while frame.piece:
                start = LogPosition(max(bounds.low, at - back))
                for earlier, other in reader.scan(partition, start, LogPosition(at)):
                    if (other.writer, other.number, other.piece) == (frame.writer, frame.number, 0):
                        return LogPosition(earlier)
                back *= 2
            return LogPosition(at)

        return await self._with_reader(partition, look)

    # ------------------------------------------------------------------ totals

    def saw(self, partition: Partition, last: LogPosition, append: Append) -> None:
        """Remember what the newest append that was seen says."""
        known = self._newest.get(partition)
        if known is None or known[1].last <= last:
            self._newest[partition] = (LogPosition(last + 1), Newest(last, append.after))

    def is_newest(self, partition: Partition, at: LogPosition, bounds: Bounds) -> bool:
        """Is it known that there is nothing after this place?"""
        known = self._newest.get(partition)
        return known is not None and known[1].last <= at and known[0] >= bounds.end

    def forget(self, topic: str) -> None:
        """The topic is gone or made anew."""
        for partition in [known for known in self._newest if known[0] == topic]:
            del self._newest[partition]
        for partition in [known for known in self._lows if known[0] == topic]:
            del self._lows[partition]

    async def newest(self, partition: Partition, bounds: Bounds) -> Newest:
        """The newest record of ours; the low end where there is none."""
        known = self._newest.get(partition)
        if known is not None and known[0] >= bounds.end:
            return known[1]

        def look(reader: Reader) -> Newest:
            back = _BACK
            while bounds.end > bounds.low:
                start = LogPosition(max(bounds.low, bounds.end - back))
                last: Newest | None = None
                for offset, frame in reader.scan(partition, start, bounds.end):
                    last = Newest(LogPosition(offset + 1), frame.append.after)
                if last is not None:
                    return last
                if start == bounds.low:
                    break
                back *= 4
            # Retention may have removed all: what that was is not known any more, nor needed.
            return Newest(bounds.low, Totals() if known is None else known[1].totals)

        found = await self._with_reader(partition, look)
        self._newest[partition] = (bounds.end, found)
        return found

    async def total_before(self, partition: Partition, at: LogPosition, bounds: Bounds) -> Totals:
        """What the partition had held before the first append at or after a place."""
        known = self._lows.get(partition)
        if known is not None and known[0] == at:
            return known[1]

        def look(reader: Reader) -> Totals | None:
            found = next(reader.scan(partition, at, bounds.end), None)
            return None if found is None else found[1].append.before

        found = await self._with_reader(partition, look) if at < bounds.end else None
        if found is None:
            return (await self.newest(partition, bounds)).totals
        self._lows[partition] = (at, found)
        return found

    async def _with_reader(self, partition: Partition, look: Callable[[Reader], T]) -> T:
        return await self._readers.use(partition, look)


def _absent() -> set[int]:
    codes = library().KafkaError
    return {
        codes.UNKNOWN_TOPIC_OR_PART,
        codes._UNKNOWN_TOPIC,  # noqa: SLF001
        codes._UNKNOWN_PARTITION,  # noqa: SLF001
        codes._NOENT,  # noqa: SLF001
    }


def _moving() -> set[int]:
    codes = library().KafkaError
    return {
        codes.NOT_LEADER_FOR_PARTITION,
        codes.LEADER_NOT_AVAILABLE,
        codes.FENCED_LEADER_EPOCH,
        codes.UNKNOWN_LEADER_EPOCH,
    }
