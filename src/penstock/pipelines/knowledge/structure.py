"""The structure of a text: sections with their heading paths, and the blocks in each. Pure.

What is read is Markdown as people write it (and the underlined headings of reStructuredText); text
without any structure is one section of paragraphs. Offsets are exact and nothing is dropped: every
character that is no white space is in a block or in a section's heading lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, NamedTuple

Kind = Literal["paragraph", "item", "table", "code"]

LONGEST_HEADING: Final = 300
"""A longer line with a heading's mark is a paragraph."""


class Strength(IntEnum):
    """How much a boundary separates. Weak ones are given up first when small pieces are joined."""

    WORD = 0
    LINE = 1
    SENTENCE = 2
    ITEM = 3
    BLOCK = 4
    PAGE = 5


class Block(NamedTuple):
    """A paragraph, list item, table or code fence: ``text[start:end]``, without space around it.
    ``strength`` is that of the boundary before it; ``header`` is the end of a table's header."""

    start: int
    end: int
    kind: Kind
    strength: Strength
    header: int = 0


@dataclass(slots=True)
class Section:
    """What stands under one heading. ``start`` is where its heading lines begin, ``body`` where
    they end (both are the first block's start when there is no heading)."""

    path: tuple[str, ...]
    start: int
    body: int
    blocks: list[Block] = field(default_factory=list)


_ITEM: Final = re.compile(r"[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t]")
_HEADING: Final = re.compile(r"(#{1,6})[ \t]+(\S.*)")
_LABELS: Final = re.compile(r"(?:\s*(?:\.\. _[^\n]{1,200}:|<a [^<>\n]{1,200}></a>)[ \t]*)+")
_CODE_INDENT: Final = ("    ", "\t")
_TABLE_RULE: Final = re.compile(r"\|?[ \t]*:?-[-:| \t]*")
_UNDERLINES: Final = {"=": 1, "-": 2, "~": 3, "^": 4, '"': 5}
_OVERLINES: Final = frozenset('=-~^"*+#')
_MARKS: Final = frozenset('#-*+•|`~=^"')


