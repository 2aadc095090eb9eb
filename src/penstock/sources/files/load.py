"""The bulk lane: many files read in the background, a few batches ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from penstock.sources.documents.rows import Document
from penstock.sources.extract import needs_child

MOST_FILES: Final = 500
MOST_BYTES: Final = 4_000_000
_MOST_HEAVY: Final = 16
_AHEAD: Final = 2


class Load:
    """Reads ``paths`` in batches that wait in ``ready``, at most a few at a time. Plain files come
    first: a folder's texts are not kept waiting by its PDFs."""

    def __init__(
        self,
        paths: Iterable[tuple[str, int]],
        read: Callable[[Sequence[str]], Awaitable[Sequence[Document]]],
        notify: Callable[[], None],
    ) -> None:
        self.ready: deque[Sequence[Document]] = deque()
        self.done = False
        self._read = read
        self._notify = notify
        self._room = asyncio.Event()
        self._paths = _ordered(paths)

    def replace(self, paths: Iterable[tuple[str, int]]) -> None:
        """Go on with these instead: a new listing knows better what is left."""
        self._paths = _ordered(paths)

    def extend(self, paths: Iterable[tuple[str, int]]) -> None:
        """Read these too."""
        self._paths.extend(paths)

    def take(self) -> Sequence[Document] | None:
        """The next batch, if one is ready."""
        if not self.ready:
            return None
        self._room.set()
        return self.ready.popleft()

    async def run(self) -> None:
        """Read until nothing is left."""
        while self._paths:
            while len(self.ready) >= _AHEAD:
                self._room.clear()
                await self._room.wait()
            documents = await self._read(self._chunk())
            if documents:
                self.ready.append(documents)
                self._notify()
        self.done = True
        self._notify()

    def _chunk(self) -> list[str]:
        chunk: list[str] = []
        size = heavy = 0
        while self._paths and len(chunk) < MOST_FILES and heavy < _MOST_HEAVY:
            path, length = self._paths[0]
            if chunk and size + length > MOST_BYTES:
                break
            self._paths.popleft()
            chunk.append(path)
            size += length
            heavy += needs_child(path)
        return chunk


def _ordered(paths: Iterable[tuple[str, int]]) -> deque[tuple[str, int]]:
    return deque(sorted(paths, key=lambda entry: (needs_child(entry[0]), entry[0])))
