"""Word documents to Markdown: a zip archive of XML, read without trusting either."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from typing import Final
from xml.parsers import expat

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.tables import markdown_row

_ENTRY: Final = b"PK\x01\x02"
_FREE_BYTES: Final = 1_000_000  # parts smaller than this may be packed as tightly as they like
_HEADING: Final = re.compile(r"heading\s*([1-6])$", re.I)
_OTHER: Final = (
    ("xl/workbook.xml", "a spreadsheet (.xlsx): save it as .csv"),
    ("ppt/presentation.xml", "a presentation (.pptx), which is not supported: save it as .pdf"),
    ("META-INF/MANIFEST.MF", "a Java archive"),
    ("mimetype", "an OpenDocument or EPUB file, which is not supported: save it as .docx"),
)
Attributes = dict[str, str]


def extract_docx(data: bytes, limits: Limits) -> Extracted:
    """Headings by style, paragraphs, lists and tables; deleted and hidden text left out."""
    entries = data.count(_ENTRY)
    if entries > limits.archive_entries:
        msg = f"expected at most {limits.archive_entries:,} parts, found {entries:,}"
        raise BadRecordError(msg)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
            if "word/document.xml" not in names:
                found = (what for name, what in _OTHER if name in names)
                msg = f"expected a document, found {next(found, 'a zip archive')}"
                raise BadRecordError(msg)
            headings = _Styles()
            if "word/styles.xml" in names:
                _parse(_part(archive, "word/styles.xml", limits), headings.start, None, None)
            body = _Body(headings.levels, Writer(limits.output_bytes))
            document = _part(archive, "word/document.xml", limits)
            _parse(document, body.start, body.end, body.characters)
            facts = _Facts()
            if "docProps/core.xml" in names:
                core = _part(archive, "docProps/core.xml", limits)
                _parse(core, facts.start, facts.end, facts.characters)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise BadRecordError(
            f"expected a Word document, found a broken archive: {error}"
        ) from error
    title = facts.found.pop("title", None) or body.first_heading
    metadata: dict[str, MetadataValue] = dict(facts.found)
    return Extracted(body.writer.text(), title, Kind.DOCX.value, metadata)


def _part(archive: zipfile.ZipFile, name: str, limits: Limits) -> bytes:
    """One part, refused before it is unpacked when it claims too much, and while it is unpacked
    when the claim was a lie."""
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise BadRecordError("expected a document without a password, found an encrypted one")
    allowed = min(limits.output_bytes, max(_FREE_BYTES, info.compress_size * limits.archive_ratio))
    too_much = f"expected {name} to unpack to at most {allowed:,} bytes, found more: a zip bomb?"
    if info.file_size > allowed:
        raise BadRecordError(too_much)
    import zlib

    try:
        with archive.open(info) as part:
            content = part.read(allowed + 1)
    except zlib.error as error:
        raise BadRecordError(f"expected a Word document, {name} is broken: {error}") from error
    if len(content) > allowed:
        raise BadRecordError(too_much)
    return content


def _parse(
    data: bytes,
    start: Callable[[str, Attributes], None],
    end: Callable[[str], None] | None,
    characters: Callable[[str], None] | None,
) -> None:
    """Run handlers over XML. A document type is refused: it could define entities that grow."""
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise BadRecordError("expected plain XML in the document, found a document type (DTD)")

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.buffer_text = True
    try:
        parser.Parse(data, True)  # noqa: FBT003 - expat takes no keywords
    except expat.ExpatError as error:
        raise BadRecordError(f"expected XML in the document, found an error: {error}") from error


class _Styles:
    """Which paragraph styles are headings, of which level."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {}
        self._style = ""

    def start(self, tag: str, attributes: Attributes) -> None:
        if tag == "w:style":
            self._style = attributes.get("w:styleId", "")
        elif tag == "w:name" and self._style:
            name = attributes.get("w:val", "")
            match = _HEADING.match(name)
            if match or name.lower() == "title":
                self.levels[self._style] = int(match[1]) if match else 1
        elif tag == "w:outlineLvl" and self._style:
            level = attributes.get("w:val", "")
            if level.isdecimal() and int(level[:2]) < 6:
                self.levels.setdefault(self._style, int(level) + 1)


