"""How quick the MySQL source is, alone: decoding, first load, backlogs, lag of one change.

    uv run python bench/mysql.py [--rows N] [--save]

A MariaDB server (Debian: mariadb-server) is started in a temporary folder. The limits beside the
figures are of the same run: a bare client that reads the same rows (PyMySQL, unbuffered), and a
reader that takes the same binlog from the server without decoding it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from struct import pack

from pymysql.cursors import SSCursor

from penstock.bench.report import Report
from penstock.clock import SystemClock
from penstock.sources.base import SourceBatch
from penstock.sources.mysql.changes import Assembler
from penstock.sources.mysql.connections import connect
from penstock.sources.mysql.gtids import MySQLGtids
from penstock.sources.mysql.plans import Tracked
from penstock.sources.mysql.positions import Place
from penstock.sources.mysql.source import MySQLSource
from penstock.sources.mysql.stream import COM_BINLOG_DUMP, PacketReader
from penstock.testing.binlog import UPDATE, BinlogWriter
from penstock.testing.mariadb import MariaDBServer

TABLE = (
    "CREATE TABLE shop.account (id int PRIMARY KEY, name varchar(60), email varchar(60), "
    "balance decimal(12, 2), city varchar(20), updated_at timestamp(6) NULL, note varchar(100))"
)
ROWS = (
    "INSERT INTO shop.account SELECT seq, concat('name ', seq), concat('user', seq, "
    "'@example.org'), rand() * 1000, elt(1 + seq % 4, 'Paris', 'Istanbul', 'Jakarta', 'Lagos'), "
    "now(6), repeat('x', 60) FROM shop.numbers"
)
ONE_BY_ONE = (
    "CREATE PROCEDURE shop.one_by_one() BEGIN DECLARE i INT DEFAULT 1; WHILE i <= 20000 DO "
    "UPDATE shop.account SET balance = balance + 1 WHERE id = i; SET i = i + 1; END WHILE; END"
)
COLUMNS = [
    ("id", 3, b""), ("name", 15, b"\xf0\0"), ("email", 15, b"\xf0\0"), ("balance", 246, b"\x0c\2"),
    ("city", 15, b"\x50\0"), ("updated_at", 17, b"\6"), ("note", 15, b"\x90\1"),
]  # fmt: skip


def decoding(report: Report) -> None:
    """Row events in memory to changes, on one core."""

    def text(value: str, size: int = 1) -> bytes:
        return len(value).to_bytes(size, "little") + value.encode()

    values = [
        pack("<I", 12345), text("name 12345"), text("u12345@example.org"),
        b"\x80\0\0\x02\0\x19", text("Paris"), pack(">I", 1_700_000_000) + b"\1\2\3",
        text("x" * 60, 2),
    ]  # fmt: skip
    writer = BinlogWriter()
    assembler = Assembler(
        "bench", Place(1, "binlog.000001", 4), wanted=lambda _: False,
        tables={"shop.account": Tracked(None, (0, 0, 0))}, charsets={45: "utf8mb4"},
        gtids=MySQLGtids(),
    )  # fmt: skip
    assembler.feed(writer.format())
    assembler.feed(writer.anonymous())
    assembler.feed(writer.query("BEGIN"))
    assembler.feed(writer.table_map(7, "account", COLUMNS))
    for name, per_event in (("32 row changes an event", 32), ("one row change an event", 1)):
        images = [(range(7), values)] * (2 * per_event)
        count = 100_000 // per_event
        event = writer.rows(UPDATE, 7, 7, images)
        begin = time.perf_counter()
        for _ in range(count):
            assembler.feed(event)
            assembler.take_part(5000)
        rate = count * per_event / (time.perf_counter() - begin)
        report.add(f"updates decoded (two images each), {name}", rate, "changes/s")


async def drain(
    source: MySQLSource, batches: AsyncGenerator[SourceBatch], count: int
) -> tuple[float, float]:
    """Seconds, and seconds of processor, for that many changes."""
    begin, busy, seen = time.perf_counter(), time.process_time(), 0
    async for batch in batches:
        seen += len(batch.changes)
        await source.acknowledge(batch.state)
        if seen >= count:
            break
    return time.perf_counter() - begin, time.process_time() - busy


def bare_rows(server: MariaDBServer) -> float:
    """Rows a second that a client reads which does nothing with them."""
    with server.session() as connection, connection.cursor(SSCursor) as cursor:
        cursor.execute("SELECT * FROM shop.account")
        begin = time.perf_counter()
        seen = sum(1 for _ in cursor)
        return seen / (time.perf_counter() - begin)


async def bare_events(server: MariaDBServer, file: str, start: int, end: int) -> float:
    """Seconds in which the server sends this part of the binlog to one who only takes it."""
    session = await connect(server.dsn(), "the bench")
    await session.fetch("SET @master_binlog_checksum = @@GLOBAL.binlog_checksum")
    await session.fetch("SET @mariadb_slave_capability = 4")
    reader = PacketReader(session)
    begin, at = time.perf_counter(), start
    command = start.to_bytes(4, "little") + bytes(2) + (9).to_bytes(4, "little") + file.encode()
    await reader.start(COM_BINLOG_DUMP, command)
    while at < end:
        await reader.wait()
        for packet in reader.take():
            at = max(at, int.from_bytes(packet[14:18], "little"))
    seconds = time.perf_counter() - begin
    reader.stop()
    await session.close()
    return seconds


async def capturing(report: Report, server: MariaDBServer, rows: int) -> None:
    """A first load, two kinds of backlog, and single changes."""
    numbers = f"CREATE VIEW numbers AS SELECT seq FROM seq_1_to_{rows}"
    server.run("CREATE DATABASE shop", "USE shop", TABLE, ONE_BY_ONE, numbers, ROWS)
    source = MySQLSource("bench", server.dsn(), ["shop.account"], clock=SystemClock(), server_id=8)
    limit = bare_rows(server)
    async with aclosing(source.read({})) as batches:
        wall, busy = await drain(source, batches, rows + 1)
        report.add("first load", rows / wall, "rows/s", limit=limit)
        report.add("first load, per second of processor", rows / busy, "rows/s")
        async for batch in batches:  # the stream has begun when it first tells the time
            if batch.as_of is not None:
                break
        for name, statement, count in (
            ("one transaction", "UPDATE shop.account SET balance = balance + 1", rows),
            ("one-row transactions", "CALL shop.one_by_one()", 20_000),
        ):
            [(file, start, *_)] = server.ask("SHOW MASTER STATUS")
            server.run(statement)
            [(_, end, *_)] = server.ask("SHOW MASTER STATUS")
            wall, busy = await drain(source, batches, count)
            bare = count / await bare_events(server, str(file), int(start), int(end))
            report.add(f"backlog of {name}", count / wall, "changes/s", limit=bare)
            report.add("the same, per second of processor", count / busy, "changes/s")
        lags = []
        session = await connect(server.dsn(), "the bench")
        for number in range(1, 301):
            await session.fetch("UPDATE shop.account SET city = 'X' WHERE id = %s", [number])
            begin = time.perf_counter()
            await drain(source, batches, 1)
            lags.append((time.perf_counter() - begin) * 1000)
        await session.close()
    lags.sort()
    report.add("commit to change, p50", lags[150], "ms")
    report.add("commit to change, p99", lags[297], "ms")
    await source.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--save", action="store_true", help="to bench/results/mysql.json")
    given = arguments.parse_args()
    report = Report("mysql")
    decoding(report)
    # Default settings but for the binlog; every commit on disk.
    server = MariaDBServer({"innodb-flush-log-at-trx-commit": "1"})
    try:
        server.create()
        server.start()
        asyncio.run(capturing(report, server, given.rows))
    finally:
        server.remove()
    text = json.dumps(report.to_dict(), indent=2)
    if given.save:
        (Path(__file__).parent / "results" / "mysql.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
