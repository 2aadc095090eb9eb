"""A real OpenSearch server with the k-NN plugin, for tests and for trying things out.

    python tools/opensearch.py fetch                 # the server's jars (51 MB) into the cache
    python tools/opensearch.py start --folder X      # one node; prints its address
    python tools/opensearch.py stop --folder X

Needs Java 17 or later and nothing else: no Docker. OpenSearch publishes no whole server in Maven
repositories, but all its parts: this puts together the server, the HTTP transport, Painless and the
k-NN plugin (the Lucene engine; nmslib and Faiss need native libraries that are not there). Which
files, and what they must hash to, is written in ``opensearch.jars`` beside this file. They are kept
in the folder given by ``--jars`` or ``PENSTOCK_OPENSEARCH_JARS`` (default: the user's cache), and
come from the Maven repository named by ``PENSTOCK_MAVEN_REPOSITORY`` (default: Maven Central).

Tests use `Node`. Standard library only.
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
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

LIST: Final = Path(__file__).with_name("opensearch.jars")
CENTRAL: Final = "https://repo1.maven.org/maven2"
VERSION: Final = "2.19.1"
JAVA: Final = 17
START_LIMIT_S: Final = 55.0
STOP_LIMIT_S: Final = 20.0
NOBODY: Final = 65534  # the server refuses to run as root

JVM: Final = (
    "-Xmx512m",
    "-Xms256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Djava.security.manager=allow",
    "-Dlog4j2.disable.jmx=true",
    "-Dlog4j.shutdownHookEnabled=false",
    "-Dopensearch.networkaddress.cache.ttl=60",
    "-Dopensearch.distribution.type=tar",
    "-Dopensearch.bundled_jdk=false",
)

# What the two modules say of themselves; their jars alone, as published, do not.
_MODULES: Final = {
    "transport-netty4": ("org.opensearch.transport.Netty4Plugin", ""),
    "lang-painless": ("org.opensearch.painless.PainlessPlugin", ""),
}
_NETTY_POLICY: Final = """\
grant {
  permission java.net.SocketPermission "*", "accept,connect,resolve";
  permission java.net.SocketPermission "localhost:0-", "listen,resolve";
  permission java.lang.RuntimePermission "setContextClassLoader";
  permission java.lang.RuntimePermission "getClassLoader";
  permission java.lang.RuntimePermission "accessDeclaredMembers";
  permission java.lang.reflect.ReflectPermission "suppressAccessChecks";
  permission java.util.PropertyPermission "*", "read,write";
};
"""
_PAINLESS_POLICY: Final = """\
grant {
  permission java.lang.RuntimePermission "createClassLoader";
  permission java.lang.RuntimePermission "getClassLoader";
};
"""
_LOGGING: Final = """\
appender.file.type = File
appender.file.name = file
appender.file.fileName = {folder}/node.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %-5p %c{{1}} %m%n
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = file
"""
_SETTINGS: Final = """\
cluster.name: penstock-test
node.name: one
path.data: {folder}/data
path.logs: {folder}
http.port: {port}
transport.port: {transport}
network.host: 127.0.0.1
discovery.type: single-node
cluster.routing.allocation.disk.threshold_enabled: false
action.auto_create_index: false
"""


class OpenSearchToolError(Exception):
    """The server cannot be had; the message says what to do."""


class Jar(NamedTuple):
    """One file of the server: its hash, its folder in the server's home, its path in Maven."""

    digest: str
    folder: str
    path: str

    @property
    def name(self) -> str:
        return Path(self.path).name


# --------------------------------------------------------------------------- jars


def jar_folder() -> Path:
    """Where jars are kept unless somebody says else."""
    named = os.environ.get("PENSTOCK_OPENSEARCH_JARS")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "penstock" / "opensearch"


def wanted_jars() -> list[Jar]:
    """All files of the server."""
    lines = LIST.read_text(encoding="ascii").splitlines()
    return [Jar(*line.split()) for line in lines if line]


def missing_jars(folder: Path) -> list[Jar]:
    """Which are not there yet. What is there was checked when it was put there."""
    return [jar for jar in wanted_jars() if not (folder / jar.name).exists()]


def fetch(folder: Path | None = None) -> Path:
    """All files in ``folder``, each checked against its hash; returns the folder."""
    folder = folder or jar_folder()
    missing = missing_jars(folder)
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda jar: _fetch_jar(folder, jar), missing))
    return folder


def _fetch_jar(folder: Path, jar: Jar) -> None:
    address = os.environ.get("PENSTOCK_MAVEN_REPOSITORY", CENTRAL).rstrip("/") + "/" + jar.path
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            data = response.read()
    except (OSError, urllib.error.URLError) as error:
        raise OpenSearchToolError(
            f"expected to read {address}, got {error}: check the network, or name another Maven "
            "repository in PENSTOCK_MAVEN_REPOSITORY"
        ) from error
    got = hashlib.sha256(data).hexdigest()
    if got != jar.digest:
        raise OpenSearchToolError(
            f"expected {jar.name} with SHA-256 {jar.digest}, got {got}: the repository holds "
            "another file than the one that was tested; do not use it"
        )
    part = folder / f"{jar.name}.{os.getpid()}.part"
    part.write_bytes(data)
    part.replace(folder / jar.name)


