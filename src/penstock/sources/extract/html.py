"""HTML to Markdown, without a tree: nothing here grows with the depth of nesting."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser
from typing import Final

from penstock.sources.extract.base import Extracted, Limits, MetadataValue, Writer
from penstock.sources.extract.sniff import UTF16_MARKS, Kind
from penstock.sources.extract.tables import markdown_row

_SKIPPED: Final = frozenset(
    (  # noqa: SIM905 - a list of these words would be a page long
        "script style template noscript svg math iframe object canvas audio video select button "
        "textarea "
    ).split()
)
_BLOCKS: Final = frozenset(
    (  # noqa: SIM905 - a list of these words would be a page long
        "address article aside blockquote body center dd details dialog div dl dt fieldset "
        "figcaption figure footer form header hgroup hr html legend main nav p section summary ul "
        "ol li table caption thead tbody tfoot tr pre h1 h2 h3 h4 h5 h6 title "
    ).split()
)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_VOID: Final = frozenset(
    (  # noqa: SIM905 - a list of these words would be a page long
        "area base br col embed hr img input link meta param source track wbr "
    ).split()
)
_HIDDEN_STYLE: Final = re.compile(
    r"(?:display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?:px|em|pt|%)?\s*(?:;|!|$))",
    re.I,
)
_CHARSET: Final = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.I
)
_MAX_LIST_DEPTH: Final = 20


def extract_html(data: bytes, limits: Limits) -> Extracted:
    """Headings, paragraphs, lists, tables and code; scripts and what is hidden left out."""
    text, encoding = _decode(data)
    parser = _Parser(Writer(limits.output_bytes))
    parser.feed(text)
    parser.close()
    parser.finish()
    metadata: dict[str, MetadataValue] = dict(parser.facts)
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    title = parser.title or parser.first_heading
    return Extracted(parser.writer.text(), title, Kind.HTML.value, metadata)


def _decode(data: bytes) -> tuple[str, str]:
    if data.startswith(UTF16_MARKS):
        return data.decode("utf-16", "replace"), "utf-16"
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        match = _CHARSET.search(data[:4096])
        encoding = match[1].decode("ascii").lower() if match else "windows-1252"
        try:
            if codecs.lookup(encoding).name == "utf-8":
                encoding = "windows-1252"
            return data.decode(encoding, "replace"), encoding
        except (LookupError, UnicodeError):  # unknown, or no encoding of text
            return data.decode("windows-1252", "replace"), "windows-1252"


class _Parser(HTMLParser):
    def __init__(self, writer: Writer) -> None:
        super().__init__(convert_charrefs=True)
        self.writer = writer
        self.title: str | None = None
        self.first_heading: str | None = None
        self.facts: dict[str, str] = {}
        self._parts: list[str] = []
        self._skipping: str | None = None
        self._skip_depth = 0
        self._heading = 0
        self._pre = 0
        self._in_title = False
        self._lists: list[int] = []  # per open list: the next number, or -1 for bullets
        self._item: str | None = None
        self._items: list[str] = []
        self._tables = 0
        self._rows: list[list[str]] = []
        self._header = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping is not None:
            self._skip_depth += tag == self._skipping
            return
        if tag not in _VOID and (tag in _SKIPPED or _hidden(attrs)):
            self._skipping, self._skip_depth = tag, 1
            return
        if tag == "br":
            self._parts.append("\n")
        elif tag == "meta":
            self._meta(dict(attrs))
        elif tag in {"td", "th"}:
            self._cell(header=tag == "th")
        elif tag in _BLOCKS:
            self._open(tag)

    def _open(self, tag: str) -> None:  # noqa: C901 - a flat list of tags
        if not (self._tables and tag != "table"):
            self._flush()
        if tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag == "title":
            self._in_title = True
        elif tag == "pre":
            self._pre += 1
        elif tag in {"ul", "ol"}:
            if len(self._lists) < _MAX_LIST_DEPTH:
                self._lists.append(-1 if tag == "ul" else 1)
        elif tag == "li":
            self._item = self._marker()
        elif tag == "table":
            self._tables += 1
        elif tag == "tr" and self._tables:
            self._end_cell()
            self._rows.append([])
        elif self._tables:
            self._parts.append(" ")

    def _marker(self) -> str:
        indent = "  " * max(0, len(self._lists) - 1)
        if not self._lists or self._lists[-1] < 0:
            return f"{indent}- "
        number = self._lists[-1]
        self._lists[-1] += 1
        return f"{indent}{number}. "

    def handle_endtag(self, tag: str) -> None:
        if self._skipping is not None:
            self._skip_depth -= tag == self._skipping
            if self._skip_depth == 0:
                self._skipping = None
        elif tag == "table":
            self._end_table()
        elif tag in {"td", "th"}:
            self._end_cell()
        elif tag in _BLOCKS and not self._tables:
            self._flush()
            if tag in {"ul", "ol"} and self._lists:
                self._lists.pop()
                if not self._lists:
                    self._end_list()
            elif tag == "pre":
                self._pre = max(0, self._pre - 1)
        elif tag in _BLOCKS:
            self._parts.append(" ")

    def handle_data(self, data: str) -> None:
        if self._skipping is None:
            self._parts.append(data)

    def _flush(self) -> None:
        """End the block that is being collected."""
        text = "".join(self._parts)
        self._parts.clear()
        if self._pre and not self._in_title:
            heading, self._heading = 0, 0
            if text.strip():
                self._end_list()
                fence = "````" if "```" in text else "```"
                self.writer.block(f"{fence}\n{text.strip(chr(10))}\n{fence}")
            return
        lines = (" ".join(line.split()) for line in text.split("\n")) if "\n" in text else None
        text = " ".join(text.split()) if lines is None else " ".join(line for line in lines if line)
        heading, self._heading = self._heading, 0
        if self._in_title:
            self._in_title = False
            self.title = self.title or text or None
        elif text:
            self._place(text, heading)

    def _place(self, text: str, heading: int) -> None:
        if heading:
            self._end_list()
            self.first_heading = self.first_heading or text
            self.writer.block(f"{'#' * heading} {text}")
        elif self._lists:
            marker, self._item = self._item, None
            indent = "  " * len(self._lists)
            self._items.append(f"{marker}{text}" if marker is not None else f"{indent}{text}")
        else:
            self._end_list()
            self.writer.block(f"- {text}" if self._item is not None else text)
            self._item = None

    def _end_list(self) -> None:
        if self._items:
            self.writer.block("\n".join(self._items))
            self._items = []

    def _cell(self, *, header: bool) -> None:
        if not self._tables:
            self._flush()
            return
        self._end_cell()
        if not self._rows:
            self._rows.append([])
        self._header = self._header or header
        self._rows[-1].append("")

    def _end_cell(self) -> None:
        text = " ".join("".join(self._parts).split())
        self._parts.clear()
        if not text:
            return
        if self._rows and self._rows[-1]:
            last = self._rows[-1]
            last[-1] = f"{last[-1]} {text}".strip()
        else:  # a caption, or text between rows
            self._end_list()
            self.writer.block(text)

    def _end_table(self) -> None:
        if not self._tables:
            return
        self._end_cell()
        self._tables -= 1
        if self._tables:
            return
        rows = [row for row in self._rows if any(row)]
        self._rows, self._header = [], False
        if rows:
            self._end_list()
            rule = f"|{'---|' * len(rows[0])}"
            lines = [markdown_row(rows[0]), rule, *(markdown_row(row) for row in rows[1:])]
            self.writer.block("\n".join(lines))

    def _meta(self, attributes: dict[str, str | None]) -> None:
        name, content = (attributes.get("name") or "").lower(), attributes.get("content")
        if name in {"author", "description", "keywords"} and content:
            self.facts[name] = content.strip()[:1000]

    def finish(self) -> None:
        """Write what is still open: unclosed elements are common."""
        self._tables = min(self._tables, 1)
        self._end_table()
        self._flush()
        self._end_list()


def _hidden(attributes: list[tuple[str, str | None]]) -> bool:
    for name, value in attributes:
        if name == "hidden" or (name == "aria-hidden" and value == "true"):
            return True
        if name == "style" and value and _HIDDEN_STYLE.search(value):
            return True
    return False
