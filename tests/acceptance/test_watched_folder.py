"""A folder source against a real folder: what editors, disks and killed processes do to it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from penstock.errors import UnavailableError
from penstock.records import Change, Op
from penstock.sources.base import SourceBatch
from penstock.sources.extract import Extracted
from penstock.sources.files import FilesSource
from penstock.sources.files.folder import Folder
from penstock.sources.files.inotify import InotifyWatcher
from penstock.sources.files.watching import Hints, PortableWatcher, Watcher, open_watcher
from penstock.testing import documents
from penstock.testing.clock import ManualClock

DEADLINE_S = 20.0


class Reader:
    """Follows a source in the background and keeps what it said, as a process of ours would."""

    def __init__(self, root: Path, state: dict[str, str] | None = None, **options: Any) -> None:
        self.source = FilesSource("docs", root, **({"heartbeat_s": 0.05} | options))
        self.state = state if state is not None else {}
        self.batches: list[SourceBatch] = []
        self.documents: dict[str, Change] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.source.close()

    async def _follow(self) -> None:
        batches: Any = self.source.read(dict(self.state))
        try:
            async for batch in batches:
                self._add(batch)
        finally:
            await batches.aclose()
            self._news.set()

    def _add(self, batch: SourceBatch) -> None:
        self.batches.append(batch)
        for change in batch.changes:
            key = str(change.key[0])
            before = self.documents.get(key)
            assert before is None or before.position < change.position
            self.documents[key] = change
        for name, value in batch.state.items():
            if value is None:
                del self.state[name]
            else:
                self.state[name] = value
        self._news.set()

    @property
    def changes(self) -> list[Change]:
        return [change for batch in self.batches for change in batch.changes]

    def text(self, key: str) -> str | None:
        """The text of a document, None if there is none (or it was deleted)."""
        change = self.documents.get(key)
        value = change.value("text") if change is not None else None
        return value if isinstance(value, str) else None

    def error(self, key: str) -> str:
        change = self.documents.get(key)
        return str(change.value("error")) if change is not None else ""

    def gone(self, key: str) -> bool:
        return key in self.documents and self.documents[key].op is Op.DELETE

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                if self._task is not None and self._task.done():
                    self._task.result()
                self._news.clear()
                await self._news.wait()

    async def until_true(self, condition: Callable[[], bool]) -> None:
        """Until something is so that no batch tells of."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0)

    async def in_step(self) -> None:
        """Until it says that it has seen everything up to now."""
        now = self.source._clock.now()
        await self.until(lambda: any((batch.as_of or 0) >= now for batch in self.batches))

    async def failure(self) -> BaseException:
        assert self._task is not None
        done, _ = await asyncio.wait([self._task], timeout=DEADLINE_S)
        assert done, "expected the source to fail"
        error = self._task.exception()
        assert error is not None
        return error


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    """Reads an empty folder and is in step with it."""
    root = tmp_path / "root"
    root.mkdir()
    async with Reader(root) as reader:
        await reader.in_step()
        reader.root = root  # type: ignore[attr-defined]
        yield reader


@pytest.fixture
def root(reader: Reader) -> Path:
    found: Path = reader.root  # type: ignore[attr-defined]
    return found


async def test_g2_create_change_rename_delete(reader: Reader, root: Path) -> None:
    """Each is one change, in order; a rename is the new name and then the old one, together."""
    (root / "a.md").write_text("# One")
    await reader.until(lambda: reader.text("a.md") == "# One")
    (root / "a.md").write_text("# Two")
    await reader.until(lambda: reader.text("a.md") == "# Two")
    (root / "a.md").rename(root / "b.md")
    await reader.until(lambda: reader.gone("a.md"))
    (root / "b.md").unlink()
    await reader.until(lambda: reader.gone("b.md"))
    story = [(change.op, change.key[0]) for change in reader.changes]
    assert story == [
        (Op.CREATE, "a.md"),
        (Op.UPDATE, "a.md"),
        (Op.CREATE, "b.md"),
        (Op.DELETE, "a.md"),
        (Op.DELETE, "b.md"),
    ]
    renamed = [batch for batch in reader.batches if len(batch.changes) == 2]
    assert [change.key[0] for change in renamed[0].changes] == ["b.md", "a.md"]
    assert not [name for name in reader.state if name.startswith("file:")]


