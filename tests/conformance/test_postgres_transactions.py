"""Large, nested, prepared and rolled-back transactions of a PostgreSQL source."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import psycopg
import pytest

from penstock.clock import SystemClock
from penstock.records import Op
from penstock.sources.postgres.source import PostgresSource

LIMIT_MB: Final = 512
ROWS: Final = 300_000
"""Memory does not depend on it: ``bench/capture.py`` captures a million."""

READER = """
import asyncio, json, pathlib, sys
from penstock.clock import SystemClock
from penstock.sources.postgres.source import PostgresSource

async def main(dsn, rows):
    source = PostgresSource("big", dsn, ["t"], clock=SystemClock(), heartbeat_s=0.1)
    seen, ready, largest = 0, False, 0
    async for batch in source.read({}):
        await source.acknowledge(batch.state)
        seen += sum(change.op == "c" for change in batch.changes)
        largest = max(largest, len(batch.changes))
        if batch.as_of and not ready:
            ready = True
            print("ready", flush=True)
        if seen >= rows:
            break
    # Not getrusage: what it calls the most includes the process that this one was forked from.
    status = pathlib.Path("/proc/self/status").read_text()
    rss = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"seen": seen, "rss_mb": rss, "largest": largest}), flush=True)
    await source.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
async def shop(source_url: str) -> psycopg.AsyncConnection:
    connection = await psycopg.AsyncConnection.connect(source_url, autocommit=True)
    await connection.execute("SET synchronous_commit = on")
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    return connection


async def test_g12_a_huge_transaction_in_bounded_memory(
    shop: psycopg.AsyncConnection, source_url: str, tmp_path: Path
) -> None:
    """Our process holds a few batches of it at a time, however large it is; one of the same size
    that was rolled back before it never comes."""
    script = tmp_path / "reader.py"
    script.write_text(READER)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), source_url, str(ROWS), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(55), shop:
            while b"ready" not in await process.stdout.readline():
                pass
            fill = f"INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, {ROWS}) g"
            await shop.execute("BEGIN")
            await shop.execute(fill)
            await shop.execute("ROLLBACK")
            await shop.execute(fill)
            while not (line := await process.stdout.readline()).startswith(b"{"):
                assert line
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = json.loads(line)
    assert found["seen"] == ROWS
    assert found["largest"] <= 5000
    assert found["rss_mb"] < LIMIT_MB


async def test_g2_what_is_rolled_back_never_comes_and_what_is_prepared_comes_when_it_commits(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """Savepoints and prepared transactions: only what was committed, in the order of commits."""
    source = PostgresSource("tx", source_url, ["t"], clock=SystemClock(), heartbeat_s=0.05)
    batches = source.read({})
    seen: list[str] = []
    try:
        async with asyncio.timeout(20), shop:
            async for batch in batches:
                if batch.as_of:
                    break
            statements = (
                "BEGIN",
                "INSERT INTO t VALUES (1, 'kept')",
                "SAVEPOINT one",
                "INSERT INTO t SELECT g, 'undone' FROM generate_series(100, 9999) g",
                "ROLLBACK TO one",
                "SAVEPOINT two",
                "INSERT INTO t VALUES (2, 'nested')",
                "RELEASE two",
                "PREPARE TRANSACTION 'penstock a'",
                "INSERT INTO t VALUES (3, 'between')",
                "BEGIN",
                "INSERT INTO t VALUES (4, 'never')",
                "PREPARE TRANSACTION 'penstock b'",
                "COMMIT PREPARED 'penstock a'",
                "ROLLBACK PREPARED 'penstock b'",
                "INSERT INTO t VALUES (5, 'end')",
            )
            for statement in statements:
                await shop.execute(statement)
            async for batch in batches:
                seen += [change.key[0] or "" for change in batch.changes]
                if "5" in seen:
                    break
    finally:
        await batches.aclose()
    assert seen == ["3", "1", "2", "5"]


async def test_g2_a_copy_beside_an_open_and_a_prepared_transaction(
    shop: psycopg.AsyncConnection, source_url: str
) -> None:
    """What they wrote is not in the copy; it comes by the stream when they commit."""
    source = PostgresSource("tx", source_url, ["t"], clock=SystemClock(), heartbeat_s=0.05)
    batches = source.read({})
    rows: dict[str, str] = {}
    try:
        async with asyncio.timeout(20), shop:
            await shop.execute("INSERT INTO t SELECT g, 'old' FROM generate_series(1, 50) g")
            async for batch in batches:
                if batch.as_of:
                    break
            await shop.execute("BEGIN")
            await shop.execute("UPDATE t SET v = 'new' WHERE id <= 10")
            await shop.execute("PREPARE TRANSACTION 'penstock c'")
            await source.reread_streams(["public.t"])
            reads = 0
            while reads < 50:
                batch = await anext(batches)
                for change in batch.changes:
                    reads += change.op is Op.READ
                    if change.after is not None:
                        rows[str(change.key[0])] = str(change.after[1])
            assert set(rows.values()) == {"old"}
            await shop.execute("COMMIT PREPARED 'penstock c'")
            while list(rows.values()).count("new") < 10:
                batch = await anext(batches)
                rows.update((str(c.key[0]), str(c.after[1])) for c in batch.changes if c.after)
    finally:
        await batches.aclose()
    assert len(rows) == 50
