"""What goes wrong with a MySQL source is named soon, and loses nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest

from penstock.clock import SystemClock
from penstock.errors import SourceError, UnavailableError
from penstock.sources.mysql.source import MySQLSource
from penstock.testing.mariadb import PASSWORD, MariaDBServer, free_port

pytestmark = pytest.mark.servers


@pytest.fixture
def server(mariadb_programs: None) -> Iterator[MariaDBServer]:
    """A server of the test's own, that may be killed."""
    made = MariaDBServer({"log-slave-updates": "ON", "gtid-domain-id": "0"})
    try:
        made.create()
        made.start()
        made.run("CREATE DATABASE shop", "CREATE TABLE shop.t (id int PRIMARY KEY, v int)")
        made.run("INSERT INTO shop.t VALUES (1, 1)")
        yield made
    finally:
        made.remove()


class Life:
    """One source, read again and again as the loop would, until it has all rows."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.state: dict[str, str] = {}
        self.rows: dict[str | None, str] = {}
        self.positions: list[str] = []
        self.errors: list[BaseException] = []

    def source(self) -> MySQLSource:
        dsn = f"mysql://root:{PASSWORD}@127.0.0.1:{self.port}/"
        return MySQLSource(
            "shop", dsn, ["shop.t"], clock=SystemClock(), server_id=4713, heartbeat_s=0.2
        )

    async def once(self, ids: set[str]) -> None:
        """Read until these rows are there, or an error."""
        source = self.source()
        try:
            async for batch in source.read(dict(self.state)):
                for change in batch.changes:
                    self.positions.append(change.position)
                    if change.old_key is not None:
                        self.rows.pop(change.old_key[0], None)
                    if change.op == "t":
                        self.rows = {}
                    elif change.after is None:
                        self.rows.pop(change.key[0], None)
                    else:
                        self.rows[change.key[0]] = str(change.after[1])
                for name, value in batch.state.items():
                    if value is None:
                        self.state.pop(name, None)
                    else:
                        self.state[name] = value
                if self.rows.keys() >= ids and not batch.changes and batch.as_of:
                    return
        finally:
            await source.close()

    async def until(self, *ids: int, seconds: float = 40) -> None:
        """The same, again after errors that pass."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self.once({str(i) for i in ids})
                    return
                except UnavailableError as error:
                    self.errors.append(error)
                    await asyncio.sleep(0.1)


async def test_g2_a_killed_server_is_reached_again(server: MariaDBServer) -> None:
    """A crash of the server ends the stream with an error; the next life goes on after it."""
    life = Life(server.port)
    await life.until(1)
    server.run("INSERT INTO shop.t VALUES (2, 2)")
    reading = asyncio.create_task(life.until(2, 3))
    async with asyncio.timeout(20):
        while "2" not in life.rows:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.run, "INSERT INTO shop.t VALUES (3, 3)")
    await reading
    assert life.errors
    assert life.rows == {"1": "1", "2": "2", "3": "3"}
    assert life.positions == sorted(set(life.positions))


async def test_a_server_that_hangs_is_noticed(server: MariaDBServer) -> None:
    """A stopped server does not hold us for ever; when it goes on, so do we."""
    life = Life(server.port)
    await life.until(1)
    reading = asyncio.create_task(life.once({"never"}))
    await asyncio.sleep(0.5)
    server.send(signal.SIGSTOP)
    try:
        async with asyncio.timeout(25):
            with pytest.raises(UnavailableError):
                await reading
    finally:
        server.send(signal.SIGCONT)
    server.run("INSERT INTO shop.t VALUES (2, 2)")
    await life.until(1, 2)


class Proxy:
    """Passes bytes on; when told, it swallows what the server says: a half-open connection."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self.deaf = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, to_there]
        for source, sink, answers in ((reader, to_there, False), (there, writer, True)):
            task = asyncio.create_task(self._pump(source, sink, answers))
            self._tasks.add(task)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not (answers and self.deaf):
                    sink.write(data)
                    await sink.drain()
        if not self.deaf:
            sink.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def proxy(server: MariaDBServer) -> AsyncIterator[Proxy]:
    made = Proxy(server.port)
    await made.start()
    yield made
    await made.stop()


async def test_a_half_open_connection_is_noticed(server: MariaDBServer, proxy: Proxy) -> None:
    """Nothing comes any more, and nobody says why."""
    life = Life(proxy.port)
    await life.until(1)
    reading = asyncio.create_task(life.once({"never"}))
    await asyncio.sleep(0.5)
    proxy.deaf = True
    async with asyncio.timeout(25):
        with pytest.raises(UnavailableError):
            await reading
    proxy.deaf = False
    server.run("INSERT INTO shop.t VALUES (2, 2)")
    await life.until(1, 2)


async def test_a_binlog_that_was_reset_is_named(server: MariaDBServer) -> None:
    """RESET MASTER takes away what we stood in."""
    life = Life(server.port)
    await life.until(1)
    server.run("RESET MASTER", *(f"INSERT INTO shop.t VALUES ({n}, 1)" for n in range(2, 40)))
    with pytest.raises(SourceError, match="reset"):
        await life.once({"never"})


async def test_g2_another_server_of_the_replication_goes_on(server: MariaDBServer) -> None:
    """After a failover the GTIDs say where the new server's log goes on; positions still grow."""
    life = Life(server.port)
    await life.until(1)
    other = MariaDBServer({"server-id": "2", "log-slave-updates": "ON", "log-bin": "other"})
    try:
        other.create()
        other.start()
        other.run(
            f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={server.port}, "
            f"MASTER_USER='root', MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos",
            "START SLAVE",
        )
        server.run("INSERT INTO shop.t VALUES (2, 2)", "UPDATE shop.t SET v = 5 WHERE id = 1")
        async with asyncio.timeout(20):
            while not other.ask(
                "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop'"
            ):
                await asyncio.sleep(0.05)
            while not other.ask("SELECT 1 FROM shop.t WHERE id = 2"):
                await asyncio.sleep(0.05)
        other.run("STOP SLAVE")
        server.kill()
        other.run("INSERT INTO shop.t VALUES (3, 3)", "DELETE FROM shop.t WHERE id = 2")
        life.port = other.port
        await life.until(1, 3)
        assert life.rows == {"1": "5", "3": "3"}
        assert life.positions == sorted(set(life.positions))
        other.run("INSERT INTO shop.t VALUES (4, 4)")
        await life.until(4)
        assert life.positions == sorted(set(life.positions))
    finally:
        other.remove()