async def test_g5_a_touched_file_is_no_change(reader: Reader, root: Path) -> None:
    """New times and the same content update the state alone; saving the same text again too."""
    (root / "a.md").write_text("same")
    await reader.until(lambda: reader.text("a.md") == "same")
    before = reader.state["file:a.md"]
    os.utime(root / "a.md", (1, 1))
    await reader.until(lambda: reader.state["file:a.md"] != before)
    (root / "a.md").write_text("same")
    (root / ".tmp").write_text("same")
    (root / ".tmp").rename(root / "a.md")
    await reader.in_step()
    assert len(reader.changes) == 1


async def test_a_file_counts_when_its_writer_closes_it(reader: Reader, root: Path) -> None:
    """Half a file is not shown; one that is held open is read when the writer pauses."""
    with (root / "a.md").open("w") as file:
        file.write("half ")
        file.flush()
        (root / "b.md").write_text("other")
        await reader.until(lambda: reader.text("b.md") == "other")
        assert "a.md" not in reader.documents
        file.write("whole")
    await reader.until(lambda: reader.text("a.md") == "half whole")
    assert [change.key[0] for change in reader.changes] == ["b.md", "a.md"]
    with (root / "held.md").open("w") as file:
        file.write("held")
        file.flush()
        await reader.until(lambda: reader.text("held.md") == "held")


async def test_new_folders_are_watched_without_a_race(reader: Reader, root: Path) -> None:
    """Trees made as quickly as the system can: every file in them is found."""
    for number in range(40):
        folder = root / f"{number}" / "deep" / "er"
        folder.mkdir(parents=True)
        (folder / "a.md").write_text(f"{number}")
        (folder.parent / "b.md").write_text(f"{number}")
    await reader.until(lambda: len(reader.documents) == 80)
    (root / "0" / "deep" / "er" / "a.md").write_text("watched")
    await reader.until(lambda: reader.text("0/deep/er/a.md") == "watched")


async def test_folders_renamed_and_deleted(reader: Reader, root: Path, tmp_path: Path) -> None:
    """All that is in them follows: in new places, out of the folder, back, and away."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x.md").write_text("x")
    await reader.until(lambda: reader.text("a/b/x.md") == "x")
    (root / "a").rename(root / "c")
    await reader.until(lambda: reader.gone("a/b/x.md"))
    assert reader.text("c/b/x.md") == "x"
    order = [change.key[0] for change in reader.changes]
    assert order.index("c/b/x.md") < len(order) - 1, "the new name comes before the old one goes"
    (root / "c" / "b" / "x.md").write_text("y")
    await reader.until(lambda: reader.text("c/b/x.md") == "y")
    (root / "c").rename(tmp_path / "outside")
    await reader.until(lambda: reader.gone("c/b/x.md"))
    (tmp_path / "outside" / "b" / "unseen.md").write_text("z")
    (tmp_path / "outside").rename(root / "back")
    await reader.until(lambda: reader.text("back/b/unseen.md") == "z")
    import shutil

    shutil.rmtree(root / "back")
    await reader.until(lambda: reader.gone("back/b/unseen.md") and reader.gone("back/b/x.md"))


async def test_strange_names_and_kinds_of_files(reader: Reader, root: Path) -> None:
    """Newlines are names like any other; bytes that are no UTF-8 are named; pipes are not read."""
    (root / "two\nlines 'n' quotes.md").write_text("a")
    with open(os.fsencode(root) + b"/caf\xe9.md", "w") as file:  # noqa: PTH123, ASYNC230
        file.write("b")
    os.mkfifo(root / "pipe.md")
    (root / "photo.png").write_bytes(b"\x89PNG")
    (root / "empty.md").touch()
    (root / "empty.pdf").touch()
    await reader.until(lambda: len(reader.documents) >= 4)
    await reader.in_step()
    assert reader.text("two\nlines 'n' quotes.md") == "a"
    assert reader.text("empty.md") == reader.text("empty.pdf") == ""
    assert "expected a file name in UTF-8, found b'caf\\xe9.md'" in reader.error("caf\\xe9.md")
    assert len(reader.documents) == 4
    (root / os.fsdecode(b"caf\xe9.md")).unlink()
    await reader.until(lambda: reader.gone("caf\\xe9.md"))


async def test_links_stay_inside(reader: Reader, root: Path, tmp_path: Path) -> None:
    """A link to a file in the folder is read, and read again when that changes; others are not."""
    (tmp_path / "secret.md").write_text("secret")
    (root / "out.md").symlink_to(tmp_path / "secret.md")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "nowhere.md").symlink_to(root / "missing.md")
    (root / "real.md").write_text("v1")
    (root / "link.md").symlink_to(root / "real.md")
    (root / "hard.md").hardlink_to(root / "real.md")
    await reader.until(lambda: reader.text("link.md") == reader.text("hard.md") == "v1")
    await reader.in_step()
    assert set(reader.documents) == {"real.md", "link.md", "hard.md"}
    async with Reader(root) as other:
        await other.in_step()
        assert set(other.documents) == {"real.md", "link.md", "hard.md"}
        (root / "real.md").write_text("v2")
        await other.until(lambda: other.text("link.md") == "v2")


async def test_g13_a_file_that_cannot_be_read_is_an_error_and_the_rest_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, and the document comes when it can be read."""
    refused = {"secret.md"}
    true_read = Folder._read

    def read(self: Folder, key: str, target: str, known: str | None) -> Any:
        if key in refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return true_read(self, key, target, known)

    monkeypatch.setattr(Folder, "_read", read)
    (tmp_path / "secret.md").write_text("s")
    (tmp_path / "open.md").write_text("o")
    async with Reader(tmp_path, rescan_s=0.05) as reader:
        await reader.until(lambda: len(reader.documents) == 2)
        assert reader.error("secret.md") == "expected to read the file, got: Permission denied"
        assert reader.text("open.md") == "o"
        await reader.in_step()
        assert len(reader.changes) == 2
        refused.clear()
        await reader.until(lambda: reader.text("secret.md") == "s")


