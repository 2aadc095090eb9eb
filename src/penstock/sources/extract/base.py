"""What extraction gives, and what it may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias

MetadataValue: TypeAlias = str | int | bool | Sequence[str]

VERSION = "2"
"""Raised when a document that could not be read before may be readable now."""


class Extracted(NamedTuple):
    """The text of a document with its structure written as Markdown; pages, slides,
    sheets and chapters are separated by a form feed."""

    text: str
    title: str | None
    media_type: str
    metadata: Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may cost before its parser is killed."""

    wall_s: float = 60.0
    cpu_s: int = 30
    memory_bytes: int = 1 << 30
    output_bytes: int = 50_000_000
    rows: int = 100_000
    pages: int = 10_000
    archive_entries: int = 10_000
    archive_ratio: int = 200
    """A part of an archive may unpack to this many times its packed size (small parts: any)."""
    ocr: bool = False
    """May text on images be recognised? If not, a child says when it must be."""
    ocr_s: float = 300.0
    """Seconds, by the clock and of processor time, for a document with such images."""
    ocr_pages: int = 200
    ocr_memory_bytes: int = 2 << 30
    pixels: int = 100_000_000

    def for_ocr(self) -> Limits:
        """Those of a process that recognises text."""
        return replace(
            self,
            ocr=True,
            wall_s=self.ocr_s,
            cpu_s=math.ceil(self.ocr_s),
            memory_bytes=self.ocr_memory_bytes,
        )


class NeedsOcrError(Exception):
    """Said within the child: this document has to be read with the limits of recognition."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Blocks of Markdown, counted while they are written so that a bomb ends early."""

    limit: int
    blocks: list[str] = field(default_factory=list)
    _size: list[int] = field(default_factory=lambda: [0])

    def block(self, text: str) -> None:
        """Add one paragraph, heading, list or table; ``BadRecordError`` when it is too much."""
        from penstock.errors import BadRecordError

        self._size[0] += len(text) + 2
        if self._size[0] > self.limit:
            msg = f"expected at most {self.limit:,} characters of text, found more: split the file"
            raise BadRecordError(msg)
        self.blocks.append(text)

    def text(self) -> str:
        """All blocks, separated by blank lines."""
        return "\n\n".join(self.blocks)


class Extractor(Protocol):
    """Turns the bytes of a document into text."""

    def extract_plain(self, name: str, data: bytes) -> Extracted | None:
        """The text at once, if nothing but decoding is needed; None when `extract` must be asked.

        Safe to call in any thread. Raises `BadRecordError` with the reason when there is no text.
        """

    async def extract(self, name: str, data: bytes) -> Extracted:
        """The text of any document. ``name`` is only a hint at what the bytes are.

        Raises `BadRecordError` with the reason when there is none (broken, encrypted, too costly),
        `MissingExtraError` when an optional package is needed, `UnavailableError` when no parser
        could be started.
        """

    async def close(self) -> None:
        """End the child processes."""
