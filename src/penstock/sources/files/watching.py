"""News of a folder as hints: where to look, never what is there."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

_MOST_HINTS: Final = 100_000
"""With more than this, listing the folder again is cheaper, and memory stays bounded."""


@dataclass(slots=True)
class Hints:
    """Where to look. Ordered sets of paths below the root."""

    changed: dict[str, None] = field(default_factory=dict)
    folders: dict[str, None] = field(default_factory=dict)
    gone_folders: dict[str, None] = field(default_factory=dict)
    writing: dict[str, float] = field(default_factory=dict)
    """Files that somebody has open for writing, with the (monotonic) time of the last write."""
    moving: int = 0
    """Not 0 while one half of a rename is still to come."""
    rescan: bool = False
    root_gone: bool = False

    def add(self, later: Hints) -> None:
        """Take over what came after."""
        for path in later.changed:
            self.change(path)
        for folder in later.gone_folders:
            self.folders.pop(folder, None)
            self.gone_folders[folder] = None
        self.folders |= later.folders
        self.rescan |= later.rescan
        self.root_gone |= later.root_gone

    def change(self, path: str) -> None:
        """A file is complete, or gone."""
        self.writing.pop(path, None)
        self.changed[path] = None
        if len(self.changed) > _MOST_HINTS:
            self.changed.clear()
            self.rescan = True

    def write(self, path: str) -> None:
        """A file is being written; it counts when the writer closes it, or pauses."""
        self.writing[path] = time.monotonic()
        if len(self.writing) > _MOST_HINTS:
            self.writing.clear()
            self.rescan = True


class Watcher(Protocol):
    """Tells that something happened below a folder. Hints may be too many, never too few, unless
    ``rescan`` says so."""

    lag_us: int
    """How old an event may be that `take` does not yet know of."""

    def start(self, notify: Callable[[], None]) -> None:
        """Call ``notify`` in the running loop whenever `take` may have something."""

    def watch(self, folder: str) -> None:
        """Watch one folder ('' is the root), from now on, but not what is below it. Called in any
        thread, before the folder is listed; twice does no harm. Raises `OSError` when it is gone,
        `SourceError` when the system allows no more watches."""

    def take(self) -> Hints:
        """What happened since the last call. Never waits. ``writing`` is the same object always."""

    def close(self) -> None:
        """Stop; more than once does no harm."""


def open_watcher(root: Path) -> Watcher:
    """The quickest watcher that this system has."""
    if platform.system() == "Linux":
        from penstock.sources.files.inotify import InotifyWatcher

        return InotifyWatcher(str(root))
    return PortableWatcher(root)


class PortableWatcher:
    """`watchfiles`, where there is no inotify: a thread looks every few milliseconds."""

    lag_us = 500_000

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hints = Hints()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._notify: Callable[[], None] | None = None

    def start(self, notify: Callable[[], None]) -> None:
        """See `Watcher.start`."""
        self._notify = notify
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        from watchfiles import awatch

        changes = awatch(self._root, watch_filter=None, step=10, debounce=50, stop_event=self._stop)
        try:
            async for batch in changes:
                for _, path in batch:
                    self._note(Path(path))
                if self._notify is not None:
                    self._notify()
        except (FileNotFoundError, RuntimeError):  # the Rust side ends so when the root is gone
            self._hints.root_gone = True
            if self._notify is not None:
                self._notify()

    def _note(self, path: Path) -> None:
        if path == self._root:
            self._hints.root_gone = not path.exists()
            return
        relative = path.relative_to(self._root).as_posix()
        if path.is_dir() and not path.is_symlink():
            self._hints.folders[relative] = None
        else:
            self._hints.gone_folders[relative] = None
            self._hints.change(relative)

    def watch(self, folder: str) -> None:
        """All folders are watched from the start."""

    def take(self) -> Hints:
        """See `Watcher.take`."""
        hints, self._hints = self._hints, Hints(writing=self._hints.writing)
        return hints

    def close(self) -> None:
        """See `Watcher.close`."""
        self._stop.set()
        if self._task is not None:
            self._task.cancel()
            self._task = None