def why_not(folder: Path | None = None) -> str | None:
    """Why no server can be started here, or None when it can."""
    java = shutil.which("java")
    if java is None:
        return f"Java {JAVA} or later is not installed"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = said.split('"')[1].split(".")[0] if '"' in said else "?"
    if not version.isdigit() or not JAVA <= int(version) < 24:
        return f"Java {JAVA} to 23 is not installed (this is {version})"
    if missing_jars(folder or jar_folder()):
        return "OpenSearch's jars are not there: run `python tools/opensearch.py fetch`"
    return None


# --------------------------------------------------------------------------- the server


class Node:
    """One OpenSearch server in a folder of its own, which can be killed and started again."""

    def __init__(self, folder: Path, *, port: int | None = None, jars: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.port = port or free_port()
        self._jars = jars or jar_folder()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise OpenSearchToolError("expected a running server, got one that is stopped")
        return self._process.pid

    def start(self, *, with_parent: bool = True) -> Self:
        """Start and wait until it answers. ``with_parent``: it dies when this process does."""
        self._prepare()
        home = self.folder / "home"
        # Java starts threads first and dies with that one: the parent is asked for by prctl.
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    "java",
                    *JVM,
                    f"-Djava.io.tmpdir={self.folder / 'tmp'}",
                    f"-Dopensearch.path.home={home}",
                    f"-Dopensearch.path.conf={home / 'config'}",
                    "-cp",
                    f"{home / 'lib'}/*",
                    "org.opensearch.bootstrap.OpenSearch",
                ],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=NOBODY if os.geteuid() == 0 else None,
                preexec_fn=_die_with_parent if with_parent else None,  # noqa: PLW1509 - one call, async-signal-safe
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise OpenSearchToolError(f"the server did not start: {self._last_words()}")
            time.sleep(0.1)
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

    def _answers(self) -> bool:
        try:
            address = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
            with urllib.request.urlopen(address, timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _prepare(self) -> None:
        home = self.folder / "home"
        if not home.exists():
            fetch(self._jars)
            making = self.folder / "home.part"
            shutil.rmtree(making, ignore_errors=True)
            _assemble(making, self._jars)
            making.rename(home)
        for name in ("data", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        (home / "config" / "opensearch.yml").write_text(
            _SETTINGS.format(folder=self.folder, port=self.port, transport=free_port())
        )
        (home / "config" / "log4j2.properties").write_text(_LOGGING.format(folder=self.folder))
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, NOBODY, -1, follow_symlinks=False)

    def _last_words(self) -> str:
        files = (self.folder / "output.log", self.folder / "node.log")
        return "".join(f.read_text(errors="replace") for f in files if f.exists())[-3000:]


def _assemble(home: Path, jars: Path) -> None:
    """The server's home: jars copied (not linked: it checks where its code lies)."""
    (home / "config").mkdir(parents=True)
    for jar in wanted_jars():
        target = home / jar.folder
        target.mkdir(parents=True, exist_ok=True)
        if jar.name.endswith(".zip"):
            with zipfile.ZipFile(jars / jar.name) as archive:
                archive.extractall(target)
        else:
            shutil.copyfile(jars / jar.name, target / jar.name)
    for name, (plugin, extended) in _MODULES.items():
        folder = home / "modules" / name
        (folder / "plugin-descriptor.properties").write_text(
            f"name={name}\ndescription={name}\nversion={VERSION}\nopensearch.version={VERSION}\n"
            f"java.version=11\nclassname={plugin}\nextended.plugins={extended}\n"
            "has.native.controller=false\n"
        )
        policy = _NETTY_POLICY if name == "transport-netty4" else _PAINLESS_POLICY
        (folder / "plugin-security.policy").write_text(policy)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# --------------------------------------------------------------------------- the command


def _start(options: argparse.Namespace) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    node = Node(options.folder, port=options.port, jars=options.jars).start(with_parent=False)
    facts = {"pid": node.pid, "url": node.url}
    (node.folder / "running.json").write_text(json.dumps(facts), encoding="utf-8")
    print(node.url)


def _stop(options: argparse.Namespace) -> None:
    file = options.folder.resolve() / "running.json"
    try:
        pid = int(json.loads(file.read_text(encoding="utf-8"))["pid"])
    except FileNotFoundError:
        raise OpenSearchToolError(
            f"expected a server started in {options.folder}, found no {file.name} there: "
            "name the folder that `start` was given"
        ) from None
    file.unlink()
    deadline = time.monotonic() + STOP_LIMIT_S
    number = signal.SIGTERM
    while _is_node(pid, options.folder):
        os.kill(pid, number)
        while _is_node(pid, options.folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        number = signal.SIGKILL


def _is_node(pid: int, folder: Path) -> bool:
    """Is it still that process, and not another one that got its number?"""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return "org.opensearch.bootstrap" in line and str(folder.resolve()) in line


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jars", type=Path, default=jar_folder(), help="where the jars are kept")
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
            print(fetch(options.jars))
        elif options.command == "start":
            _start(options)
        else:
            _stop(options)
    except OpenSearchToolError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
