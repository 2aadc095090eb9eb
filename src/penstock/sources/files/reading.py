"""One reading of a folder, from a state for ever: what is to be looked at, and the batches that
come of it. `FilesSource.read` makes one and throws it away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final, TypeVar

from penstock.clock import Clock
from penstock.errors import UnavailableError
from penstock.records import Microseconds
from penstock.sources.base import SourceBatch, State
from penstock.sources.documents.catalogue import Catalogue
from penstock.sources.documents.found import Found, digest_of, unreadable_digest
from penstock.sources.documents.rows import Document, broken, document_of, extracted_document
from penstock.sources.extract import Extractor
from penstock.sources.files.extracting import Extractions
from penstock.sources.files.folder import Folder, Scan, Verdict, key_of
from penstock.sources.files.load import MOST_BYTES, MOST_FILES, Load
from penstock.sources.files.watching import Hints, Watcher

_BULK_FROM: Final = 500
_MOST_LINKS: Final = 1000
_LIVE_IN_A_ROW: Final = 8
_QUIET_S: Final = 1.0
_AGAIN_S: Final = 0.1
_PAIR_S: Final = 0.002
T = TypeVar("T")


@dataclass(slots=True)
class Looked:
    """What looking at some paths came to."""

    documents: list[Document] = field(default_factory=list)
    heavy: list[tuple[Found, str | None]] = field(default_factory=list)
    touched: dict[str, str] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    changing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Reading:
    """See the module. All but `_look` and the folder's methods run in the event loop."""

    def __init__(
        self,
        source: str,
        folder: Folder,
        extractor: Extractor,
        clock: Clock,
        watcher: Watcher,
        state: State,
    ) -> None:
        self._folder = folder
        self._extractor = extractor
        self._clock = clock
        self._watcher = watcher
        self._catalogue = Catalogue(source, state, sidecars=folder.patterns.sidecars)
        self._root = folder.identity()
        self._hints: dict[str, None] = {}
        self._writing: dict[str, float] = {}
        self._links: list[str] = []
        self._folders: dict[str, None] = {"": None}  # to be listed; '' is all of it
        self._after_scan: list[str] = []
        self._scanning = False
        self._load: Load | None = None
        self._overtaken: set[str] = set()  # what the live lane looked at while a load goes on
        self._left: set[str] = set()  # folders that went meanwhile, each with a slash
        self._extractions = Extractions(extractor, self._spawn, self._look_at)
        self._later = 0  # looks that a timer will ask for
        self._settling = False
        self._beat_due = True
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="penstock-files")

    async def batches(self, heartbeat_s: float, rescan_s: float) -> AsyncIterator[SourceBatch]:
        """Yield for ever. The caller closes."""
        self._watcher.start(self._wake.set)
        self._spawn(self._tick(heartbeat_s, self._beat))
        self._spawn(self._tick(rescan_s, lambda: self._folders.setdefault("")))
        in_a_row = 0
        while True:
            self._wake.clear()
            as_of = Microseconds(self._clock.now() - self._watcher.lag_us)
            await self._take_hints()
            if self._failure is not None:
                raise self._failure
            batch = None
            if in_a_row < _LIVE_IN_A_ROW or self._load is None or not self._load.ready:
                batch = await self._live()
            in_a_row = in_a_row + 1 if batch is not None else 0
            batch = batch or self._bulk() or self._report()
            if batch is not None:
                yield replace(batch, as_of=as_of) if self._in_step() else batch
            elif not self._hints:
                await self._wake.wait()

    async def close(self) -> None:
        """Stop the watch, the timers and the extractions."""
        self._watcher.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------ what is to be looked at

    async def _take_hints(self) -> None:
        hints = self._watcher.take()
        wanted = self._folder.patterns.wanted
        looked = {path: None for path in hints.changed if wanted(path)}
        if hints.moving and (looked or hints.gone_folders):
            await asyncio.sleep(_PAIR_S)  # the other half of a rename comes at once or never
            hints.add(self._watcher.take())
            looked = {path: None for path in hints.changed if wanted(path)}
        if hints.root_gone:
            self._folder.identity()
            msg = "expected the folder to stay, it was moved or replaced: reading begins again"
            raise UnavailableError(msg)
        if (hints.changed or hints.gone_folders) and self._links:
            looked |= dict.fromkeys(self._links)
        self._look_at(looked)
        self._note_folders(hints)
        self._settle(hints.writing)
        if self._folders and not self._scanning:
            self._scanning = True
            self._spawn(self._scan())

    def _note_folders(self, hints: Hints) -> None:
        below = tuple(f"{folder}/" for folder in hints.gone_folders)
        gone: list[str] = []
        if below:
            told = dict.fromkeys(chain(self._catalogue.known, self._extractions))
            gone = [key for key in told if key.startswith(below)]
            if self._load is not None:
                self._left |= set(below)
        hidden = self._folder.patterns.hidden
        found = [folder for folder in hints.folders if not hidden(folder)]
        self._folders.update(dict.fromkeys(found))
        if hints.rescan:
            self._folders[""] = None
        if found:  # perhaps the same folder under its new name, which comes first
            self._after_scan.extend(gone)
        else:
            self._look_at(gone)

    def _look_at(self, paths: Iterable[str]) -> None:
        looked = dict.fromkeys(paths)
        if looked:
            self._hints.update(looked)
            self._wake.set()

    def _settle(self, writing: dict[str, float]) -> None:
        """Wait for those who write to close, or to pause for a while."""
        self._writing = writing
        if not writing:
            return
        now = time.monotonic()
        quiet = [path for path, since in writing.items() if now - since >= _QUIET_S]
        for path in quiet:
            del writing[path]
        self._look_at(quiet)
        for path in writing:
            self._hints.pop(path, None)
        if writing and not self._settling:
            self._settling = True
            self._spawn(self._wait_until_quiet())

    async def _wait_until_quiet(self) -> None:
        await asyncio.sleep(_QUIET_S / 4)
        self._settling = False

    async def _look_later(self, paths: Sequence[str]) -> None:
        self._later += 1
        await asyncio.sleep(_AGAIN_S)
        self._later -= 1
        self._look_at(paths)

    async def _scan(self) -> None:
        """List what is to be listed, and note what differs from what is known."""
        known = self._catalogue.known
        try:
            while self._folders:
                folders = [""] if "" in self._folders else list(self._folders)
                self._folders.clear()
                after, self._after_scan = self._after_scan, []
                for folder in folders:
                    scan = await self._in_thread(
                        self._folder.scan, folder, known, self._watcher.watch
                    )
                    self._note_scan(folder, scan, renamed=bool(after))
                self._look_at(after)
        finally:
            self._scanning = False

    def _note_scan(self, folder: str, scan: Scan, *, renamed: bool) -> None:
        if folder:
            self._links = [*self._links, *scan.links][:_MOST_LINKS]
        else:
            self._links = scan.links[:_MOST_LINKS]
            self._check_mount(scan)
            self._catalogue.set_root(self._root)
        for name, reason in scan.unreadable.items():
            self._note_unreadable(f"{name}/", reason)
        load = not self._catalogue.loaded or len(scan.changed) > _BULK_FROM
        if load and not renamed and self._load is None:
            self._overtaken.clear()
            self._load = Load(scan.changed, self._read_bulk, self._wake.set)
            self._spawn(self._load.run())
        elif load and not folder and self._load is not None and not self._load.done:
            self._load.replace(scan.changed)
        else:
            self._look_at(path for path, _ in scan.changed)
        self._look_at(scan.gone)

    def _check_mount(self, scan: Scan) -> None:
        """An empty folder on another device is a disk that is not mounted, not a deletion."""
        before, known = self._catalogue.root, self._catalogue.known
        device = self._root.partition(":")[0]
        if known and not scan.files and before and before.partition(":")[0] != device:
            msg = (
                f"expected the {len(known):,} files that were read before, found an empty folder "
                "on another device: is the disk mounted?"
            )
            raise UnavailableError(msg)

    def _note_unreadable(self, key: str, reason: str) -> None:
        digest = unreadable_digest(reason)
        known = self._catalogue.known.get(key)
        if known is None or digest_of(known) != digest:
            now = self._clock.now()
            found = Found(key, f"?0 0 0 0 {digest}", digest, 0, now * 1000, now)
            self._extractions.put(broken(found, known, reason))

    # ------------------------------------------------------------ looking

    def _look(self, paths: Sequence[str]) -> Looked:
        """Compare files with what is known and read what is new. Runs in a thread."""
        looked = Looked()
        size = 0
        for index, path in enumerate(paths):
            if size > MOST_BYTES:
                looked.left.extend(paths[index:])
                break
            key = key_of(path)
            known = self._catalogue.known.get(key)
            found = self._folder.read(path, known)
            if isinstance(found, Found):
                size += len(found.data or b"")
                self._sort(found, known, looked)
            elif found is Verdict.GONE:
                looked.gone.append(key)
            elif found is Verdict.CHANGING:
                looked.changing.append(path)
            else:
                looked.same.append(key)
        if looked.gone and self._folder.identity() != self._root:
            raise UnavailableError("expected the folder to stay, it was replaced: reading again")
        return looked

    def _sort(self, found: Found, known: str | None, looked: Looked) -> None:
        if found.data is None and found.error is None:
            looked.touched[found.key] = found.fingerprint
            return
        document = document_of(found, known, self._extractor)
        if document is None:
            looked.heavy.append((found, known))
        else:
            looked.documents.append(document)

    async def _read_bulk(self, paths: Sequence[str]) -> Sequence[Document]:
        """Documents for the bulk lane; what cannot be read now is left to the live lane."""
        writing = self._writing
        paths = [path for path in paths if path not in writing] if writing else paths
        looked = await self._in_thread(self._look, paths)
        self._look_at((*looked.changing, *looked.left))
        self._touch(looked)
        extractor = self._extractor
        extracted = await asyncio.gather(
            *(extracted_document(found, base, extractor) for found, base in looked.heavy)
        )
        return [*looked.documents, *extracted]

    def _touch(self, looked: Looked) -> None:
        for key, fingerprint in looked.touched.items():
            self._catalogue.touch(key, fingerprint)

    # ------------------------------------------------------------ batches

    async def _live(self) -> SourceBatch | None:
        """What the hints lead to, if to anything."""
        paths = list(self._hints)[:MOST_FILES]
        for path in paths:
            del self._hints[path]
        looked = await self._in_thread(self._look, paths) if paths else Looked()
        self._hints = dict.fromkeys(looked.left) | self._hints
        if looked.changing:
            self._spawn(self._look_later(looked.changing))
        if self._load is not None:
            self._overtaken.update(map(key_of, paths))
        self._touch(looked)
        extractions = self._extractions
        if extractions:
            for key in (*looked.same, *looked.touched, *looked.gone):
                extractions.drop(key)
            for document in looked.documents:
                extractions.drop(document.key)
        for found, base in looked.heavy:
            extractions.start(found, base)
        gone = [key for key in looked.gone if not self._moved(key)]
        documents = [*looked.documents, *extractions.take()]
        if not documents and not gone:
            return None
        batch = self._catalogue.batch(documents, gone, "live", self._clock.now())
        return batch if batch.changes or batch.state else None

    def _moved(self, key: str) -> bool:
        known = self._catalogue.known.get(key)
        return known is not None and self._extractions.after(digest_of(known), key)

    def _bulk(self) -> SourceBatch | None:
        """The next batch of the load, without what the live lane has overtaken."""
        load = self._load
        if load is None:
            return None
        documents = load.take()
        if documents is None:
            if load.done:
                self._load = None
                self._left.clear()
                self._catalogue.set_loaded()
                self._beat_due = True
            return None
        if self._left:
            left = tuple(self._left)
            self._look_at(document.key for document in documents if document.key.startswith(left))
            documents = [document for document in documents if not document.key.startswith(left)]
        known = self._catalogue.known
        kept = [
            document
            for document in documents
            if document.key not in self._overtaken and known.get(document.key) == document.base
        ]
        return self._catalogue.batch(kept, (), "bulk", self._clock.now())

    def _report(self) -> SourceBatch | None:
        """State and time alone."""
        beat = self._beat_due and self._in_step()
        if beat:
            self._beat_due = False
        if not self._catalogue.has_news and not beat:
            return None
        return self._catalogue.batch((), (), "live", self._clock.now())

    def _in_step(self) -> bool:
        """Is everything in batches that the watcher has told of?"""
        waiting = self._hints or self._folders or self._after_scan or self._extractions
        return not (waiting or self._scanning or self._later or self._load is not None)

    # ------------------------------------------------------------ tasks

    def _beat(self) -> None:
        self._beat_due = True

    async def _tick(self, seconds: float, action: Callable[[], object]) -> None:
        while True:
            await self._clock.sleep(seconds)
            action()
            self._wake.set()

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()
        self._wake.set()
