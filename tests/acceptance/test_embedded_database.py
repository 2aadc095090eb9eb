"""The embedded database as real processes: started, shared, killed, left behind, found again."""

# ruff: noqa: ASYNC220 - these tests look at files and processes, nothing else runs beside

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from penstock.database import cluster, installation, server
from penstock.database.account import account_for, identity
from penstock.database.embedded import EmbeddedPostgres
from penstock.errors import ConfigError, FatalError, UnavailableError

IS_ROOT = os.geteuid() == 0
QUICK = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "20"}

# A process that uses the database until its input ends (or a signal comes).
USER = """
import asyncio, signal, sys
from pathlib import Path
from penstock.database.embedded import EmbeddedPostgres

async def main():
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, over.set)
    async with EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"}) as database:
        print(database.server_pid(), flush=True)
        await over.wait()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
asyncio.run(main())
"""


class User:
    """Another process that uses the database in a folder."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def server_pid(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def leave(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that others may enter, as a project folder has it; nothing runs there after."""
    parent = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    parent.chmod(0o755)
    yield parent / "db"
    for process in psutil.process_iter():
        try:
            if any(str(parent) in word for word in process.cmdline()):
                process.kill()
        except psutil.Error:
            continue
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A database that was made and stopped."""
    parent = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    parent.chmod(0o755)
    asyncio.run(_make(parent / "db"))
    yield parent / "db"
    shutil.rmtree(parent)


async def _make(folder: Path) -> None:
    async with EmbeddedPostgres(folder, settings=QUICK):
        pass


@pytest.fixture
def made(folder: Path, template: Path) -> None:
    """A stopped database in ``folder``, quicker than making one."""
    subprocess.run(["cp", "-a", str(template), str(folder)], check=True)


@pytest.fixture
def user(folder: Path) -> Iterator[Callable[[], User]]:
    """Starts further processes that use the database in ``folder``."""
    users: list[User] = []

    def start() -> User:
        users.append(User(folder))
        return users[-1]

    yield start
    for one in users:
        one.end()


def fetch(dsn: str, query: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return str(row[0])


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


async def until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_dead(pid: int) -> None:
    await until(lambda: not lives(pid))


async def test_a_new_database_is_private_and_leaves_its_surroundings_alone(folder: Path) -> None:
    """Password by scram for everybody, secrets readable by their owner only and shown nowhere,
    the server without rights, and no folder above it changed."""
    parent = folder.parent
    before = [(path.stat().st_mode, path.stat().st_uid) for path in (parent, parent.parent)]
    async with EmbeddedPostgres(folder, settings=QUICK) as database:
        dsn = database.dsn()
        password = (folder / "password").read_text().strip()
        pid = database.server_pid()
        assert pid is not None
        assert fetch(dsn, "SHOW data_checksums") == "on"
        assert fetch(dsn, "SHOW server_encoding") == "UTF8"
        assert (
            fetch(dsn, "SELECT datlocale FROM pg_database WHERE datname = 'penstock'") == "C.UTF-8"
        )
        assert fetch(dsn, "SHOW wal_level") == "logical"
        assert (
            fetch(dsn, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'trust'") == "0"
        )
        for other in (dsn.replace(password, "wrong"), dsn.replace(f":{password}", "")):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(other)
        assert psutil.Process(pid).uids().real != 0
        assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
        assert len(password) >= 22  # 132 bits in base 64
        assert not any(password in word for word in psutil.Process(pid).cmdline())
        assert password not in database.data_dir.joinpath("server.log").read_text()
    assert before == [(path.stat().st_mode, path.stat().st_uid) for path in (parent, parent.parent)]
    assert not lives(pid)


@pytest.mark.usefixtures("made")
async def test_a_killed_server_is_started_again_with_its_data_and_its_port(folder: Path) -> None:
    """kill -9 of the server costs a restart and nothing that was committed."""
    async with EmbeddedPostgres(folder, settings=QUICK) as database:
        dsn = database.dsn()
        execute(dsn, "CREATE TABLE kept AS SELECT 42 AS value")
        for _ in range(2):
            pid = database.server_pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until_dead(pid)
            assert database.server_pid() is None
            assert await database.ensure_running() == dsn
            assert fetch(dsn, "SELECT value FROM kept") == "42"
            assert not psutil.pid_exists(pid), "a dead child must not stay listed"


@pytest.mark.usefixtures("made")
async def test_the_last_to_leave_stops_the_server(folder: Path) -> None:
    """Users come and go; the server lives as long as one of them."""
    first = EmbeddedPostgres(folder, settings=QUICK)
    second = EmbeddedPostgres(folder, settings=QUICK)
    assert await first.start() == await second.start()
    pid = first.server_pid()
    assert pid is not None
    await first.stop()
    assert fetch(second.dsn(), "SELECT 1") == "1"
    await first.stop()
    assert lives(pid)
    await second.stop()
    assert not lives(pid)
    with pytest.raises(UnavailableError):
        first.dsn()


@pytest.mark.usefixtures("made")
async def test_the_server_outlives_the_killed_process_that_started_it(
    folder: Path, user: Callable[[], User]
) -> None:
    """kill -9 of its owner leaves an orphan, which the next one adopts and stops at the end."""
    owner = user()
    pid = owner.server_pid()
    os.kill(owner.process.pid, signal.SIGKILL)
    owner.process.wait()
    assert lives(pid)
    async with EmbeddedPostgres(folder, settings=QUICK) as database:
        assert database.server_pid() == pid
        assert fetch(database.dsn(), "SELECT 1") == "1"
    assert not lives(pid)


@pytest.mark.usefixtures("made")
async def test_ctrl_c_in_the_owners_terminal_does_not_reach_the_server(
    folder: Path, user: Callable[[], User]
) -> None:
    """The whole foreground group is interrupted; who else uses the database notices nothing."""
    owner = user()
    pid = owner.server_pid()
    async with EmbeddedPostgres(folder, settings=QUICK) as database:
        with psycopg.connect(database.dsn()) as connection:
            os.killpg(owner.process.pid, signal.SIGINT)
            owner.process.wait(30)
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert database.server_pid() == pid
    assert not lives(pid)


async def test_processes_that_start_at_the_same_moment_share_one_server(
    folder: Path, user: Callable[[], User]
) -> None:
    """Nobody has made the database yet, and three processes want it at once."""
    users = [user() for _ in range(3)]
    pids = await asyncio.gather(*(asyncio.to_thread(one.server_pid) for one in users))
    assert len(set(pids)) == 1
    for one in users:
        assert lives(pids[0])
        assert one.leave() == 0
    assert not lives(pids[0])


async def test_a_start_that_is_cancelled_leaves_nothing_running(folder: Path) -> None:
    """Ctrl-C while the database is being made."""
    database = EmbeddedPostgres(folder, settings=QUICK)
    starting = asyncio.ensure_future(database.start())
    await until(lambda: any(folder.glob("making-*")) or (folder / "pgdata").exists())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert database.server_pid() is None
    async with database:
        assert fetch(database.dsn(), "SELECT 1") == "1"


@pytest.mark.usefixtures("made")
async def test_a_lock_file_with_the_number_of_an_unrelated_process_is_taken_over(
    folder: Path,
) -> None:
    """Numbers of processes are used again, in containers with every restart."""
    database = EmbeddedPostgres(folder, settings=QUICK)
    await database.start()
    pid = database.server_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until_dead(pid)
    account = account_for(folder / "pgdata")  # PostgreSQL passes over those of other users
    with subprocess.Popen(["sleep", "60"], **identity(account)) as unrelated:
        for name in ("postmaster.pid", f".s.PGSQL.{(folder / 'port').read_text().strip()}.lock"):
            lock = folder / "pgdata" / name
            lock.write_text(lock.read_text().replace(str(pid), str(unrelated.pid), 1))
        try:
            assert fetch(await database.ensure_running(), "SELECT 1") == "1"
            assert unrelated.poll() is None
        finally:
            unrelated.kill()
    await database.stop()


@pytest.mark.usefixtures("made")
async def test_a_taken_port_is_said(folder: Path) -> None:
    """A port that was asked for is a requirement, one that was found is not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is taken"):
            await EmbeddedPostgres(folder, settings=QUICK, port=port).start()
        (folder / "port").write_text(f"{port}\n")
        async with EmbeddedPostgres(folder, settings=QUICK) as database:
            assert f"port={port}" not in database.dsn()
            assert fetch(database.dsn(), "SELECT 1") == "1"


