"""A real Apache Kafka broker for tests, measurements and trying things out.

    python tools/kafka.py fetch                 # the server's jars (44 MB) into the cache
    python tools/kafka.py start --folder X      # one broker in KRaft mode; prints its address
    python tools/kafka.py stop --folder X

Needs Java 17 or later and nothing else: no Docker, no ZooKeeper, no Maven. Which jars, and what
they must hash to, is written in ``kafka.jars`` beside this file. They are kept in the folder given
by ``--jars`` or ``PENSTOCK_KAFKA_JARS`` (default: the user's cache), and come from the Maven
repository named by ``PENSTOCK_MAVEN_REPOSITORY`` (default: Maven Central).

Tests and scripts use `Broker`. Standard library only.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

LIST = Path(__file__).with_name("kafka.jars")
CENTRAL = "https://repo1.maven.org/maven2"
HEAP = "512m"
START_LIMIT_S = 50.0
STOP_LIMIT_S = 20.0
STARTED = "Kafka Server started"
CLUSTER = "penstock-test-broker-0"
JAVA = 17

# The small compiler and collector start quicker and leave the other core alone.
JVM = (
    f"-Xmx{HEAP}",
    "-Xms128m",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
)
QUICK_START = ("-XX:TieredStopAtLevel=1",)
"""Less compiling: starts in half the time, and is slower afterwards."""

LOGGING = """\
appender.file.type = File
appender.file.name = file
appender.file.fileName = {folder}/broker.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %-5p %c{{1}} %m%n
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = file
"""


class KafkaToolError(Exception):
    """The broker cannot be had; the message says what to do."""


# --------------------------------------------------------------------------- jars


def jar_folder() -> Path:
    """Where jars are kept unless somebody says else."""
    named = os.environ.get("PENSTOCK_KAFKA_JARS")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "penstock" / "kafka"


def wanted_jars() -> dict[str, str]:
    """Path within a Maven repository to SHA-256."""
    lines = LIST.read_text(encoding="ascii").splitlines()
    return {path: digest for digest, path in (line.split() for line in lines if line)}


def missing_jars(folder: Path) -> list[str]:
    """Which jars are not there yet. What is there was checked when it was put there."""
    return [path for path in wanted_jars() if not (folder / Path(path).name).exists()]


def fetch(folder: Path | None = None) -> Path:
    """All jars in ``folder``, each checked against its hash; returns the folder."""
    folder = folder or jar_folder()
    missing = missing_jars(folder)
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        digests = wanted_jars()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: _fetch_jar(folder, path, digests[path]), missing))
    return folder


def _fetch_jar(folder: Path, path: str, digest: str) -> None:
    address = os.environ.get("PENSTOCK_MAVEN_REPOSITORY", CENTRAL).rstrip("/") + "/" + path
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            data = response.read()
    except (OSError, urllib.error.URLError) as error:
        raise KafkaToolError(
            f"expected to read {address}, got {error}: check the network, or name another Maven "
            "repository in PENSTOCK_MAVEN_REPOSITORY"
        ) from error
    got = hashlib.sha256(data).hexdigest()
    if got != digest:
        raise KafkaToolError(
            f"expected {Path(path).name} with SHA-256 {digest}, got {got}: the repository holds "
            "another file than the one that was tested; do not use it"
        )
    part = folder / f"{Path(path).name}.{os.getpid()}.part"
    part.write_bytes(data)
    part.replace(folder / Path(path).name)


def why_not(folder: Path | None = None) -> str | None:
    """Why no broker can be started here, or None when it can."""
    java = shutil.which("java")
    if java is None:
        return f"Java {JAVA} or later is not installed"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = said.split('"')[1].split(".")[0] if '"' in said else "?"
    if not version.isdigit() or int(version) < JAVA:
        return f"Java {JAVA} or later is not installed (this is {version})"
    if missing_jars(folder or jar_folder()):
        return "Kafka's jars are not there: run `python tools/kafka.py fetch`"
    return None


# --------------------------------------------------------------------------- the broker


class Broker:
    """One Apache Kafka server, broker and controller in one, in a folder of its own.

    It can be killed, paused and started again on the same data and ports. ``settings`` are lines
    of its configuration, which replace ours of the same name; ``quick`` starts quickly and is for
    tests, not for measurements. ``advertised`` is where clients are sent, if not to the broker
    itself: a proxy (the broker talks to itself past it).
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        jars: Path | None = None,
        quick: bool = True,
        advertised: str | None = None,
    ) -> None:
        self.folder = folder
        self._jvm = (*JVM, *QUICK_START) if quick else JVM
        used = _port_in(folder)
        if port is not None and used not in (None, port):
            raise KafkaToolError(f"expected port {used}, which {folder} was made for, got {port}")
        self.port = used or port or free_port()
        self._controller = free_port()
        self._advertised = advertised
        self._settings = dict(settings or {})
        self._jars = jars or jar_folder()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise KafkaToolError("expected a running broker, got one that is stopped: start it")
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server wrote."""
        file = self.folder / "broker.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def start(self, *, with_parent: bool = True) -> Self:
        """Start and wait until it answers. ``with_parent``: it dies when this process does."""
        self._prepare()
        began = len(self.log)
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._java(), "kafka.Kafka", str(self.folder / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if with_parent else None,  # noqa: PLW1509 - one call, async-signal-safe
            )
        deadline = time.monotonic() + START_LIMIT_S
        while STARTED not in self.log[began:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise KafkaToolError(f"the broker did not start: {self._last_words()}")
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
        if (self.folder / "data" / "meta.properties").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = {**self._defaults(), **self._settings}
        (self.folder / "server.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in lines.items()), encoding="utf-8"
        )
        (self.folder / "log4j2.properties").write_text(
            LOGGING.format(folder=self.folder), encoding="utf-8"
        )
        tool = ("kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER)
        done = subprocess.run(
            [*self._java(), *tool, "-c", str(self.folder / "server.properties")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise KafkaToolError(f"the broker's folder cannot be made: {done.stdout}{done.stderr}")

    def _defaults(self) -> dict[str, str]:
        here = f"127.0.0.1:{self._controller}"
        return {
            **self._listeners(here),
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": here,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": (
                "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,SSL:SSL,"
                "SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL"
            ),
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            # One node: its own topics cannot have copies elsewhere, and few partitions start quick.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.min.heartbeat.interval.ms": "300",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": "8388608",
            "controlled.shutdown.enable": "false",
        }

    def _listeners(self, controller: str) -> dict[str, str]:
        own = f"PLAINTEXT://{self.bootstrap_servers}"
        if self._advertised is None:
            return {
                "listeners": f"{own},CONTROLLER://{controller}",
                "inter.broker.listener.name": "PLAINTEXT",
            }
        internal = f"INTERNAL://127.0.0.1:{free_port()}"
        return {
            "listeners": f"{own},{internal},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self._advertised},{internal}",
            "inter.broker.listener.name": "INTERNAL",
        }

    def _java(self) -> list[str]:
        fetch(self._jars)
        classpath = ":".join(str(self._jars / Path(path).name) for path in wanted_jars())
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return ["java", *self._jvm, logging, "-cp", classpath]

    def _last_words(self) -> str:
        output = self.folder / "output.log"
        said = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
        return (said + self.log)[-2000:]


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _port_in(folder: Path) -> int | None:
    """The port of the broker that a folder was made for."""
    file = folder / "server.properties"
    if not file.exists():
        return None
    found = re.search(r"^listeners=\w+://[^,]*:(\d+),", file.read_text(encoding="utf-8"), re.M)
    return int(found[1]) if found else None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# --------------------------------------------------------------------------- the command


def _start(options: argparse.Namespace) -> None:
    folder = options.folder.resolve()
    broker = Broker(folder, port=options.port, jars=options.jars, quick=False)
    broker.start(with_parent=False)
    facts: dict[str, Any] = {"pid": broker.pid, "bootstrap_servers": broker.bootstrap_servers}
    (folder / "running.json").write_text(json.dumps(facts), encoding="utf-8")
    print(broker.bootstrap_servers)


def _stop(options: argparse.Namespace) -> None:
    file = options.folder.resolve() / "running.json"
    try:
        pid = int(json.loads(file.read_text(encoding="utf-8"))["pid"])
    except FileNotFoundError:
        raise KafkaToolError(
            f"expected a broker started in {options.folder}, found no {file.name} there: "
            "name the folder that `start` was given"
        ) from None
    file.unlink()
    deadline = time.monotonic() + STOP_LIMIT_S
    number = signal.SIGTERM
    while _is_broker(pid, options.folder):
        os.kill(pid, number)
        while _is_broker(pid, options.folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        number = signal.SIGKILL


def _is_broker(pid: int, folder: Path) -> bool:
    """Is it still that process, and not another one that got its number?"""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return "kafka.Kafka" in line and str(folder.resolve()) in line


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jars", type=Path, default=jar_folder(), help="where the jars are kept")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="get the jars")
    start = commands.add_parser("start", help="start a broker and print its address")
    start.add_argument("--folder", type=Path, required=True)
    start.add_argument("--port", type=int, default=None)
    stop = commands.add_parser("stop", help="stop the broker of a folder")
    stop.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    try:
        if options.command == "fetch":
            print(fetch(options.jars))
        elif options.command == "start":
            _start(options)
        else:
            _stop(options)
    except KafkaToolError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
