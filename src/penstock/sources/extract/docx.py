"""Word documents to Markdown: a zip archive of XML, read without trusting either."""

from __future__ import annotations

import re
from typing import Final

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.tables import markdown_table
from penstock.sources.extract.zipped import Attributes, Facts, parse_xml, unpacked

_HEADING: Final = re.compile(r"heading\s*([1-6])$", re.I)
_OTHER: Final = (("META-INF/MANIFEST.MF", "a Java archive"),)


def extract_docx(data: bytes, limits: Limits) -> Extracted:
    """Headings by style, paragraphs, lists and tables; deleted and hidden text left out."""
    with unpacked(data, limits, "a Word document") as archive:
        if "word/document.xml" not in archive.names:
            found = (what for name, what in _OTHER if name in archive.names)
            msg = f"expected a document, found {next(found, 'a zip archive')}"
            raise BadRecordError(msg)
        headings = _Styles()
        if "word/styles.xml" in archive.names:
            parse_xml(archive.part("word/styles.xml"), headings.start)
        body = _Body(headings.levels, Writer(limits.output_bytes))
        parse_xml(archive.part("word/document.xml"), body.start, body.end, body.characters)
        facts = Facts()
        facts.read(archive, "docProps/core.xml")
    title = facts.found.pop("title", None) or body.first_heading
    metadata: dict[str, MetadataValue] = dict(facts.found)
    return Extracted(body.writer.text(), title, Kind.DOCX.value, metadata)


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
        rows, self._rows = self._rows, []
        if any(any(row) for row in rows):
            self.writer.block(markdown_table(rows))