class _Facts:
    """Title and author of the document."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._name: str | None = None

    def start(self, tag: str, _attributes: Attributes) -> None:
        name = tag.rpartition(":")[2]
        wanted = {"title": "title", "creator": "author", "subject": "subject"}
        self._name = wanted.get(name)

    def end(self, _tag: str) -> None:
        self._name = None

    def characters(self, data: str) -> None:
        if self._name is not None and data.strip():
            self.found[self._name] = f"{self.found.get(self._name, '')}{data}".strip()[:1000]


class _Body:
    """The text of ``word/document.xml``."""

    def __init__(self, levels: dict[str, int], writer: Writer) -> None:
        self.writer = writer
        self.first_heading: str | None = None
        self._levels = levels
        self._parts: list[str] = []
        self._collecting = False
        self._hidden = False
        self._fallback = 0
        self._style = ""
        self._list_level: int | None = None
        self._items: list[str] = []
        self._tables = 0
        self._rows: list[list[str]] = []

    def start(self, tag: str, attributes: Attributes) -> None:  # noqa: C901 - a flat list of tags
        if tag == "mc:Fallback" or self._fallback:
            self._fallback += tag == "mc:Fallback"
        elif tag == "w:t":
            self._collecting = not self._hidden
        elif tag == "w:tab":
            self._parts.append("\t")
        elif tag in {"w:br", "w:cr"}:
            self._parts.append("\n")
        elif tag == "w:r":
            self._hidden = False
        elif tag == "w:vanish":
            self._hidden = attributes.get("w:val", "true") not in {"0", "false"}
        elif tag == "w:p":
            self._style, self._list_level = "", None
        elif tag == "w:pStyle":
            self._style = attributes.get("w:val", "")
        elif tag == "w:numPr":
            self._list_level = 0
        elif tag == "w:ilvl" and self._list_level is not None:
            level = attributes.get("w:val", "")
            self._list_level = min(int(level[:3]), 8) if level.isdecimal() else 0
        elif tag == "w:tbl":
            self._end_list()
            self._tables += 1
        elif self._tables == 1 and tag == "w:tr":
            self._rows.append([])
        elif self._tables == 1 and tag == "w:tc" and self._rows:
            self._rows[-1].append("")

    def end(self, tag: str) -> None:
        if tag == "mc:Fallback":
            self._fallback -= 1
        elif tag == "w:t":
            self._collecting = False
        elif tag == "w:p" and not self._fallback:
            self._end_paragraph()
        elif tag == "w:tbl" and not self._fallback:
            self._tables -= 1
            if not self._tables:
                self._end_table()
        elif tag == "w:body":
            self._end_list()

    def characters(self, data: str) -> None:
        if self._collecting and not self._fallback:
            self._parts.append(data)

    def _end_paragraph(self) -> None:
        text = "".join(self._parts).strip()
        self._parts.clear()
        if not text:
            return
        if self._tables:
            if self._rows and self._rows[-1]:
                last = self._rows[-1]
                last[-1] = f"{last[-1]} {text}".strip()
            return
        level = self._levels.get(self._style)
        if level is None and (match := _HEADING.match(self._style)):
            level = int(match[1])
        if level is not None:
            self._end_list()
            text = " ".join(text.split())
            self.first_heading = self.first_heading or text
            self.writer.block(f"{'#' * level} {text}")
        elif self._list_level is not None:
            self._items.append(f"{'  ' * self._list_level}- {text}")
        else:
            self._end_list()
            self.writer.block(text)

    def _end_list(self) -> None:
        if self._items:
            self.writer.block("\n".join(self._items))
            self._items = []

    def _end_table(self) -> None:
        rows = [row for row in self._rows if any(row)]
        self._rows = []
        if rows:
            rule = f"|{'---|' * len(rows[0])}"
            lines = [markdown_row(rows[0]), rule, *(markdown_row(row) for row in rows[1:])]
            self.writer.block("\n".join(lines))
