"""A PostgreSQL server of a test's own, of any version whose programs are at hand.

For what the shared server of a test session cannot bear: settings that lose WAL, restarts, standbys
that take over, other versions.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import psycopg

NOBODY: Final = 65534
START_S: Final = 30.0
SETTINGS: Final[Mapping[str, str]] = {
    "wal_level": "logical",
    "fsync": "off",
    "full_page_writes": "off",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "autovacuum": "off",
}


class OwnServer:
    """One data directory and its server. ``programs`` is the folder with initdb and postgres."""

    def __init__(
        self, programs: Path, settings: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        self.programs = programs
        self.folder = folder or Path(tempfile.mkdtemp(prefix="penstock-own-", dir="/tmp"))
        self.data = self.folder / "data"
        self.port = _free_port()
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)

    def create(self) -> Self:
        """Make an empty cluster, and start it."""
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8")
        return self.start()

    def copy_of(self, primary: OwnServer, slot: str, **settings: str) -> Self:
        """Become a standby of another server, by a base backup, and start."""
        conninfo = f"host=127.0.0.1 port={primary.port} user=postgres dbname=postgres"
        self._run("pg_basebackup", "-D", str(self.data), "-R", "-X", "stream", "-C", "-S", slot,
                  "-c", "fast", "-d", conninfo)  # fmt: skip
        self._settings |= settings
        return self.start()

    def start(self) -> Self:
        """Start it and wait until it lets us in."""
        options = [f"{name}={value}" for name, value in self._settings.items()]
        command = [str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        command += [part for option in options for part in ("-c", option)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._log(), start_new_session=True,
            user=_user(), group=_user(),
        )  # fmt: skip
        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=5).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(
                        f"expected the server to start, got: {log[-2000:]}"
                    ) from None
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
                continue
            return self

    def stop(self, mode: str = "fast") -> None:
        """Stop it (``immediate``: as a crash does)."""
        if self._process is not None:
            self._run("pg_ctl", "stop", "-D", str(self.data), "-m", mode, check=False)
            self._process.wait(30)
            self._process = None

    def promote(self) -> None:
        """A standby becomes the primary, on a timeline of its own."""
        self._run("pg_ctl", "promote", "-D", str(self.data), "-w")

    def close(self) -> None:
        """Stop it and take its folder away."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, database: str = "postgres") -> str:
        """How to connect."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Statements, each its own transaction; the rows of the last."""
        rows: list[tuple[object, ...]] = []
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def _log(self) -> int:
        path = self.folder / "log"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            capture_output=True,
            timeout=60,
            check=False,
            cwd=self.folder,
            user=_user(),
            group=_user(),
        )
        if check and done.returncode:
            raise RuntimeError(f"expected {program} to succeed, got: {done.stderr.decode()}")


def _user() -> int | None:
    """A server refuses to run as root."""
    return NOBODY if os.geteuid() == 0 else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
