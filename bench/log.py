"""How quick the embedded log is, beside what PostgreSQL does for a bare client in the same run.

    uv run python bench/log.py [--dsn DSN] [--quick]

Without a DSN an embedded server with default settings (every commit on disk) is started in a
temporary folder. With one, the database must be empty or migrated; what is made there is dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg

from penstock.bench.report import Report
from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.log.codec import Codec
from penstock.log.embedded import EmbeddedLog, Pool
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

TOPIC = "bench"
ORDERS = Schema(
    "bench",
    "public.orders",
    (
        Column("id", "bigint", key=True),
        Column("customer", "text"),
        Column("status", "text"),
        Column("total", "numeric(10,2)"),
        Column("note", "text"),
        Column("created_at", "timestamp with time zone"),
        Column("updated_at", "timestamp with time zone"),
    ),
)
WORDS = ["late", "early", "paid", "gift", "fragile", "window", "aisle", "breakfast", "upgrade"]

# Another process that waits for appends and says when it had each.
READER = """
import asyncio, sys, time
from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.log.embedded import EmbeddedLog

async def main(url, at, count):
    pool = await open_pool(url, max_size=2)
    log = EmbeddedLog(pool, url, clock=SystemClock())
    print("ready", flush=True)
    while count:
        batch = await log.read("bench", 0, at)
        if batch is None:
            await log.wait("bench", 0, at)
            continue
        print(time.monotonic_ns(), flush=True)
        count -= len(batch.changes)
        at = batch.last
    await log.close()
    await pool.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def orders(count: int) -> list[Change]:
    """Changes of rows of seven columns, about 180 bytes each, each in a transaction of its own."""
    chance = random.Random(1)
    found = []
    for i in range(count):
        row = (
            str(i),
            f"customer {chance.randrange(100_000)}",
            chance.choice(("new", "paid", "sent")),
            f"{chance.randrange(10**7) / 100:.2f}",
            " ".join(chance.choices(WORDS, k=8)),
            f"2026-11-{chance.randrange(10, 29)} 08:11:{chance.randrange(10**8) / 10**6:09.6f}+00",
            f"2026-11-21 09:{i % 60:02d}:{chance.randrange(10**8) / 10**6:09.6f}+00",
        )
        position = Position(f"{0x16B3748 + i * 320:016x}:00000001")
        at = Microseconds(1_795_000_000_000_000 + i * 500)
        found.append(
            Change(ORDERS, Op.UPDATE, (str(i),), position, at, row, None, None, str(7000 + i))
        )
    return found


async def timed(times: int, step: Callable[[int], Awaitable[None]]) -> list[float]:
    """Milliseconds of each of some steps."""
    found = []
    for i in range(times):
        began = time.perf_counter()
        await step(i)
        found.append((time.perf_counter() - began) * 1000)
    return found


def add_percentiles(report: Report, measure: str, found: list[float]) -> None:
    for name in ("p50", "p95", "p99"):
        report.add(f"{measure} {name}", getattr(percentiles(found), name), "ms")


def best_rate(count: int, work: Callable[[], object]) -> float:
    """The most a second in five goes."""
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        work()
        best = max(best, count / (time.perf_counter() - began))
    return best


def measure_codec(report: Report, count: int, compress_from: int | None, kind: str) -> None:
    changes = orders(count)
    codec = Codec(compress_from=compress_from)
    payload = codec.encode(changes).payload
    report.add(
        f"encode {count}{kind}", best_rate(count, lambda: codec.encode(changes)), "changes/s"
    )
    report.add(
        f"decode {count}{kind}", best_rate(count, lambda: codec.decode(payload)), "changes/s"
    )
    report.add(f"bytes per change {count}{kind}", len(payload) / count, "bytes")


