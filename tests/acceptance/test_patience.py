"""A process whose database is away when it starts waits for it, and says so."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
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
