"""The log on Apache Kafka: one topic of its own for each of ours, one transaction per append.

A position is the offset after a record, so positions have gaps: the marks of transactions take
offsets too. What is appended to a partition at once is one or more records (`frames`), committed
together; a position that is given out never points into an append. Retention is ours and not the
broker's (`retention`), because only we know what consumers have processed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from penstock.errors import DamagedError, FatalError, UnavailableError
from penstock.log.base import Consumers, PartitionInfo
from penstock.log.codec import Codec
from penstock.log.kafka.client import REQUEST_S, Client
from penstock.log.kafka.frames import Append, Totals, Whole
from penstock.log.kafka.group import KafkaGroup
from penstock.log.kafka.names import Names
from penstock.log.kafka.places import Bounds, Places
from penstock.log.kafka.producer import TRANSACTION_S, KafkaProducer, Part, read_state
from penstock.log.kafka.readers import Follower, Partition, Readers
from penstock.log.kafka.retention import Trimming, describe
from penstock.log.kafka.topics import CHANGES, STATE, Topics
from penstock.log.partitions import parted
from penstock.log.recent import BYTES_PER_CHANGE, Recent, Stored, joined
from penstock.log.refusals import check_kept, closed, damaged, no_topic, other_partitions
from penstock.log.tail import tail
from penstock.log.waiters import Waiters
from penstock.records import Batch, Change, LogPosition, Microseconds

RECHECK_S: Final = 30.0
"""A reader looks this often even if nothing wakes it."""

VISIBLE_S: Final = 0.002
"""How often it is asked whether what was committed can be read; mostly it can at once."""

_INLINE_CHANGES: Final = 1000


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where the log is. ``options`` are the client library's own (TLS, SASL, timeouts)."""

    bootstrap_servers: str
    prefix: str = "penstock."
    replication: int = -1
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


