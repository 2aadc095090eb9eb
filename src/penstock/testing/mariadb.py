"""A real MariaDB server in a temporary folder, for tests and measurements.

Uses the programs that Debian's package ``mariadb-server`` installs; the system's own server is
neither needed nor touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pymysql

PROGRAMS: Final = ("mariadbd", "mariadb-install-db")
PASSWORD: Final = "penstock-test"  # noqa: S105 - of servers that live for a test
START_S: Final = 60.0

SETTINGS: Final[Mapping[str, str]] = {
    "log-bin": "binlog",
    "binlog-format": "ROW",
    "binlog-row-metadata": "FULL",
    "server-id": "1",
    "character-set-server": "utf8mb4",
    "skip-name-resolve": "ON",
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "64M",
    "performance-schema": "OFF",
    "max-connections": "200",
}


def program(name: str) -> str | None:
    """Where a program of the package is; servers are often not on the path of users."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def missing() -> str | None:
    """Why no server can be started here; None when it can."""
    absent = [name for name in PROGRAMS if program(name) is None]
    return f"needs {' and '.join(absent)} (Debian: mariadb-server)" if absent else None


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class MariaDBServer:
    """One server. ``start``, ``kill`` and ``start`` again keep the data; ``remove`` ends it all."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        # Not the folder of a test: a socket's path is short, and the server is not root.
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-mariadb-", dir="/tmp"))
        self.port = free_port()
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def user(self) -> str:
        """As whom it runs: never as root."""
        return "nobody" if os.geteuid() == 0 else ""

    def dsn(self, database: str = "", user: str = "root", password: str = PASSWORD) -> str:
        """How to connect."""
        return f"mysql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Make an empty data folder with a root user who has a password."""
        if self.user:
            shutil.chown(self.folder, self.user)
        self._run(
            [
                program("mariadb-install-db") or "",
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                *([f"--user={self.user}"] if self.user else []),
            ]
        )
        (self.folder / "init.sql").write_text(
            f"SET sql_log_bin = 0;\nALTER USER root@localhost IDENTIFIED BY '{PASSWORD}';\n"
            f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        (self.folder / "init.sql").chmod(0o644)

    def start(self) -> None:
        """Start and wait until it answers."""
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program("mariadbd") or "",
                    "--no-defaults",
                    f"--datadir={self.folder / 'data'}",
                    f"--socket={self.folder / 'socket'}",
                    f"--pid-file={self.folder / 'pid'}",
                    f"--port={self.port}",
                    "--bind-address=127.0.0.1",
                    f"--init-file={self.folder / 'init.sql'}",
                    *([f"--user={self.user}"] if self.user else []),
                    *options,
                ],
                stdout=log,
                stderr=log,
            )
        self._wait()

    def run(self, *statements: str) -> None:
        """Run statements in one session, as root."""
        with self.session() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a statement, as root."""
        with self.session() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def session(self) -> pymysql.Connection[Any]:
        """A connection of root's; to be closed by the caller."""
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", password=PASSWORD, autocommit=True
        )

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal (SIGSTOP, SIGCONT) to the running server."""
        assert self._process is not None
        self._process.send_signal(number)

    def remove(self) -> None:
        """Kill it and take its folder away."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                    if probe.recv(4):
                        return
            except OSError:
                time.sleep(0.05)
        log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the MariaDB server did not start: {log}")

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
