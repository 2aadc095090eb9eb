"""The kernel's own news of a folder (Linux). One descriptor, no thread, no polling."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from penstock.errors import SourceError
from penstock.sources.files.watching import Hints

_MODIFY: Final = 0x2
_ATTRIB: Final = 0x4
_CLOSE_WRITE: Final = 0x8
_MOVED_FROM: Final = 0x40
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_UNMOUNT: Final = 0x2000
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLY_DIRECTORIES: Final = 0x1000000
_NO_LINKS: Final = 0x2000000
_DIRECTORY: Final = 0x40000000
_MASK: Final = (
    _MODIFY
    | _ATTRIB
    | _CLOSE_WRITE
    | _MOVED_FROM
    | _MOVED_TO
    | _CREATE
    | _DELETE
    | _DELETE_SELF
    | _MOVE_SELF
    | _ONLY_DIRECTORIES
    | _NO_LINKS
)
_HEAD: Final = struct.Struct("iIII")
_BUFFER: Final = 1 << 16


class Event(NamedTuple):
    """One event: the watch it came from, what happened, and to which name in that folder."""

    watch: int
    mask: int
    cookie: int
    name: str


def decode_events(data: bytes) -> list[Event]:
    """The events in what was read from the descriptor."""
    events: list[Event] = []
    position = 0
    while position + _HEAD.size <= len(data):
        watch, mask, cookie, size = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        name = data[position : position + size].rstrip(b"\0")
        position += size
        events.append(Event(watch, mask, cookie, os.fsdecode(name)))
    return events


class InotifyWatcher:
    """See `penstock.sources.files.watching.Watcher`."""

    lag_us = 1000  # a file has its new time a little before the event is queued

    def __init__(self, root: str) -> None:
        self._root = root
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise self._refused()
        self._folders: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._lock = threading.Lock()  # watches are set in threads, events come in the loop
        self._hints = Hints()
        self._notify: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, notify: Callable[[], None]) -> None:
        """See `Watcher.start`."""
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._on_readable)

    def watch(self, folder: str) -> None:
        """See `Watcher.watch`."""
        path = os.fsencode(f"{self._root}/{folder}" if folder else self._root)
        with self._lock:
            if self._descriptor < 0:
                return
            watch = self._libc.inotify_add_watch(self._descriptor, path, _MASK)
            if watch < 0:
                code = ctypes.get_errno()
                if code in {errno.ENOSPC, errno.ENOMEM}:
                    raise self._refused()
                raise OSError(code, os.strerror(code))
            before = self._folders.get(watch)
            if before is not None and before != folder and self._watches.get(before) == watch:
                del self._watches[before]
            self._folders[watch] = folder
            self._watches[folder] = watch

    def take(self) -> Hints:
        """See `Watcher.take`."""
        self._drain()
        hints, self._hints = self._hints, Hints(writing=self._hints.writing)
        return hints

    def close(self) -> None:
        """See `Watcher.close`."""
        with self._lock:
            if self._descriptor < 0:
                return
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _refused(self) -> SourceError:
        code = ctypes.get_errno()
        return SourceError(
            f"expected to watch the folder {self._root!r}, got: {os.strerror(code)}; raise "
            "fs.inotify.max_user_watches and fs.inotify.max_user_instances with sysctl"
        )

    def _on_readable(self) -> None:
        self._drain()
        if self._notify is not None:
            self._notify()

    def _drain(self) -> None:
        while self._descriptor >= 0:
            try:
                data = os.read(self._descriptor, _BUFFER)
            except BlockingIOError:
                return
            with self._lock:
                for event in decode_events(data):
                    self._note(event)
            if len(data) < _BUFFER // 2:
                return

    def _note(self, event: Event) -> None:
        hints = self._hints
        mask = event.mask
        if mask & _OVERFLOW:
            hints.rescan = True
            return
        if mask & _IGNORED:
            self._forget(event.watch)
            return
        folder = self._folders.get(event.watch)
        if folder is None:
            return
        if mask & (_DELETE_SELF | _MOVE_SELF | _UNMOUNT):
            hints.root_gone = hints.root_gone or not folder
            return
        path = f"{folder}/{event.name}" if folder else event.name
        hints.moving ^= event.cookie
        if mask & _DIRECTORY:
            self._note_folder(path, mask)
        elif mask & (_CREATE | _MODIFY):
            if mask & _CREATE and self._complete(path):
                hints.change(path)
            else:
                hints.write(path)
        else:
            hints.change(path)

    def _note_folder(self, path: str, mask: int) -> None:
        if mask & (_CREATE | _MOVED_TO | _ATTRIB):
            self._hints.folders[path] = None
        elif mask & (_MOVED_FROM | _DELETE):
            self._hints.folders.pop(path, None)
            self._hints.gone_folders[path] = None
            below = f"{path}/"
            for folder in [f for f in self._watches if f == path or f.startswith(below)]:
                watch = self._watches.pop(folder)
                self._folders.pop(watch, None)
                self._libc.inotify_rm_watch(self._descriptor, watch)

    def _complete(self, path: str) -> bool:
        """A new name that nobody writes to: a link."""
        try:
            found = os.lstat(f"{self._root}/{path}")
        except OSError:
            return True
        return stat.S_ISLNK(found.st_mode) or found.st_nlink > 1

    def _forget(self, watch: int) -> None:
        folder = self._folders.pop(watch, None)
        if folder is not None and self._watches.get(folder) == watch:
            del self._watches[folder]
