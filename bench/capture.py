"""How quick the PostgreSQL source is, alone: decoding, first load, backlog, lag of one change.

    uv run python bench/capture.py [--rows N]

An embedded server with default settings (every commit on disk) is started in a temporary folder.
The limit beside each figure is what a bare client reads of the same in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import psycopg

from penstock.bench.report import Report
from penstock.clock import SystemClock
from penstock.database.embedded import EmbeddedPostgres
from penstock.records import UNCHANGED, Column, Microseconds, Row, Schema
from penstock.sources.base import SourceBatch
from penstock.sources.postgres.changes import Assembler, TablePlan
from penstock.sources.postgres.decoder import Begin, Update
from penstock.sources.postgres.source import PostgresSource
from penstock.testing.pgoutput import encode

TABLE = (
    "CREATE TABLE account (id integer PRIMARY KEY, name text, email text, balance numeric(12, 2), "
    "city text, updated_at timestamptz DEFAULT clock_timestamp(), note text)"
)
ROWS = (
    "INSERT INTO account SELECT g, 'name ' || g, 'user' || g || '@example.org', random() * 1000, "
    "(ARRAY['Paris', 'Istanbul', 'Jakarta', 'Lagos'])[1 + g %% 4], now(), repeat('x', 60) "
    "FROM generate_series(1, %s) AS g"
)
ONE_BY_ONE = (
    "DO $$ BEGIN FOR i IN 1..20000 LOOP UPDATE account SET balance = balance + 1 WHERE id = i; "
    "COMMIT; END LOOP; END $$"
)


def decoding(report: Report) -> None:
    """Messages in memory to changes, on one core."""
    row: Row = ("12345", "name 12345", "u12345@example.org", "512.25", "Paris", UNCHANGED, "x" * 60)
    schema = Schema("s", "public.t", tuple(Column(f"c{i}", "text", i == 0) for i in range(7)))
    message = encode(Update(7, None, None, row))
    assembler = Assembler("s")
    assembler.define(7, TablePlan.make(schema))
    assembler.feed(encode(Begin(64, Microseconds(0), 1)))
    row = ("12345", "name 12345", "u12345@example.org", "512.25", "Paris", None, "x" * 60)
    whole = encode(Update(7, None, None, row))
    begin, count = time.process_time(), 200_000
    for _ in range(count // 400):
        assembler.feed_all([whole] * 400, 0)
        assembler.take_part(400)
    report.add("row changes decoded, large transactions", count / _since(begin), "changes/s")
    begin = time.process_time()
    for number in range(count):
        assembler.feed(message)
        if number % 5000 == 4999:
            assembler.take_part(5000)
    report.add("row changes decoded, one by one", count / _since(begin), "changes/s")


def _since(begin: float) -> float:
    return time.process_time() - begin


async def drain(
    source: PostgresSource, batches: AsyncGenerator[SourceBatch], count: int
) -> tuple[float, float]:
    """Seconds, and seconds of processor, for that many changes."""
    begin, busy, seen = time.perf_counter(), time.process_time(), 0
    async for batch in batches:
        seen += len(batch.changes)
        await source.acknowledge(batch.state)
        if seen >= count:
            break
    return time.perf_counter() - begin, time.process_time() - busy


async def capturing(report: Report, dsn: str, rows: int) -> None:
    """A first load, two kinds of backlog, and single changes."""
    source = PostgresSource("bench", dsn, ["account"], clock=SystemClock())
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as shop:
        await shop.execute(TABLE)
        await shop.execute(ROWS, [rows])
        begin, seen = time.perf_counter(), 0
        async with shop.cursor() as cursor, cursor.copy("COPY account TO STDOUT") as copy:
            async for _ in copy:
                seen += 1
        limit = seen / (time.perf_counter() - begin)
        async with aclosing(source.read({})) as batches:
            wall, busy = await drain(source, batches, rows + 1)
            report.add("first load", rows / wall, "rows/s", limit=limit)
            report.add("first load, per second of processor", rows / busy, "rows/s")
            async for batch in batches:  # the stream has begun when it first tells the time
                if batch.as_of is not None:
                    break
            await shop.execute("UPDATE account SET balance = balance + 1")
            wall, busy = await drain(source, batches, rows)
            report.add("backlog of one transaction", rows / wall, "changes/s")
            report.add("the same, per second of processor", rows / busy, "changes/s")
            await shop.execute("SET synchronous_commit = off")
            await shop.execute(ONE_BY_ONE)
            await shop.execute("SET synchronous_commit = on")
            wall, busy = await drain(source, batches, 20_000)
            report.add("backlog of one-row transactions", 20_000 / wall, "changes/s")
            report.add("the same, per second of processor", 20_000 / busy, "changes/s")
            lags = []
            for number in range(1, 301):
                await shop.execute("UPDATE account SET city = 'X' WHERE id = %s", [number])
                begin = time.perf_counter()
                await drain(source, batches, 1)
                lags.append((time.perf_counter() - begin) * 1000)
    lags.sort()
    report.add("commit to change, p50", lags[150], "ms")
    report.add("commit to change, p99", lags[297], "ms")
    await source.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    given = arguments.parse_args()
    report = Report("capture")
    decoding(report)
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)  # the server runs as another user when we are root
    try:
        asyncio.run(with_server(report, folder / "server", given.rows))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report.to_dict(), indent=2))


HUGE = 1_000_000
CHILD = """
import asyncio, json, resource, sys, time
from penstock.clock import SystemClock
from penstock.sources.postgres.source import PostgresSource

async def main(dsn, rows):
    source = PostgresSource("huge", dsn, ["huge"], clock=SystemClock(), heartbeat_s=0.1)
    seen, begin = 0, None
    async for batch in source.read({}):
        await source.acknowledge(batch.state)
        seen += sum(change.op == "c" for change in batch.changes)
        if seen and begin is None:
            begin = time.perf_counter()
        if batch.as_of and not seen:
            print("ready", flush=True)
        if seen >= rows:
            break
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([rss, seen / (time.perf_counter() - begin)]), flush=True)
    await source.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def huge(report: Report, dsn: str) -> None:
    """The memory of a process of its own that captures a million rows of one transaction."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as shop:
        await shop.execute("CREATE TABLE huge (id integer PRIMARY KEY, note text)")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, dsn, str(HUGE), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        while b"ready" not in await process.stdout.readline():
            pass
        await shop.execute(
            "INSERT INTO huge SELECT g, repeat('x', 100) FROM generate_series(1, %s) g", [HUGE]
        )
        while not (line := await process.stdout.readline()).startswith(b"["):
            pass
        await process.wait()
    rss, rate = json.loads(line)
    report.add("peak memory beside a million rows in one transaction", rss, "MB", limit=512)
    report.add("the same, rows", rate, "changes/s")


async def with_server(report: Report, folder: Path, rows: int) -> None:
    """Measure against a server of our own."""
    server = EmbeddedPostgres(folder, settings={"wal_level": "logical"})
    try:
        await server.start()
        await capturing(report, server.dsn("postgres"), rows)
        await huge(report, server.dsn("postgres"))
    finally:
        await server.stop()


if __name__ == "__main__":
    main()
