"""A project that reads Debezium's topics into live tables, and publishes what it captured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from penstock.operate import letters
from penstock.project import Project
from penstock.settings import Settings
from penstock.testing.debezium import message

TOPIC = "srv.public.items"
LIMIT_S = 30.0


@dataclass
class Cluster:
    """Brokers inside librdkafka; they live as long as this producer."""

    producer: Producer
    servers: str

    async def send(self, key: bytes | None, value: bytes | None, topic: str = TOPIC) -> None:
        self.producer.produce(topic, key=key, value=value)
        await asyncio.to_thread(self.producer.flush, 10)

    def read(self, topic: str, wanted: int) -> list[tuple[Any, Any]]:
        """Keys and values of a topic's messages, in order per partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "look",
                "auto.offset.reset": "earliest",
            },
            logger=logging.getLogger("mock"),
        )
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found = consumer.consume(wanted, 10)
        finally:
            consumer.close()
        return [
            tuple(None if part is None else orjson.loads(part) for part in (m.key(), m.value()))  # type: ignore[misc]
            for m in found
        ]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    producer = Producer(
        {"bootstrap.servers": "unused", "test.mock.num.brokers": 1},
        logger=logging.getLogger("mock"),
    )
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    yield Cluster(producer, f"{broker.host}:{broker.port}")
    producer.close()


@asynccontextmanager
async def running(
    database: str, sources: Mapping[str, Any], publish: Mapping[str, Any] | None = None
) -> AsyncIterator[Project]:
    settings = Settings.model_validate(
        {
            "project": "shop",
            "database": database,
            "knowledge": {"embedder": "constant"},
            "sources": sources,
            "publish": publish or {},
        }
    )
    project = Project(settings)
    try:
        await project.start()
        async with project.running():
            await project.caught_up(limit_s=LIMIT_S)
            yield project
    finally:
        await project.close()


def kafka(cluster: Cluster, **more: Any) -> dict[str, Any]:
    return {
        "type": "kafka",
        "servers": cluster.servers,
        "topics": ["srv.*"],
        "heartbeat": 0.2,
        **more,
    }


async def rows(database: str, table: str = "debezium.items") -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        cursor = await connection.execute(f"SELECT id, name FROM {table} ORDER BY id")
        return await cursor.fetchall()


async def test_a_topic_becomes_a_live_table_and_follows_its_columns(
    cluster: Cluster, database_url: str
) -> None:
    """Creates, updates, deletes with their tombstones; then a column more."""
    for number in range(5):
        await cluster.send(
            *message("c", {"id": number}, after={"id": number, "name": f"item {number}"})
        )
    async with running(database_url, {"debezium": kafka(cluster)}) as project:
        assert await rows(database_url) == [(n, f"item {n}") for n in range(5)]
        await cluster.send(*message("u", {"id": 1}, after={"id": 1, "name": "one"}))
        gone = message("d", {"id": 2}, before={"id": 2, "name": "item 2"})
        await cluster.send(*gone)
        await cluster.send(gone[0], None)
        await cluster.send(*message("c", {"id": 9}, after={"id": 9, "name": "nine", "price": 1.5}))
        await project.caught_up(limit_s=LIMIT_S)
        assert await rows(database_url) == [
            (0, "item 0"),
            (1, "one"),
            (3, "item 3"),
            (4, "item 4"),
            (9, "nine"),
        ]
        assert ("price", "double precision") in [
            (column.name, column.type)
            for table in await project.store.live_tables("debezium")
            for column in table.columns
        ]


async def test_g2_a_topic_that_is_read_again_changes_nothing(
    cluster: Cluster, database_url: str
) -> None:
    """The source's state is lost (not the store): everything comes again, at the same positions."""
    for number in range(5):
        await cluster.send(*message("c", {"id": 1}, after={"id": 1, "name": f"{number}"}))
    async with running(database_url, {"debezium": kafka(cluster)}):
        pass
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("DELETE FROM penstock.producer_state")
        versions = "SELECT _penstock_position FROM debezium.items"
        before = await (await connection.execute(versions)).fetchall()
        async with running(database_url, {"debezium": kafka(cluster)}) as project:
            async with asyncio.timeout(LIMIT_S):
                while project.meters.sources["debezium"].changes < 5:
                    await asyncio.sleep(0.01)
            assert await (await connection.execute(versions)).fetchall() == before
    assert await rows(database_url) == [(1, "4")]


