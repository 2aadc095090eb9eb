"""Interrupted, doubled, killed, on a full disk: what was committed stays and the rest is said."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Home


def write_documents(home: Home, number: int) -> None:
    for i in range(number):
        (home.documents / f"{i:03}.md").write_text(f"# Number {i}\n\nThe tent {i} is yellow.\n")


def assert_in_step(home: Home) -> None:
    ended = home.run("run", "--once")
    assert ended.code == 0, ended.errors
    verified = home.run("verify", "--json")
    assert (verified.code, verified.json["differences"]) == (0, 0), verified
    assert home.servers() == []


def test_g2_interrupted_at_any_moment(home: Home) -> None:
    """Ctrl-C ends `run` with 130, without a traceback, and the database stops with it; afterwards
    nothing is missing."""
    home.project("embedded")
    write_documents(home, 50)
    for milliseconds in (250, 450, 700, 1000, 1500):
        running = home.start("run")
        running.look(milliseconds / 1000)
        ended = running.signal().end()
        assert "Traceback" not in ended.errors, (milliseconds, ended.errors)
        # Killed by the signal without a word: on a busy machine, Python itself was not up yet.
        before_python = ended.code == -signal.SIGINT and not ended.errors + ended.output
        assert ended.code == 130 or (before_python and milliseconds < 1000), (milliseconds, ended)
        assert home.servers() == [], milliseconds
    assert_in_step(home)


def test_interrupted_while_others_use_the_database(home: Home) -> None:
    """The last one stops the database, and no sooner; the second `run` is told about the first."""
    home.project("embedded")
    write_documents(home, 3)
    first = home.start("run").wait_for("is running")
    said = home.run("run").sentence(2)
    assert "expected to be the only process" in said
    assert str(first.process.pid) in said
    following = home.start("tail", "documents", "--json").wait_for("following")
    first.wait_for("in step")
    assert first.signal().end().code == 130
    assert len(home.servers()) == 1
    assert home.run("sql", "SELECT 1 AS one", "--json").json == [{"one": 1}]
    assert following.signal().end().code == 130
    assert home.servers() == []


def test_g2_database_killed_while_running(home: Home) -> None:
    """The server is killed: it is started again, and what changes afterwards arrives."""
    home.project("embedded")
    write_documents(home, 3)
    running = home.start("run").wait_for("in step")
    (killed,) = home.servers()
    os.kill(killed, signal.SIGKILL)
    (home.documents / "late.md").write_text("# Late\nThe lamp came late.\n")
    deadline = time.monotonic() + 40
    found: list[str] = []
    while "late.md" not in found:
        assert time.monotonic() < deadline, running.look(0).errors
        ended = home.run("search", "lamp", "--json")
        found = [p["key"] for p in ended.json["passages"]] if ended.code == 0 else []
    assert home.servers() != [killed]
    assert running.signal().end().sentence(130)
    assert_in_step(home)


@pytest.fixture
def small_disk(home: Home) -> Iterator[None]:
    """The project's data on a file system of 400 MB."""
    place = home.folder / ".penstock"
    place.mkdir(mode=0o755)
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "tmpfs", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode()}")
    yield
    home.close()
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_g2_disk_full(home: Home, small_disk: None) -> None:
    """A full disk is named in a sentence; with room again, everything arrives."""
    home.project("embedded")
    write_documents(home, 3)
    running = home.start("run").wait_for("in step")
    fill = home.folder / ".penstock" / "fill"
    with fill.open("wb") as file:
        room = os.statvfs(fill)
        left = room.f_bavail * room.f_frsize - 2_000_000
        for _ in range(left // 1_000_000):
            file.write(bytes(1_000_000))
    text = "\n\n".join(f"Paragraph {i} of {os.urandom(300).hex()}." for i in range(10_000))
    (home.documents / "large.md").write_text(text)
    running.wait_for("space left")
    fill.unlink()
    deadline = time.monotonic() + 40
    documents = 0
    while documents != 4:
        assert time.monotonic() < deadline, running.look(0).errors
        ended = home.run("status", "--json")
        documents = ended.json["documents"] if ended.code == 0 else 0
    ended = running.signal().end()
    assert "Traceback" not in ended.errors
    assert_in_step(home)