async def test_a_long_path_is_reached_over_loopback(folder: Path) -> None:
    """A socket's path may have about a hundred bytes; a project's path may have more."""
    deep = folder / ("x" * 100) / "database"
    async with EmbeddedPostgres(deep, settings=QUICK, database="my project") as database:
        assert "@127.0.0.1:" in database.dsn()
        assert fetch(database.dsn(), "SELECT current_database()") == "my project"


@pytest.mark.usefixtures("made")
async def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    """The last lines of its log are in the message, and nothing keeps running."""
    database = EmbeddedPostgres(folder, settings={**QUICK, "shared_buffers": "a lot"})
    with pytest.raises(FatalError, match=r"did not start.*shared_buffers"):
        await database.start()
    pgdata = folder / "pgdata"
    (pgdata / "global" / "pg_control").unlink()
    with pytest.raises(FatalError, match="pg_control"):
        await EmbeddedPostgres(folder, settings=QUICK).start()
    (pgdata / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigError, match="made by PostgreSQL 17"):
        await EmbeddedPostgres(folder, settings=QUICK).start()
    (pgdata / "PG_VERSION").unlink()
    with pytest.raises(ConfigError, match="found other files"):
        await EmbeddedPostgres(folder, settings=QUICK).start()
    assert database.server_pid() is None


