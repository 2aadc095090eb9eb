"""A folder of documents that changes while the campaign runs; the campaign knows what is in it."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Final

BROKEN: Final = "broken.pdf"
"""A file that cannot be read: it must wait in the dead letters, and nothing else may."""
_FILES: Final = 60
_WORDS: Final = (
    "refund cancel booking window seat luggage child pet delay voucher gate agent night fare change"
).split()


class Folder:
    """Writes, renames and removes files; each file has one paragraph after its heading."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self._chance = random.Random(f"{seed}/documents")
        self.changes = 0

    def fill(self) -> None:
        """The files that are there at the beginning."""
        self.path.mkdir()
        for number in range(_FILES):
            self._write(number)
        (self.path / BROKEN).write_bytes(b"%PDF-1.7\nnothing that a reader could follow\n")

    async def run(self) -> None:
        """Change a file now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._chance.uniform(0.05, 0.3))
            self._change()

    def digests(self) -> dict[str, tuple[str, str]]:
        """What is there: by name, the hash of the file and its text without spaces."""
        found = {}
        for path in self.path.glob("*.md"):
            content = path.read_bytes()
            text = "".join(content.decode().split())
            found[path.name] = (hashlib.sha256(content).hexdigest(), text)
        return found

    def _change(self) -> None:
        self.changes += 1
        number, kind = self._chance.randrange(_FILES), self._chance.random()
        path = self._path(number)
        if kind < 0.7:
            self._write(number)
        elif kind < 0.85:
            path.unlink(missing_ok=True)
        elif path.exists():
            path.replace(self._path(self._chance.randrange(_FILES)))

    def _write(self, number: int) -> None:
        words = self._chance.choices(_WORDS, k=self._chance.randrange(20, 200))
        text = f"# Paper {number}\n\n{' '.join(words).capitalize()}.\n"
        beside = self.path / f".{number:04d}.tmp"
        beside.write_text(text, encoding="utf-8")
        beside.replace(self._path(number))

    def _path(self, number: int) -> Path:
        return self.path / f"{number:04d}.md"
