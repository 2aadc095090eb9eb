"""Live documents that a child process is reading, each overtaken by a newer look at its file."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from penstock.sources.documents.found import Found
from penstock.sources.documents.rows import Document, extracted_document
from penstock.sources.extract import Extractor

_MOST: Final = 8
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


@dataclass(slots=True)
class _Extraction:
    task: asyncio.Task[None]
    digest: str
    then: list[str] = field(default_factory=list)


class Extractions:
    """At most a few at a time; the others wait as paths, not as bytes. ``look`` is called with
    paths that are to be looked at (again)."""

    def __init__(
        self, extractor: Extractor, spawn: Spawn, look: Callable[[Iterable[str]], None]
    ) -> None:
        self._extractor = extractor
        self._spawn = spawn
        self._look = look
        self._running: dict[str, _Extraction] = {}
        self._done: dict[str, Document] = {}
        self._waiting: deque[str] = deque()

    def __bool__(self) -> bool:
        return bool(self._running or self._done or self._waiting)

    def __contains__(self, key: str) -> bool:
        return key in self._running or key in self._done

    def __iter__(self) -> Iterator[str]:
        """The keys of what is being read, or is read and not taken."""
        return chain(self._running, self._done)

    def start(self, found: Found, base: str | None) -> None:
        """Read this document, instead of an older version of it."""
        before = self._running.get(found.key)
        if before is not None and before.digest == found.digest:
            return
        self.drop(found.key)
        if len(self._running) >= _MOST:
            self._waiting.append(found.key)
            return
        task = self._spawn(self._run(found, base))
        self._running[found.key] = _Extraction(task, found.digest)

    async def _run(self, found: Found, base: str | None) -> None:
        document = await extracted_document(found, base, self._extractor)
        self._done[found.key] = document
        self._end(found.key)

    def _end(self, key: str) -> None:
        extraction = self._running.pop(key)
        self._look(extraction.then)
        if self._waiting:
            self._look((self._waiting.popleft(),))

    def drop(self, key: str) -> None:
        """A newer look has found something else: give up what is being read."""
        self._done.pop(key, None)
        if key in self._running:
            self._running[key].task.cancel()
            self._end(key)

    def put(self, document: Document) -> None:
        """Something about a path that no look has found."""
        self._done[document.key] = document

    def after(self, digest: str, key: str) -> bool:
        """If this content is being read under another name, look at ``key`` when that is done: so
        the new name is there before the old one goes."""
        for extraction in self._running.values():
            if extraction.digest == digest:
                extraction.then.append(key)
                return True
        return False

    def take(self) -> list[Document]:
        """What is done."""
        done, self._done = self._done, {}
        return list(done.values())