async def test_a_folder_that_cannot_be_used_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the way, a full disk, a lost password: each is one sentence."""
    folder.write_text("in the way")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        await EmbeddedPostgres(folder).start()
    folder.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_FREE_BYTES_NEEDED", 1 << 60)
        with pytest.raises(ConfigError, match="make room"):
            await EmbeddedPostgres(folder).start()
    async with EmbeddedPostgres(folder, settings=QUICK):
        pass
    (folder / "password").unlink()
    with pytest.raises(ConfigError, match="the password of the database is gone"):
        await EmbeddedPostgres(folder, settings=QUICK).start()


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another user")
async def test_root_with_a_private_home_gets_a_database_without_opening_its_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Project and virtual environment below a home with mode 0700, as in most containers: the
    server runs without rights and the modes stay."""
    home = folder.parent / "home"
    home.mkdir(mode=0o700)
    real = installation.find_installation()
    copy = installation._copied(real, home / "site-packages")
    monkeypatch.setattr(server, "find_installation", lambda: copy)
    monkeypatch.setattr(installation, "_SYSTEM_CACHE", folder.parent / "cache")
    database = EmbeddedPostgres(home / "project" / ".penstock", settings=QUICK)
    dsn = await database.start()
    pid = database.server_pid()
    assert pid is not None
    process = psutil.Process(pid)
    assert process.uids().real != 0
    assert str(folder.parent / "cache") in process.exe()
    execute(dsn, "CREATE EXTENSION vector")
    os.kill(pid, signal.SIGKILL)
    await until_dead(pid)
    assert fetch(await database.ensure_running(), "SELECT '[1,2]'::vector <-> '[1,2]'") == "0.0"
    await database.stop()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    # With a folder that the account can enter, the copy lies beside the database.
    async with EmbeddedPostgres(folder, settings=QUICK) as other:
        pid = other.server_pid()
        assert pid is not None
        assert str(folder / "programs") in psutil.Process(pid).exe()