async def test_g4_a_locked_folder_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be listed is not gone: one error for the folder, its documents stay."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("a")
    true_list = Folder._list
    locked: set[str] = set()

    def listing(self: Folder, folder: str, *arguments: Any) -> None:
        if folder in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        true_list(self, folder, *arguments)

    monkeypatch.setattr(Folder, "_list", listing)
    async with Reader(tmp_path, rescan_s=0.05) as reader:
        await reader.until(lambda: reader.text("sub/a.md") == "a")
        locked.add("sub")
        await reader.until(lambda: "expected to list a folder" in reader.error("sub/"))
        assert not reader.gone("sub/a.md")
        locked.clear()
        await reader.until(lambda: reader.gone("sub/"))
        assert reader.text("sub/a.md") == "a"


async def test_too_large_is_refused_by_its_size(tmp_path: Path) -> None:
    """Half a gigabyte is named and not read."""
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(500_000_000)
    async with Reader(tmp_path) as reader:
        await reader.in_step()
        expected = "expected a file of at most 50,000,000 bytes, found 500,000,000: split it"
        assert expected in reader.error("large.txt")
        assert reader.documents["large.txt"].value("content_hash") is None


async def test_an_empty_folder_is_fine_and_a_missing_one_is_awaited(tmp_path: Path) -> None:
    """Nothing counts as deleted because the folder is away; when it is back, reading goes on."""
    root = tmp_path / "root"
    async with Reader(root) as reader:
        assert isinstance(await reader.failure(), UnavailableError)
    root.mkdir()
    (root / "a.md").write_text("a")
    state: dict[str, str] = {}
    async with Reader(root, state) as reader:
        await reader.in_step()
        root.rename(tmp_path / "away")
        error = await reader.failure()
        assert isinstance(error, UnavailableError)
        assert "nothing counts as deleted" in str(error)
    assert "file:a.md" in state
    (tmp_path / "away").rename(root)
    async with Reader(root, state) as reader:
        await reader.in_step()
        assert reader.changes == []


async def test_an_empty_folder_on_another_device_is_a_disk_that_is_not_mounted(
    tmp_path: Path,
) -> None:
    """The documents are not deleted; a person is told what to look at."""
    state = {"file:a.md": "1 1 1 1 abc", "sequence": "1", "loaded": "1", "root": "0:1"}
    async with Reader(tmp_path, state) as reader:
        assert "is the disk mounted?" in str(await reader.failure())
    assert state["root"] == "0:1"