async def test_g13_a_bad_record_waits_with_its_bytes_and_can_be_retried(
    cluster: Cluster, database_url: str
) -> None:
    """An envelope without ``op`` does not stop the stream; once the project says that values are
    rows, the same bytes are one."""
    await cluster.send(*message("c", {"id": 1}, after={"id": 1, "name": "good"}))
    await cluster.send(b'{"id":2}', b'{"id":2,"name":"a row, not an envelope"}')
    await cluster.send(*message("c", {"id": 3}, after={"id": 3, "name": "good too"}))
    async with running(database_url, {"debezium": kafka(cluster)}) as project:
        assert [number for number, _ in await rows(database_url)] == [1, 3]
        (letter,) = await letters.listed(project)
        assert "expected an envelope of Debezium with op" in letter["reason"]
        shown = await letters.shown(project, letter["id"])
        assert shown["stream"] == "unreadable"
        assert await letters.retry(project, None) == {"processed": 0, "failed again": 1}
    mended = kafka(cluster, format={"type": "debezium", "unwrapped": True})
    settings = Settings.model_validate(
        {
            "project": "shop",
            "database": database_url,
            "knowledge": {"embedder": "constant"},
            "sources": {"debezium": mended},
        }
    )
    project = Project(settings)
    try:
        await project.start()
        assert await letters.retry(project, None) == {"processed": 1, "failed again": 0}
        assert await letters.listed(project) == []
    finally:
        await project.close()
    assert [number for number, _ in await rows(database_url)] == [1, 2, 3]


async def test_what_is_published_comes_back_as_it_was(
    cluster: Cluster, database_url: str, source_url: str
) -> None:
    """PostgreSQL to Kafka in Debezium's envelope; a second source reads it back."""
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as source:
        await source.execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(8,2), "
            "at timestamptz, day date, data bytea, extra jsonb, ok bool)"
        )
        await source.execute("ALTER TABLE items REPLICA IDENTITY FULL")
        await source.execute(
            "INSERT INTO items SELECT n, 'item ' || n, n / 3.0, '2024-02-29 12:00:00.25+02', "
            "'0044-03-15 BC', '\\xdeadbeef', '{\"a\": [1, null]}', n % 2 = 0 "
            "FROM generate_series(1, 20) n"
        )
        sources = {
            "origin": {
                "type": "postgres",
                "dsn": source_url,
                "tables": ["items"],
                "heartbeat": 0.2,
            },
            "debezium": kafka(cluster, topics=["out.public.*"]),
        }
        publish = {
            "bus": {
                "type": "kafka",
                "servers": cluster.servers,
                "prefix": "out",
                "sources": ["origin"],
                "schemas": True,
                "truncates": True,
            }
        }
        async with running(database_url, sources, publish) as project:
            await source.execute("UPDATE items SET name = 'new' WHERE id <= 3")
            await source.execute("DELETE FROM items WHERE id = 5")
            await source.execute("UPDATE items SET id = 100 WHERE id = 6")
            await _in_step(project, database_url)
    assert (100, "item 6") in await rows(database_url)
    assert len(await rows(database_url)) == 19
    found = cluster.read("out.public.items", 29)
    assert sum(value is None for _, value in found) == 2
    assert {key["payload"]["id"] for key, _ in found if key} == {*range(1, 21), 100}


COLUMNS = "id, name, price::text, at, day::text, data, extra::text, ok"


async def _in_step(project: Project, database: str) -> None:
    """Until the copy that went through Kafka is the other's equal."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        async with asyncio.timeout(LIMIT_S):
            while True:
                await project.caught_up(limit_s=LIMIT_S)
                if len(await project.store.live_tables()) < 2:
                    continue
                tables = []
                for schema in ("origin", "debezium"):
                    cursor = await connection.execute(
                        f"SELECT {COLUMNS} FROM {schema}.items ORDER BY id"
                    )
                    tables.append(await cursor.fetchall())
                if tables[0] == tables[1] and len(tables[0]) == 19 and tables[0][0][1] == "new":
                    return
                await asyncio.sleep(0.1)