async def measure_latency(report: Report, log: EmbeddedLog, pool: Pool, times: int) -> None:
    """One change with one state against one bare row, in turns, as the machine's mood changes."""
    producer = await log.open_producer("latency")
    (one,) = orders(1)

    async def append(i: int) -> None:
        await producer.append(TOPIC, [one], state={"position": str(i)})

    async with pool.connection() as connection:

        async def insert(_: int) -> None:
            await connection.execute(
                "INSERT INTO bare (payload) VALUES (%b)", (b"x" * 500,), prepare=True
            )

        ours, bare = [], []
        for _ in range(10):
            bare += await timed(times // 10, insert)
            ours += await timed(times // 10, append)
    found, limit = percentiles(ours), percentiles(bare)
    for name in ("p50", "p95", "p99"):
        report.add(f"append 1 {name}", getattr(found, name), "ms", getattr(limit, name))


async def measure_rates(report: Report, log: EmbeddedLog, pool: Pool, total: int) -> None:
    """Appends of several sizes against COPY of the same rows, one commit for each."""
    producer = await log.open_producer("rates")
    for size in (100, 1000, 5000):
        changes = orders(size)
        steps = max(5, min(total, size * 200) // size)

        async def append(i: int, changes: list[Change] = changes) -> None:
            await producer.append(TOPIC, changes, state={"position": str(i)})

        async with pool.connection() as connection:

            async def copy(
                _: int,
                changes: list[Change] = changes,
                connection: psycopg.AsyncConnection[Any] = connection,
            ) -> None:
                async with connection.cursor().copy("COPY copied FROM STDIN") as into:
                    for change in changes:
                        await into.write_row(change.after or ())

            ours = bare = 0.0
            for _ in range(3):  # alternating, the best of each
                bare = max(bare, size * steps / sum(await timed(steps, copy)) * 1000)
                ours = max(ours, size * steps / sum(await timed(steps, append)) * 1000)
        report.add(f"append {size}", ours, "changes/s", bare)


async def measure_reading(report: Report, pool: Pool, dsn: str) -> None:
    """A backlog from the tables, decoded, against pages of rows as tuples."""
    log = EmbeddedLog(pool, dsn, clock=SystemClock(), cache_bytes=0)
    count, at = 0, BEGINNING
    began = time.perf_counter()
    while batch := await log.read(TOPIC, 0, at):
        count += len(batch.changes)
        at = batch.last
    ours = count / (time.perf_counter() - began)
    async with pool.connection() as connection:
        await connection.execute(
            "CREATE TABLE paged AS SELECT row_number() OVER () AS n, * FROM copied"
        )
        await connection.execute("ALTER TABLE paged ADD PRIMARY KEY (n)")
        last = rows = 0
        began = time.perf_counter()
        while True:
            cursor = await connection.execute(
                "SELECT * FROM paged WHERE n > %s ORDER BY n LIMIT 5000", (last,)
            )
            found = await cursor.fetchall()
            if not found:
                break
            last = found[-1][0]
            rows += len(found)
        report.add("read and decode", ours, "changes/s", rows / (time.perf_counter() - began))


async def measure_waking(report: Report, log: EmbeddedLog, dsn: str, times: int) -> None:
    """From the call of append until a waiting reader holds the batch."""
    producer = await log.open_producer("waking")
    (one,) = orders(1)
    (head,) = await log.describe(TOPIC)
    found = await _own(log, producer, one, head.last, times)
    add_percentiles(report, "append to reader, same process", found)
    (head,) = await log.describe(TOPIC)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        READER,
        dsn,
        str(head.last),
        str(times),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    found = []
    for _ in range(times):
        began = time.monotonic_ns()
        await producer.append(TOPIC, [one])
        found.append((int(await process.stdout.readline()) - began) / 1e6)
    await process.wait()
    add_percentiles(report, "append to reader, other process", found)


async def _own(
    log: EmbeddedLog, producer: Any, one: Change, at: LogPosition, times: int
) -> list[float]:
    arrived: asyncio.Queue[int] = asyncio.Queue()

    async def read(at: LogPosition) -> None:
        while True:
            batch = await log.read(TOPIC, 0, at)
            if batch is None:
                await log.wait(TOPIC, 0, at)
                continue
            at = batch.last
            arrived.put_nowait(time.monotonic_ns())

    reading = asyncio.create_task(read(at))
    found = []
    for _ in range(times):
        began = time.monotonic_ns()
        await producer.append(TOPIC, [one])
        found.append((await arrived.get() - began) / 1e6)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return found


async def measure(dsn: str, *, quick: bool) -> Report:
    report = Report("log")
    for count in (1000, 5000):
        measure_codec(report, count, None, "")
        measure_codec(report, count, 0, ", compressed")
    await migrate(dsn)
    pool = await open_pool(dsn, max_size=4)
    log = EmbeddedLog(pool, dsn, clock=SystemClock())
    try:
        async with pool.connection() as connection:
            await connection.execute(
                "CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY, payload bytea)"
            )
            columns = ", ".join(f"c{i} text" for i in range(len(ORDERS.columns)))
            await connection.execute(f"CREATE TABLE copied ({columns})")
        await log.create_topic(TOPIC)
        await measure_latency(report, log, pool, 200 if quick else 1000)
        await measure_rates(report, log, pool, 20_000 if quick else 100_000)
        await measure_reading(report, pool, dsn)
        await measure_waking(report, log, dsn, 100 if quick else 500)
    finally:
        await log.drop_topic(TOPIC)
        async with pool.connection() as connection:
            await connection.execute("DROP TABLE IF EXISTS bare, copied, paged")
        await log.close()
        await pool.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dsn")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    if chosen.dsn is not None:
        report = asyncio.run(measure(chosen.dsn, quick=chosen.quick))
    else:
        folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
        folder.chmod(0o755)
        try:
            report = asyncio.run(measure_embedded(folder / "server", quick=chosen.quick))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report.to_dict(), indent=1))


async def measure_embedded(folder: Path, *, quick: bool) -> Report:
    async with EmbeddedPostgres(folder) as postgres:
        return await measure(postgres.dsn(), quick=quick)


if __name__ == "__main__":
    main()
