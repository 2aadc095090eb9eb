"""How quick the log on Kafka is, beside a plain client with the same changes on the same broker.

    uv run python bench/kafka.py [--changes 200000] [--servers HOST:PORT] [--store]

Without ``--servers`` a real broker is started in a temporary folder (`tools/kafka.py`). The plain
client writes one record per change, as JSON in Debezium's envelope, idempotent and compressed, and
reads them back and parses them: what somebody would write by hand. The same is done with records
that are made beforehand and never parsed, which is what the client itself can do. Ours writes the
same changes in transactions with state beside them, in steps of ``--append`` changes, and reads
them back as changes. All go three times in turn; the best counts.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import confluent_kafka
import orjson
from confluent_kafka import admin
from penstock.log.debezium import to_debezium

from penstock.bench.report import Report
from penstock.log.base import Consumers
from penstock.log.kafka.log import KafkaLog, KafkaSettings
from penstock.records import (
    BEGINNING,
    Change,
    Column,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Schema,
)
from penstock.telemetry import percentiles

ROOT = Path(__file__).parents[1]
ORDERS = Schema(
    "bench",
    "public.orders",
    (
        Column("id", "bigint", key=True),
        Column("customer", "text"),
        Column("status", "text"),
        Column("total", "numeric(10,2)"),
        Column("note", "text"),
        Column("updated_at", "timestamp with time zone"),
    ),
)
WORDS = ("late", "early", "paid", "gift", "fragile", "window", "aisle", "breakfast", "upgrade")


class Nobody(Consumers):
    """A log that nobody reads but this bench."""

    async def opened(self, topic: str, identity: str, partitions: int) -> None: ...
    async def reached(self, topic: str, ends: Mapping[int, LogPosition]) -> None: ...
    async def trimmed(self, topic: str, firsts: Mapping[int, LogPosition]) -> None: ...
    async def slowest(self, topic: str) -> Mapping[int, LogPosition]:  # noqa: ARG002
        return {}

    async def forget(self, topic: str) -> None: ...


def orders(count: int) -> list[Change]:
    """Changes of rows of six columns, about 150 bytes each."""
    chance = random.Random(1)
    found = []
    for i in range(count):
        row = (
            str(i),
            f"customer {chance.randrange(100_000)}",
            chance.choice(("new", "paid", "sent")),
            f"{chance.randrange(10**7) / 100:.2f}",
            " ".join(chance.choices(WORDS, k=8)),
            f"2026-11-21 09:{i % 60:02d}:{chance.randrange(10**8) / 10**6:09.6f}+00",
        )
        at = Microseconds(1_795_000_000_000_000 + i * 500)
        position = Position(f"{0x16B3748 + i * 320:016x}:00000001")
        found.append(Change(ORDERS, Op.UPDATE, (str(i),), position, at, row))
    return found


# --------------------------------------------------------------------------- the plain client


def plain_write(servers: str, topic: str, changes: list[Change], made: list[bytes]) -> float:
    """``made`` are the records where they need not be made any more."""
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    began = time.perf_counter()
    for i, change in enumerate(changes):
        record = made[i] if made else orjson.dumps(to_debezium(change))
        producer.produce(topic, record, key=change.key[0])
        producer.poll(0)
    producer.flush()
    return len(changes) / (time.perf_counter() - began)


def plain_read(servers: str, topic: str, count: int, *, parse: bool) -> float:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)])
    began = time.perf_counter()
    left = count
    while left > 0:
        for message in consumer.consume(min(left, 5000), timeout=1.0):
            value = message.value()
            if parse:
                orjson.loads(value)
            left -= 1
    rate = count / (time.perf_counter() - began)
    consumer.close()
    return rate


# --------------------------------------------------------------------------- ours


def open_log(servers: str, prefix: str) -> KafkaLog:
    # Nothing is kept in memory: everything that is read comes from the broker.
    return KafkaLog(KafkaSettings(servers, prefix=prefix), consumers=Nobody(), cache_bytes=0)


async def our_write(log: KafkaLog, topic: str, changes: list[Change], step: int) -> float:
    await log.create_topic(topic)
    producer = await log.open_producer(topic)
    began = time.perf_counter()
    for start in range(0, len(changes), step):
        part = changes[start : start + step]
        await producer.append(topic, part, state={"at": part[-1].position}, as_of=Microseconds(1))
    return len(changes) / (time.perf_counter() - began)


async def our_read(log: KafkaLog, topic: str, count: int) -> float:
    began = time.perf_counter()
    at, left = BEGINNING, count
    while left > 0:
        batch = await log.read(topic, 0, at)
        assert batch is not None
        at, left = batch.last, left - len(batch.changes)
    return count / (time.perf_counter() - began)


async def one_at_a_time(log: KafkaLog, topic: str, changes: list[Change]) -> list[float]:
    """Milliseconds from the call of an append until a reader that waits has the change."""
    await log.create_topic(topic)
    producer = await log.open_producer(topic)
    at = BEGINNING
    found = []
    for change in changes:
        waiting = asyncio.ensure_future(log.wait(topic, 0, at))
        await asyncio.sleep(0.02)
        began = time.perf_counter()
        append = asyncio.ensure_future(producer.append(topic, [change]))
        while (batch := await log.read(topic, 0, at)) is None:
            await log.wait(topic, 0, at)
        found.append((time.perf_counter() - began) * 1000)
        at = batch.last
        await asyncio.gather(append, waiting)
    return found


async def measure(servers: str, count: int, step: int) -> Report:
    report = Report("kafka")
    changes = orders(count)
    name = f"plain-{uuid.uuid4().hex[:8]}"
    clients = admin.AdminClient({"bootstrap.servers": servers})
    best: dict[str, float] = {}

    def keep(what: str, rate: float) -> None:
        best[what] = max(best.get(what, 0.0), rate)

    log = open_log(servers, f"bench-{uuid.uuid4().hex[:8]}.")
    records = [orjson.dumps(to_debezium(change)) for change in changes]
    for go in range(3):
        for kind, made in (("plain", []), ("bytes", records)):
            topic = f"{name}-{kind}-{go}"
            clients.create_topics([admin.NewTopic(topic, 1, 1)])[topic].result()
            keep(f"{kind} write", plain_write(servers, topic, changes, made))
            keep(f"{kind} read", plain_read(servers, topic, count, parse=kind == "plain"))
        keep("our write", await our_write(log, f"bench{go}", changes, step))
        keep("our read", await our_read(log, f"bench{go}", count))
    both = {
        k: 1 / (1 / best[f"{k} write"] + 1 / best[f"{k} read"]) for k in ("our", "plain", "bytes")
    }
    for kind, said in (("plain", "JSON"), ("bytes", "bytes, nothing made or parsed")):
        beside = f"beside a plain client with {said}"
        rate = best[f"{kind} write"]
        report.add(f"append, {step} a step, {beside}", best["our write"], "changes/s", rate)
        report.add(f"read, {beside}", best["our read"], "changes/s", best[f"{kind} read"])
        report.add(f"append, then read, {beside}", both["our"], "changes/s", both[kind])
    found = percentiles(await one_at_a_time(log, "single", changes[:100]))
    report.add_percentiles("one change, append to waiting reader", found.to_dict())
    await log.close()
    return report


def broker_tool() -> Any:
    spec = importlib.util.spec_from_file_location("kafka_tool", ROOT / "tools" / "kafka.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--changes", type=int, default=200_000)
    parser.add_argument("--append", type=int, default=10_000)
    parser.add_argument("--servers", default=None)
    parser.add_argument("--store", action="store_true", help="write bench/results/kafka.json")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
    broker = None
    try:
        servers = options.servers
        if servers is None:
            broker = broker_tool().Broker(folder, quick=False).start()
            servers = broker.bootstrap_servers
        report = asyncio.run(measure(servers, options.changes, options.append))
    finally:
        if broker is not None:
            broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
    found = json.dumps(report.to_dict(), indent=2)
    print(found)
    if options.store:
        (ROOT / "bench" / "results" / "kafka.json").write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
