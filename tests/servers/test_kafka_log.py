"""The log on a real Kafka: broken brokers, large appends, what the stores are told, who may."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from penstock.database.connect import open_pool
from penstock.errors import ConfigError, FatalError, PenstockError, UnavailableError
from penstock.log.kafka.log import KafkaLog, KafkaSettings
from penstock.records import BEGINNING, LogPosition, Microseconds
from penstock.stores.postgres.consumers import PostgresConsumers
from penstock.testing.logs import change, changes_of, keys, read_all

pytestmark = pytest.mark.servers

SECRET = "not-to-be-told"


@pytest.fixture
async def consumers(database_url: str) -> AsyncIterator[PostgresConsumers]:
    pool = await open_pool(database_url, max_size=3)
    yield PostgresConsumers(pool, tenant="default")
    await pool.close()


@pytest.fixture
def place(kafka_broker: Any) -> KafkaSettings:
    return KafkaSettings(kafka_broker.bootstrap_servers, prefix=f"t-{uuid.uuid4().hex[:8]}.")


@pytest.fixture
async def log(place: KafkaSettings, consumers: PostgresConsumers) -> AsyncIterator[KafkaLog]:
    made = KafkaLog(place, consumers=consumers)
    yield made
    await made.close()


def heads(database_url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        query = "SELECT topic, partition, first, last FROM penstock.log_partitions ORDER BY 1, 2"
        return connection.execute(query).fetchall()


async def test_an_append_larger_than_a_record_is_read_whole(log: KafkaLog) -> None:
    """Several records of one transaction, which a broker takes without being asked to allow more;
    finding a time never lands inside."""
    await log.create_topic("t")
    producer = await log.open_producer("p")
    await producer.append("t", [change(0)])
    text = "".join(uuid.uuid4().hex for _ in range(100_000))
    await producer.append("t", [change(1, text), change(2)])
    await producer.append("t", [change(3)])
    batches = await read_all(log, "t", max_changes=1)
    assert [keys(batch.changes) for batch in batches] == [["0"], ["1", "2"], ["3"]]
    assert batches[1].changes[0].value("name") == text
    for moment in (batches[0].last, batches[1].last):
        assert await log.read("t", 0, LogPosition(moment)) is not None
    assert await log.seek("t", 0, Microseconds(0)) == 0


async def test_the_stores_know_how_far_the_log_reaches(log: KafkaLog, database_url: str) -> None:
    """Before an append returns, so that a first load is never taken for finished too early."""
    await log.create_topic("p.bulk", 2)
    producer = await log.open_producer("p")
    assert heads(database_url) == [("p.bulk", 0, 1, 0), ("p.bulk", 1, 1, 0)]
    await producer.append("p.bulk", [change(i) for i in range(20)])
    for topic, partition, _, last in heads(database_url):
        batch = await log.read(topic, partition, BEGINNING)
        assert batch is not None
        assert batch.last == last
        assert await log.read(topic, partition, LogPosition(last)) is None


async def test_positions_of_another_log_are_refused(
    log: KafkaLog, place: KafkaSettings, consumers: PostgresConsumers, database_url: str
) -> None:
    """A topic that was removed and made again is not read from where the one before was left."""
    await log.create_topic("t")
    await (await log.open_producer("p")).append("t", [change(1)])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO penstock.consumers (consumer, topic, partition, position)"
            " VALUES ('tables', 't', 0, 1)"
        )
    again = KafkaLog(KafkaSettings(place.bootstrap_servers, prefix=f"{place.prefix}x."),
                     consumers=consumers)  # fmt: skip
    with pytest.raises(ConfigError, match="positions are those of another log"):
        await again.create_topic("t")
    await again.close()


@pytest.mark.timeout(180)  # two starts of a broker, on a machine that may do much else
async def test_g2_a_killed_broker_is_waited_for_and_nothing_is_lost(
    kafka_tool: ModuleType, consumers: PostgresConsumers, tmp_path: Path
) -> None:
    """kill -9 while appends are made: each that returned is there, none is there twice."""
    broker = kafka_tool.Broker(tmp_path / "kafka")
    broker.start()
    log = KafkaLog(KafkaSettings(broker.bootstrap_servers), consumers=consumers)
    done: list[str] = []
    try:
        await log.create_topic("t")
        producer = await log.open_producer("p")
        for i in range(20):
            await producer.append("t", [change(i)], state={"at": str(i)})
            done.append(str(i))
        broker.kill()
        appending = asyncio.ensure_future(producer.append("t", [change(20)], state={"at": "20"}))
        await asyncio.to_thread(broker.start)
        with pytest.raises(PenstockError) if await failed(appending) else _nothing():
            await appending
        producer = await reopened(log)
        at = int(producer.state["at"])
        for i in range(at + 1, 25):
            await producer.append("t", [change(i)], state={"at": str(i)})
        assert keys(await changes_of(log, "t")) == [str(i) for i in range(25)]
    finally:
        await log.close()
        broker.stop()


async def failed(appending: asyncio.Future[None]) -> bool:
    await asyncio.wait([appending])
    return appending.exception() is not None


class _nothing:  # noqa: N801 - reads as a context
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


async def reopened(log: KafkaLog) -> Any:
    """As the ingest loop does it: again until the broker is back."""
    while True:
        try:
            return await log.open_producer("p")
        except UnavailableError:
            continue


async def test_a_password_is_checked_and_not_told(
    kafka_tool: ModuleType, consumers: PostgresConsumers, tmp_path: Path
) -> None:
    """SASL is passed through; who is refused learns it within seconds, without the password."""
    port, inner, controller = (kafka_tool.free_port() for _ in range(3))
    jaas = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'user_penstock="{SECRET}";'
    )
    broker = kafka_tool.Broker(
        tmp_path / "kafka",
        port=port,
        settings={
            "listeners": f"SASL_PLAINTEXT://127.0.0.1:{port},PLAINTEXT://127.0.0.1:{inner},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas,
        },
    )
    broker.start()

    def opened(password: str) -> KafkaLog:
        options = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "penstock",
            "sasl.password": password,
        }
        settings = KafkaSettings(broker.bootstrap_servers, options=options)
        assert SECRET not in repr(settings)
        return KafkaLog(settings, consumers=consumers)

    good, bad = opened(SECRET), opened(f"{SECRET}-wrong")
    try:
        await good.create_topic("t")
        await (await good.open_producer("p")).append("t", [change(1)])
        assert keys(await changes_of(good, "t")) == ["1"]
        with pytest.raises((FatalError, UnavailableError)) as caught:
            await bad.create_topic("t")
        assert SECRET not in str(caught.value)
    finally:
        await good.close()
        await bad.close()
        broker.stop()