async def test_g2_live_changes_overtake_the_first_load(tmp_path: Path) -> None:
    """A change during the load comes before the load's end, and the load does not undo it."""
    for number in range(3000):
        (tmp_path / f"{number:04d}.md").write_text(f"old {number}")
    async with Reader(tmp_path) as reader:
        await reader.until(lambda: len(reader.documents) >= 500)
        (tmp_path / "2999.md").write_text("new")
        (tmp_path / "2998.md").unlink()
        (tmp_path / "0001.md").write_text("new")
        (tmp_path / "added.md").write_text("new")
        await reader.in_step()
        assert len(reader.documents) == 3000
        for key in ("2999.md", "0001.md", "added.md"):
            assert reader.text(key) == "new"
        assert "2998.md" not in reader.documents or reader.gone("2998.md")
        lanes = [batch.lane for batch in reader.batches if batch.changes]
        assert "live" in lanes[:-1], "expected the live lane to overtake the bulk lane"
        assert {change.op for change in reader.changes[:500]} == {Op.READ}
        assert all(len(batch.changes) <= 500 for batch in reader.batches)


FOLLOW = """
import asyncio, json, sys
from pathlib import Path
from penstock.sources.files import FilesSource

async def main():
    state = json.loads(sys.stdin.readline())
    source = FilesSource("docs", Path(sys.argv[1]), heartbeat_s=0.05)
    async for batch in source.read(state):
        keys = [[c.key[0], c.op, c.position] for c in batch.changes]
        print(json.dumps([keys, dict(batch.state), batch.as_of]), flush=True)

asyncio.run(main())
"""


def follow_in_a_process(
    root: Path, state: dict[str, str], stop: Callable[[list[Any]], bool]
) -> Any:
    """Run a reader in a process, kill it when told to, and give what it said."""
    said: list[Any] = []
    arguments = [sys.executable, "-c", FOLLOW, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps(state)}\n")
        process.stdin.flush()
        for line in process.stdout:
            said.append(json.loads(line))
            if stop(said):
                break
        process.send_signal(signal.SIGKILL)
    return said


def test_g2_killed_in_the_load_it_reads_only_the_rest(tmp_path: Path) -> None:
    """kill -9 after two batches; the next process brings what is missing, and deletes what went."""
    for number in range(2000):
        (tmp_path / f"{number:04d}.md").write_text(f"{number}")
    first = follow_in_a_process(tmp_path, {}, lambda said: sum(bool(s[0]) for s in said) >= 2)
    taken = [change for keys, _, _ in first for change in keys]
    state = {name: value for _, news, _ in first for name, value in news.items()}
    assert 0 < len(taken) < 2000
    (tmp_path / "0000.md").unlink()
    (tmp_path / "0001.md").write_text("changed")
    second = follow_in_a_process(tmp_path, state, lambda said: said[-1][2] is not None)
    rest = [change for keys, _, _ in second for change in keys]
    assert sorted(key for key, op, _ in rest if op in "rc") == [
        f"{number:04d}.md" for number in range(len(taken), 2000)
    ]
    assert [key for key, op, _ in rest if op == "d"] == ["0000.md"]
    assert [key for key, op, _ in rest if op == "u"] == ["0001.md"]
    assert min(position for _, _, position in rest) > max(position for _, _, position in taken)


class ForgetfulWatcher(InotifyWatcher):
    """Loses what it saw and says so, as the kernel does when its queue is full."""

    def take(self) -> Hints:
        hints = super().take()
        return Hints(rescan=bool(hints.changed or hints.folders or hints.gone_folders))


class DeafWatcher:
    """Hears nothing, as on a network file system."""

    lag_us = 0

    def start(self, notify: Callable[[], None]) -> None:
        """Nothing will be told."""

    def watch(self, folder: str) -> None:
        """Nothing is watched."""

    def take(self) -> Hints:
        return Hints()

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(
    ("watch", "rescan_s"),
    [
        (lambda root: ForgetfulWatcher(str(root)), 600.0),
        (lambda root: DeafWatcher(), 0.05),
        (PortableWatcher, 600.0),
    ],
    ids=["overflow", "deaf", "portable"],
)
async def test_g2_other_ways_to_learn_of_changes(
    tmp_path: Path, watch: Callable[[Path], Watcher], rescan_s: float
) -> None:
    """After an overflow the folder is listed again; where no news comes, time does it; where there
    is no inotify, `watchfiles` does."""
    async with Reader(tmp_path, watch=watch, rescan_s=rescan_s) as reader:
        await reader.in_step()
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "a.md").write_text("a")
        (tmp_path / "b.md").write_text("b")
        await reader.until(lambda: reader.text("x/a.md") == "a" and reader.text("b.md") == "b")
        (tmp_path / "b.md").rename(tmp_path / "c.md")
        await reader.until(lambda: reader.text("c.md") == "b" and reader.gone("b.md"))
        (tmp_path / "x" / "a.md").unlink()
        await reader.until(lambda: reader.gone("x/a.md"))


