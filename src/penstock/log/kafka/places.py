"""Where things are in partitions: both ends, the first record since a time, totals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from penstock.log.kafka.client import REQUEST_S, Client, library
from penstock.log.kafka.frames import Append, Totals
from penstock.log.kafka.readers import Partition, Reader, Readers
from penstock.records import LogPosition, Microseconds

T = TypeVar("T")

_BACK: Final = 16


class Bounds(NamedTuple):
    """The offset of the oldest record kept, and the one after the newest that is committed."""

    low: LogPosition
    end: LogPosition


class Places:
    """Answers of the brokers about offsets. ``known`` remembers totals that were seen."""

    def __init__(self, client: Client, readers: Readers) -> None:
        self._client = client
        self._readers = readers
        self._ends: dict[Partition, tuple[LogPosition, Totals]] = {}
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

        futures = [ask(kafka.admin.OffsetSpec.earliest()), ask(kafka.admin.OffsetSpec.latest())]
        found: list[dict[Partition, LogPosition]] = []
        for answers in futures:
            ends: dict[Partition, LogPosition] = {}
            for place, answer in answers.items():
                try:
                    ends[place.topic, place.partition] = LogPosition(answer.result().offset)
                except kafka.KafkaException as error:
                    if error.args[0].code() not in _absent():
                        raise
            found.append(ends)
        lows, highs = found
        return {p: Bounds(lows[p], highs[p]) for p in partitions if p in lows and p in highs}

    # ------------------------------------------------------------------ time

    async def since(self, partition: Partition, time: Microseconds, bounds: Bounds) -> LogPosition:
        """The beginning of the first append that has a record of that time or later, or the end."""
        offset = await self._client.call(self._at_time, partition, time)
        if offset is None or offset >= bounds.end:
            return bounds.end
        return await self._beginning(partition, offset, bounds)

    def _at_time(self, partition: Partition, time: Microseconds) -> LogPosition | None:
        kafka = library()
        place = kafka.TopicPartition(*partition)
        # Kafka knows milliseconds; rounding down finds a little more, and never less.
        spec = kafka.admin.OffsetSpec.for_timestamp(max(0, time // 1000))
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
        known = self._ends.get(partition)
        if known is None or known[0] <= last:
            self._ends[partition] = (last, append.after)

    def forget(self, topic: str) -> None:
        """The topic is gone or made anew."""
        for memory in (self._ends, self._lows):
            for partition in [known for known in memory if known[0] == topic]:
                del memory[partition]

    async def total(self, partition: Partition, bounds: Bounds) -> Totals:
        """What the partition has held from its beginning to its end."""
        known = self._ends.get(partition)
        if known is not None and known[0] + 1 >= bounds.end:
            return known[1]

        def look(reader: Reader) -> Totals:
            back = _BACK
            while bounds.end > bounds.low:
                start = LogPosition(max(bounds.low, bounds.end - back))
                last = None
                for _, frame in reader.scan(partition, start, bounds.end):
                    last = frame
                if last is not None:
                    return last.append.after
                if start == bounds.low:
                    break
                back *= 4
            return Totals()

        found = await self._with_reader(partition, look)
        self._ends[partition] = (bounds.end, found)
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
            return await self.total(partition, bounds)
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
