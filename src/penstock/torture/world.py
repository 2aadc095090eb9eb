"""What a campaign runs on: a shop, the project's database, proxies, a folder, our processes.

The campaign is the direct parent of all of them, waits for each, and kills by number only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.database.embedded import EmbeddedPostgres
from penstock.errors import PenstockError
from penstock.torture.documents import Folder
from penstock.torture.kinds import DEFAULT, Setting
from penstock.torture.lives import LEASE_S, Crew, Place
from penstock.torture.logs import EmbeddedEye, Eye
from penstock.torture.people import PROFILES_YAML
from penstock.torture.proxy import Proxy
from penstock.torture.shop import (
    TABLES_YAML,
    PostgresShop,
    Shop,
    kill_server,
    port_of,
    signal_server,
    through,
)

if TYPE_CHECKING:
    from penstock.torture.kafka import KafkaSide

_DISK_BYTES: Final = 3 << 30
_PROJECT: Final = """
project: torture
data: {folder}/data
server: {{port: 0}}
knowledge: {{embedder: constant}}
run: {{lease: {lease}s}}
log: {{keep: 7d, keep_size: 100 GB, partitions: {partitions}{log}}}
sources:
  docs: {{type: files, path: {folder}/docs, heartbeat: 500ms}}
  shop:
{source}{tables}{profiles}
"""


class World:
    """Everything that can be broken. Made by `open_world`."""

    def __init__(self, folder: Path, seed: int, setting: Setting, engine: Path | None) -> None:
        self.folder = folder
        self.setting = setting
        self.orders = folder / "orders"
        self.file = folder / "penstock.yaml"
        self.documents = Folder(folder / "docs", seed)
        self.crew = Crew(Place(self.file, self.orders, folder / "run.log", engine), setting.workers)
        self.database = EmbeddedPostgres(folder / "data" / "database")
        self.database_proxy = Proxy()
        self.database_dsn = ""
        self.shop: Shop = _shop(setting, folder)
        self.kafka: KafkaSide | None = None
        self.eye: Eye = EmbeddedEye()
        if setting.kafka:
            from penstock.torture.kafka import KafkaSide

            self.kafka = KafkaSide(setting.log, folder / "kafka")
        self.peak_rss = 0
        self.disk_bounded = False
        self.kept = False

    # ------------------------------------------------------------------ servers

    async def begin(self) -> None:
        """Start the servers and fill the source."""
        (self.folder / "data").mkdir()
        self.disk_bounded = self._bound_disk()
        await self.shop.begin()
        await self.start_database()
        await self.database_proxy.open(port_of(self.database_dsn))
        log = ""
        if self.kafka is not None:
            await self.kafka.begin()
            self.eye = self.kafka.eye()
            log = self.kafka.project()
        self.documents.fill()
        project = _PROJECT.format(
            folder=self.folder,
            lease=LEASE_S if self.setting.workers > 1 else 10,
            partitions=self.setting.partitions,
            log=log,
            source=self.shop.project(),
            tables=TABLES_YAML,
            profiles=PROFILES_YAML if self.setting.profiles else "",
        )
        self.file.write_text(project, encoding="utf-8")

    async def end(self) -> None:
        """Stop everything."""
        await self.crew.kill()
        await self.eye.close()
        await self.database_proxy.close()
        await self.shop.end()
        await self.database.stop()
        if self.kafka is not None:
            await self.kafka.end()
        if self.disk_bounded and not self.kept:
            await asyncio.to_thread(_unmount, self.folder / "data")

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
        self.database_proxy.upstream = port_of(self.database_dsn)

    def database_kill(self) -> None:
        """SIGKILL of the project's server."""
        kill_server(self.database)

    def database_signal(self, number: signal.Signals) -> None:
        """To the project's server and all its processes."""
        signal_server(self.database, number)

    async def start_servers(self) -> None:
        """All that are not ours, if they do not run."""
        await self.shop.start()
        if self.kafka is not None:
            await self.kafka.start()
        await self.start_database()

    # ------------------------------------------------------------------ our processes

    def start(self, *, proxied: bool) -> None:
        """Start those of our processes that do not run."""
        self.crew.start(self.proxied_database if proxied else None)

    @property
    def proxied_database(self) -> str:
        """How to reach the project's database through its proxy."""
        return through(self.database_dsn, self.database_proxy)

    async def watch_memory(self) -> None:
        """Remember the most that one process of ours had in memory, until cancelled."""
        while True:
            for life in self.crew.alive:
                self.peak_rss = max(self.peak_rss, life.rss())
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


def _shop(setting: Setting, folder: Path) -> Shop:
    if setting.source == "mariadb":
        from penstock.torture.mariadb import MariaShop

        return MariaShop()
    return PostgresShop(folder)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.asynccontextmanager
async def open_world(
    seed: int,
    setting: Setting = DEFAULT,
    *,
    engine: Path | None = None,
    keep: Path | None = None,
) -> AsyncIterator[World]:
    """A new world in a temporary folder (or in ``keep``, which then stays)."""
    folder = keep or Path(tempfile.mkdtemp(prefix="penstock-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    try:
        world = World(folder, seed, setting, engine)
        world.kept = keep is not None
        try:
            await world.begin()
            yield world
        finally:
            await world.end()
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
