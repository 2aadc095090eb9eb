"""A process whose database is away when it starts waits for it, and says so."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.conftest import Home

from penstock.database.embedded import EmbeddedPostgres


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, which runs; it is stopped and started by the test."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    made = EmbeddedPostgres(folder / "server", settings={"fsync": "off"})
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("role", ["run", "worker"])
def test_a_database_that_is_away_at_the_start_is_waited_for(
    home: Home, server: EmbeddedPostgres, role: str
) -> None:
    """Stopped, then started again: the process goes on by itself."""
    dsn = server.dsn("postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE project")
    home.project(server.dsn("project"))
    asyncio.run(server.stop())
    program = home.start(role)
    program.wait_for("start.waiting what=database limit=30 s")
    asyncio.run(server.start())
    assert server.dsn("postgres") == dsn
    program.wait_for("is running" if role == "run" else "worker ")
    assert "Traceback" not in program.errors
    home.close()


def test_it_gives_up_after_its_patience(home: Home, server: EmbeddedPostgres) -> None:
    """With the sentence that says what to do."""
    home.project(server.dsn("postgres"), more="run: {patience: 1s}\n")
    asyncio.run(server.stop())
    assert "expected to reach the project's database" in home.run("run").sentence()


def test_other_commands_do_not_wait(home: Home, server: EmbeddedPostgres) -> None:
    """Who has asked something waits for the answer."""
    home.project(server.dsn("postgres"))
    asyncio.run(server.stop())
    ended = home.run("status")
    assert "expected to reach the project's database" in ended.sentence()
    assert "start.waiting" not in ended.errors


def test_g2_a_run_that_waits_for_its_first_load_outlives_lost_connections(
    home: Home, database_url: str
) -> None:
    """The source is not there yet; all sessions of the project's database end, again and again."""
    away = "postgresql://nobody@127.0.0.1:1/none"
    home.project(database_url, f'  shop: {{type: postgres, dsn: "{away}", tables: [things]}}\n')
    program = home.start("run")
    program.wait_for("is running")
    sessions = (
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in range(5):
            ended: set[int] = set()
            deadline = time.monotonic() + 20
            while not ended:
                assert program.process.poll() is None, program.look(1).errors
                assert time.monotonic() < deadline, "no session came back"
                rows = connection.execute(
                    f"SELECT pid, pg_terminate_backend(pid) {sessions}".encode()
                ).fetchall()
                ended = {pid for pid, _ in rows}
                program.look(0.1)
    program.signal()
    assert "Traceback" not in program.end().errors