class KafkaLog:
    """See `penstock.log.base.Log`. ``consumers`` says what has been processed, for `trim`."""

    def __init__(
        self, settings: KafkaSettings, *, consumers: Consumers, cache_bytes: int = 64 * 2**20
    ) -> None:
        self._consumers = consumers
        self._names = Names(settings.prefix)
        self._client = Client(settings.bootstrap_servers, settings.options)
        self._topics = Topics(self._client, settings.replication)
        self._codec = Codec()
        self._readers = Readers(self._client)
        self._places = Places(self._client, self._readers)
        self._follower = Follower(
            self._client, on_appended=self._heard, on_trouble=self._lost_sight
        )
        self._recent = Recent(cache_bytes)
        self._waiters = Waiters()
        self._blank: dict[Partition, tuple[LogPosition, LogPosition]] = {}
        self._producers: dict[str, KafkaProducer] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # ------------------------------------------------------------------ topics

    async def create_topic(self, topic: str, partitions: int = 1) -> None:
        """See `Log.create_topic`."""
        name = self._names.topic(topic)
        await self._topics.make(name, partitions, CHANGES)
        present = await self._topics.count(name) or 0
        if present != partitions:
            raise other_partitions(topic, partitions, present)
        await self._consumers.opened(topic, await self._topics.identity(name), partitions)
        await self._tell_ends(topic)

    async def drop_topic(self, topic: str) -> None:
        """See `Log.drop_topic`; the positions of its consumers go with it."""
        name = self._names.topic(topic)
        await self._topics.drop(name)
        self._forget(name)
        await self._consumers.forget(topic)

    async def check(self) -> Sequence[tuple[Literal["ok", "warning", "error"], str, str]]:
        """See `CheckableLog.check`."""
        brokers, copies = await self._topics.copies()
        said = f"{brokers} broker(s), {copies} copy or copies of each topic"
        if copies > 1:
            return [("ok", said, "")]
        mend = "set log.replication to 3 where there are three brokers: then none can lose changes"
        return [("warning", f"{said}: what one broker loses is lost", mend)]

    async def drop(self) -> Sequence[str]:
        """See `DroppableLog.drop`."""
        names = [name for name in await self._topics.all() if name.startswith(self._names.prefix)]
        for name in names:
            await self._topics.drop(name)
            self._forget(name)
        return [f"topic {name} in Kafka" for name in sorted(names)]

    async def describe(self, topic: str | None = None) -> Sequence[PartitionInfo]:
        """See `Log.describe`."""
        found: list[PartitionInfo] = []
        known = {self._names.ours(n): (n, count) for n, count in (await self._topics.all()).items()}
        for ours in sorted(name for name in known if name is not None):
            if topic in (None, ours):
                name, count = known[ours]
                found += await describe(self._places, ours, [(name, n) for n in range(count)])
        return found

    async def trim(
        self, topic: str, *, before: Microseconds | None = None, max_bytes: int | None = None
    ) -> int:
        """See `Log.trim`; ``max_bytes`` is for all partitions of the topic together."""
        name = self._names.topic(topic)
        if (before is None and max_bytes is None) or not (count := await self._topics.count(name)):
            return 0
        bounds = await self._places.bounds([(name, number) for number in range(count)])
        removed = await Trimming(self._client, self._places, bounds).run(
            topic,
            self._consumers,
            before=before,
            max_bytes=max_bytes,
            now=Microseconds(time.time_ns() // 1000),
        )
        firsts = {
            number: LogPosition(low + 1)
            for (_, number), (low, _) in (await self._places.bounds(list(bounds))).items()
        }
        for number, first in firsts.items():
            self._recent.trim(name, number, first)
        await self._consumers.trimmed(topic, firsts)
        return removed

    def group(self, session_s: float) -> KafkaGroup:
        """What shares our partitions among processes; one that is silent for so long is out."""
        return KafkaGroup(self._client, self._names, session_s=session_s)

    # ------------------------------------------------------------------ writing

    async def open_producer(self, name: str) -> KafkaProducer:
        """See `Log.open_producer`."""
        self._check_open()
        before = self._producers.pop(name, None)
        if before is not None:
            before.close(reopened=True)
        state_topic = self._names.state(name)
        await self._topics.make(state_topic, 1, STATE)
        producer = await self._client.call(
            self._client.producer, self._names.transactional_id(name), TRANSACTION_S
        )
        await self._client.call(producer.init_transactions, TRANSACTION_S)
        # What the one before had begun is over by now, one way or the other.
        consumer = await self._client.call(self._client.consumer)
        try:
            state = await self._client.call(read_state, consumer, state_topic)
        finally:
            await self._client.call(consumer.close)
        opened = KafkaProducer(self, self._client, name, producer, state, state_topic)
        self._producers[name] = opened
        # A process that died may have appended without telling; topics are called after producers.
        await self._tell_ends(name)
        await self._tell_ends(f"{name}.bulk")
        return opened

    async def _tell_ends(self, topic: str) -> None:
        name = self._names.topic(topic)
        count = await self._topics.count(name) or 0
        bounds = await self._places.bounds([(name, number) for number in range(count)])
        newest = {p: await self._places.newest(p, found) for p, found in bounds.items()}
        if newest:
            ends = {number: found.last for (_, number), found in newest.items()}
            await self._consumers.reached(topic, ends)

    async def prepare(
        self,
        topic: str,
        changes: Sequence[Change],
        as_of: Microseconds | None,
        totals: dict[Partition, Totals],
    ) -> tuple[str, list[Part]]:
        """The topic in Kafka, and changes as bytes by partition. ``totals`` is what this producer
        knows of what partitions hold; what is missing is added. Only producers call this."""
        name = self._names.topic(topic)
        count = await self._topics.count(name)
        if not count:
            raise no_topic(topic)
        parts = parted(changes, as_of, count)
        await self._learn_totals([(name, number) for number in parts], totals)
        prepared = []
        for number, part in parts.items():
            payload = await self._encode(part)
            append = Append(payload, len(part), len(payload), as_of, totals[name, number])
            prepared.append(Part(number, append))
        return name, prepared

    async def appended(self, topic: str, ends: Mapping[Partition, LogPosition]) -> None:
        """Return when partitions can be read up to there, and it is known. Only producers call
        this."""
        deadline = time.monotonic() + REQUEST_S
        left = dict(ends)
        while left and time.monotonic() < deadline:
            found = await self._places.bounds(list(left))
            left = {p: end for p, end in left.items() if p in found and found[p].end < end}
            if left:
                await asyncio.sleep(VISIBLE_S)
        await self._consumers.reached(topic, {number: end for (_, number), end in ends.items()})

    async def _learn_totals(
        self, partitions: Sequence[Partition], totals: dict[Partition, Totals]
    ) -> None:
        unknown = [partition for partition in partitions if partition not in totals]
        for partition, bounds in (await self._places.bounds(unknown)).items():
            totals[partition] = (await self._places.newest(partition, bounds)).totals

    async def _encode(self, changes: Sequence[Change]) -> bytes:
        if not changes:
            return b""
        if len(changes) <= _INLINE_CHANGES:
            return self._codec.encode(changes).payload
        return (await asyncio.to_thread(self._codec.encode, changes)).payload

    # ------------------------------------------------------------------ reading

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
        place = (self._names.topic(topic), partition)
        start = self._past_blank(place, after)
        recent = self._recent.read(*place, start, max_changes, streams)
        if recent is not None:
            return recent._replace(first=LogPosition(after + 1))
        bounds = await self._bounds(topic, place)
        check_kept(topic, partition, start, LogPosition(bounds.low + 1), bounds.end)
        if start >= bounds.end or self._places.is_newest(place, start, bounds):
            return None
        found = await self._readers.read(place, start, bounds.end, max_changes)
        pieces = []
        at = start
        for whole in found.wholes:
            try:
                changes, as_of = await self._decode(place, at, whole, streams)
            except DamagedError as error:
                first, why = LogPosition(at + 1), str(error.facts["why"])
                raise damaged(topic, partition, first, whole.last, why) from error
            pieces.append((whole.last, changes, as_of))
            at = whole.last
        if found.at > at:
            self._blank[place] = (at, found.at)
        return joined(pieces, after) if pieces else None

    def _past_blank(self, place: Partition, after: LogPosition) -> LogPosition:
        """Where the next record may be: between the two there are only marks of transactions."""
        first, last = self._blank.get(place, (after, after))
        return last if first <= after < last else after

    async def _bounds(self, topic: str, place: Partition) -> Bounds:
        self._check_open()
        found = await self._places.bounds([place])
        if place not in found:
            # The library also says so of a topic that it has lost sight of with a connection: only
            # brokers that were asked just now know that there is none.
            self._topics.forget(place[0])
            if (await self._topics.count(place[0]) or 0) > place[1]:
                raise UnavailableError(
                    f"expected Kafka to say where {place[0]!r} ends, it has lost sight of it"
                )
            self._forget(place[0])
            raise no_topic(topic, place[1])
        return found[place]

    async def _decode(
        self, place: Partition, at: LogPosition, whole: Whole, streams: frozenset[str] | None
    ) -> tuple[Sequence[Change], Microseconds | None]:
        if sum(append.changes for append in whole.appends) > _INLINE_CHANGES:
            stored = await asyncio.to_thread(self._stored, at, whole)
        else:
            stored = self._stored(at, whole)
        self._keep(place, stored, whole)
        return stored.of(streams), stored.as_of

    def _stored(self, at: LogPosition, whole: Whole) -> Stored:
        """Appends that end together, as one; they begin where the one before ended."""
        changes: list[Change] = []
        size = 0
        for append in whole.appends:
            if append.payload:
                decoded = self._codec.decode(append.payload)
                changes += decoded.changes
                size += decoded.size * 2 + len(decoded.changes) * BYTES_PER_CHANGE
        times = [append.as_of for append in whole.appends if append.as_of is not None]
        streams = frozenset(change.schema.stream for change in changes)
        first = LogPosition(at + 1)
        return Stored(first, whole.last, changes, streams, max(times, default=None), size)

    def _keep(self, place: Partition, stored: Stored, whole: Whole) -> None:
        self._recent.put(*place, stored)
        self._places.saw(place, whole.last, whole.appends[-1])

    async def wait(self, topic: str, partition: int, after: LogPosition) -> None:
        """See `Log.wait`."""
        self._check_open()
        self._loop = asyncio.get_running_loop()
        place = (self._names.topic(topic), partition)
        start = self._past_blank(place, after)
        future = self._waiters.register(place, start)
        try:
            if not future.done():
                await self._client.call(self._follower.follow, place, start)
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await future
        finally:
            self._waiters.unregister(place, future)

    def _heard(self, place: Partition, at: LogPosition, whole: Whole) -> None:
        """The follower got something new; called in its thread."""
        try:
            stored = self._stored(at, whole)
        except FatalError:
            self._lost_sight(place)  # who reads it is told
            return
        self._in_loop(self._arrived, place, stored, whole)

    def _arrived(self, place: Partition, stored: Stored, whole: Whole) -> None:
        self._keep(place, stored, whole)
        self._waiters.advance(place, stored.last)

    def _lost_sight(self, place: Partition) -> None:
        """The follower cannot go on there; called in its thread."""
        self._in_loop(self._waiters.forget, place[0])

    def _in_loop(self, function: Callable[..., None], *values: object) -> None:
        if self._loop is not None and not self._closed:
            with suppress(RuntimeError):  # the loop ended meanwhile
                self._loop.call_soon_threadsafe(function, *values)

    async def seek(self, topic: str, partition: int, time: Microseconds) -> LogPosition:
        """See `Log.seek`."""
        place = (self._names.topic(topic), partition)
        return await self._places.since(place, time, await self._bounds(topic, place))

    def tail(self, topic: str, after: LogPosition | None = None) -> AsyncIterator[Batch]:
        """See `TailableLog.tail`."""
        return tail(self, topic, after)

    async def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        self._closed = True
        self._waiters.close()
        await self._client.call(self._close)
        self._client.close()

    def _close(self) -> None:
        self._follower.close()
        self._readers.close()
        for producer in self._producers.values():
            producer.close()

    # ------------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    def _forget(self, name: str) -> None:
        self._topics.forget(name)
        self._recent.forget(name)
        self._places.forget(name)
        self._waiters.forget(name)
        self._follower.leave(name)
        for place in [known for known in self._blank if known[0] == name]:
            del self._blank[place]
