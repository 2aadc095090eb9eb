"""A folder as it is now: listing it, comparing it with what was known, reading one file.

A file's fingerprint is ``size mtime ctime inode digest`` with an optional mark in front (see
`penstock.sources.documents.found`). ``~`` marks a file that was read so soon after it changed that
a second change could have the same times.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Final

from penstock.errors import UnavailableError
from penstock.records import Microseconds
from penstock.sources.documents.found import Found, digest_of, unreadable_digest
from penstock.sources.documents.patterns import Patterns

_RACY_NS: Final = 20_000_000
"""Two changes within one tick of the kernel's clock (at most 10 ms) may carry the same times."""
_TRIES: Final = 3
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class Verdict(Enum):
    """What was found instead of something new."""

    GONE = auto()
    SAME = auto()
    CHANGING = auto()


@dataclass(slots=True)
class Scan:
    """What a listing found: paths to look at (with their sizes), and what was known and is gone."""

    files: int = 0
    size: int = 0
    changed: list[tuple[str, int]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Folders that could not be listed, with the reason; what is known below them stays known."""


def key_of(path: str) -> str:
    r"""The path as text; bytes that are not UTF-8 are written as ``\xNN``."""
    if path.isascii():
        return path
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    return path


class Folder:
    """The files below ``root`` that ``patterns`` want. All methods block; call them in a thread."""

    def __init__(self, root: Path, patterns: Patterns, max_bytes: int) -> None:
        self.root = root
        self.patterns = patterns
        self.max_bytes = max_bytes
        self._root = os.fspath(root)

    def identity(self) -> str:
        """Device and inode of the root; `UnavailableError` when it is not there."""
        try:
            found = self.root.stat()
            if not stat.S_ISDIR(found.st_mode):
                msg = f"expected a folder at {self._root!r}, found a file: correct the path"
                raise UnavailableError(msg)
        except OSError as error:
            msg = (
                f"expected a folder at {self._root!r}, got: {error.strerror}; nothing counts as "
                "deleted until it is there"
            )
            raise UnavailableError(msg) from error
        return f"{found.st_dev}:{found.st_ino}"

    def scan(self, below: str, known: Mapping[str, str], entering: Callable[[str], None]) -> Scan:
        """List everything below a folder ('' is the root). ``entering`` is called with each folder
        before it is listed, so that a watch set there misses nothing."""
        scan = Scan()
        seen: set[str] = set()
        folders = [below]
        while folders:
            folder = folders.pop()
            try:
                entering(folder)
                self._list(folder, known, scan, seen, folders)
            except OSError as error:
                if not folder:
                    self.identity()
                    msg = f"expected to list the folder {self._root!r}, got: {error.strerror}"
                    raise UnavailableError(msg) from error
                if error.errno not in _ABSENT:
                    reason = f"expected to list a folder, got: {error.strerror}"
                    scan.unreadable[key_of(folder)] = reason
        below = f"{below}/" if below else ""
        kept = tuple(f"{folder}/" for folder in scan.unreadable)
        for path in known.keys() - seen:
            if path.startswith(below) and not (kept and path.startswith(kept)):
                scan.gone.append(path)
        return scan

    def _list(
        self,
        folder: str,
        known: Mapping[str, str],
        scan: Scan,
        seen: set[str],
        folders: list[str],
    ) -> None:
        prefix = f"{folder}/" if folder else ""
        patterns = self.patterns
        with os.scandir(f"{self._root}/{folder}") as entries:
            for entry in entries:
                path = prefix + entry.name
                if patterns.excluded(entry.name, path):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    continue
                if not patterns.included(path):
                    continue
                try:
                    if entry.is_symlink():
                        scan.links.append(path)
                    found = entry.stat()
                except OSError:  # gone in this moment, or a link to nowhere
                    continue
                if not stat.S_ISREG(found.st_mode):
                    continue
                key = path if path.isascii() else key_of(path)
                seen.add(key)
                scan.files += 1
                scan.size += found.st_size
                old = known.get(key)
                if old is None or not old.startswith(
                    f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} "
                ):
                    scan.changed.append((path, found.st_size))

    def read(self, path: str, known: str | None) -> Found | Verdict:
        """What is new about one file, compared with its known fingerprint."""
        if not self.patterns.wanted(path):
            return Verdict.GONE
        target = f"{self._root}/{path}"
        try:
            found = os.lstat(target)
            if stat.S_ISLNK(found.st_mode):
                target = os.path.realpath(target, strict=True)
                if not target.startswith(f"{os.path.realpath(self._root)}/"):
                    return Verdict.GONE
                found = Path(target).stat()
                if known is not None and known.startswith(_signature(found)):
                    return Verdict.SAME
        except OSError as error:
            # Not to be seen is not to be gone: the folder above may be locked for a moment.
            return Verdict.GONE if error.errno in {*_ABSENT, errno.ELOOP} else Verdict.SAME
        return self._read_found(path, target, found, known)

    def _read_found(
        self, path: str, target: str, found: os.stat_result, known: str | None
    ) -> Found | Verdict:
        if not stat.S_ISREG(found.st_mode):
            return Verdict.GONE
        key = key_of(path)
        if key != path:
            reason = f"expected a file name in UTF-8, found {os.fsencode(path)!r}: rename the file"
            return _unreadable(key, found, reason, known)
        if found.st_size > self.max_bytes:
            reason = (
                f"expected a file of at most {self.max_bytes:,} bytes, found {found.st_size:,}: "
                "split it or raise max_size"
            )
            return _unreadable(key, found, reason, known)
        try:
            return self._read(key, target, known)
        except OSError as error:
            if error.errno in _ABSENT:
                return Verdict.GONE
            reason = f"expected to read the file, got: {error.strerror}"
            return _unreadable(key, found, reason, known)

    def _read(self, key: str, target: str, known: str | None) -> Found | Verdict:
        for _ in range(_TRIES):
            descriptor = os.open(target, _OPEN)
            try:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    return Verdict.GONE
                now = time.time_ns()
                data = self._bytes(descriptor, before.st_size)
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if data is not None and _signature(before) == _signature(after):
                break
        else:
            return Verdict.CHANGING
        digest = hashlib.sha256(data).hexdigest()
        mark = "~" if now - after.st_ctime_ns < _RACY_NS else ""
        fingerprint = f"{mark}{_signature(after)}{digest}"
        content: bytes | None = data
        again = known is None or known.startswith("?")
        if known is not None and not again and digest_of(known).removeprefix("!") == digest:
            if fingerprint == known or f"{mark}{_signature(after)}!{digest}" == known:
                return Verdict.SAME
            if "!" in known:
                fingerprint = f"{mark}{_signature(after)}!{digest}"
            content = None
        return _found(key, after, fingerprint, digest, data=content)

    def _bytes(self, descriptor: int, size: int) -> bytes | None:
        """All bytes of a file that should have this size; None when it has another by now."""
        data = os.read(descriptor, size + 1)
        if len(data) < size:  # one call returns 2 GB at most, and less on some file systems
            parts = [data]
            while sum(map(len, parts)) <= size and (more := os.read(descriptor, size + 1)):
                parts.append(more)
            data = b"".join(parts)
        return data if len(data) == size else None


def _signature(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} "


def _unreadable(key: str, found: os.stat_result, reason: str, known: str | None) -> Found | Verdict:
    digest = unreadable_digest(reason)
    fingerprint = f"?{_signature(found)}{digest}"
    if known == fingerprint:
        return Verdict.SAME
    same = known is not None and digest_of(known) == digest
    return _found(key, found, fingerprint, digest, error=None if same else reason)


def _found(
    key: str,
    found: os.stat_result,
    fingerprint: str,
    digest: str,
    *,
    data: bytes | None = None,
    error: str | None = None,
) -> Found:
    changed = min(max(found.st_mtime_ns, found.st_ctime_ns), time.time_ns())
    return Found(
        key,
        fingerprint,
        digest,
        found.st_size,
        found.st_mtime_ns,
        Microseconds(changed // 1000),
        data,
        error,
    )
