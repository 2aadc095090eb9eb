"""Zip archives of XML (Word, PowerPoint, Excel, OpenDocument, EPUB), read without trusting
either."""

from __future__ import annotations

import contextlib
import io
import posixpath
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote
from xml.parsers import expat

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Limits

_ENTRY: Final = b"PK\x01\x02"
_FREE_BYTES: Final = 1_000_000  # parts smaller than this may be packed as tightly as they like
_TOTAL: Final = 4
"""All parts together may unpack to this many times what the text may have: markup is not text."""
Attributes = dict[str, str]


class Archive:
    """The parts of a document, unpacked one at a time and counted over all of them."""

    def __init__(self, archive: zipfile.ZipFile, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._left = limits.output_bytes * _TOTAL
        self.names = frozenset(archive.namelist())

    def part(self, name: str) -> bytes:
        """One part, refused before it is unpacked when it claims too much, and while it is
        unpacked when the claim was a lie."""
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            raise BadRecordError(
                f"expected a part {name[:100]} in the document, found none"
            ) from None
        if info.flag_bits & 1:
            raise BadRecordError("expected a document without a password, found an encrypted one")
        limits = self._limits
        tightest = max(_FREE_BYTES, info.compress_size * limits.archive_ratio)
        allowed = min(limits.output_bytes, tightest, self._left)
        too_much = (
            f"expected {name[:100]} to unpack to at most {allowed:,} bytes, found more: a zip bomb?"
        )
        if info.file_size > allowed:
            raise BadRecordError(too_much)
        try:
            with self._archive.open(info) as part:
                content = part.read(allowed + 1)
        except zlib.error as error:
            msg = f"expected a document, its part {name[:100]} is broken: {error}"
            raise BadRecordError(msg) from error
        if len(content) > allowed:
            raise BadRecordError(too_much)
        self._left -= len(content)
        return content


@contextlib.contextmanager
def unpacked(data: bytes, limits: Limits, what: str) -> Iterator[Archive]:
    """The archive; what is wrong with it becomes a sentence about ``what``."""
    entries = data.count(_ENTRY)
    if entries > limits.archive_entries:
        msg = f"expected at most {limits.archive_entries:,} parts, found {entries:,}"
        raise BadRecordError(msg)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield Archive(archive, limits)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise BadRecordError(f"expected {what}, found a broken archive: {error}") from error


def parse_xml(
    data: bytes,
    start: Callable[[str, Attributes], None],
    end: Callable[[str], None] | None = None,
    characters: Callable[[str], None] | None = None,
    *,
    doctype: bool = False,
) -> None:
    """Run handlers over XML. A document type is refused, since it could define entities that grow
    or that name files; with ``doctype`` it may be named but may define nothing."""
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise BadRecordError("expected plain XML in the document, found a document type (DTD)")

    def named(_name: str, _system: str | None, _public: str | None, inside: int) -> None:
        if inside or not doctype:
            refuse()

    parser.StartDoctypeDeclHandler = named
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.buffer_text = True
    try:
        parser.Parse(data, True)  # noqa: FBT003 - expat takes no keywords
    except expat.ExpatError as error:
        raise BadRecordError(f"expected XML in the document, found an error: {error}") from error


class Facts:
    """Title, author and subject from a part that names them as Dublin Core does."""

    _WANTED: Final = {"title": "title", "creator": "author", "subject": "subject"}

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._name: str | None = None

    def read(self, archive: Archive, name: str) -> None:
        """From this part, if the document has it."""
        if name in archive.names:
            parse_xml(archive.part(name), self.start, self.end, self.characters)

    def start(self, tag: str, _attributes: Attributes) -> None:
        prefix, _, name = tag.rpartition(":")
        self._name = None if prefix == "text" else self._WANTED.get(name)

    def end(self, _tag: str) -> None:
        self._name = None

    def characters(self, data: str) -> None:
        if self._name is not None and data.strip():
            self.found[self._name] = f"{self.found.get(self._name, '')}{data}".strip()[:1000]


def relations(archive: Archive, part: str) -> dict[str, str]:
    """What a part of an Office document refers to: names of parts by the id of the relation."""
    folder, _, base = part.rpartition("/")
    name = f"{folder}/_rels/{base}.rels"
    found: dict[str, str] = {}

    def start(tag: str, attributes: Attributes) -> None:
        if local(tag) == "Relationship" and attributes.get("TargetMode") != "External":
            target = attributes.get("Target", "")
            found[attributes.get("Id", "")] = (
                target[1:] if target.startswith("/") else beside(part, target)
            )

    if name in archive.names:
        parse_xml(archive.part(name), start)
    return found


def beside(part: str, target: str) -> str:
    """The name of a part that another one refers to."""
    folder = part.rpartition("/")[0]
    return posixpath.normpath(posixpath.join(folder, unquote(target.partition("#")[0])))


def local(tag: str) -> str:
    """The name of an element without its prefix, which its author may choose."""
    return tag.rpartition(":")[2]


def attribute(attributes: Attributes, name: str) -> str:
    """An attribute by its local name."""
    return next((value for key, value in attributes.items() if local(key) == name), "")
