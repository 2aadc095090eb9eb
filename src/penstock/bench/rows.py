"""Rows from a source's commit to the live table: snapshot, backlog, and lag at a steady rate.

Beside each figure the limit of the same run: COPY out of the source and into a table for the
snapshot, PostgreSQL's own subscription for the stream.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

from psycopg import sql
from psycopg.conninfo import make_conninfo

from penstock.bench.report import Report
from penstock.bench.waiting import until
from penstock.bench.world import ACCOUNTS, World, scalar, world
from penstock.database.connect import connect
from penstock.database.installation import find_installation
from penstock.errors import FatalError

ROWS = 200_000
BACKLOG = 300_000
PER_TRANSACTION = 100
STEADY = 2000
STEADY_S = 10
UPDATE = "\\set i random(1, {rows})\nUPDATE accounts SET balance = balance + 1 WHERE id = :i;\n"


async def measure(*, size: int | None, embedder: str) -> Report:
    """``size`` is the number of rows of the table."""
    report = Report("rows")
    rows = size or ROWS
    async with world(embedder=embedder, rows=rows, documents=False) as scene:
        copied = await _raw_copy(scene, rows)
        began = time.perf_counter()
        async with scene.project.running():
            await _rows_visible(scene, rows)
            report.add("snapshot", rows / (time.perf_counter() - began), "rows/s", copied)
        await _backlog(scene, rows)
        own = await _until_equal(scene)
        limit = await _subscription(scene, rows)
        report.add("backlog to live table", own, "changes/s", limit)
        async with scene.project.running():
            await _steady(scene, report, rows)
    return report


async def _raw_copy(scene: World, rows: int) -> float:
    """Rows per second of COPY from the source into a plain table of the project's database."""
    async with (
        await connect(scene.source_dsn) as source,
        await connect(scene.project.dsn) as target,
    ):
        await target.execute("CREATE SCHEMA bench")
        await target.execute("SET search_path = bench")
        await target.execute(ACCOUNTS)
        began = time.perf_counter()
        async with (
            source.cursor() as reading,
            target.cursor() as writing,
            reading.copy("COPY accounts TO STDOUT") as out,
            writing.copy("COPY accounts FROM STDIN") as into,
        ):
            async for block in out:
                await into.write(block)
        seconds = time.perf_counter() - began
        await target.execute("DROP SCHEMA bench CASCADE")
    return rows / seconds


async def _rows_visible(scene: World, rows: int) -> None:
    async with await connect(scene.project.dsn) as reader:

        async def seen() -> bool:
            if not await scalar(reader, "SELECT to_regclass('shop.accounts') IS NOT NULL"):
                return False
            return bool(await scalar(reader, "SELECT count(*) FROM shop.accounts") == rows)

        await until(seen, limit_s=600)


async def _backlog(scene: World, rows: int) -> None:
    """Changes made while nobody reads, in transactions of a hundred."""
    async with await connect(scene.source_dsn) as source:
        for start in range(0, BACKLOG, PER_TRANSACTION):
            first = start % (rows - PER_TRANSACTION) + 1
            await source.execute(
                "UPDATE accounts SET balance = balance + 1, note = %s WHERE id >= %s AND id < %s",
                [f"b{start}", first, first + PER_TRANSACTION],
            )
        await source.execute("UPDATE accounts SET city = 'The end' WHERE id = 1")


async def _until_equal(scene: World) -> float:
    """Changes per second until the last one is in the live table."""
    async with await connect(scene.project.dsn) as reader:

        async def seen() -> bool:
            query = "SELECT city FROM shop.accounts WHERE id = 1"
            return bool(await scalar(reader, query) == "The end")

        began = time.perf_counter()
        async with scene.project.running():
            await until(seen, limit_s=600)
            return BACKLOG / (time.perf_counter() - began)


async def _subscription(scene: World, rows: int) -> float:
    """The same backlog through PostgreSQL's own subscription, into the project's server."""
    async with await connect(scene.source_dsn) as source:
        await source.execute("CREATE PUBLICATION bench FOR TABLE accounts")
    async with await connect(scene.project.dsn) as target:
        await target.execute("DROP DATABASE IF EXISTS bench")
        await target.execute("CREATE DATABASE bench")
    dsn = make_conninfo(scene.project.dsn, dbname="bench")
    async with await connect(dsn) as target:
        await target.execute(ACCOUNTS)
        await target.execute(
            sql.SQL("CREATE SUBSCRIPTION bench CONNECTION {} PUBLICATION bench").format(
                sql.Literal(scene.source_dsn)
            )
        )

        async def loaded() -> bool:
            return bool(await scalar(target, "SELECT count(*) FROM accounts") == rows)

        async def ended() -> bool:
            return bool(await scalar(target, "SELECT city FROM accounts WHERE id = 1") == "Go")

        await until(loaded, limit_s=600)
        await target.execute("ALTER SUBSCRIPTION bench DISABLE")
        await _backlog(scene, rows)
        async with await connect(scene.source_dsn) as source:
            await source.execute("UPDATE accounts SET city = 'Go' WHERE id = 1")
        began = time.perf_counter()
        await target.execute("ALTER SUBSCRIPTION bench ENABLE")
        await until(ended, limit_s=600)
        seconds = time.perf_counter() - began
        await target.execute("DROP SUBSCRIPTION bench")
    async with await connect(scene.source_dsn) as source:
        await source.execute("DROP PUBLICATION bench")
    async with await connect(scene.project.dsn) as target:
        await target.execute("DROP DATABASE bench WITH (FORCE)")
    return BACKLOG / seconds


async def _steady(scene: World, report: Report, rows: int) -> None:
    """Pgbench at a steady rate; lag as the pipeline measures it from each commit."""
    await scene.project.caught_up()
    scene.project.meters.clear_freshness()
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(UPDATE.format(rows=rows))
        script.flush()
        Path(script.name).chmod(0o644)
        command = [
            str(find_installation().program("pgbench")),
            "-n", "-c", "4", "-j", "1", "-M", "prepared", "-f", script.name,
            "-R", str(STEADY), "-T", str(STEADY_S), scene.source_dsn,
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, problem = await process.communicate()
    if process.returncode:
        raise FatalError(f"expected pgbench to run, it says: {problem.decode().strip()}")
    done = next(line for line in out.decode().splitlines() if "actually processed" in line)
    transactions = int(done.split(":")[1].split("/")[0])
    report.add("steady rate offered", transactions / STEADY_S, "transactions/s", STEADY)
    await scene.project.caught_up()
    report.add_percentiles("lag at the steady rate", scene.project.freshness()["rows"])
