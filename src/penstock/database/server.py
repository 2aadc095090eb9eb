"""One PostgreSQL server over one data directory: start it, look at it, stop it.

Everything here blocks and expects that the caller holds the lock on starting and stopping;
`penstock.database.embedded` adds the locks and the sharing between processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from penstock.database.account import Account, Handed, account_for, identity
from penstock.database.cluster import SUPERUSER, Cluster, environment
from penstock.database.installation import Installation, find_installation, usable_installation
from penstock.errors import ConfigError, FatalError, PenstockError, UnavailableError

_SOCKET_PATH_LIMIT = 100  # sun_path holds 104 bytes on macOS and 108 on Linux
_SHARED_MEMORY_WANTED = 256 * 1024 * 1024
_LEAST_BUFFERS_MB = 128
_MOST_BUFFERS_MB = 1024
_CONTAINER_MEMORY = Path("/sys/fs/cgroup/memory.max")
_LOG_LIMIT = 10 * 1024 * 1024
_PAUSE_S = 0.01
_TELLING = ("FATAL", "PANIC", "HINT", "could not", "error while loading")

# A setting that means nothing to PostgreSQL: it tells in the list of processes whose server it is.
_MARK = "penstock.data_dir="

DEFAULT_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "maintenance_work_mem": "128MB",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %a ",
    "cluster_name": "penstock",
}

# After a crash all files are flushed, on Linux with one call instead of one for each.
_RECOVERY: Mapping[str, str] = (
    {"recovery_init_sync_method": "syncfs"} if sys.platform.startswith("linux") else {}
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server process, as its ``postmaster.pid`` describes it."""

    pid: int
    port: int
    status: str

    @property
    def ready(self) -> bool:
        """Whether it accepts connections."""
        return self.status == "ready"


