"""One PostgreSQL server over one data directory: make it, start it, look at it, stop it.

Everything here blocks and expects that the caller holds the lock on starting and stopping;
`penstock.database.embedded` adds the locks and the sharing between processes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from penstock.database.account import Account, Handed, account_for
from penstock.database.installation import (
    MAJOR_VERSION,
    Installation,
    find_installation,
    identity,
    usable_installation,
)
from penstock.errors import ConfigError, FatalError, UnavailableError

SUPERUSER = "penstock"
_SOCKET_PATH_LIMIT = 100  # sun_path holds 104 bytes on macOS and 108 on Linux
_FREE_BYTES_NEEDED = 256 * 1024 * 1024
_SHARED_MEMORY_WANTED = 256 * 1024 * 1024
_LOG_LIMIT = 10 * 1024 * 1024

DEFAULT_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
    "cluster_name": "penstock",
}


@dataclass(frozen=True, slots=True)
class Running:
    """A server process, as its ``postmaster.pid`` describes it."""

    pid: int
    port: int
    ready: bool
    stopping: bool


class PostgresServer:
    """The files and the process of one server. ``folder`` is ours and holds the cluster in
    ``pgdata``, the password, the port and the log."""

    def __init__(
        self, folder: Path, *, settings: Mapping[str, str], port: int | None, start_timeout_s: float
    ) -> None:
        self.folder = folder
        self.data = folder / "pgdata"
        self.log = folder / "server.log"
        self._settings = {**DEFAULT_SETTINGS, **settings}
        self._wanted_port = port
        self._start_timeout_s = start_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    # ------------------------------------------------------------ looking

    def password(self) -> str:
        """The password of the superuser."""
        path = self.folder / "password"
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            raise ConfigError(
                f"the password of the database is gone: expected it in {path}; put it back from a "
                "copy, or remove the folder to begin anew",
                path=str(path),
            ) from None
        except PermissionError:
            raise ConfigError(
                f"cannot read {path}: it belongs to another user; run as that user",
                path=str(path),
            ) from None

    def running(self) -> Running | None:
        """The server over this data directory, if its process lives; reaps it when it was our
        child and has died."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if len(lines) < 5 or not self._is_ours(int(lines[0])):
            return None
        status = lines[7].strip() if len(lines) > 7 else "starting"
        return Running(
            int(lines[0]), int(lines[3]), ready=status == "ready", stopping=status == "stopping"
        )

    def _is_ours(self, pid: int) -> bool:
        """Whether a process is a PostgreSQL over our data directory: numbers are used again, and a
        dead process may still be listed."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return Path(process.cwd()) == self.data.resolve()
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # cannot be told: PostgreSQL itself will look again before it starts

    def dsn(self, running: Running, database: str) -> str:
        """How to connect: through the socket when its path is short enough, else over loopback."""
        password = self.password()
        if self._socket_fits():
            return (
                f"postgresql://{SUPERUSER}:{password}@/{database}"
                f"?host={_quoted(str(self.data.resolve()))}&port={running.port}"
            )
        return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{running.port}/{database}"

    def _socket_fits(self) -> bool:
        name = self.data.resolve() / ".s.PGSQL.65535"
        return len(os.fsencode(str(name))) <= _SOCKET_PATH_LIMIT

    # ------------------------------------------------------------ making and starting

    def start(self) -> Running:
        """Make the cluster if there is none, start the server and wait until it accepts
        connections; adopts one that runs already."""
        present = self.running()
        if present is not None and present.stopping:
            self._wait_for_end(present.pid, 60)
            present = None
        if present is None:
            account = account_for(self.data)
            installation = usable_installation(find_installation(), account, self.folder)
            self._make_cluster(installation, account)
            self._launch_on_a_free_port(installation, account)
        return self._wait_until_ready()

    def _make_cluster(self, installation: Installation, account: Account) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != str(MAJOR_VERSION):
                raise ConfigError(
                    f"the database in {self.data} was made by PostgreSQL {found}, this Penstock "
                    f"brings PostgreSQL {MAJOR_VERSION}: choose another folder and load anew, or "
                    f"dump it with PostgreSQL {found} and restore it",
                    path=str(self.data),
                    found=found,
                )
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise ConfigError(
                f"expected a PostgreSQL cluster or an empty folder in {self.data}, found other "
                "files: choose another folder",
                path=str(self.data),
            )
        self._expect_room()
        for left in self.folder.glob("making-*"):
            shutil.rmtree(left, ignore_errors=True)
        making = self.folder / f"making-{secrets.token_hex(4)}"
        making.mkdir(mode=0o700)
        try:
            self._initdb(installation, account, making)
            if self.data.exists():
                self.data.rmdir()
            making.rename(self.data)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _expect_room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < _FREE_BYTES_NEEDED:
            raise ConfigError(
                f"expected at least {_FREE_BYTES_NEEDED >> 20} MB free in {self.folder} for a new "
                f"database, found {free >> 20} MB: make room or choose another folder",
                free_bytes=free,
            )

    def _initdb(self, installation: Installation, account: Account, making: Path) -> None:
        password_file = making.with_suffix(".password")
        with password_file.open("x") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(self._new_password())
        try:
            if account.switch:
                os.chown(making, account.uid, account.gid)
                os.chown(password_file, account.uid, account.gid)
            with Handed(account) as handed:
                command = [
                    str(installation.program("initdb")),
                    f"--pgdata={handed.path(making)}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={handed.path(password_file)}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--locale=C",
                    "--data-checksums",
                    # The password is random and long: stretching it would only slow connecting.
                    "--set=scram_iterations=1",
                ]
                if self._settings.get("fsync") == "off":
                    command.append("--no-sync")
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                    cwd="/",
                    env=_environment(),
                    umask=0o077,
                    pass_fds=handed.descriptors,
                    **identity(account),
                )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line]
            raise ConfigError(
                f"cannot make a database in {self.data}: initdb said {' / '.join(said[-3:])!r}",
                path=str(self.data),
            )

    def _new_password(self) -> str:
        """The password, written durably before the cluster that will ask for it."""
        path = self.folder / "password"
        if not path.exists():
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24) + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        return self.password()

    def _launch_on_a_free_port(self, installation: Installation, account: Account) -> None:
        attempts = 1 if self._wanted_port is not None else 4
        for attempt in range(attempts):
            port = self._choose_port(first=attempt == 0)
            self._launch(installation, account, port)
            failure = self._wait_for_start()
            if failure is None:
                (self.folder / "port").write_text(f"{port}\n")
                return
            if "Address already in use" not in failure or attempt + 1 == attempts:
                raise self._sentence(failure, port)

    def _choose_port(self, *, first: bool) -> int:
        """The port that was asked for, else the one of last time, else any free one."""
        if self._wanted_port is not None:
            return self._wanted_port
        kept = self.folder / "port"
        wanted = int(kept.read_text()) if first and kept.exists() else 0
        for candidate in (wanted, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", candidate))
                except OSError:
                    continue
                return int(probe.getsockname()[1])
        raise UnavailableError("expected a free port on 127.0.0.1, found none: try again")

    def _launch(self, installation: Installation, account: Account, port: int) -> None:
        """Start the server in a session of its own, so that Ctrl-C in a terminal does not reach it."""
        settings = dict(self._settings)
        # Relative to the data directory: so its length is limited for clients only.
        settings.setdefault("unix_socket_directories", "." if self._socket_fits() else "")
        settings.setdefault("dynamic_shared_memory_type", _shared_memory_type())
        self._rotate_log()
        with Handed(account) as handed, self.log.open("ab") as log:
            self._log_start = log.tell()
            command = [
                str(installation.program("postgres")),
                "-D",
                handed.path(self.data),
                "-p",
                str(port),
            ]
            for name, value in settings.items():
                command += ["-c", f"{name}={value}"]
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                umask=0o077,
                start_new_session=True,
                pass_fds=handed.descriptors,
                **identity(account),
            )

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _wait_for_start(self) -> str | None:
        """Wait until the new server has taken its data directory and port, or has failed; then
        what it said."""
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            child = self._child
            if child is None or child.poll() is not None:
                self._child = None
                return self._said()
            running = self.running()
            if running is not None and running.pid == child.pid and running.ready:
                return None
            time.sleep(0.01)
        return None  # it lives and recovers: waiting goes on in _wait_until_ready

    def _wait_until_ready(self) -> Running:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            running = self.running()
            if running is None:
                raise self._sentence(self._said(), None)
            if running.ready:
                return running
            time.sleep(0.02)
        raise UnavailableError(
            f"the database in {self.data} did not become ready within {self._start_timeout_s:.0f} "
            f"seconds (it may be recovering after a crash): wait and try again, or read {self.log}",
            path=str(self.data),
        )

    # ------------------------------------------------------------ stopping

    def stop(self, timeout_s: float = 60) -> None:
        """Stop the server: fast shutdown first, then without waiting for clients."""
        running = self.running()
        if running is None:
            return
        for kind, patience in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 15.0)):
            try:
                os.kill(running.pid, kind)
            except ProcessLookupError:
                break
            except PermissionError:
                raise FatalError(
                    f"cannot stop the database server with pid {running.pid}: it belongs to "
                    "another user; stop it as that user",
                    pid=running.pid,
                ) from None
            if self._wait_for_end(running.pid, patience):
                break
        else:
            raise FatalError(
                f"the database server with pid {running.pid} does not stop: read {self.log}",
                pid=running.pid,
            )

    def _wait_for_end(self, pid: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            running = self.running()
            if running is None or running.pid != pid:
                return True
            time.sleep(0.01)
        return False

    # ------------------------------------------------------------ saying what went wrong

    def _said(self) -> str:
        """What the server logged since it was launched last."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _sentence(self, said: str, port: int | None) -> ConfigError | FatalError:
        lines = [line for line in said.splitlines() if line.strip()][-4:]
        last = " / ".join(lines) or "nothing"
        if "Address already in use" in said:
            return ConfigError(
                f"port {port} on 127.0.0.1 is taken: choose another one or leave it out, then a "
                "free one is found",
                port=port,
            )
        if "No space left on device" in said:
            return FatalError(
                f"the disk with {self.data} is full: make room and start again (the server said "
                f"{last!r})",
                path=str(self.data),
            )
        return FatalError(
            f"the database server over {self.data} did not start; it said {last!r} (all of it in "
            f"{self.log})",
            path=str(self.data),
        )


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="/")


def _environment() -> dict[str, str]:
    """Only what the programs need: PGPORT, PGOPTIONS and their like must not reach them."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _shared_memory_type() -> str:
    """Containers give /dev/shm only 64 MB by default, too little for building an index."""
    try:
        facts = os.statvfs("/dev/shm")
    except OSError:
        return "posix"
    room = facts.f_bavail * facts.f_frsize
    return "posix" if room >= _SHARED_MEMORY_WANTED else "mmap"
