"""Kafka topics pass the suite of sources, on librdkafka's built-in brokers (four partitions)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer

from penstock.clock import SystemClock
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.kafka import KafkaTransport
from penstock.sources.topics.messages import Wanted
from penstock.sources.topics.shapes import Shapes
from penstock.sources.topics.source import TopicsSource
from penstock.testing.sources import SourceSuite
from penstock.testing.topics import TopicSystem

TOPIC = "srv.public.items"


@dataclass
class MockCluster:
    """Brokers inside librdkafka; they live as long as this producer."""

    producer: Producer
    servers: str

    async def send(self, key: bytes | None, value: bytes | None, topic: str = TOPIC) -> None:
        self.producer.produce(topic, key=key, value=value)
        await asyncio.to_thread(self.producer.flush, 10)


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    producer = Producer(
        {"bootstrap.servers": "unused", "test.mock.num.brokers": 1},
        logger=logging.getLogger("mock"),
    )
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    yield MockCluster(producer, f"{broker.host}:{broker.port}")
    producer.close()


def make_source(servers: str, *, skip_lost: bool = False) -> TopicsSource:
    clock = SystemClock()
    return TopicsSource(
        "shop",
        KafkaTransport(servers, ["srv.*"], group="test", clock=clock, skip_lost=skip_lost),
        DebeziumDecoder(Shapes("shop"), Wanted(["public.*"])),
        clock=clock,
        heartbeat_s=0.1,
    )


class KafkaSystem(TopicSystem):
    """The scripted table on a cluster."""

    def __init__(self, cluster: MockCluster) -> None:
        super().__init__(cluster.send)
        self._servers = cluster.servers

    def source(self) -> TopicsSource:
        return make_source(self._servers)


class TestKafkaSource(SourceSuite):
    """The suite."""

    @pytest.fixture
    async def system(self, cluster: MockCluster) -> KafkaSystem:
        return KafkaSystem(cluster)
