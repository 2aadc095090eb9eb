"""Reading partitions: consumers that are placed where somebody reads, and one that follows ends.

A *reader* stands at one place of one partition and is asked for what comes next; there are a few,
and each is given to whoever goes on where it stands. The *follower* is one consumer for all
partitions whose readers wait for something new: the broker answers it when there is something.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from penstock.errors import FatalError, UnavailableError
from penstock.log.kafka.client import REQUEST_S, Client, library, meaning, translated
from penstock.log.kafka.frames import Assembler, Frame, Whole, parse
from penstock.records import LogPosition

if TYPE_CHECKING:
    from confluent_kafka import Consumer

Partition = tuple[str, int]
"""A topic by its name in Kafka, and the number of the partition."""

Place = tuple[Partition, LogPosition]
T = TypeVar("T")

_READERS: Final = 8
_POLL_S: Final = 0.5
_OVERRUN: Final = 16 * 2**20


class Found(NamedTuple):
    """What a reader found: appends in order, and where it stands now. ``ended`` means that there
    was nothing more up to there."""

    wholes: list[Whole]
    at: LogPosition
    ended: bool


class Reader:
    """One consumer at one place. Its calls block; one at a time."""

    def __init__(self, client: Client) -> None:
        # At the end of a partition it is taken off soon, so short waits of the broker are cheap.
        self._consumer: Consumer = client.consumer(**{"fetch.wait.max.ms": 20})
        self._assembler = Assembler()
        self.place: Place | None = None

    def read(
        self, partition: Partition, after: LogPosition, end: LogPosition, max_changes: int
    ) -> Found:
        """Whole appends after a place until there are ``max_changes``, or up to ``end``."""
        if self.place != (partition, after):
            self._go(partition, after)
        self.place = None  # until it is known where this ended
        found = self._collect(after, end, max_changes)
        if found.ended:
            self._consumer.unassign()
        else:
            self.place = (partition, found.at)
        return found

    def _go(self, partition: Partition, after: LogPosition) -> None:
        kafka = library()
        self._assembler = Assembler()
        with translated():
            self._consumer.assign([kafka.TopicPartition(*partition, after)])

    def _collect(self, after: LogPosition, end: LogPosition, max_changes: int) -> Found:
        wholes: list[Whole] = []
        changes = 0
        at = after
        deadline = time.monotonic() + REQUEST_S
        while changes < max_changes:
            message: Any = self._consumer.poll(max(0.0, deadline - time.monotonic()))
            if message is None:
                raise UnavailableError(
                    f"expected Kafka to give what follows {at} within {REQUEST_S:.0f} s, got "
                    "nothing: it is not available, or a transaction of another producer is open"
                )
            error = message.error()
            if error is not None:
                if _is_end(error):
                    if not self._assembler.between:
                        continue  # the rest is committed, and on its way
                    return Found(wholes, LogPosition(max(at, message.offset())), ended=True)
                if not _passes(error):
                    raise meaning(error)
                continue
            whole = self._assembler.feed(message.offset(), message.value())
            if whole is None:
                continue
            at = whole.last
            wholes.append(whole)
            changes += sum(max(append.changes, 1) for append in whole.appends)
            # The one place after it that is left can only hold the mark of its own transaction.
            if at + 1 >= end:
                return Found(wholes, at, ended=True)
        return Found(wholes, at, ended=False)

    def scan(
        self, partition: Partition, start: LogPosition, end: LogPosition
    ) -> Iterator[tuple[int, Frame]]:
        """Single records from an offset on, as they are, until ``end``."""
        self._go(partition, start)
        self.place = None
        deadline = time.monotonic() + REQUEST_S
        try:
            while True:
                message: Any = self._consumer.poll(max(0.0, deadline - time.monotonic()))
                if message is None:
                    raise UnavailableError(f"Kafka did not give {partition[0]!r} in time")
                error = message.error()
                if error is None and message.offset() < end:
                    yield message.offset(), parse(message.value())
                elif error is None or _is_end(error):
                    return
                elif not _passes(error):
                    raise meaning(error)
                if message.offset() is not None and message.offset() + 1 >= end:
                    return
        finally:
            self._consumer.unassign()

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


class Readers:
    """A few readers, each given to whoever goes on where it stands."""

    def __init__(self, client: Client, most: int = _READERS) -> None:
        self._client = client
        self._most = most
        self._idle: list[Reader] = []
        self._made = 0
        self._free = asyncio.Condition()

    async def _take(self, place: Place) -> Reader:
        async with self._free:
            await self._free.wait_for(lambda: bool(self._idle) or self._made < self._most)
            for reader in self._idle:
                if reader.place == place:
                    self._idle.remove(reader)
                    return reader
            if self._idle and (self._made >= self._most or self._idle[0].place is None):
                return self._idle.pop(0)
            self._made += 1
        try:
            return await self._client.call(Reader, self._client)
        except BaseException:
            self._made -= 1
            raise

    async def _give(self, reader: Reader) -> None:
        async with self._free:
            self._idle.insert(0, reader) if reader.place is None else self._idle.append(reader)
            self._free.notify()

    async def read(
        self, partition: Partition, after: LogPosition, end: LogPosition, max_changes: int
    ) -> Found:
        """See `Reader.read`."""
        return await self._at(
            (partition, after), lambda r: r.read(partition, after, end, max_changes)
        )

    async def use(self, partition: Partition, look: Callable[[Reader], T]) -> T:
        """Let a blocking function look at something with whichever reader is free."""
        return await self._at((partition, LogPosition(-1)), look)

    async def _at(self, place: Place, look: Callable[[Reader], T]) -> T:
        reader = await self._take(place)
        looking = asyncio.ensure_future(self._client.call(look, reader))
        try:
            return await asyncio.shield(looking)
        except asyncio.CancelledError:
            # A reader that is still at work must not be given to another.
            await asyncio.wait([looking])
            raise
        finally:
            await self._give(reader)

    def close(self) -> None:
        """Close those that nobody uses; the others end with the process."""
        while self._idle:
            self._idle.pop().close()


class Follower:
    """One consumer at the ends of all partitions that somebody waits for, with a thread that
    hands over what comes. Callbacks are called in that thread."""

    def __init__(
        self,
        client: Client,
        *,
        on_appended: Callable[[Partition, LogPosition, Whole], None],
        on_trouble: Callable[[Partition], None],
    ) -> None:
        self._client = client
        self._on_appended = on_appended
        self._on_trouble = on_trouble
        self._consumer: Consumer | None = None
        self._assemblers: dict[Partition, Assembler] = {}
        self._at: dict[Partition, LogPosition] = {}
        self._unread: dict[Partition, int] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, partition: Partition, after: LogPosition) -> None:
        """Hand over what comes after a place; nothing changes if that is being done. Blocks."""
        kafka = library()
        with self._lock:
            self._unread[partition] = 0
            known = self._at.get(partition)
            if self._ending.is_set() or (known is not None and known >= after):
                return
            self._at[partition] = after
            self._assemblers[partition] = Assembler()
            if known is not None:
                return  # what comes before the place is passed over
            with translated():
                if self._consumer is None:
                    self._consumer = self._client.consumer(**{"fetch.error.backoff.ms": 100})
                self._consumer.incremental_assign([kafka.TopicPartition(*partition, after)])
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="penstock-kafka follower", daemon=True
                )
                self._thread.start()

    def leave(self, topic: str) -> None:
        """Follow a topic no more."""
        with self._lock:
            for partition in [known for known in self._at if known[0] == topic]:
                self._forget(partition)

    def close(self) -> None:
        """End the thread and the consumer."""
        with self._lock:
            self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * REQUEST_S)
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _forget(self, partition: Partition) -> None:
        kafka = library()
        if self._at.pop(partition, None) is not None and self._consumer is not None:
            self._consumer.incremental_unassign([kafka.TopicPartition(*partition)])

    def _run(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        while not self._ending.is_set():
            message = consumer.poll(_POLL_S)
            if message is None:
                continue
            with self._lock:
                self._take(message)

    def _take(self, message: Any) -> None:
        partition = (message.topic(), message.partition())
        at = self._at.get(partition)
        if at is None:
            return
        error = message.error()
        if error is not None:
            if not _is_end(error) and not _passes(error):
                self._forget(partition)
                self._on_trouble(partition)
            return
        if message.offset() < at:
            return  # its readers have it already
        try:
            whole = self._assemblers[partition].feed(message.offset(), message.value())
        except FatalError:  # whoever reads there is told
            self._forget(partition)
            self._on_trouble(partition)
            return
        if whole is None:
            return
        self._at[partition] = whole.last
        self._on_appended(partition, at, whole)
        self._unread[partition] += sum(len(append.payload) for append in whole.appends)
        if self._unread[partition] > _OVERRUN:
            self._forget(partition)  # its readers are behind, and read for themselves


def _is_end(error: Any) -> bool:
    return bool(error.code() == library().KafkaError._PARTITION_EOF)  # noqa: SLF001


def _passes(error: Any) -> bool:
    """Trouble that the client library mends by itself."""
    codes = library().KafkaError
    return error.code() in {
        codes._TRANSPORT,  # noqa: SLF001
        codes._ALL_BROKERS_DOWN,  # noqa: SLF001
        codes._TIMED_OUT,  # noqa: SLF001
        codes._RESOLVE,  # noqa: SLF001
        codes.NOT_LEADER_FOR_PARTITION,
        codes.LEADER_NOT_AVAILABLE,
        codes.REQUEST_TIMED_OUT,
        codes.FENCED_LEADER_EPOCH,
        codes.UNKNOWN_LEADER_EPOCH,
    }
