"""What the servers in Java that tests start have in common: their jars, and being started.

Standard library only. `kafka.py` and `opensearch.py` beside this file are the commands.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

CENTRAL: Final = "https://repo1.maven.org/maven2"
STOP_LIMIT_S: Final = 20.0
ANY_JAVA: Final = 999


class ToolError(Exception):
    """The server cannot be had; the message says what to do."""


class Jars:
    """The files of one server: ``digests`` are their paths within a Maven repository with their
    SHA-256; ``variable`` names the folder that they are kept in, if somebody says so."""

    def __init__(self, name: str, variable: str, digests: Mapping[str, str]) -> None:
        self.digests = digests
        self._name = name
        self._variable = variable

    def folder(self) -> Path:
        """Where they are kept unless somebody says else."""
        named = os.environ.get(self._variable)
        if named:
            return Path(named)
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(cache) / "penstock" / self._name

    def missing(self, folder: Path) -> list[str]:
        """Which are not there yet. What is there was checked when it was put there."""
        return [path for path in self.digests if not (folder / Path(path).name).exists()]

    def fetch(self, folder: Path | None = None) -> Path:
        """All of them in ``folder``, each checked against its hash; returns the folder."""
        folder = folder or self.folder()
        missing = self.missing(folder)
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda path: self._fetch_one(folder, path), missing))
        return folder

    def _fetch_one(self, folder: Path, path: str) -> None:
        address = os.environ.get("PENSTOCK_MAVEN_REPOSITORY", CENTRAL).rstrip("/") + "/" + path
        try:
            with urllib.request.urlopen(address, timeout=60) as response:
                data = response.read()
        except (OSError, urllib.error.URLError) as error:
            raise ToolError(
                f"expected to read {address}, got {error}: check the network, or name another "
                "Maven repository in PENSTOCK_MAVEN_REPOSITORY"
            ) from error
        got = hashlib.sha256(data).hexdigest()
        if got != self.digests[path]:
            raise ToolError(
                f"expected {Path(path).name} with SHA-256 {self.digests[path]}, got {got}: the "
                "repository holds another file than the one that was tested; do not use it"
            )
        part = folder / f"{Path(path).name}.{os.getpid()}.part"
        part.write_bytes(data)
        part.replace(folder / Path(path).name)

    def why_not(self, folder: Path | None, *, java: range) -> str | None:
        """Why the server cannot be started here, or None when it can."""
        last = java.stop - 1
        wanted = f"Java {java.start} " + (f"to {last}" if last < ANY_JAVA else "or later")
        program = shutil.which("java")
        if program is None:
            return f"{wanted} is not installed"
        done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
        version = done.stderr.split('"')[1].split(".")[0] if '"' in done.stderr else "?"
        if not version.isdigit() or int(version) not in java:
            return f"{wanted} is not installed (this is {version})"
        if self.missing(folder or self.folder()):
            return f"the jars are not there: run `python tools/{self._name}.py fetch`"
        return None


class JavaServer:
    """One server in a folder of its own, which can be killed, paused and started again there."""

    start_limit_s = 55.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What to tell clients."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ToolError("expected a running server, got one that is stopped: start it")
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, with_parent: bool = True) -> Self:
        """Start and wait until it answers. ``with_parent``: it dies when this process does."""
        self._prepare()
        answers = self._begin()
        with (self.folder / "output.log").open("ab") as output:
            # Java starts threads first and dies with that one: the parent is asked for by prctl.
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._home(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user(),
                preexec_fn=_die_with_parent if with_parent else None,  # noqa: PLW1509 - one call, async-signal-safe
            )
        deadline = time.monotonic() + self.start_limit_s
        while not answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ToolError(f"the server did not start: {self._last_words()}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it in good order; killed when that takes too long."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would, were it not for the system's page cache."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it where it stands: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Wake it from `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def _prepare(self) -> None:
        """Make what the server needs in its folder."""
        raise NotImplementedError

    def _begin(self) -> Callable[[], bool]:
        """What tells whether it answers, once it was started."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _last_words(self) -> str:
        raise NotImplementedError

    def _home(self) -> Path | None:
        """Where it runs."""
        return None

    def _user(self) -> int | None:
        """Who it runs as, if not as we do."""
        return None


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# --------------------------------------------------------------------------- the commands


def run_command(
    description: str,
    jars: Jars,
    make: Callable[[Path, int | None, Path], JavaServer],
    main_class: str,
) -> None:
    """`fetch`, `start` and `stop`, as the command line says."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--jars", type=Path, default=jars.folder(), help="where the jars are kept")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="get the jars")
    start = commands.add_parser("start", help="start a server and print its address")
    start.add_argument("--folder", type=Path, required=True)
    start.add_argument("--port", type=int, default=None)
    stop = commands.add_parser("stop", help="stop the server of a folder")
    stop.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    try:
        if options.command == "fetch":
            print(jars.fetch(options.jars))
        elif options.command == "start":
            options.folder.mkdir(parents=True, exist_ok=True)
            folder = options.folder.resolve()
            server = make(folder, options.port, options.jars).start(with_parent=False)
            facts = {"pid": server.pid, "address": server.address}
            (folder / "running.json").write_text(json.dumps(facts), encoding="utf-8")
            print(server.address)
        else:
            _stop(options.folder, main_class)
    except ToolError as error:
        sys.exit(f"error: {error}")


def _stop(named: Path, main_class: str) -> None:
    folder = named.resolve()
    file = folder / "running.json"
    try:
        pid = int(json.loads(file.read_text(encoding="utf-8"))["pid"])
    except FileNotFoundError:
        raise ToolError(
            f"expected a server started in {named}, found no {file.name} there: "
            "name the folder that `start` was given"
        ) from None
    file.unlink()
    deadline = time.monotonic() + STOP_LIMIT_S
    number = signal.SIGTERM
    while _is_it(pid, folder, main_class):
        os.kill(pid, number)
        while _is_it(pid, folder, main_class) and time.monotonic() < deadline:
            time.sleep(0.05)
        number = signal.SIGKILL


def _is_it(pid: int, folder: Path, main_class: str) -> bool:
    """Is it still that process, and not another one that got its number?"""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return main_class in line and str(folder) in line
