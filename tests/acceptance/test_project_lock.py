"""One process per project database."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from penstock.database.connect import connect, open_pool
from penstock.database.project_lock import hold_project_lock
from penstock.errors import ConfigError, UnavailableError

HOLDER = """
import asyncio, sys
from penstock.database.project_lock import hold_project_lock

async def main():
    async with await hold_project_lock(sys.argv[1], "run"):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def execute(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    async with await connect(dsn) as connection:
        cursor = await connection.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def test_the_second_is_told_who_holds_the_lock(database_url: str) -> None:
    """Two terminals, one project: the second ends with a sentence that leads to the first."""
    first = await hold_project_lock(database_url, "run")
    with pytest.raises(ConfigError, match=rf"pid {os.getpid()} on .* since \d{{4}}-") as caught:
        await hold_project_lock(database_url, "run", patience_s=0.1)
    assert isinstance(caught.value.facts["backend"], int)
    async with await hold_project_lock(database_url, "something else"):
        pass
    await first.release()
    await first.release()
    async with await hold_project_lock(database_url, "run") as third:
        assert not third.lost.is_set()


async def test_the_lock_of_another_database_is_another_lock(
    database_url: str, source_url: str
) -> None:
    """Projects on one server do not get in each other's way."""
    async with (
        await hold_project_lock(database_url, "run"),
        await hold_project_lock(source_url, "run"),
    ):
        pass


async def test_a_killed_process_leaves_the_lock(database_url: str) -> None:
    """kill -9 needs no cleaning up: the next start waits for the moment that the server needs."""
    with subprocess.Popen(  # noqa: ASYNC220 - it is the other process of this test
        [sys.executable, "-c", HOLDER, database_url], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"pid {holder.pid} "):
            await hold_project_lock(database_url, "run", patience_s=0)
        holder.kill()
        async with await hold_project_lock(database_url, "run", patience_s=5):
            pass


async def test_a_lost_session_is_noticed_at_once(database_url: str) -> None:
    """Whoever relies on the lock learns that it is gone before somebody else can do harm."""
    lock = await hold_project_lock(database_url, "run")
    await execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'penstock run pid%%' AND datname = current_database()",
    )
    await asyncio.wait_for(lock.lost.wait(), 5)
    await lock.release()


async def test_a_pool_commits_by_itself_and_carries_our_settings(database_url: str) -> None:
    """Transactions are written out where they are meant; a statement has a time limit."""
    pool = await open_pool(
        database_url, application_name="penstock pool", statement_timeout_s=0.05, lock_timeout_s=2
    )
    try:
        async with pool.connection() as connection:
            assert connection.autocommit
            assert connection.info.parameter_status("application_name") == "penstock pool"
            cursor = await connection.execute("SHOW lock_timeout")
            assert await cursor.fetchone() == ("2s",)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await connection.execute("SELECT pg_sleep(10)")
    finally:
        await pool.close()


async def test_a_server_that_is_not_there_is_said_at_once() -> None:
    """Opening a pool does not wait for its time limit when the server refuses."""
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await open_pool("postgresql://me:s3cret@127.0.0.1:1/db")
