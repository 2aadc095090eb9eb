"""Topics in Kafka: making them as the log needs them, counting their partitions, removing them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from penstock.errors import UnavailableError
from penstock.log.kafka.client import REQUEST_S, Client, library, meaning

CHANGES: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    # Never by the broker: it does not know what has been processed.
    "retention.ms": "-1",
    "retention.bytes": "-1",
    # When it was appended, by the broker's clock for all writers: what `seek` goes by.
    "message.timestamp.type": "LogAppendTime",
}
STATE: Final[Mapping[str, str]] = {
    "cleanup.policy": "compact",
    # Small and cleaned often, because it is read whole when a producer is opened.
    "segment.bytes": str(16 * 2**20),
    "segment.ms": str(3600 * 1000),
    "min.cleanable.dirty.ratio": "0.1",
}
_SETTLE_S: Final = 0.02


class Topics:
    """The topics of a cluster; counts of partitions are remembered."""

    def __init__(self, client: Client, replication: int) -> None:
        self._client = client
        self._replication = replication
        self._counts: dict[str, int] = {}

    async def make(self, name: str, partitions: int, settings: Mapping[str, str]) -> None:
        """Make sure that a topic exists and can be written to."""
        if name not in self._counts:
            await self._client.call(self._make, name, partitions, settings)

    async def drop(self, name: str) -> None:
        """Remove a topic, if there is one, and wait until it is gone."""
        self._counts.pop(name, None)
        await self._client.call(self._drop, name)

    async def count(self, name: str) -> int | None:
        """How many partitions a topic has; None when there is no such topic."""
        if name not in self._counts:
            found = await self._client.call(self._list, name)
            if name not in found:
                return None
            self._counts[name] = found[name]
        return self._counts[name]

    async def all(self) -> Mapping[str, int]:
        """All topics with their numbers of partitions."""
        return await self._client.call(self._list, None)

    async def copies(self) -> tuple[int, int]:
        """How many brokers there are, and how many copies a topic gets where nobody says."""
        return await self._client.call(self._copies)

    def _copies(self) -> tuple[int, int]:
        kafka = library()
        admin = self._client.admin()
        brokers = admin.list_topics(timeout=REQUEST_S).brokers
        broker = kafka.admin.ConfigResource(kafka.admin.ResourceType.BROKER, str(min(brokers)))
        answer = admin.describe_configs([broker], request_timeout=REQUEST_S)[broker].result()
        copies = int(answer["default.replication.factor"].value)
        return len(brokers), copies if self._replication < 0 else self._replication

    async def identity(self, name: str) -> str:
        """What tells a topic from one of the same name before or after it."""
        return await self._client.call(self._identity, name)

    def _identity(self, name: str) -> str:
        kafka = library()
        found = self._client.admin().describe_topics(
            kafka.TopicCollection([name]), request_timeout=REQUEST_S
        )
        return f"kafka topic {name} {found[name].result().topic_id}"

    def forget(self, name: str) -> None:
        """It may be gone, or made anew."""
        self._counts.pop(name, None)

    def _make(self, name: str, partitions: int, settings: Mapping[str, str]) -> None:
        kafka = library()
        if name in self._list(name):
            return
        topic = kafka.admin.NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=self._replication,
            config=dict(settings),
        )
        made = self._client.admin().create_topics([topic], request_timeout=REQUEST_S)[name]
        try:
            made.result()
        except kafka.KafkaException as error:
            if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        self._until(name, present=True)

    def _drop(self, name: str) -> None:
        kafka = library()
        gone = self._client.admin().delete_topics([name], request_timeout=REQUEST_S)[name]
        try:
            gone.result()
        except kafka.KafkaException as error:
            if error.args[0].code() != kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
        self._until(name, present=False)

    def _until(self, name: str, *, present: bool) -> None:
        """Brokers hear of topics a moment after their controller."""
        deadline = time.monotonic() + REQUEST_S
        while (name in self._list(name)) is not present:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"expected Kafka to have {'made' if present else 'removed'} the topic {name!r} "
                    f"within {REQUEST_S:.0f} s, it has not: look at its controller"
                )
            time.sleep(_SETTLE_S)

    def _list(self, name: str | None) -> dict[str, int]:
        kafka = library()
        found = self._client.admin().list_topics(name, timeout=REQUEST_S).topics
        for topic in found.values():
            absent = kafka.KafkaError.UNKNOWN_TOPIC_OR_PART, kafka.KafkaError.LEADER_NOT_AVAILABLE
            if topic.error is not None and topic.error.code() not in absent:
                raise meaning(topic.error)
        return {n: len(topic.partitions) for n, topic in found.items() if topic.error is None}
