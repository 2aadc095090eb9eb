"""Kafka topics pass the suite of sources: librdkafka's own brokers, and Apache Kafka."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from penstock.clock import SystemClock
from penstock.errors import SourceError, UnavailableError
from penstock.sources.base import SourceBatch
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.kafka import KafkaLimits, KafkaTransport
from penstock.sources.topics.messages import Wanted
from penstock.sources.topics.shapes import Shapes
from penstock.sources.topics.source import TopicsSource
from penstock.testing.debezium import message
from penstock.testing.sources import SourceSuite, reading
from penstock.testing.topics import TopicSystem

TOPIC = "srv.public.items"


@dataclass
class Cluster:
    """Brokers inside librdkafka; they live as long as this producer."""

    producer: Producer
    servers: str
    topic: str = TOPIC

    async def send(self, key: bytes | None, value: bytes | None) -> None:
        self.producer.produce(self.topic, key=key, value=value)
        await asyncio.to_thread(self.producer.flush, 10)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    producer = Producer(
        {"bootstrap.servers": "unused", "test.mock.num.brokers": 1},
        logger=logging.getLogger("mock"),
    )
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    yield Cluster(producer, f"{broker.host}:{broker.port}")
    producer.close()


def make_source(cluster: Cluster, *, skip_lost: bool = False) -> TopicsSource:
    clock = SystemClock()
    return TopicsSource(
        "shop",
        KafkaTransport(
            cluster.servers, [cluster.topic], group="test", clock=clock, skip_lost=skip_lost
        ),
        DebeziumDecoder(Shapes("shop"), Wanted(["public.*"])),
        clock=clock,
        heartbeat_s=0.1,
    )


class KafkaSystem(TopicSystem):
    """The scripted table on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.send)
        self._cluster = cluster

    def source(self) -> TopicsSource:
        return make_source(self._cluster)


class TestKafkaSource(SourceSuite):
    """The suite, on librdkafka's own brokers."""

    @pytest.fixture
    async def system(self, cluster: Cluster) -> KafkaSystem:
        return KafkaSystem(cluster)


@pytest.fixture
def apache(kafka_broker: Any) -> Iterator[Cluster]:
    """A topic of three partitions on a real broker."""
    servers = kafka_broker.bootstrap_servers
    topic = f"srv.{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": servers}, logger=logging.getLogger("mock"))
    yield Cluster(producer, servers, topic)
    producer.close()


@pytest.mark.servers
class TestApacheKafkaSource(SourceSuite):
    """The suite, on Apache Kafka."""

    @pytest.fixture
    async def system(self, apache: Cluster) -> KafkaSystem:
        return KafkaSystem(apache)


@pytest.mark.servers
async def test_g2_what_retention_removed_is_a_named_error(apache: Cluster) -> None:
    """And ``on_gap: continue`` goes on with what is there."""
    system = KafkaSystem(apache)
    await system.write(0)
    batch = await first(make_source(apache), {})
    state = {name: str(text) for name, text in batch.state.items()}
    (place,) = (name.removeprefix("at:") for name in state if name.startswith("at:"))
    for number in range(7, 70, 7):
        await system.write(number)  # the same row, so the same partition
    end = TopicPartition(apache.topic, int(place.rpartition("/")[2]), 5)
    admin = AdminClient({"bootstrap.servers": apache.servers})
    admin.delete_records([end])[end].result(30)
    with pytest.raises(SourceError, match="removed before they were read"):
        await first(make_source(apache), state)
    assert (await first(make_source(apache, skip_lost=True), state)).changes


@pytest.mark.servers
async def test_g2_aborted_transactions_are_not_read(apache: Cluster) -> None:
    """And what is committed after them is, and time goes on past their markers."""
    producer = Producer(
        {"bootstrap.servers": apache.servers, "transactional.id": uuid.uuid4().hex},
        logger=logging.getLogger("mock"),
    )
    producer.init_transactions(30)
    for number, keep in ((1, False), (2, True)):
        producer.begin_transaction()
        key, value = message("c", {"id": number}, after={"id": number, "name": "x"})
        producer.produce(apache.topic, key=key, value=value)
        producer.flush(30)
        if keep:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    keys = []
    async with reading(make_source(apache), {}) as batches:
        async for batch in batches:
            keys += [change.key for change in batch.changes]
            if batch.as_of is not None and keys:
                break
    assert keys == [("2",)]


async def test_g2_offsets_are_committed_for_people_to_see(cluster: Cluster) -> None:
    """Only what is durable."""
    system = KafkaSystem(cluster)
    await system.write(0)
    source = make_source(cluster)
    async with reading(source, {}) as batches:
        async for batch in batches:
            if batch.changes:
                await source.acknowledge(batch.state)
                break
    look = Consumer(
        {"bootstrap.servers": cluster.servers, "group.id": "test"}, logger=logging.getLogger("mock")
    )
    places = [TopicPartition(cluster.topic, number) for number in range(4)]
    assert sorted(place.offset for place in look.committed(places, 10))[-1] == 1
    look.close()


async def test_brokers_that_are_not_there_are_unavailable() -> None:
    """Which the loop waits for."""
    nowhere = KafkaTransport(
        "127.0.0.1:9", ["x"], group="test", clock=SystemClock(), limits=KafkaLimits(answer_s=1.0)
    )
    with pytest.raises(UnavailableError, match="expected Kafka to answer"):
        await nowhere.open({})
    await nowhere.close()


async def first(source: TopicsSource, state: dict[str, str]) -> SourceBatch:
    """The first batch with changes."""
    async with reading(source, state) as batches:
        async for batch in batches:
            if batch.changes:
                return batch
    raise AssertionError("no batch with changes")
