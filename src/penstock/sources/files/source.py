"""A folder of documents: what is in it, then every create, change, rename and delete."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from penstock.clock import Clock, SystemClock
from penstock.errors import PenstockError
from penstock.records import Row
from penstock.sources.base import Finding, SourceBatch, State, StateChange
from penstock.sources.documents.found import Found
from penstock.sources.documents.patterns import EVERYTHING, HIDDEN_AND_TEMPORARY, Patterns
from penstock.sources.documents.rows import document_of, extracted_document
from penstock.sources.documents.sidecars import SidecarExtractor
from penstock.sources.extract import EXTRAS, ChildExtractor, Extractor, extra_of
from penstock.sources.files.folder import Folder, Scan, key_of
from penstock.sources.files.reading import Reading
from penstock.sources.files.watching import Watcher, open_watcher

MAX_BYTES: Final = 50_000_000
_WATCHES: Final = Path("/proc/sys/fs/inotify/max_user_watches")


class FilesSource:
    """The documents below ``path``.

    A file's key is its path below the folder, with slashes; a change's position is the number of
    the change, kept in the state beside one fingerprint for each file. What exists at first
    travels in the bulk lane, what happens meanwhile overtakes it in the live lane. A file that is
    touched but has the same content is no change. Besides the watch, the folder is listed again
    every ``rescan_s``: network file systems do not tell what others did.

    Not noticed: a change that leaves size, times and inode as they were, while nobody watches
    (possible only by setting the machine's clock back, or where times are coarser than 10 ms).
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        include: Sequence[str] = EVERYTHING,
        exclude: Sequence[str] = HIDDEN_AND_TEMPORARY,
        sidecars: bool = False,
        max_bytes: int = MAX_BYTES,
        images: bool = False,
        clock: Clock | None = None,
        heartbeat_s: float = 5.0,
        rescan_s: float = 600.0,
        extractor: Extractor | None = None,
        watch: Callable[[Path], Watcher] = open_watcher,
    ) -> None:
        self.name = name
        self._path = path
        self._patterns = Patterns(include, exclude, sidecars=sidecars, images=images)
        self._max_bytes = max_bytes
        self._clock = clock or SystemClock()
        self._heartbeat_s = heartbeat_s
        self._rescan_s = rescan_s
        self._extractor = extractor or ChildExtractor()
        if sidecars:
            self._extractor = SidecarExtractor(self._extractor)
        self._watch = watch

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        reading = await asyncio.to_thread(self._open, state)
        try:
            async for batch in reading.batches(self._heartbeat_s, self._rescan_s):
                yield batch
        finally:
            await reading.close()

    def _folder(self) -> Folder:
        return Folder(Path(os.path.realpath(self._path)), self._patterns, self._max_bytes)

    def _open(self, state: State) -> Reading:
        folder = self._folder()
        folder.identity()
        watcher = self._watch(folder.root)
        return Reading(self.name, folder, self._extractor, self._clock, watcher, state)

    async def acknowledge(self, state: StateChange) -> None:
        """Nothing is kept for us: a folder holds what it holds."""

    async def close(self) -> None:
        """End the processes that read documents."""
        await self._extractor.close()

    async def digests(self) -> dict[str, str | None]:
        """The SHA-256 of every document that the folder holds now (None: it cannot be read), by
        path; for comparing with what is stored."""
        return await asyncio.to_thread(self._digests)

    def _digests(self) -> dict[str, str | None]:
        folder = self._folder()
        found: dict[str, str | None] = {}
        for path, _ in folder.scan("", {}, lambda _: None).changed:
            file = folder.read(path, None)
            if isinstance(file, Found):
                found[file.key] = None if file.error is not None else file.digest
        return found

    async def reread(self, key: str) -> Row | None:
        """What a change of this document would say if it were read now; None when it is gone."""
        file = await asyncio.to_thread(self._folder().read, key, None)
        if not isinstance(file, Found):
            return None
        document = document_of(file, None, self._extractor)
        return (document or await extracted_document(file, None, self._extractor)).row

    async def check(self) -> Sequence[Finding]:
        """List the folder and say what is in the way."""
        folder = await asyncio.to_thread(self._folder)
        folders: list[str] = []
        try:
            folder.identity()
            scan = await asyncio.to_thread(folder.scan, "", {}, folders.append)
        except PenstockError as error:
            mend = "create the folder or correct the path in the project file"
            return [Finding(self.name, "error", str(error), mend)]
        found = f"{scan.files:,} files in {len(folders):,} folders, {scan.size:,} bytes"
        return [Finding(self.name, "ok", found), *self._findings(scan, len(folders))]

    def _findings(self, scan: Scan, folders: int) -> list[Finding]:
        findings = [
            Finding(self.name, "warning", f"{name}: {reason}", "give the right to read it")
            for name, reason in scan.unreadable.items()
        ]
        large = [path for path, size in scan.changed if size > self._max_bytes]
        if large:
            message = f"{_some(large)} larger than {self._max_bytes:,} bytes"
            findings.append(Finding(self.name, "warning", message, "split, or raise max_size"))
        foreign = [key_of(path) for path, _ in scan.changed if key_of(path) != path]
        if foreign:
            message = f"{_some(foreign)} with a name that is not UTF-8"
            findings.append(Finding(self.name, "warning", message, "rename"))
        for extra, module in EXTRAS.items():
            waiting = [path for path, _ in scan.changed if extra_of(path) == extra]
            if waiting and importlib.util.find_spec(module) is None:
                message = f"{_some(waiting)} that need the extra {extra!r}, which is not installed"
                mend = f"run `uv add 'penstock[{extra}]'`"
                findings.append(Finding(self.name, "warning", message, mend))
        if _WATCHES.exists() and folders > int(_WATCHES.read_text()) * 0.8:
            message = f"{folders:,} folders, nearly as many as the system lets us watch"
            mend = "raise fs.inotify.max_user_watches with sysctl"
            findings.append(Finding(self.name, "warning", message, mend))
        return findings


def _some(paths: Sequence[str]) -> str:
    named = ", ".join(repr(path) for path in sorted(paths)[:3])
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return f"{len(paths):,} files ({named}{more})"