def sections(text: str) -> list[Section]:
    """The sections of a text in reading order; a text of white space has none."""
    if "\n" not in text and "\f" not in text:
        start, end = _trimmed(text, 0, len(text))
        if start == end:
            return []
        if text[start] not in "#|`":
            return [Section((), start, start, [Block(start, end, "paragraph", Strength.BLOCK)])]
    reader = _Reader(text)
    offset = 0
    for page in text.split("\f"):
        reader.read(page, offset)
        offset += len(page) + 1
    return reader.finish()


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The same span without white space at its ends."""
    piece = text[start:end]
    inner = piece.lstrip()
    start += len(piece) - len(inner)
    return start, start + len(inner.rstrip())


class _Reader:
    """Reads pages of lines into sections; lives for one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._done: list[Section] = []
        self._section = Section((), 0, 0)
        self._levels: list[tuple[int, str]] = []
        self._has_heading = False
        self._open: tuple[int, Kind] | None = None  # start and kind of the block being read
        self._lines = 0
        self._header = 0
        self._fence = ""
        self._strength = Strength.BLOCK

    def read(self, page: str, offset: int) -> None:
        for line in page.split("\n"):
            end = offset + len(line)
            stripped = line.strip()
            if self._fence:
                self._in_fence(stripped, end)
            elif not stripped:
                self._close(offset)
            else:
                self._line(line, stripped, offset, end)
            offset = end + 1
        self._close(offset - 1)
        self._fence = ""
        self._strength = Strength.PAGE

    def finish(self) -> list[Section]:
        self._flush()
        return self._done

    def _line(self, line: str, stripped: str, start: int, end: int) -> None:
        first = stripped[0]
        if first in _MARKS:
            if self._special(line, stripped, start, end):
                return
        elif first.isdecimal() and _ITEM.match(line):
            self._start(start, "item")
        if self._open is None or self._open[1] == "table":
            self._start(start, "paragraph")
        self._lines += 1

    def _special(self, line: str, stripped: str, start: int, end: int) -> bool:
        """A line that begins with a mark; False when the mark is only text."""
        indented = line.startswith(_CODE_INDENT)  # a comment in code is no heading
        if stripped[0] in _OVERLINES and not indented and self._underlines(stripped, end):
            return True
        if stripped.startswith(("```", "~~~")):
            self._start(start, "code")
            self._fence = stripped[:3]
            return True
        if stripped[0] == "|":
            self._table_line(stripped, start, end)
            return True
        if stripped[0] == "#" and not indented and len(stripped) <= LONGEST_HEADING:
            match = _HEADING.match(stripped)
            if match:
                self._close(start)
                self._heading(len(match[1]), match[2].rstrip("# \t"), start, end)
                return True
        if _ITEM.match(line):
            self._start(start, "item")
        return False

    def _in_fence(self, stripped: str, end: int) -> None:
        if stripped.startswith(self._fence) and not stripped.strip(self._fence[0]):
            self._fence = ""
            self._close(end)

    def _table_line(self, stripped: str, start: int, end: int) -> None:
        if self._open is None or self._open[1] != "table":
            self._start(start, "table")
        elif self._lines == 1 and _TABLE_RULE.fullmatch(stripped):
            self._header = end
        self._lines += 1

    def _underlines(self, stripped: str, end: int) -> bool:
        """Whether this line makes a heading of the one before: the same mark all along, and
        perhaps the same line above it too."""
        mark = stripped[0]
        if self._open is None or self._open[1] != "paragraph" or stripped.strip(mark):
            return False
        start = self._open[0]
        if self._lines == 1 and mark in _UNDERLINES:
            level, title = _UNDERLINES[mark], self._text[start:end].partition("\n")[0]
        elif self._lines == 2 and self._text.startswith(mark * 3, start):
            level = 0
            over, title = self._text[start:end].split("\n")[:2]
            if over.strip().strip(mark):
                return False
        else:
            return False
        if title.startswith(_CODE_INDENT) or len(title) > LONGEST_HEADING:
            return False
        title = title.strip()
        if len(stripped) < max(3, min(len(title), 8)):
            return False
        self._open = None
        self._heading(level, title, start, end)
        return True

    def _heading(self, level: int, title: str, start: int, end: int) -> None:
        blocks = self._section.blocks
        while blocks and _LABELS.fullmatch(self._text, blocks[-1].start, blocks[-1].end):
            start = blocks.pop().start  # a place to link to is the heading's, not what went before
        while self._levels and self._levels[-1][0] >= level:
            self._levels.pop()
        bare = not self._section.blocks and self._has_heading
        inside = len(self._levels) == len(self._section.path)
        self._levels.append((level, title))
        path = tuple(name for _, name in self._levels)
        if bare and inside:
            # A heading directly under its parent's: the parent's line goes with it.
            self._section = Section(path, self._section.start, end)
            return
        self._flush()
        self._section = Section(path, start, end)
        self._has_heading = True

    def _flush(self) -> None:
        if self._section.blocks or self._has_heading:
            self._done.append(self._section)
        self._has_heading = False

    def _start(self, start: int, kind: Kind) -> None:
        self._close(start)
        self._open = (start, kind)

    def _close(self, end: int) -> None:
        if self._open is None:
            return
        opened, kind = self._open
        start, end = _trimmed(self._text, opened, end)
        blocks = self._section.blocks
        strength = self._strength
        if strength is not Strength.PAGE and blocks:
            if kind == "item" and blocks[-1].kind == "item":
                strength = Strength.ITEM
            elif self._text[blocks[-1].end - 1] == ":":
                strength = Strength.SENTENCE  # what is announced stays with its announcement
        if not blocks and not self._has_heading:
            self._section.start = self._section.body = start
        blocks.append(Block(start, end, kind, strength, self._header))
        self._open, self._lines, self._header = None, 0, 0
        self._strength = Strength.BLOCK
