"""OpenDocument texts, spreadsheets and presentations (.odt, .ods, .odp) to Markdown."""

from __future__ import annotations

from typing import Final

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.tables import markdown_table
from penstock.sources.extract.zipped import Attributes, Facts, parse_xml, unpacked

MAIN: Final = "content.xml"
_PREFIX: Final = "application/vnd.oasis.opendocument."
_KINDS: Final = {
    f"{_PREFIX}text": Kind.ODT,
    f"{_PREFIX}spreadsheet": Kind.ODS,
    f"{_PREFIX}presentation": Kind.ODP,
}
_SKIPPED: Final = frozenset(
    {"text:tracked-changes", "office:annotation", "text:note-citation", "office:forms"}
)
_MOST_REPEATED: Final = 1000
"""Empty cells are repeated to the edge of a sheet; more copies than this of one that is full are
no data."""


def extract_opendocument(data: bytes, limits: Limits) -> Extracted:
    """Headings, paragraphs, lists and tables; what changes deleted and comments left out. Sheets
    and slides are separated by a form feed."""
    with unpacked(data, limits, "an OpenDocument file") as archive:
        declared = ""
        if "mimetype" in archive.names:
            declared = archive.part("mimetype").decode("ascii", "replace").strip()
        kind = _KINDS.get(declared.removesuffix("-template"))
        if kind is None:
            raise BadRecordError(f"expected an OpenDocument text, sheet or slides: {declared!r}")
        manifest = "META-INF/manifest.xml"
        if manifest in archive.names and b"encryption-data" in archive.part(manifest):
            raise BadRecordError("expected a document without a password, found an encrypted one")
        body = _Body(kind, limits)
        parse_xml(archive.part(MAIN), body.start, body.end, body.characters)
        facts = Facts()
        facts.read(archive, "meta.xml")
    title = facts.found.pop("title", None) or body.first_heading
    metadata: dict[str, MetadataValue] = dict(facts.found)
    pages = body.pages()
    if kind is not Kind.ODT:
        metadata["sheets" if kind is Kind.ODS else "slides"] = len(pages)
    return Extracted("\f".join(pages), title, kind.value, metadata)


class _Body:
    """The text of ``content.xml``."""

    def __init__(self, kind: Kind, limits: Limits) -> None:
        self.first_heading: str | None = None
        self._kind = kind
        self._limits = limits
        self._writer = Writer(limits.output_bytes)
        self._starts: list[int] = []
        self._parts: list[str] = []
        self._skipped = 0
        self._depth = 0  # of paragraphs: a note is one inside of another
        self._heading = 0
        self._lists = 0
        self._tables = 0
        self._rows: list[list[str]] = []
        self._cells = 0
        self._repeat = 1
        self._cell: list[str] = []

    def pages(self) -> list[str]:
        """The blocks by sheet or slide; a text is one page."""
        blocks = self._writer.blocks
        starts = self._starts or [0]
        ends = [*starts[1:], len(blocks)]
        return ["\n\n".join(blocks[a:b]) for a, b in zip(starts, ends, strict=True)]

    def start(self, tag: str, attributes: Attributes) -> None:
        if self._skipped or tag in _SKIPPED:
            self._skipped += tag in _SKIPPED
        elif tag in {"text:p", "text:h"}:
            self._depth += 1
            level = attributes.get("text:outline-level", "1")
            self._heading = (int(level) if level in set("123456") else 6) if tag[-1] == "h" else 0
        elif tag in {"text:tab", "text:line-break", "text:s"}:
            self._parts.append(" ")
        elif tag == "text:list":
            self._lists += 1
        elif tag == "draw:page":
            self._starts.append(len(self._writer.blocks))
        elif tag == "table:table":
            self._tables += 1
            if self._kind is Kind.ODS and self._tables == 1:
                self._starts.append(len(self._writer.blocks))
                self._writer.block(f"## {' '.join(attributes.get('table:name', '').split())}")
        elif tag == "table:table-row" and self._tables == 1:
            self._rows.append([])
        elif tag in {"table:table-cell", "table:covered-table-cell"} and self._tables == 1:
            self._cell = []
            times = attributes.get("table:number-columns-repeated", "1")
            self._repeat = int(times) if times.isdecimal() and len(times) < 9 else 1

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= tag in _SKIPPED
        elif tag in {"text:p", "text:h"}:
            self._depth -= 1
            if not self._depth:
                self._end_paragraph()
        elif tag == "text:list":
            self._lists -= 1
        elif tag in {"table:table-cell", "table:covered-table-cell"} and self._tables == 1:
            self._end_cell()
        elif tag == "table:table-row" and self._tables == 1:
            self._end_row()
        elif tag == "table:table":
            self._end_table()

    def characters(self, data: str) -> None:
        if self._depth and not self._skipped:
            self._parts.append(data)

    def _end_cell(self) -> None:
        text = " ".join(self._cell)
        times = min(self._repeat, _MOST_REPEATED)
        self._cells += times * (len(text) + 3)
        if self._cells > self._limits.output_bytes:
            msg = f"expected at most {self._limits.output_bytes:,} characters of text: split it"
            raise BadRecordError(msg)
        if self._rows:
            self._rows[-1].extend([text] * times)

    def _end_row(self) -> None:
        row = self._rows[-1] if self._rows else []
        while row and not row[-1]:
            row.pop()
        if len(self._rows) > self._limits.rows:
            raise BadRecordError(f"expected at most {self._limits.rows:,} rows: split the file")

    def _end_paragraph(self) -> None:
        text = " ".join("".join(self._parts).split())
        self._parts.clear()
        if not text:
            return
        if self._tables:
            self._cell.append(text)
        elif self._heading:
            self.first_heading = self.first_heading or text
            self._writer.block(f"{'#' * self._heading} {text}")
        elif self._lists:
            self._writer.block(f"{'  ' * min(self._lists - 1, 8)}- {text}")
        else:
            self._writer.block(text)

    def _end_table(self) -> None:
        self._tables -= 1
        if self._tables:
            return
        rows, self._rows = self._rows, []
        width = max((len(row) for row in rows), default=0)
        full = [row for row in rows if row]
        if width * len(full) * 3 > self._limits.output_bytes:
            msg = f"expected at most {self._limits.output_bytes:,} characters of text: split it"
            raise BadRecordError(msg)
        if full:
            self._writer.block(markdown_table([row + [""] * (width - len(row)) for row in full]))
