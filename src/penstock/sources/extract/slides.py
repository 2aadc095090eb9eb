"""PowerPoint presentations to Markdown, one slide after the other."""

from __future__ import annotations

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.tables import markdown_table
from penstock.sources.extract.zipped import (
    Archive,
    Attributes,
    Facts,
    attribute,
    local,
    parse_xml,
    relations,
    unpacked,
)

MAIN = "ppt/presentation.xml"
_FURNITURE = frozenset({"dt", "ftr", "sldNum", "hdr", "sldImg"})
_TITLES = frozenset({"title", "ctrTitle"})


def extract_pptx(data: bytes, limits: Limits) -> Extracted:
    """Each slide: its title as a heading, text and tables in the order of the file, speaker's
    notes. Slides are separated by a form feed; a hidden one is left empty, so numbers stay."""
    with unpacked(data, limits, "a presentation") as archive:
        slides = _slides(archive)
        if len(slides) > limits.pages:
            msg = f"expected at most {limits.pages:,} slides, found {len(slides):,}: split it"
            raise BadRecordError(msg)
        writer = Writer(limits.output_bytes)
        pages, first = [], None
        for name in slides:
            slide = _Slide()
            parse_xml(archive.part(name), slide.start, slide.end, slide.characters)
            first = first or slide.title
            blocks = [] if slide.hidden else [*slide.text(), *_notes(archive, name)]
            for block in blocks:
                writer.block(block)
            pages.append("\n\n".join(blocks))
        facts = Facts()
        facts.read(archive, "docProps/core.xml")
    title = facts.found.pop("title", None) or first
    metadata: dict[str, MetadataValue] = {**facts.found, "slides": len(pages)}
    return Extracted("\f".join(pages), title, Kind.PPTX.value, metadata)


def _slides(archive: Archive) -> list[str]:
    """The parts of the slides in the order in which they are shown."""
    ids: list[str] = []

    def start(tag: str, attributes: Attributes) -> None:
        if local(tag) == "sldId":
            ids.append(next((v for k, v in attributes.items() if k.endswith(":id")), ""))

    parse_xml(archive.part(MAIN), start)
    targets = relations(archive, MAIN)
    return [targets[name] for name in ids if targets.get(name) in archive.names]


def _notes(archive: Archive, slide: str) -> list[str]:
    for target in relations(archive, slide).values():
        if "notesSlide" in target and target in archive.names:
            notes = _Slide()
            parse_xml(archive.part(target), notes.start, notes.end, notes.characters)
            text = "\n\n".join(notes.text())
            return [f"Notes: {text.removeprefix('- ')}"] if text else []
    return []


class _Slide:
    """The text of one slide, or of its notes."""

    def __init__(self) -> None:
        self.title: str | None = None
        self.hidden = False
        self._blocks: list[str] = []
        self._items: list[str] = []
        self._parts: list[str] = []
        self._kind: str | None = None
        self._level = 0
        self._collecting = False
        self._fallback = 0
        self._rows: list[list[str]] | None = None

    def text(self) -> list[str]:
        """Its blocks, the title first."""
        self._end_list()
        heading = [f"## {self.title}"] if self.title else []
        return heading + self._blocks

    def start(self, tag: str, attributes: Attributes) -> None:  # noqa: C901 - a flat list of tags
        name = local(tag)
        if name == "Fallback" or self._fallback:
            self._fallback += name == "Fallback"
        elif name == "sld":
            self.hidden = attributes.get("show") in {"0", "false"}
        elif name in {"sp", "graphicFrame", "cxnSp", "pic"}:
            self._end_list()
            self._kind = None
        elif name == "ph":
            self._kind = attributes.get("type", "body")
        elif name == "p":
            self._level = 0
        elif name == "pPr":
            level = attribute(attributes, "lvl")
            self._level = min(int(level), 8) if level in set("012345678") else 0
        elif name == "t":
            self._collecting = True
        elif name == "br":
            self._parts.append(" ")
        elif name == "tbl":
            self._rows = []
        elif name == "tr" and self._rows is not None:
            self._rows.append([])
        elif name == "tc" and self._rows:
            self._rows[-1].append("")

    def end(self, tag: str) -> None:
        name = local(tag)
        if name == "Fallback":
            self._fallback -= 1
        elif self._fallback:
            return
        elif name == "t":
            self._collecting = False
        elif name == "p":
            self._end_paragraph()
        elif name == "tbl" and self._rows is not None:
            table, self._rows = markdown_table(self._rows), None
            if table:
                self._blocks.append(table)

    def characters(self, data: str) -> None:
        if self._collecting and not self._fallback:
            self._parts.append(data)

    def _end_paragraph(self) -> None:
        text = " ".join("".join(self._parts).split())
        self._parts.clear()
        if not text or self._kind in _FURNITURE:
            return
        if self._rows is not None:
            if self._rows and self._rows[-1]:
                last = self._rows[-1]
                last[-1] = f"{last[-1]} {text}".strip()
        elif self._kind in _TITLES:
            self.title = f"{self.title} {text}" if self.title else text
        elif self._kind == "body":
            self._items.append(f"{'  ' * self._level}- {text}")
        else:
            self._blocks.append(text)

    def _end_list(self) -> None:
        if self._items:
            self._blocks.append("\n".join(self._items))
            self._items = []
