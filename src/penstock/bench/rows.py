"""Rows from a source's commit to the live table: snapshot, backlog, and lag at a steady rate.

Beside each figure the limit of the same run: COPY out of the source and into a table for the
snapshot, PostgreSQL's own subscription for the stream.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo

from penstock.bench.report import Report
from penstock.bench.waiting import until
from penstock.bench.world import ACCOUNTS, World, scalar, world
from penstock.database.connect import connect
from penstock.database.installation import find_installation
from penstock.errors import FatalError

ROWS = 200_000
BACKLOGS = (("large transactions", 300_000, 50_000), ("one-row transactions", 100_000, 1))
"""Name, changes, changes of each transaction."""
ONE_BY_ONE = (
    "DO $$ BEGIN FOR i IN 1..{changes} LOOP UPDATE accounts SET balance = balance + 1 "
    "WHERE id = 1 + i % {rows}; COMMIT; END LOOP; END $$"
)
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
        async with _subscription(scene) as subscription:
            for name, changes, per_transaction in BACKLOGS:
                end = f"end of {name}"[:60]
                await _backlog(scene, rows, changes, per_transaction, end)
                own = await _own(scene, changes, end)
                limit = await _subscribed(subscription, changes, end)
                report.add(f"backlog of {name}", own, "changes/s", limit)
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


async def _backlog(scene: World, rows: int, changes: int, per_transaction: int, end: str) -> None:
    """Changes made while nobody reads; the last one says so."""
    async with await connect(scene.source_dsn) as source:
        await source.execute("SET synchronous_commit = off")
        if per_transaction == 1:
            await source.execute(ONE_BY_ONE.format(rows=rows, changes=changes))
        for start in range(0, changes if per_transaction > 1 else 0, per_transaction):
            first = start % (rows - per_transaction + 1) + 1
            await source.execute(
                "UPDATE accounts SET balance = balance + 1, note = %s WHERE id >= %s AND id < %s",
                [f"b{start}", first, first + per_transaction],
            )
        await source.execute("SET synchronous_commit = on")
        await source.execute("UPDATE accounts SET city = %s WHERE id = 1", [end])


async def _own(scene: World, changes: int, end: str) -> float:
    """Changes per second, from starting until the last one is in the live table."""
    async with await connect(scene.project.dsn) as reader:
        began = time.perf_counter()
        async with scene.project.running():
            await until(_ended(reader, "shop.accounts", end), limit_s=600)
            return changes / (time.perf_counter() - began)


async def _subscribed(target: AsyncConnection[Any], changes: int, end: str) -> float:
    """The same changes through PostgreSQL's own subscription, into the project's server."""
    began = time.perf_counter()
    await target.execute("ALTER SUBSCRIPTION bench ENABLE")
    await until(_ended(target, "accounts", end), limit_s=600)
    seconds = time.perf_counter() - began
    await target.execute("ALTER SUBSCRIPTION bench DISABLE")
    return changes / seconds


def _ended(reader: AsyncConnection[Any], table: str, end: str) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        query = sql.SQL("SELECT city FROM {} WHERE id = 1").format(
            sql.Identifier(*table.split("."))
        )
        row = await (await reader.execute(query)).fetchone()
        return row is not None and row[0] == end

    return ended


@asynccontextmanager
async def _subscription(scene: World) -> AsyncIterator[AsyncConnection[Any]]:
    """A subscription that has copied the table and is switched off; gives its database."""
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
            ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
            return bool(await scalar(target, ready))

        await until(loaded, limit_s=600)
        await target.execute("ALTER SUBSCRIPTION bench DISABLE")
        yield target
        await target.execute("DROP SUBSCRIPTION bench")
    async with await connect(scene.source_dsn) as source:
        await source.execute("DROP PUBLICATION bench")
    async with await connect(scene.project.dsn) as target:
        await target.execute("DROP DATABASE bench WITH (FORCE)")


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