async def test_a_flood_that_overflows_the_real_queue_loses_nothing(tmp_path: Path) -> None:
    """More events than the kernel keeps, while nobody takes them."""
    watcher = open_watcher(tmp_path)
    watcher.start(lambda: None)
    watcher.watch("")
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for name in ("a.md", "b.md"):
        (tmp_path / name).touch()
    for _ in range(limit // 2 + 1):
        os.utime(tmp_path / "a.md")
        os.utime(tmp_path / "b.md")
    assert watcher.take().rescan
    watcher.close()


async def test_pdfs_do_not_hold_up_text_and_a_renamed_one_is_never_missing(
    reader: Reader, root: Path
) -> None:
    """Heavy documents are read beside the others; of a rename, the new name comes first."""
    for number in range(12):
        (root / f"{number}.pdf").write_bytes(documents.pdf([f"Page of {number}"]))
    (root / "a.md").write_text("quick")
    await reader.until(lambda: reader.text("a.md") == "quick")
    await reader.until(
        lambda: reader.text("11.pdf") == "Page of 11" and len(reader.documents) == 13
    )
    (root / "0.pdf").rename(root / "zero.pdf")
    await reader.until(lambda: reader.gone("0.pdf"))
    assert reader.text("zero.pdf") == "Page of 0"
    assert reader.documents["zero.pdf"].position < reader.documents["0.pdf"].position


async def test_g13_broken_documents_are_errors_and_are_mended(reader: Reader, root: Path) -> None:
    """The reason is in the change; a whole version replaces it; the same bytes are not tried
    again."""
    (root / "a.pdf").write_bytes(b"%PDF-1.4 broken")
    (root / "b.txt").write_bytes(b"ab\x00cd")
    (root / "c.md").write_bytes(b"caf\xe9")
    await reader.until(lambda: len(reader.documents) == 3)
    assert "found a broken one" in reader.error("a.pdf")
    assert "found NUL bytes at offset 2" in reader.error("b.txt")
    assert "at offset 3: save the file as UTF-8" in reader.error("c.md")
    async with Reader(root, dict(reader.state)) as again:
        await again.in_step()
        assert again.changes == []
    (root / "a.pdf").write_bytes(documents.pdf(["whole"]))
    await reader.until(lambda: reader.text("a.pdf") == "whole")


async def test_time_passes_by_the_clock_that_was_given() -> None:
    """Heartbeats and listings come when the clock says so."""
    import tempfile

    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        async with Reader(
            Path(folder), clock=clock, heartbeat_s=5.0, watch=lambda root: DeafWatcher()
        ) as reader:
            await reader.until(
                lambda: bool(reader.batches) and reader.batches[-1].as_of is not None
            )
            (Path(folder) / "a.md").write_text("a")
            clock.advance(5)
            await reader.until(lambda: reader.batches[-1].as_of == clock.now())
            assert not reader.documents
            clock.advance(600)
            await reader.until(lambda: reader.text("a.md") == "a")


async def test_check_names_what_is_in_the_way(tmp_path: Path) -> None:
    """A missing folder, files that are too large, names that are not UTF-8."""
    source = FilesSource("docs", tmp_path / "missing")
    findings: Sequence[Any] = await source.check()
    assert [finding.level for finding in findings] == ["error"]
    assert "expected a folder at" in findings[0].message
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "large.md").write_text("x" * 100)
    (tmp_path / os.fsdecode(b"\xff.md")).write_text("x")
    findings = await FilesSource("docs", tmp_path, max_bytes=50).check()
    assert [finding.level for finding in findings] == ["ok", "warning", "warning"]
    assert "'large.md'" in findings[1].message
    assert "not UTF-8" in findings[2].message


