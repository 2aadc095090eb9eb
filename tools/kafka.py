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

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # this file is also loaded by its path

from java_server import ANY_JAVA, Jars, JavaServer, ToolError, free_port, run_command

LIST = Path(__file__).with_name("kafka.jars")
HEAP = "512m"
STARTED = "Kafka Server started"
MAIN = "kafka.Kafka"
CLUSTER = "penstock-test-broker-0"
JAVA = range(17, ANY_JAVA + 1)

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


def _digests() -> dict[str, str]:
    lines = LIST.read_text(encoding="ascii").splitlines()
    return {path: digest for digest, path in (line.split() for line in lines if line)}


JARS = Jars("kafka", "PENSTOCK_KAFKA_JARS", _digests())


def why_not(folder: Path | None = None) -> str | None:
    """Why no broker can be started here, or None when it can."""
    return JARS.why_not(folder, java=JAVA)


class Broker(JavaServer):
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
        super().__init__(folder)
        self._jvm = (*JVM, *QUICK_START) if quick else JVM
        used = _port_in(folder)
        if port is not None and used not in (None, port):
            raise ToolError(f"expected port {used}, which {folder} was made for, got {port}")
        self.port = used or port or free_port()
        self._controller = free_port()
        self._advertised = advertised
        self._settings = dict(settings or {})
        self._jars = jars or JARS.folder()

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return self.bootstrap_servers

    @property
    def log(self) -> str:
        """What the server wrote."""
        file = self.folder / "broker.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _begin(self) -> Callable[[], bool]:
        began = len(self.log)
        return lambda: STARTED in self.log[began:]

    def _command(self) -> list[str]:
        return [*self._java(), MAIN, str(self.folder / "server.properties")]

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
            raise ToolError(f"the broker's folder cannot be made: {done.stdout}{done.stderr}")

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
        JARS.fetch(self._jars)
        classpath = ":".join(str(self._jars / Path(path).name) for path in JARS.digests)
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return ["java", *self._jvm, logging, "-cp", classpath]

    def _last_words(self) -> str:
        output = self.folder / "output.log"
        said = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
        return (said + self.log)[-2000:]


def _port_in(folder: Path) -> int | None:
    """The port of the broker that a folder was made for."""
    file = folder / "server.properties"
    if not file.exists():
        return None
    found = re.search(r"^listeners=\w+://[^,]*:(\d+),", file.read_text(encoding="utf-8"), re.M)
    return int(found[1]) if found else None


def main() -> None:
    """The command line."""
    run_command(
        __doc__.splitlines()[0],
        JARS,
        lambda folder, port, jars: Broker(folder, port=port, jars=jars, quick=False),
        MAIN,
    )


if __name__ == "__main__":
    main()
