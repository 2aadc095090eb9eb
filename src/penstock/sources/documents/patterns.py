"""Which paths are meant: patterns as in a shell, with ``**`` for any number of folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from penstock.errors import ConfigError
from penstock.principals import sidecar_place
from penstock.sources.extract import without_text

EVERYTHING: Final = ("**/*",)
HIDDEN_AND_TEMPORARY: Final = (
    "**/.*",
    "**/*~",
    "**/~$*",
    "**/#*#",
    "**/*.sw?",
    "**/4913",  # Vim asks with this name whether it may create files
    "**/*.tmp",
    "**/*.temp",
    "**/*.part",
    "**/*.partial",
    "**/*.crdownload",
    "**/*.bak",
    "**/__pycache__",
    "**/node_modules",
    "**/Thumbs.db",
    "**/desktop.ini",
)


class Patterns:
    """What a folder source reads. A folder that is excluded is not entered; files whose name says
    that they hold no text (archives, programs; images, unless ``images``) are passed over.
    ``sidecars``: files that say who may see others are read whatever the patterns say of files."""

    def __init__(
        self,
        include: Sequence[str],
        exclude: Sequence[str],
        *,
        sidecars: bool = False,
        images: bool = False,
    ) -> None:
        self.sidecars = sidecars
        self._images = images
        everything = tuple(include) == EVERYTHING
        self._include = None if everything else _compile(include)
        anywhere = [pattern[3:] for pattern in exclude if _is_name(pattern)]
        placed = [pattern for pattern in exclude if not _is_name(pattern)]
        self._names = _compile(anywhere) if anywhere else None
        self._paths = _compile(placed) if placed else None

    def excluded(self, name: str, path: str) -> bool:
        """Is this one entry excluded? (What is above it was asked before.)"""
        if self.sidecars and sidecar_place(path) is not None:
            return False
        if self._names is not None and self._names.match(name):
            return True
        return self._paths is not None and self._paths.match(path) is not None

    def included(self, path: str) -> bool:
        """Is a file, not excluded, included?"""
        if self.sidecars and sidecar_place(path) is not None:
            return True
        return (self._include is None or self._include.match(path) is not None) and (
            not without_text(path, images=self._images)
        )

    def wanted(self, path: str) -> bool:
        """Is a file included, and neither it nor a folder above it excluded?"""
        return self.included(path) and not self.hidden(path)

    def hidden(self, path: str) -> bool:
        """Is this path, or a folder above it, excluded?"""
        end = 0
        while end >= 0:
            start, end = end, path.find("/", end + 1)
            part = path if end < 0 else path[:end]
            if self.excluded(part[start + 1 if start else 0 :], part):
                return True
        return False


def _is_name(pattern: str) -> bool:
    return pattern.startswith("**/") and "/" not in pattern[3:] and pattern != "**/**"


def _compile(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in patterns), re.DOTALL)


def _translate(pattern: str) -> str:
    if not pattern or pattern.startswith("/") or "\\" in pattern:
        msg = f"expected a pattern relative to the folder, such as '**/*.md', got {pattern!r}"
        raise ConfigError(msg)
    parts = pattern.removesuffix("/").split("/")
    pieces: list[str] = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            if index == 0 or parts[index - 1] != "**":
                pieces.append(".*" if last else "(?:[^/]+/)*")
        else:
            pieces.append(_translate_part(part) + ("" if last else "/"))
    return "".join(pieces) + r"\Z"


def _translate_part(part: str) -> str:
    pieces: list[str] = []
    position = 0
    while position < len(part):
        character = part[position]
        position += 1
        if character == "*":
            if not pieces or pieces[-1] != "[^/]*":
                pieces.append("[^/]*")
        elif character == "?":
            pieces.append("[^/]")
        elif character == "[" and (close := part.find("]", position + 1)) > 0:
            inside = part[position:close].replace("\\", r"\\").replace("[", r"\[")
            negated = inside.startswith(("!", "^"))
            pieces.append(f"[{'^/' if negated else ''}{inside[1:] if negated else inside}]")
            position = close + 1
        else:
            pieces.append(re.escape(character))
    return "".join(pieces)
