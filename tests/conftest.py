"""One real PostgreSQL 18 for the session; a fresh database of it for each test that asks."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql

from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.testing.mariadb import MariaDBServer, missing

# The gate tries the same examples each time, so that it speaks of the change in front of it; every
# other run draws new ones, and what those find becomes a test.
settings.register_profile("gate", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("gate")

TEMPLATE = "penstock_template"
_DATABASES = count(1)
SERVER_SETTINGS = {
    "wal_level": "logical",
    "max_replication_slots": "50",
    "max_wal_senders": "50",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum_naptime": "1h",
    "log_min_messages": "error",
}


class TestServer:
    """The server of the session; makes databases and takes them away with all they hold."""

    __test__ = False

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.dsn = postgres.dsn
        self._dsn = postgres.dsn("postgres")
        self._numbers = count(1)

    def create(self, kind: str, template: str = "template0") -> str:
        name = f"{kind}_{next(self._numbers)}"
        self._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop(self, name: str) -> None:
        """Drop a database whatever uses it: sessions, replication slots, their senders."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            slots = connection.execute(
                "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", [name]
            ).fetchall()
            for slot, pid in slots:
                if pid is not None:
                    connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres() -> Iterator[TestServer]:
    """The session's server, with a migrated template database."""
    # Not pytest's folder: a socket's path is short, and root's pytest folder lets nobody in.
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    embedded = EmbeddedPostgres(folder / "server", settings=SERVER_SETTINGS)
    try:
        asyncio.run(embedded.start())
        server = TestServer(embedded)
        server._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(TEMPLATE))
        )
        asyncio.run(migrate(server.dsn(TEMPLATE)))
        yield server
    finally:
        asyncio.run(embedded.stop())
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(postgres: TestServer) -> Iterator[str]:
    """The DSN of a fresh, migrated project database."""
    name = postgres.create("project", TEMPLATE)
    yield postgres.dsn(name)
    postgres.drop(name)


@pytest.fixture
def source_url(postgres: TestServer) -> Iterator[str]:
    """The DSN of a fresh, empty database on a server with logical replication."""
    name = postgres.create("source")
    yield postgres.dsn(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def kafka_tool() -> ModuleType:
    """`tools/kafka.py`: ``kafka_tool.Broker(folder, settings=...)`` for a broker of one's own."""
    path = Path(__file__).parents[1] / "tools" / "kafka.py"
    spec = importlib.util.spec_from_file_location("kafka_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kafka_broker(kafka_tool: ModuleType) -> Iterator[Any]:
    """A real Apache Kafka broker for the session; topics of tests have names of their own.

    Tests that ask for it are marked ``servers``. They skip where it cannot be started, which says
    that nothing about Kafka was verified.
    """
    reason = kafka_tool.why_not()
    if reason is not None:
        if os.environ.get("PENSTOCK_TEST_SERVERS") == "required":
            pytest.fail(f"Apache Kafka is required here: {reason}")
        pytest.skip(f"not verified against Apache Kafka: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-", dir="/tmp"))
    broker = kafka_tool.Broker(folder)
    try:
        yield broker.start()
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb_programs() -> None:
    """The programs of Debian's package are here; else nothing about MariaDB is verified."""
    reason = missing()
    if reason is not None:
        if os.environ.get("PENSTOCK_TEST_SERVERS") == "required":
            pytest.fail(f"MariaDB is required here: {reason}")
        pytest.skip(f"not verified against MariaDB: {reason}")


@pytest.fixture(scope="session")
def mariadb(mariadb_programs: None) -> Iterator[MariaDBServer]:
    """The session's MariaDB server, started from Debian's programs."""
    server = MariaDBServer()
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def mariadb_database(mariadb: MariaDBServer) -> Iterator[str]:
    """The name of a fresh database on the session's MariaDB server."""
    name = f"shop_{next(_DATABASES)}"
    mariadb.run(f"CREATE DATABASE {name}")
    yield name
    mariadb.run(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture(scope="session")
def opensearch_tool() -> ModuleType:
    """`tools/opensearch.py`: ``opensearch_tool.Node(folder)`` for a server of one's own."""
    path = Path(__file__).parents[1] / "tools" / "opensearch.py"
    spec = importlib.util.spec_from_file_location("opensearch_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def opensearch(opensearch_tool: ModuleType) -> Iterator[str]:
    """The address of a real OpenSearch with k-NN, one for the session: name your own indexes."""
    reason = opensearch_tool.why_not()
    if reason is not None:
        if os.environ.get("PENSTOCK_TEST_SERVERS") == "required":
            pytest.fail(reason)
        pytest.skip(f"OpenSearch as a second store was not verified: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="penstock-opensearch-", dir="/tmp"))
    folder.chmod(0o755)
    node = opensearch_tool.Node(folder)
    try:
        yield node.start().url
    finally:
        node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.package("name")``: skip where a large package is not installed."""
    for mark in item.iter_markers("package"):
        if importlib.util.find_spec(mark.args[0]) is None:
            if os.environ.get("PENSTOCK_TEST_SERVERS") == "required":
                pytest.fail(f"{mark.args[0]} is required here: uv sync --group large")
            pytest.skip(f"not verified with {mark.args[0]}: uv run --group large pytest")
