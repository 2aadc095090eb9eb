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

import os
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # this file is also loaded by its path

from java_server import Jars, JavaServer, free_port, run_command

LIST: Final = Path(__file__).with_name("opensearch.jars")
VERSION: Final = "2.19.1"
JAVA: Final = range(17, 24)
MAIN: Final = "org.opensearch.bootstrap.OpenSearch"
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


class Jar(NamedTuple):
    """One file of the server: its hash, its folder in the server's home, its path in Maven."""

    digest: str
    folder: str
    path: str

    @property
    def name(self) -> str:
        return Path(self.path).name


def wanted_jars() -> list[Jar]:
    """All files of the server."""
    lines = LIST.read_text(encoding="ascii").splitlines()
    return [Jar(*line.split()) for line in lines if line]


JARS: Final = Jars(
    "opensearch", "PENSTOCK_OPENSEARCH_JARS", {jar.path: jar.digest for jar in wanted_jars()}
)


def why_not(folder: Path | None = None) -> str | None:
    """Why no server can be started here, or None when it can."""
    return JARS.why_not(folder, java=JAVA)


class Node(JavaServer):
    """One OpenSearch server in a folder of its own, which can be killed and started again."""

    def __init__(self, folder: Path, *, port: int | None = None, jars: Path | None = None) -> None:
        super().__init__(folder.resolve())
        self.port = port or free_port()
        self._jars = jars or JARS.folder()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return self.url

    def _begin(self) -> Callable[[], bool]:
        return self._answers

    def _home(self) -> Path:
        return self.folder / "home"

    def _user(self) -> int | None:
        return NOBODY if os.geteuid() == 0 else None

    def _command(self) -> list[str]:
        home = self._home()
        return [
            "java",
            *JVM,
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            f"-Dopensearch.path.home={home}",
            f"-Dopensearch.path.conf={home / 'config'}",
            "-cp",
            f"{home / 'lib'}/*",
            MAIN,
        ]

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
            JARS.fetch(self._jars)
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


def main() -> None:
    """The command line."""
    run_command(
        __doc__.splitlines()[0],
        JARS,
        lambda folder, port, jars: Node(folder, port=port, jars=jars),
        MAIN,
    )


if __name__ == "__main__":
    main()
