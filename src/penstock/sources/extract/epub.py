"""EPUB books to Markdown, chapter by chapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue
from penstock.sources.extract.html import extract_html
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.zipped import (
    Archive,
    Attributes,
    Facts,
    beside,
    local,
    parse_xml,
    unpacked,
)

MAIN: Final = "META-INF/container.xml"
_ENCRYPTION: Final = "META-INF/encryption.xml"


def extract_epub(data: bytes, limits: Limits) -> Extracted:
    """The chapters of the spine in their order, separated by a form feed."""
    with unpacked(data, limits, "an EPUB book") as archive:
        package = _package(archive)
        book = _Book(package)
        parse_xml(archive.part(package), book.start, doctype=True)
        locked = _encrypted(archive)
        if len(book.spine) > limits.pages:
            msg = f"expected at most {limits.pages:,} chapters, found {len(book.spine):,}: split it"
            raise BadRecordError(msg)
        pages: list[str] = []
        left = limits.output_bytes
        for name in book.chapters():
            if name in locked:
                raise BadRecordError(
                    "expected a book without copy protection, found an encrypted one"
                )
            text = ""
            if name in archive.names:
                text = extract_html(archive.part(name), replace(limits, output_bytes=left)).text
            left -= len(text)
            pages.append(text.replace("\f", " "))
        facts = Facts()
        facts.read(archive, package)
    title = facts.found.pop("title", None)
    metadata: dict[str, MetadataValue] = {**facts.found, "chapters": len(pages)}
    return Extracted("\f".join(pages), title, Kind.EPUB.value, metadata)


def _package(archive: Archive) -> str:
    found: list[str] = []

    def start(tag: str, attributes: Attributes) -> None:
        if local(tag) == "rootfile":
            found.append(attributes.get("full-path", ""))

    parse_xml(archive.part(MAIN), start)
    if not found:
        raise BadRecordError("expected an EPUB book, found none in its container")
    return found[0]


def _encrypted(archive: Archive) -> set[str]:
    """Parts that are encrypted; of an open book at most its fonts are."""
    found: set[str] = set()

    def start(tag: str, attributes: Attributes) -> None:
        if local(tag) == "CipherReference":
            found.add(beside("", attributes.get("URI", "")))

    if _ENCRYPTION in archive.names:
        parse_xml(archive.part(_ENCRYPTION), start)
    return found


class _Book:
    """What the package says: parts by id, and the ids in reading order."""

    def __init__(self, package: str) -> None:
        self.spine: list[str] = []
        self._package = package
        self._parts: dict[str, str] = {}

    def start(self, tag: str, attributes: Attributes) -> None:
        name = local(tag)
        if name == "item" and "html" in attributes.get("media-type", ""):
            href = attributes.get("href", "")
            self._parts[attributes.get("id", "")] = beside(self._package, href)
        elif name == "itemref":
            self.spine.append(attributes.get("idref", ""))

    def chapters(self) -> list[str]:
        return [self._parts[name] for name in self.spine if name in self._parts]
