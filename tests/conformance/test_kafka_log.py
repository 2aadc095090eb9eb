"""The log on a real Apache Kafka broker passes the shipped suite."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from penstock.log.base import Log
from penstock.log.kafka.log import KafkaLog, KafkaSettings
from penstock.records import LogPosition
from penstock.testing.logs import LogSuite


class Registered:
    """Positions of consumers, as the stores keep them."""

    def __init__(self) -> None:
        self.positions: dict[tuple[str, str, int], LogPosition] = {}
        self.identities: dict[str, str] = {}
        self.ends: dict[str, dict[int, LogPosition]] = {}
        self.firsts: dict[str, dict[int, LogPosition]] = {}

    async def opened(self, topic: str, identity: str, partitions: int) -> None:
        self.identities[topic] = identity

    async def reached(self, topic: str, ends: Mapping[int, LogPosition]) -> None:
        self.ends.setdefault(topic, {}).update(ends)

    async def trimmed(self, topic: str, firsts: Mapping[int, LogPosition]) -> None:
        self.firsts.setdefault(topic, {}).update(firsts)

    async def slowest(self, topic: str) -> Mapping[int, LogPosition]:
        found: dict[int, LogPosition] = {}
        for (_, of, partition), position in self.positions.items():
            if of == topic:
                found[partition] = min(position, found.get(partition, position))
        return found

    async def forget(self, topic: str) -> None:
        for consumer in [known for known in self.positions if known[1] == topic]:
            del self.positions[consumer]


@pytest.mark.servers
class TestKafkaLog(LogSuite):
    counts_records = False
    cache_bytes = 64 * 2**20

    @pytest.fixture(autouse=True)
    def _place(self, kafka_broker: Any) -> None:
        self.registered = Registered()
        self.settings = KafkaSettings(
            kafka_broker.bootstrap_servers, prefix=f"test-{uuid.uuid4().hex[:8]}."
        )

    @pytest.fixture
    async def log(self) -> AsyncIterator[KafkaLog]:
        log = KafkaLog(self.settings, consumers=self.registered, cache_bytes=self.cache_bytes)
        yield log
        await log.close()

    @pytest.fixture
    async def other(self) -> AsyncIterator[KafkaLog]:
        log = KafkaLog(self.settings, consumers=self.registered, cache_bytes=self.cache_bytes)
        yield log
        await log.close()

    async def register(
        self, log: Log, consumer: str, topic: str, partition: int, position: LogPosition
    ) -> None:
        self.registered.positions[consumer, topic, partition] = position


class TestKafkaLogWithoutCache(TestKafkaLog):
    """Everything is read from the broker."""

    cache_bytes = 0
