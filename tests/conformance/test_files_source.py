"""The folder source passes the suite of sources."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from penstock.clock import SystemClock
from penstock.records import DOCUMENTS, Row, Schema
from penstock.sources.files import FilesSource
from penstock.testing.sources import RowName, SourceSuite


class FolderOfNotes:
    """A folder that a script writes to in the ways that editors do."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def source(self) -> FilesSource:
        return FilesSource("docs", self._root, clock=SystemClock(), heartbeat_s=0.05)

    async def write(self, number: int) -> None:
        await asyncio.to_thread(self._write, number)

    def _write(self, number: int) -> None:
        place = number % 10
        folder = self._root / str(number // 10)
        folder.mkdir(exist_ok=True)
        text = f"# Note {number}\n\nbody {number}\n"
        if place == 9:
            before = number // 10 - 1
            (self._root / str(before) / "6.md" if before >= 0 else folder / "1.md").unlink()
        elif place == 7:
            (folder / "2.md").rename(folder / "moved é.md")
        elif place == 5:  # as editors save: a new file takes the name
            (folder / ".3.md.swp").write_text(text)
            (folder / ".3.md.swp").rename(folder / "3.md")
        elif place == 8:
            (folder / "4.md").write_text(text)
        else:
            (folder / f"{place}.md").write_text(text)

    async def contents(self) -> Mapping[RowName, Hashable]:
        return {
            (DOCUMENTS, (path.relative_to(self._root).as_posix(),)): sha256(
                path.read_bytes()
            ).hexdigest()
            for path in self._root.rglob("*.md")
        }

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[schema.index("content_hash")]


class TestFilesSource(SourceSuite):
    """The behaviours of any source."""

    @pytest.fixture
    def system(self, tmp_path: Path) -> FolderOfNotes:
        return FolderOfNotes(tmp_path)
