"""What a campaign runs on: two database servers, two proxies, a folder, and the process under test.

The campaign is the direct parent of all of them, waits for each, and kills by number only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from penstock.database.embedded import EmbeddedPostgres
from penstock.database.queries import load_queries
from penstock.errors import PenstockError
from penstock.torture.documents import Folder
from penstock.torture.proxy import Proxy

Connection = psycopg.AsyncConnection[Any]

_SOURCE_SQL: Final = load_queries(Path(__file__).with_name("source.sql"))
_DISK_BYTES: Final = 3 << 30
_PROJECT: Final = """
project: torture
data: {folder}/data
server: {{port: 0}}
knowledge: {{embedder: constant}}
log: {{keep: 7d, keep_size: 100 GB}}
sources:
  shop:
    type: postgres
    dsn: {dsn}
    heartbeat: 500ms
    tables:
      orders: {{searched: [customer, note], shown: [total]}}
      pairs: {{searched: [label]}}
      lines:
      pulse:
  docs: {{type: files, path: {folder}/docs, heartbeat: 500ms}}
"""


class Life:
    """One process of ours, from its start to its end."""

    def __init__(self, world: World, *, proxied: bool) -> None:
        environment = {**os.environ, "PENSTOCK_BOUNDARIES": str(world.orders)}
        if world.engine is not None:
            environment["PYTHONPATH"] = str(world.engine)
        if proxied:
            environment["PENSTOCK_DATABASE"] = world.proxied_database
        self.proxied = proxied
        self.begun_at = world.log.tell()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "run", "--quiet", "-f", str(world.file)],
            stdout=world.log,
            stderr=world.log,
            env=environment,
            start_new_session=True,
        )

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def stands_still(self) -> bool:
        """Whether it was stopped and not continued."""
        try:
            return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: signal.Signals) -> None:
        """To the process and what it has started, as far as it is in the same group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def ended(self, limit_s: float) -> bool:
        """Wait for its end; False when it lives on."""
        until = time.monotonic() + limit_s
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return not self.alive

    def rss(self) -> int:
        """Bytes in memory now."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


class World:
    """Everything that can be broken. Made by `open_world`."""

    def __init__(self, folder: Path, seed: int, engine: Path | None) -> None:
        self.folder = folder
        self.engine = engine
        self.orders = folder / "orders"
        self.file = folder / "penstock.yaml"
        self.documents = Folder(folder / "docs", seed)
        self.log = (folder / "run.log").open("ab")
        self.source = EmbeddedPostgres(folder / "source")
        self.database = EmbeddedPostgres(folder / "data" / "database")
        self.source_proxy = Proxy(replication=True)
        self.database_proxy = Proxy()
        self.source_dsn = ""
        self.database_dsn = ""
        self.life: Life | None = None
        self.peak_rss = 0
        self.disk_bounded = False
        self.kept = False

    # ------------------------------------------------------------------ servers

    async def begin(self) -> None:
        """Start the servers and fill the source."""
        (self.folder / "data").mkdir()
        self.disk_bounded = self._bound_disk()
        await self.start_source()
        await self.start_database()
        await self.source_proxy.open(_port(self.source_dsn))
        await self.database_proxy.open(_port(self.database_dsn))
        async with await connect(self.source_dsn) as connection:
            for name in ("ledger", "tables", "fill"):
                await connection.execute(_SOURCE_SQL[name].encode())
        self.documents.fill()
        dsn = _through(self.source_dsn, self.source_proxy)
        self.file.write_text(
            _PROJECT.format(folder=self.folder, dsn=json.dumps(dsn)), encoding="utf-8"
        )

    async def end(self) -> None:
        """Stop everything."""
        if self.life is not None and self.life.alive:
            self.life.signal(signal.SIGCONT)
            self.life.signal(signal.SIGKILL)
            await self.life.ended(10)
        await self.source_proxy.close()
        await self.database_proxy.close()
        await self.source.stop()
        await self.database.stop()
        self.log.close()
        if self.disk_bounded and not self.kept:
            await asyncio.to_thread(_unmount, self.folder / "data")

    async def start_source(self) -> None:
        """Start the source's server, if it does not run."""
        self.source_dsn = await self.source.ensure_running()
        self.source_proxy.upstream = _port(self.source_dsn)

    async def start_database(self) -> None:
        """Start the project's server, if it does not run; try again while it recovers."""
        until = time.monotonic() + 30
        while True:
            try:
                self.database_dsn = await self.database.ensure_running()
                break
            except PenstockError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.05)
        self.database_proxy.upstream = _port(self.database_dsn)

    def kill_server(self, server: EmbeddedPostgres) -> bool:
        """SIGKILL of a database server; its other processes notice and end."""
        pid = server.server_pid()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def signal_server(self, server: EmbeddedPostgres, number: signal.Signals) -> None:
        """To a database server and all its processes."""
        pid = server.server_pid()
        if pid is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    # ------------------------------------------------------------------ our process

    def start(self, *, proxied: bool) -> Life:
        """Start our process, unless it runs."""
        if self.life is None or not self.life.alive:
            self.life = Life(self, proxied=proxied)
        return self.life

    @property
    def proxied_database(self) -> str:
        """How to reach the project's database through its proxy."""
        return _through(self.database_dsn, self.database_proxy)

    def said(self, since: int = 0) -> str:
        """What our processes have printed from there on."""
        with (self.folder / "run.log").open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    async def watch_memory(self) -> None:
        """Remember the most that our process had in memory, until cancelled."""
        while True:
            if self.life is not None:
                self.peak_rss = max(self.peak_rss, self.life.rss())
            await asyncio.sleep(0.1)

    # ------------------------------------------------------------------ the disk

    def _bound_disk(self) -> bool:
        """Give the project's database a small disk of its own; False where that is not allowed."""
        if os.geteuid() != 0 or not sys.platform.startswith("linux"):
            return False
        options = f"size={_DISK_BYTES},mode=755"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "penstock-torture", str(self.folder / "data")],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    @contextlib.contextmanager
    def full_disk(self) -> Any:
        """Leave the database next to nothing while the block runs."""
        ballast = self.folder / "data" / "ballast"
        free = shutil.disk_usage(ballast.parent).free
        try:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free - (256 << 10)))
            yield
        finally:
            ballast.unlink(missing_ok=True)


async def connect(dsn: str) -> Connection:
    """A connection of the campaign's own, past the proxies."""
    return await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, connect_timeout=5, application_name="torture"
    )


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False)


def _port(dsn: str) -> int:
    return int(str(conninfo_to_dict(dsn)["port"]))


def _through(dsn: str, proxy: Proxy) -> str:
    given = conninfo_to_dict(dsn)
    return (
        f"postgresql://{given['user']}:{given['password']}@127.0.0.1:{proxy.port}/{given['dbname']}"
    )


@contextlib.asynccontextmanager
async def open_world(
    seed: int, *, engine: Path | None = None, keep: Path | None = None
) -> AsyncIterator[World]:
    """A new world in a temporary folder (or in ``keep``, which then stays)."""
    folder = keep or Path(tempfile.mkdtemp(prefix="penstock-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    world = World(folder, seed, engine)
    world.kept = keep is not None
    try:
        await world.begin()
        yield world
    finally:
        try:
            await world.end()
        finally:
            if keep is None:
                shutil.rmtree(folder, ignore_errors=True)