class PostgresServer:
    """The server process over ``cluster``; ``given_up`` ends all waiting for its start."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        settings: Mapping[str, str],
        port: int | None,
        start_timeout_s: float,
        given_up: threading.Event,
    ) -> None:
        self.cluster = cluster
        self._settings = {"shared_buffers": f"{buffers_mb()}MB", **DEFAULT_SETTINGS, **settings}
        self._wanted_port = port
        self._start_timeout_s = start_timeout_s
        self._given_up = given_up
        self._log_start = 0

    # ------------------------------------------------------------ looking

    def running(self) -> Running | None:
        """The server over this data directory, if its process lives."""
        try:
            lines = (self.cluster.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if len(lines) < 4 or not self._is_ours(int(lines[0])):
            return None
        status = lines[7].strip() if len(lines) > 7 else "starting"
        return Running(int(lines[0]), int(lines[3]), status)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process is a PostgreSQL over our data directory: numbers are used again, and a
        dead process is listed until its parent asks for it."""
        data = self.cluster.data.resolve()
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            words = process.cmdline()
            marks = [word for word in words if word.startswith(_MARK)]
            if marks:
                return marks[-1] == f"{_MARK}{data}"
            if process.name() != "postgres":
                return False
            # Without words it is about to end: its memory is gone, its files may still be open.
            return not words or Path(process.cwd()) == data
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # PostgreSQL itself looks again before it starts

    def dsn(self, running: Running, database: str) -> str:
        """How to connect: through the socket when its path is short enough, else over loopback."""
        user = f"{SUPERUSER}:{self.cluster.password()}"
        if self._socket_fits():
            place = f"host={quote(str(self.cluster.data.resolve()))}&port={running.port}"
            return f"postgresql://{user}@/{quote(database)}?{place}"
        return f"postgresql://{user}@127.0.0.1:{running.port}/{quote(database)}"

    def _socket_fits(self) -> bool:
        name = self.cluster.data.resolve() / ".s.PGSQL.65535"
        return len(os.fsencode(name)) <= _SOCKET_PATH_LIMIT

    # ------------------------------------------------------------ starting

    def start(self) -> Running:
        """Make the cluster if there is none, start the server and wait until it accepts
        connections; adopts one that runs already."""
        present = self.running()
        if present is not None and present.status == "stopping":
            self._wait_for_end(present.pid, self._start_timeout_s)
            present = self.running()
        if present is not None:
            return self._wait_until_ready()
        account = account_for(self.cluster.data)
        installation = usable_installation(find_installation(), account, self.cluster.folder)
        self.cluster.make(installation, account, sync=self._settings.get("fsync") != "off")
        self._free_stale_locks()
        port = self._choose_port()
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            child = self._launch(installation, account, port)
            try:
                self._wait_for_launch(child)
            except UnavailableError:
                _interrupt(child)
                raise
            if child.returncode is None:
                return self._wait_until_ready()
            failure = self._said()
            if "Address already in use" in failure and self._wanted_port is None:
                port = _free_port()  # taken since we looked
            elif "pre-existing shared memory block" not in failure:
                raise self._sentence(failure, port)
            # else processes of the killed server are about to notice that it is gone
            if time.monotonic() > deadline:
                raise self._sentence(failure, port)
            time.sleep(_PAUSE_S * 10)

    def _free_stale_locks(self) -> None:
        """Take over lock files whose number belongs to a dead or an unrelated process by now.

        PostgreSQL would take that process for a server. The files stay, with our number, which
        PostgreSQL passes over as its parent's: it still looks for processes of the dead server
        that use its shared memory.
        """
        locks = (self.cluster.data / "postmaster.pid", *self.cluster.data.glob(".s.PGSQL.*.lock"))
        for path in locks:
            try:
                number, rest = path.read_text().split("\n", 1)
            except (FileNotFoundError, ValueError):
                continue
            if psutil.pid_exists(int(number)) and not self._is_ours(int(number)):
                with path.open("r+") as file:
                    file.write(f"{os.getpid()}\n{rest}")
                    file.truncate()

    def _choose_port(self) -> int:
        """The port that was asked for, else the one of last time, else any free one."""
        if self._wanted_port is not None:
            return self._wanted_port
        kept = self.cluster.kept_port()
        return kept if kept is not None and _is_free(kept) else _free_port()

    def _launch(
        self, installation: Installation, account: Account, port: int
    ) -> subprocess.Popen[bytes]:
        """Start the server in a session of its own: Ctrl-C in a terminal does not reach it."""
        settings = {
            # Relative to the data directory: only clients' paths are limited in length.
            "unix_socket_directories": "." if self._socket_fits() else "",
            "dynamic_shared_memory_type": _shared_memory_type(),
            **_RECOVERY,
            **self._settings,
        }
        log = self.cluster.log
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        with Handed(account) as handed, log.open("ab") as output:
            self._log_start = output.tell()
            command = [str(installation.program("postgres")), "-D", handed.path(self.cluster.data)]
            command += ["-p", str(port), "-c", f"{_MARK}{self.cluster.data.resolve()}"]
            for name, value in settings.items():
                command += ["-c", f"{name}={value}"]
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment(),
                umask=0o077,
                start_new_session=True,
                pass_fds=handed.descriptors,
                **identity(account),
            )
        # A dead child stays listed until its parent has waited for it, whoever stops it.
        threading.Thread(target=child.wait, name=f"postgres {child.pid}", daemon=True).start()
        return child

    def _wait_for_launch(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until the new server has its data directory and its port, or has failed."""
        deadline = time.monotonic() + self._start_timeout_s
        while child.poll() is None and time.monotonic() < deadline:
            running = self.running()
            if running is not None and running.pid == child.pid and running.ready:
                self.cluster.keep_port(running.port)
                return
            self._pause()

    def _wait_until_ready(self) -> Running:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            running = self.running()
            if running is None:
                raise self._sentence(self._said(), None)
            if running.ready:
                return running
            self._pause()
        raise UnavailableError(
            f"the database in {self.cluster.data} did not become ready within "
            f"{self._start_timeout_s:.0f} seconds (it may be recovering after a crash): wait and "
            f"try again, or read {self.cluster.log}",
            path=str(self.cluster.data),
        )

    def _pause(self) -> None:
        if self._given_up.wait(_PAUSE_S):
            raise UnavailableError("the start of the database was given up")

    # ------------------------------------------------------------ stopping

    def stop(self, timeout_s: float = 60) -> None:
        """Stop the server: fast shutdown first, then without waiting for clients."""
        running = self.running()
        if running is None:
            return
        for kind, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 15.0)):
            try:
                os.kill(running.pid, kind)
            except ProcessLookupError:
                return
            except PermissionError:
                raise FatalError(
                    f"cannot stop the database server with pid {running.pid}: it belongs to "
                    "another user; stop it as that user",
                    pid=running.pid,
                ) from None
            if self._wait_for_end(running.pid, patience_s):
                return
        raise FatalError(
            f"the database server with pid {running.pid} does not stop: read {self.cluster.log}",
            pid=running.pid,
        )

    def _wait_for_end(self, pid: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self._is_ours(pid):
                return True
            time.sleep(_PAUSE_S)
        return False

    # ------------------------------------------------------------ saying what went wrong

    def _said(self) -> str:
        """What the server logged since it was launched last."""
        try:
            with self.cluster.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _sentence(self, said: str, port: int | None) -> PenstockError:
        data = self.cluster.data
        lines = [line for line in said.splitlines() if line.strip()]
        telling = [line for line in lines if any(word in line for word in _TELLING)]
        last = " / ".join((telling or lines)[-4:]) or "nothing"
        if "Address already in use" in said:
            return ConfigError(
                f"port {port} on 127.0.0.1 is taken: choose another one, or leave it out so that a "
                "free one is found",
                port=port,
            )
        if "No space left on device" in said:
            return FatalError(
                f"the disk with {data} is full: make room and start again (the server said "
                f"{last!r})",
                path=str(data),
            )
        return FatalError(
            f"the database server over {data} did not start; it said {last!r} (all of it in "
            f"{self.cluster.log})",
            path=str(data),
        )


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    """End a server that is just starting. A signal before it listens to signals may be lost: a
    shell starts what it runs in the background with SIGINT ignored."""
    while child.poll() is None:
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_PAUSE_S * 10)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def buffers_mb() -> int:
    """What PostgreSQL keeps of its pages: a sixteenth of the machine's memory, from 128 MB (its own
    default, which is much for a small machine) to 1 GB. It is used as the data needs it: with a
    million profiles in 128 MB most pages that a change touches are fetched from the system."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        return _LEAST_BUFFERS_MB
    # A container has less than its machine; "max", or no such file, is as much as there is.
    with contextlib.suppress(ValueError, OSError):
        memory = min(memory, int(_CONTAINER_MEMORY.read_text(encoding="ascii")))
    return max(_LEAST_BUFFERS_MB, min(_MOST_BUFFERS_MB, memory // (16 * 1024 * 1024)))


def _shared_memory_type() -> str:
    """Containers give /dev/shm only 64 MB by default, too little for building an index."""
    try:
        facts = os.statvfs("/dev/shm")  # noqa: S108 - only measured
    except OSError:
        return "posix"
    room = facts.f_bavail * facts.f_frsize
    return "posix" if room >= _SHARED_MEMORY_WANTED else "mmap"
