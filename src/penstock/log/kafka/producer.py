"""The writer: one transaction per append, with the state beside the changes (L3, L4).

Opening a producer makes Kafka abort or complete what the one before left open and refuse whatever
it may still send (its transactional id is the name). Only then the state is read, so it is final.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from penstock.errors import FatalError, FencedError, PenstockError, UnavailableError
from penstock.log.kafka.client import REQUEST_S, Client, library, meaning
from penstock.log.kafka.frames import Append, Totals, frames
from penstock.log.kafka.readers import Partition
from penstock.log.refusals import closed, cut_off, fenced
from penstock.records import Change, LogPosition, Microseconds

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

TRANSACTION_S: Final = 30.0
"""How long an append may take. A process that dies within one holds readers up for that long, or
until its successor opens the producer."""


class Part(NamedTuple):
    """What one append puts into one partition."""

    partition: int
    append: Append


class Preparing(Protocol):
    """What a producer asks of its log."""

    async def prepare(
        self,
        topic: str,
        changes: Sequence[Change],
        as_of: Microseconds | None,
        totals: dict[Partition, Totals],
    ) -> tuple[str, list[Part]]:
        """The topic in Kafka, and what each of its partitions gets."""

    async def appended(self, topic: str, ends: Mapping[Partition, LogPosition]) -> None:
        """Return when partitions can be read up to there, and it is known."""


class KafkaProducer:
    """See `penstock.log.base.Producer`."""

    def __init__(
        self,
        log: Preparing,
        client: Client,
        name: str,
        producer: Producer,
        state: Mapping[str, str],
        state_topic: str,
    ) -> None:
        self.name = name
        self.state = state
        self._log = log
        self._client = client
        self._producer: Producer | None = producer
        self._state_topic = state_topic
        self._writer = secrets.randbits(64)
        self._appends = 0
        self._totals: dict[Partition, Totals] = {}
        self._over: FatalError | None = None
        self._turn = asyncio.Lock()

    async def append(
        self,
        topic: str,
        changes: Sequence[Change],
        *,
        state: Mapping[str, str | None] | None = None,
        as_of: Microseconds | None = None,
    ) -> None:
        """See `Producer.append`."""
        async with self._turn:
            if self._over is not None:
                raise self._over
            name, parts = await self._log.prepare(topic, changes, as_of, self._totals)
            kept = _state_records(state or {})
            if not parts and not kept:
                return
            # Until Kafka has answered, even a cancelled step may have happened.
            self._over = cut_off(self.name)
            try:
                ends = await self._client.call(self._step, name, parts, kept)
            except FencedError as error:
                self._over = fenced(self.name)
                raise self._over from error
            self._over = None
            for part in parts:
                self._totals[name, part.partition] = part.append.after
            # Committed is not yet readable: the marks of the commit are written after the answer.
            await self._log.appended(topic, ends)

    def _step(
        self, topic: str, parts: Sequence[Part], state: Sequence[tuple[bytes, bytes | None]]
    ) -> Mapping[Partition, LogPosition]:
        """One transaction; says where it ends in each partition. Blocks."""
        producer = self._producer
        if producer is None:
            raise closed()
        self._appends += 1
        producer.begin_transaction()
        failed: list[PenstockError] = []
        ends: dict[Partition, LogPosition] = {}

        def told(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(meaning(error))
            elif message.topic() == topic:
                ends[topic, message.partition()] = LogPosition(message.offset() + 1)

        for part in parts:
            for frame in frames(part.append, self._writer, self._appends):
                _send(producer, topic, part.partition, None, frame, told)
        for key, value in state:
            _send(producer, self._state_topic, 0, key, value, told)
        _commit(producer, failed)
        return ends

    def close(self, *, reopened: bool = False) -> None:
        """Leave. What was cut off is aborted by Kafka when the producer is opened again."""
        over, self._over = self._over, fenced(self.name) if reopened else closed()
        producer, self._producer = self._producer, None
        if over is None and producer is not None and not self._turn.locked():
            producer.close()


def _send(
    producer: Producer,
    topic: str,
    partition: int,
    key: bytes | None,
    value: bytes | None,
    told: Callable[[Any, Any], None],
) -> None:
    while True:
        try:
            producer.produce(topic, value, key=key, partition=partition, on_delivery=told)
            return
        except BufferError:
            producer.poll(0.1)


def _commit(producer: Producer, failed: list[PenstockError]) -> None:
    kafka = library()
    deadline = time.monotonic() + TRANSACTION_S
    while True:
        try:
            producer.commit_transaction(max(0.1, deadline - time.monotonic()))
            return
        except kafka.KafkaException as error:
            detail = error.args[0]
            if detail.retriable() and time.monotonic() < deadline:
                continue  # the same commit, asked for again
            # The reason is with the records where there is one.
            for reason in failed:
                if isinstance(reason, FatalError):
                    raise reason from error
            raise


def _state_records(state: Mapping[str, str | None]) -> list[tuple[bytes, bytes | None]]:
    try:
        return [
            (name.encode(), None if value is None else value.encode())
            for name, value in state.items()
        ]
    except UnicodeEncodeError as error:
        raise FatalError(
            f"expected state that is valid Unicode, got {error.object[:80]!r}: "
            "this is a fault in the source"
        ) from error


def read_state(consumer: Consumer, topic: str) -> dict[str, str]:
    """All that the state topic of a producer holds. Blocks."""
    kafka = library()
    place = kafka.TopicPartition(topic, 0)
    low, end = consumer.get_watermark_offsets(place, timeout=REQUEST_S)
    state: dict[str, str] = {}
    if low == end:
        return state
    place.offset = low
    consumer.assign([place])
    deadline = time.monotonic() + REQUEST_S
    while True:
        message = consumer.poll(max(0.0, deadline - time.monotonic()))
        if message is None:
            raise UnavailableError(f"Kafka did not give the state in {topic!r} in time")
        error = message.error()
        if error is not None:
            if error.code() == kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001
                return state
            raise meaning(error)
        deadline = time.monotonic() + REQUEST_S
        name = (message.key() or b"").decode()
        value = message.value()
        if value is None:
            state.pop(name, None)
        else:
            state[name] = value.decode()
