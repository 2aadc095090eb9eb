"""How quick the embedded log is, beside what PostgreSQL does for a bare client in the same run.

    uv run python bench/log.py [--dsn DSN] [--quick] [--store]

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
SIZES = (1, 10, 100, 1_000, 10_000)
APPENDERS = 64
ROUNDS = 6
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


Step = Callable[[], Awaitable[None]]


async def measure_rates(report: Report, log: EmbeddedLog, pool: Pool, total: int) -> None:
    """Appends of several sizes, beside COPY of the same changes, one commit on disk for each.

    Two limits. `copied` is a bare table of the seven columns as text: no key, no index, no place,
    nothing that a log needs; it is the hardest. `logged` is the plainest table that is a log: the
    same columns after a position that numbers them and is the primary key, the operation, the
    source's position and its time. Rows are written by the driver's `write_row`, in turns with ours
    and the best of each counts, since the machine has moods.
    """
    producer = await log.open_producer("rates")
    async with pool.connection() as connection:
        for size in SIZES:
            steps = _steps(connection, producer, orders(size))
            best = await in_turns(steps, max(3, min(total, size * 300) // size // ROUNDS))
            rates = {name: size / seconds for name, seconds in best.items()}
            report.add(f"append {size}", rates["ours"], "changes/s", rates["logged"])
            report.add(
                f"append {size}, beside a bare table", rates["ours"], "changes/s", rates["copied"]
            )


def _steps(
    connection: psycopg.AsyncConnection[Any], producer: Any, changes: list[Change]
) -> dict[str, Step]:
    columns = ", ".join(f"c{i}" for i in range(len(ORDERS.columns)))

    async def copied() -> None:
        async with connection.cursor().copy("COPY copied FROM STDIN") as into:
            for change in changes:
                await into.write_row(change.after or ())

    async def logged() -> None:
        head = f"COPY logged (op, position, committed_at, {columns}) FROM STDIN"
        async with connection.cursor().copy(head) as into:
            for change in changes:
                _, op, _, position, time_, after, *_ = change
                await into.write_row((op.value, position, time_, *(after or ())))

    async def ours() -> None:
        await producer.append(TOPIC, changes, state={"position": changes[-1].position})

    return {"copied": copied, "logged": logged, "ours": ours}


async def in_turns(steps: dict[str, Step], times: int) -> dict[str, float]:
    """Seconds of one go of each: the best round of several, each round of some goes of each."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(times):
                await step()
            spent = (time.perf_counter() - began) / times
            best[name] = min(best.get(name, spent), spent)
    return best


async def measure_company(report: Report, log: EmbeddedLog, seconds: float) -> None:
    """64 producers that append one change at a time, each with a state, against one that does: to
    one partition, and each to a topic of its own."""
    (one,) = orders(1)
    producers = [await log.open_producer(f"company {i}") for i in range(APPENDERS)]
    topics = [f"{TOPIC} {i}" for i in range(APPENDERS)]
    for topic in topics:
        await log.create_topic(topic)

    async def rate(count: int, places: list[str]) -> float:
        stop = time.perf_counter() + seconds
        done = 0

        async def write(number: int) -> None:
            nonlocal done
            place = places[number % len(places)]
            while time.perf_counter() < stop:
                await producers[number].append(place, [one], state={"position": str(done)})
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(write(number) for number in range(count)))
        return done / (time.perf_counter() - began)

    best = dict.fromkeys(("alone", "one partition", "a topic each"), 0.0)
    for _ in range(ROUNDS):
        for name, count, places in (
            ("alone", 1, [TOPIC]),
            ("one partition", APPENDERS, [TOPIC]),
            ("a topic each", APPENDERS, topics),
        ):
            best[name] = max(best[name], await rate(count, places))
    for name in ("one partition", "a topic each"):
        report.add(
            f"{APPENDERS} appenders of one change, {name}", best[name], "appends/s", best["alone"]
        )
    for topic in topics:
        await log.drop_topic(topic)


async def measure_reading(report: Report, pool: Pool, dsn: str, total: int) -> None:
    """A backlog from the tables, decoded, in pages of 5,000, against pages of rows as tuples."""
    writing = EmbeddedLog(pool, dsn, clock=SystemClock(), cache_bytes=0)
    producer = await writing.open_producer("backlog")
    topic = f"{TOPIC} backlog"
    await writing.create_topic(topic)
    changes = orders(5000)
    for _ in range(total // len(changes)):
        await producer.append(topic, changes)

    async def ours() -> None:
        at = BEGINNING
        while batch := await writing.read(topic, 0, at):
            at = batch.last

    async with pool.connection() as connection:

        async def paged() -> None:
            last = 0
            while True:
                cursor = await connection.execute(
                    "SELECT * FROM paged WHERE n > %s ORDER BY n LIMIT 5000", (last,)
                )
                found = await cursor.fetchall()
                if not found:
                    return
                last = found[-1][0]

        await connection.execute(
            "CREATE TABLE paged AS SELECT row_number() OVER () AS n, c.* "
            f"FROM copied AS c, generate_series(1, 100) LIMIT {total}"
        )
        await connection.execute("ALTER TABLE paged ADD PRIMARY KEY (n)")
        best = await in_turns({"ours": ours, "paged": paged}, 1)
    report.add("ordered read, decoded", total / best["ours"], "changes/s", total / best["paged"])
    await writing.drop_topic(topic)


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
            await connection.execute(
                "CREATE TABLE logged (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, op text, "
                f"position text, committed_at bigint, {columns})"
            )
        await log.create_topic(TOPIC)
        await measure_latency(report, log, pool, 200 if quick else 1000)
        await measure_rates(report, log, pool, 20_000 if quick else 100_000)
        await measure_company(report, log, 0.3 if quick else 1.0)
        await measure_reading(report, pool, dsn, 50_000 if quick else 250_000)
        await measure_waking(report, log, dsn, 100 if quick else 500)
    finally:
        await log.drop_topic(TOPIC)
        async with pool.connection() as connection:
            await connection.execute("DROP TABLE IF EXISTS bare, copied, logged, paged")
        await log.close()
        await pool.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dsn")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--store", action="store_true", help="keep it in bench/results")
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
    text = json.dumps(report.to_dict(), indent=1)
    print(text)
    if chosen.store:
        (Path(__file__).parent / "results" / "log.json").write_text(text + "\n", "utf-8")


async def measure_embedded(folder: Path, *, quick: bool) -> Report:
    async with EmbeddedPostgres(folder) as postgres:
        return await measure(postgres.dsn(), quick=quick)


if __name__ == "__main__":
    main()
