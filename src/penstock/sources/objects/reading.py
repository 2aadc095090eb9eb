"""One reading of a bucket, from a state for ever; `ObjectsSource.read` makes one each time.

One task does it all, so that what is known has one writer: it lists the bucket again and again, a
page at a time, and between any two steps of that it looks at the keys that hints have named. What
it holds is a page, a few objects, and for each key one fingerprint and whether it was seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from penstock.clock import Clock
from penstock.records import Microseconds
from penstock.sources.base import Lane, SourceBatch, State
from penstock.sources.documents.catalogue import Catalogue
from penstock.sources.documents.found import Found
from penstock.sources.documents.patterns import Patterns
from penstock.sources.documents.rows import Document, document_of, extracted_document
from penstock.sources.extract import Extractor, needs_child
from penstock.sources.objects.bucket import Bucket, Listed, Refused
from penstock.sources.objects.hints import Hints
from penstock.sources.objects.lists import ListKeys
from penstock.sources.objects.looking import Verdict, document_key, look, unchanged

_STEP_OBJECTS: Final = 64
_STEP_BYTES: Final = 8_000_000
_STEP_HEAVY: Final = 4
"""What one step reads at most: hints wait for no longer than that."""
_COMPARED: Final = 250
"""How many are compared before others in the process have their turn."""
_AGAIN_S: Final = 0.2
T = TypeVar("T")


class Reading:
    """See the module."""

    def __init__(
        self,
        source: str,
        bucket: Bucket,
        hints: Hints | None,
        patterns: Patterns,
        extractor: Extractor,
        clock: Clock,
        max_bytes: int,
        state: State,
        keys: ListKeys | None = None,
    ) -> None:
        self._bucket = bucket
        self._hints = hints
        self._patterns = patterns
        self._extractor = extractor
        self._clock = clock
        self._max_bytes = max_bytes
        self._catalogue = Catalogue(
            source, state, sidecars=patterns.sidecars, listed=keys is not None
        )
        self._keys = keys
        self._again: dict[str, None] = {}  # looked at while they changed
        self._again_soon = False
        self._hinted: dict[str, None] = {}
        self._noted = hints.number if hints is not None else 0  # messages that a batch told of
        self._left: set[str] = set()  # known, and not yet seen by the listing that goes on
        self._due = True
        self._wake = asyncio.Event()
        self._timers: set[asyncio.Task[None]] = set()

    def hint(self, keys: Iterable[str]) -> None:
        """Look at these soon."""
        self._hinted.update(dict.fromkeys(keys))
        self._wake.set()

    async def batches(self, relist_s: float) -> AsyncIterator[SourceBatch]:
        """Yield for ever. The caller closes."""
        if self._hints is not None:
            self._hints.start(self._wake.set)
        while True:
            self._due = False
            self._later(relist_s, self._relist)
            async with aclosing(self._sweep()) as steps:
                async for step in steps:
                    if step is not None:
                        yield step  # first: its changes are numbered already
                    async for batch in self._hinted_batches():
                        yield batch
            while not self._due:
                self._wake.clear()
                async for batch in self._hinted_batches():
                    yield batch
                if not self._due:
                    await self._wake.wait()

    def _relist(self) -> None:
        self._due = True

    async def close(self) -> None:
        """Stop the hints and the timers."""
        for task in self._timers:
            task.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        if self._hints is not None:
            await self._hints.close()
        await self._bucket.close()

    # ------------------------------------------------------------ listing

    async def _sweep(self) -> AsyncGenerator[SourceBatch | None]:
        """List everything and compare it with what is known; one step at a time."""
        started = self._clock.now()
        lane: Lane = "live" if self._catalogue.loaded else "bulk"
        left = self._left = set()
        for known in _slices(list(self._catalogue.known), _COMPARED * 40):
            left.update(known)
            await asyncio.sleep(0)
        async with aclosing(self._bucket.pages()) as pages:
            async for page in pages:
                for part in _slices(page, _COMPARED):
                    for versions in _steps(self._news(part, left)):
                        yield await self._read(versions, lane)
                    await asyncio.sleep(0)
                yield None
        self._left = set()
        for keys in _slices(list(left), _STEP_OBJECTS):
            yield await self._confirm(keys)
        self._catalogue.set_loaded()
        batch = self._batch((), (), "live")
        yield batch if self._again else SourceBatch((), batch.state, started)

    def _news(self, page: Sequence[Listed], left: set[str]) -> list[Listed]:
        """Those of a page that differ from what is known."""
        known = self._catalogue.known
        news: list[Listed] = []
        for version in page:
            if not self._patterns.wanted(version.key):
                continue
            key = document_key(version.key)
            left.discard(key)
            fingerprint = known.get(key)
            if not unchanged(version, fingerprint, self._keys):
                news.append(version)
        return news

    async def _confirm(self, keys: Sequence[str]) -> SourceBatch | None:
        """What a listing did not show is gone only if the store says so of the object itself:
        listings of some stores are late. What the patterns leave out is gone all the same."""
        wanted = [key for key in keys if self._patterns.wanted(key)]
        unwanted = [key for key in keys if not self._patterns.wanted(key)]
        return await self._look_at(wanted, "live", unwanted)

    # ------------------------------------------------------------ looking

    async def _hinted_batches(self) -> AsyncIterator[SourceBatch]:
        """What hints lead to, as long as there are any."""
        while True:
            if self._hints is not None:
                self._hinted.update(dict.fromkeys(self._hints.take()))
            number = self._hints.number if self._hints is not None else 0
            if self._again and not self._again_soon:
                self._again_soon = True
                self._later(_AGAIN_S, self._look_again)
            if not self._hinted and number == self._noted:
                return
            keys = list(self._hinted)
            self._hinted.clear()
            wanted = [key for key in keys if self._patterns.wanted(key)]
            batches = [
                batch
                for part in _slices(wanted, _STEP_OBJECTS)
                if (batch := await self._look_at(part, "live")) is not None
            ]
            for batch in batches[:-1]:
                yield batch
            last = batches[-1] if batches else self._batch((), (), "live")
            self._noted = number
            yield SourceBatch(last.changes, {**last.state, "hints": str(number)}, lane="live")

    def _look_again(self) -> None:
        self._again_soon = False
        self._hinted.update(self._again)
        self._again.clear()

    async def _look_at(
        self, keys: Sequence[str], lane: Lane, unwanted: Sequence[str] = ()
    ) -> SourceBatch | None:
        present = await asyncio.gather(*(self._bucket.look(key) for key in keys))
        gone = list(unwanted)
        versions: list[Listed] = []
        for key, version in zip(keys, present, strict=True):
            self._left.discard(document_key(key))
            if version is None:
                gone.append(document_key(key))
            elif not isinstance(version, Refused):
                versions.append(version)
        batches = [await self._read(part, lane) for part in _steps(versions)]
        changes = [change for batch in batches if batch is not None for change in batch.changes]
        state = {name: text for batch in batches if batch for name, text in batch.state.items()}
        if gone:
            batch = self._batch((), gone, lane)
            changes.extend(batch.changes)
            state.update(batch.state)
        return SourceBatch(changes, state, lane=lane) if changes or state else None

    async def _read(self, versions: Sequence[Listed], lane: Lane) -> SourceBatch | None:
        """The changes of some objects that may be new."""
        known = self._catalogue.known
        before = [known.get(document_key(version.key)) for version in versions]
        found = await asyncio.gather(
            *(
                look(self._bucket, version, base, self._max_bytes, self._keys)
                for version, base in zip(versions, before, strict=True)
            )
        )
        news: list[tuple[Found, str | None]] = []
        gone: list[str] = []
        for version, base, outcome in zip(versions, before, found, strict=True):
            if outcome is Verdict.GONE:
                gone.append(document_key(version.key))
            elif outcome is Verdict.CHANGING:
                self._again[version.key] = None
            elif isinstance(outcome, Found):
                if outcome.data is None and outcome.error is None:
                    self._catalogue.touch(outcome.key, outcome.fingerprint)
                else:
                    news.append((outcome, base))
        documents = await asyncio.gather(*(self._document(item, base) for item, base in news))
        batch = self._batch(documents, gone, lane)
        return batch if batch.changes or batch.state else None

    async def _document(self, found: Found, base: str | None) -> Document:
        document = document_of(found, base, self._extractor)
        return document or await extracted_document(found, base, self._extractor)

    def _batch(self, documents: Iterable[Document], gone: Iterable[str], lane: Lane) -> SourceBatch:
        return self._catalogue.batch(documents, gone, lane, Microseconds(self._clock.now()))

    # ------------------------------------------------------------ timers

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        async def wait() -> None:
            await self._clock.sleep(seconds)
            action()
            self._wake.set()

        task = asyncio.get_running_loop().create_task(wait())
        self._timers.add(task)
        task.add_done_callback(self._timers.discard)


def _steps(versions: Sequence[Listed]) -> Iterable[Sequence[Listed]]:
    """Parts that are read in one go: few objects, few bytes, fewer that need a child process."""
    part: list[Listed] = []
    size = heavy = 0
    for version in versions:
        if part and (
            len(part) >= _STEP_OBJECTS or size + version.size > _STEP_BYTES or heavy >= _STEP_HEAVY
        ):
            yield part
            part, size, heavy = [], 0, 0
        part.append(version)
        size += version.size
        heavy += needs_child(version.key)
    if part:
        yield part


def _slices(items: Sequence[T], most: int) -> Iterable[Sequence[T]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]
