"""Kafka as a destination of messages: an idempotent producer, every message acknowledged by all
replicas. Messages of one key go to one partition, in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from penstock.debezium.messages import Message
from penstock.errors import (
    BadRecordError,
    FatalError,
    MissingExtraError,
    PenstockError,
    UnavailableError,
)

if TYPE_CHECKING:
    from confluent_kafka import Producer

T = TypeVar("T")

OURS: Final = frozenset({"bootstrap.servers", "enable.idempotence", "acks"})
"""Options of librdkafka that are not for the project file: changing them would lose messages."""

_PATIENCE_S: Final = 30.0


class KafkaDestination:
    """Publishes to topics of one Kafka cluster. ``options`` go to librdkafka as they are."""

    def __init__(
        self,
        servers: str,
        *,
        options: Mapping[str, str] | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._servers = servers
        self._options = dict(options or {})
        self._patience_s = patience_s
        self._producer: Producer | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._stamp = 0

    async def send(self, messages: Sequence[Message]) -> None:
        if messages:
            await self._run(lambda: self._send(messages))

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                await asyncio.get_running_loop().run_in_executor(thread, self._drop)
            finally:
                thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="penstock-publish")
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)
        return await asyncio.shield(running)

    # ------------------------------------------------------------------ in the thread

    def _send(self, messages: Sequence[Message]) -> None:
        producer = self._open()
        problems: list[Any] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                problems.append(error)

        left = 0
        for message in messages:
            # A truncate has no key, so no order to keys of other partitions: time gives it one.
            alone = message.key is None
            left += producer.flush(self._patience_s) if alone else 0
            self._stamp = max(int(time.time() * 1000), self._stamp + alone)
            self._produce(producer, message, delivered)
            left += producer.flush(self._patience_s) if alone else 0
            self._stamp += alone
        left += producer.flush(self._patience_s)
        if left or problems:
            self._drop()  # nothing of this may arrive later, after what is sent again
            raise _translated(problems[0] if problems else None, self._servers)

    def _produce(
        self, producer: Producer, message: Message, delivered: Callable[[Any, Any], None]
    ) -> None:
        from confluent_kafka import KafkaException

        while True:
            try:
                producer.produce(
                    message.topic,
                    key=message.key,
                    value=message.value,
                    timestamp=self._stamp,
                    on_delivery=delivered,
                )
            except BufferError:  # more than librdkafka holds: wait until some are delivered
                if producer.poll(self._patience_s) == 0:
                    self._drop()
                    raise _translated(None, self._servers) from None
            except KafkaException as error:
                raise _translated(error.args[0], self._servers) from error
            else:
                return

    def _open(self) -> Producer:
        if self._producer is not None:
            return self._producer
        try:
            from confluent_kafka import KafkaException, Producer
        except ImportError as error:
            raise MissingExtraError("publishing to Kafka", "kafka") from error
        try:
            self._producer = Producer(
                {
                    "linger.ms": 5,
                    "compression.type": "lz4",
                    "partitioner": "murmur2_random",  # as Java's: consumers co-partition
                    "message.timeout.ms": int(self._patience_s * 1000),
                    **self._options,
                    "bootstrap.servers": self._servers,
                    "enable.idempotence": True,
                    "acks": "all",
                },
                logger=logging.getLogger("penstock.kafka"),
            )
        except KafkaException as error:
            raise FatalError(
                f"expected options that librdkafka knows, got: {error}: mend `options`"
            ) from error
        return self._producer

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.close()


def _translated(error: Any, servers: str) -> PenstockError:
    from confluent_kafka import KafkaError

    if error is None:
        return UnavailableError(f"expected Kafka at {servers} to take messages, it does not answer")
    if error.code() in {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD}:
        return BadRecordError(f"expected Kafka to take a message, got {error.str()}")
    if error.code() in {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }:
        return FatalError(f"expected to be let in by Kafka, got {error.str()}: mend the rights")
    return UnavailableError(f"expected Kafka at {servers} to take messages, got {error.str()}")
