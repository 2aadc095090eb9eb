"""Kafka as a transport: our own assignment of partitions, offsets in our state.

There is no group membership: which partitions are read is said by the project, so a rebalance
elsewhere changes nothing, and a commit in the broker is only for people who look at lag. Calls
to librdkafka that may wait are made by one thread, which waits inside the library for records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from penstock.clock import Clock
from penstock.errors import MissingExtraError, PenstockError, SourceError, UnavailableError
from penstock.records import Microseconds
from penstock.sources.base import Finding
from penstock.sources.topics.base import (
    NO_HEADERS,
    Fetched,
    PartitionName,
    Places,
    Slice,
    gap,
)

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

T = TypeVar("T")

logger = structlog.get_logger("penstock.sources.topics.kafka")

OURS: Final = frozenset(
    {
        "bootstrap.servers",
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "auto.offset.reset",
        "isolation.level",
    }
)
"""Options of librdkafka that are not for the project file: changing them would lose records."""

_BEGINNING: Final = -2
_STEP_S: Final = 0.25
_QUICK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class KafkaLimits:
    """How much is held, and how long is waited."""

    records: int = 2000
    """The most records of one fetch."""
    read_ahead_kbytes: int = 32_768
    answer_s: float = 10.0
    refresh_s: float = 5.0
    """How often new topics and partitions are looked for."""


@dataclass(slots=True)
class _Target:
    """Where the partitions ended at a time: once all are read that far, it is complete."""

    at: Microseconds
    ends: dict[PartitionName, int]


class KafkaTransport:
    """Reads topics of one Kafka cluster. ``topics`` are names or globs; ``options`` go to
    librdkafka as they are. ``skip_lost`` goes on with the oldest record where retention was
    quicker."""

    def __init__(
        self,
        servers: str,
        topics: Sequence[str],
        *,
        group: str,
        clock: Clock,
        options: Mapping[str, str] | None = None,
        skip_lost: bool = False,
        limits: KafkaLimits = KafkaLimits(),
    ) -> None:
        self._servers = servers
        self._topics = tuple(topics)
        self._group = group
        self._clock = clock
        self._options = dict(options or {})
        self._skip_lost = skip_lost
        self._limits = limits
        self._consumer: Consumer | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._stopping = False
        self._reached: dict[PartitionName, int] = {}
        self._target: _Target | None = None
        self._targeted = self._refreshed = 0.0
        self._news = True

    # ------------------------------------------------------------------ the transport

    async def open(self, after: Places) -> None:
        await self.close()
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="penstock-kafka")
        self._reached, self._target, self._news = {}, None, True
        await self._run(lambda: self._open(after))

    async def fetch(self, timeout_s: float) -> Fetched:
        return await self._run(lambda: self._fetch(timeout_s))

    async def acknowledge(self, after: Places) -> None:
        # Only queued in the library, so it need not wait for the thread, which waits for records.
        if not self._stopping and self._consumer is not None:
            self._commit(after)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        closing = asyncio.get_running_loop().run_in_executor(thread, self._close)
        try:
            await asyncio.shield(closing)
        finally:
            thread.shutdown(wait=False)

    async def check(self) -> Sequence[Finding]:
        with ThreadPoolExecutor(1) as thread:
            return await asyncio.get_running_loop().run_in_executor(thread, self._check)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise UnavailableError("expected a connection to Kafka, got one that is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ------------------------------------------------------------------ in the thread

    def _open(self, after: Places) -> None:
        self._consumer = self._connect()
        self._assign(after)

    def _connect(self) -> Consumer:
        try:
            from confluent_kafka import Consumer, KafkaException
        except ImportError as error:
            raise MissingExtraError("reading Kafka topics", "kafka") from error
        try:
            return Consumer(
                {
                    "queued.max.messages.kbytes": self._limits.read_ahead_kbytes,
                    "fetch.wait.max.ms": 100,
                    "topic.metadata.refresh.interval.ms": 30_000,
                    **self._options,
                    "bootstrap.servers": self._servers,
                    "group.id": self._group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "error",
                    "isolation.level": "read_committed",
                },
                logger=logging.getLogger("penstock.kafka"),
            )
        except KafkaException as error:
            raise SourceError(
                f"expected options that librdkafka knows, got: {error}: mend `options`"
            ) from error

    def _assign(self, after: Places) -> None:
        """Begin with partitions that are not read yet."""
        from confluent_kafka import TopicPartition

        new = [name for name in self._partitions() if name not in self._reached]
        self._refreshed = time.monotonic()
        begin = []
        for name in new:
            start = _BEGINNING
            if name in after:
                start = self._resume(name, int(after[name], 16) + 1)
            self._reached[name] = max(start, 0)
            begin.append(TopicPartition(name.topic, name.partition, start))
        known = [name for name in after if self._chosen(name.topic)]
        lost = [str(name) for name in known if name not in self._reached and not self._skip_lost]
        if lost:
            raise SourceError(
                f"expected the partitions {', '.join(lost)} of Kafka, which were read before, but "
                "they are gone: if they were deleted on purpose, set `on_gap: continue`"
            )
        if begin:
            self._checked(lambda: self._opened().incremental_assign(begin))

    def _resume(self, name: PartitionName, offset: int) -> int:
        """Where to go on, when what comes there is still kept."""
        from confluent_kafka import TopicPartition

        first, last = self._checked(
            lambda: self._opened().get_watermark_offsets(
                TopicPartition(name.topic, name.partition), timeout=self._limits.answer_s
            )
        )
        if first <= offset <= last:
            return offset
        if self._skip_lost:
            logger.warning("kafka.gap", partition=str(name), expected=offset, first=first)
            return _BEGINNING
        raise gap(str(name), f"offset {offset}, while it holds {first} to {last - 1}")

    def _partitions(self) -> list[PartitionName]:
        metadata = self._checked(lambda: self._opened().list_topics(timeout=self._limits.answer_s))
        return [
            PartitionName(topic, partition)
            for topic in sorted(metadata.topics)
            if self._chosen(topic)
            for partition in sorted(metadata.topics[topic].partitions)
        ]

    def _chosen(self, topic: str) -> bool:
        return any(topic == name or fnmatchcase(topic, name) for name in self._topics)

    def _fetch(self, timeout_s: float) -> Fetched:
        patience_s = self._limits.refresh_s if self._reached else min(1.0, timeout_s)
        if time.monotonic() - self._refreshed >= patience_s:
            self._assign({})
        deadline = time.monotonic() + timeout_s
        while not self._stopping:
            complete = self._complete(timeout_s)
            if complete is not None:
                return Fetched((), complete)
            wait_s = _QUICK_S if self._news or self._target else _STEP_S
            slices = self._poll(min(wait_s, max(0.0, deadline - time.monotonic())))
            if slices:
                self._news = True
                return Fetched(slices)
            if time.monotonic() >= deadline:
                break
        return Fetched()

    def _poll(self, timeout_s: float) -> list[Slice]:
        consumer = self._opened()
        first = consumer.poll(timeout_s)
        if first is None:
            return []
        messages = [first, *consumer.consume(self._limits.records - 1, 0)]
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            else:
                self._heed(message, error)
        return list(self._slices(good))

    def _slices(self, messages: Sequence[Message]) -> Sequence[Slice]:
        parts: dict[PartitionName, list[Message]] = {}
        for message in messages:
            topic, partition = message.topic(), message.partition()
            assert topic is not None
            assert partition is not None
            parts.setdefault(PartitionName(topic, partition), []).append(message)
        for name, group in parts.items():
            # The end that came with them may be further: markers of transactions take up offsets.
            self._reached[name] = max(self._reached.get(name, 0), (group[-1].offset() or 0) + 1)
        return [_slice(name, group) for name, group in parts.items()]

    def _heed(self, message: Message, error: Any) -> None:
        """What an error that came among the records means."""
        from confluent_kafka import KafkaError

        name = PartitionName(message.topic() or "", message.partition() or 0)
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name for it
            self._reached[name] = max(self._reached.get(name, 0), message.offset() or 0)
            return
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - as above
            if not self._skip_lost:
                raise gap(str(name), str(error.str()))
            from confluent_kafka import TopicPartition

            self._reached[name] = 0
            again = TopicPartition(name.topic, name.partition, _BEGINNING)
            self._checked(lambda: self._opened().seek(again))
            return
        raise _translated(error)

    # ------------------------------------------------------------------ time

    def _complete(self, every_s: float) -> Microseconds | None:
        """The time by which all is read, when that has become known."""
        now = time.monotonic()
        due = every_s if not self._news else _QUICK_S
        if self._target is None and now - self._targeted >= due:
            at = self._clock.now()
            self._target = _Target(at, self._ends())
            self._targeted, self._news = now, False
        target = self._target
        if target is None:
            return None
        if any(self._reached.get(name, 0) < end for name, end in target.ends.items()):
            return None
        self._target = None
        return target.at

    def _ends(self) -> dict[PartitionName, int]:
        from confluent_kafka import TopicPartition

        ends = {}
        for name in self._reached:
            place = TopicPartition(name.topic, name.partition)
            _, ends[name] = self._checked(
                partial(self._opened().get_watermark_offsets, place, timeout=self._limits.answer_s)
            )
        return ends

    # ------------------------------------------------------------------ the rest

    def _commit(self, after: Places) -> None:
        """Tell the broker, for people who look at lag there."""
        from confluent_kafka import KafkaException, TopicPartition

        offsets: list[TopicPartition] = [
            TopicPartition(name.topic, name.partition, int(offset, 16) + 1)
            for name, offset in after.items()
        ]
        try:
            self._opened().commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            logger.info("kafka.commit_failed", reason=str(error))

    def _opened(self) -> Consumer:
        if self._consumer is None:
            raise UnavailableError("expected a connection to Kafka, got one that is closed")
        return self._consumer

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _checked(self, call: Callable[[], T]) -> T:
        from confluent_kafka import KafkaException

        try:
            return call()
        except KafkaException as error:
            raise _translated(error.args[0]) from error

    def _check(self) -> Sequence[Finding]:
        try:
            self._consumer = self._connect()
            found = self._partitions()
        except PenstockError as error:
            return [Finding("connection", "error", str(error), "mend `servers` or `options`")]
        finally:
            self._close()
        topics = {name.topic for name in found}
        findings = [Finding("connection", "ok", f"Kafka at {self._servers}")]
        for wanted in self._topics:
            if any(topic == wanted or fnmatchcase(topic, wanted) for topic in topics):
                continue
            findings.append(
                Finding(
                    "topics",
                    "warning",
                    f"there is no topic {wanted!r} yet",
                    "mend `topics`, or wait",
                )
            )
        if topics:
            findings.append(Finding("topics", "ok", f"{len(topics)} with {len(found)} partitions"))
        return findings


def _slice(name: PartitionName, messages: Sequence[Message]) -> Slice:
    headers = [message.headers() for message in messages]
    return Slice(
        name.topic,
        name.partition,
        [f"{message.offset():012x}" for message in messages],
        [message.timestamp()[1] for message in messages],
        [message.key() for message in messages],
        [message.value() for message in messages],
        [_headers(given) for given in headers] if any(headers) else None,
    )


def _headers(given: Any) -> Sequence[tuple[str, bytes | None]]:
    return [(str(name), value) for name, value in given] if given else NO_HEADERS


def _translated(error: Any) -> PenstockError:
    from confluent_kafka import KafkaError

    person = {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - the library's public name for it
    }
    if error.code() in person or error.fatal():
        return SourceError(f"expected to be let in by Kafka, got {error.str()}: mend the rights")
    return UnavailableError(f"expected Kafka to answer, got {error.str()}")