async def test_g2_what_the_load_has_read_before_a_change_does_not_undo_it(tmp_path: Path) -> None:
    """Batches of the load wait while files in them change and go: they bring nothing old."""
    for number in range(1500):
        (tmp_path / f"{number:04d}.md").write_text("old")
    source = FilesSource("docs", tmp_path)
    reading = source._open({})
    newest: dict[str, Change] = {}
    async with asyncio.timeout(DEADLINE_S):
        async for batch in reading.batches(600.0, 600.0):
            newest |= {str(change.key[0]): change for change in batch.changes}
            load = reading._load
            if len(newest) == 500 and load is not None:
                while len(load.ready) < 2:
                    await asyncio.sleep(0)
                (tmp_path / "0600.md").write_text("new")
                (tmp_path / "0700.md").unlink()
            if batch.as_of is not None:
                break
    await reading.close()
    assert newest["0600.md"].value("text") == "new"
    assert "0700.md" not in newest or newest["0700.md"].op is Op.DELETE
    assert len(newest.keys() - {"0700.md"}) == 1499


class SlowExtractor:
    """Reads documents when it is allowed to, and counts."""

    def __init__(self) -> None:
        self.allowed = asyncio.Event()
        self.started = 0

    def extract_plain(self, name: str, data: bytes) -> Extracted | None:
        return Extracted(data.decode(), None, "text/plain", {}) if name.endswith(".md") else None

    async def extract(self, name: str, data: bytes) -> Extracted:
        self.started += 1
        await self.allowed.wait()
        return Extracted(data.decode(), None, "application/pdf", {})

    async def close(self) -> None:
        """Nothing to close."""


async def test_g1_an_extraction_that_was_overtaken_says_nothing(tmp_path: Path) -> None:
    """A file that changed again, changed back or went while it was read: only the last counts."""
    extractor = SlowExtractor()
    extractor.allowed.set()
    async with Reader(tmp_path, extractor=extractor) as reader:
        await reader.in_step()
        for name in ("back.pdf", "again.pdf", "gone.pdf"):
            (tmp_path / name).write_text("1")
        await reader.until(lambda: len(reader.documents) == 3)
        extractor.allowed.clear()
        for name in ("back.pdf", "again.pdf", "gone.pdf"):
            (tmp_path / name).write_text("2")
        await reader.until_true(lambda: extractor.started == 6)
        (tmp_path / "back.pdf").write_text("1")
        (tmp_path / "again.pdf").write_text("3")
        (tmp_path / "gone.pdf").unlink()
        await reader.until_true(lambda: extractor.started == 7)
        await reader.until(lambda: reader.gone("gone.pdf"))
        extractor.allowed.set()
        await reader.in_step()
        assert reader.text("back.pdf") == "1"
        assert reader.text("again.pdf") == "3"
        assert "2" not in [change.value("text") for change in reader.changes]


async def test_g12_few_extractions_at_a_time_and_time_does_not_pass_over_them(
    tmp_path: Path,
) -> None:
    """The others wait as names; nothing is said to be complete before they are read."""
    extractor = SlowExtractor()
    async with Reader(tmp_path, extractor=extractor) as reader:
        await reader.in_step()
        for number in range(30):
            (tmp_path / f"{number}.pdf").write_text("x")
        await reader.until_true(lambda: extractor.started == 8)
        (tmp_path / "quick.md").write_text("quick")
        written = reader.source._clock.now()
        await reader.until(lambda: reader.text("quick.md") == "quick")
        assert all((batch.as_of or 0) < written for batch in reader.batches)
        extractor.allowed.set()
        await reader.in_step()
        assert len(reader.documents) == 31


@pytest.mark.parametrize("lane", ["bulk", "live"])
async def test_g4_a_folder_that_moves_while_its_documents_are_read_leaves_none_behind(
    tmp_path: Path, lane: str
) -> None:
    """Not even those that nobody has heard of yet."""
    extractor = SlowExtractor()
    folder = tmp_path / "x"
    folder.mkdir()
    if lane == "bulk":
        (folder / "a.pdf").write_text("a")
    async with Reader(tmp_path, extractor=extractor) as reader:
        if lane == "live":
            await reader.in_step()
            (folder / "a.pdf").write_text("a")
        await reader.until_true(lambda: extractor.started == 1)
        folder.rename(tmp_path / "z")
        await reader.until_true(lambda: extractor.started == 2)
        extractor.allowed.set()
        await reader.in_step()
        assert reader.text("z/a.pdf") == "a"
        assert reader.text("x/a.pdf") is None
        assert sorted(name for name in reader.state if name.startswith("file:")) == ["file:z/a.pdf"]
