"""Rich Text Format to Markdown: paragraphs and tables; its formatting is left out."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.tables import markdown_table

_TOKEN: Final = re.compile(
    rb"\\([A-Za-z]{1,32})(-?[0-9]{1,10})? ?|\\'([0-9A-Fa-f]{2})|\\([^A-Za-z'])|([{}])|([^\\{}]+)",
    re.S,
)
_SKIPPED: Final = frozenset(
    (  # noqa: SIM905 - a list of these words would be a page long
        "fonttbl colortbl stylesheet info pict object themedata colorschememapping datastore "
        "latentstyles listtable listoverridetable rsidtbl generator header headerl headerr headerf "
        "footer footerl footerr footerf fldinst xmlnstbl filetbl revtbl nonshppict bkmkstart "
        "bkmkend "
    ).split()
)
_SIGNS: Final = {
    "tab": "\t", "line": "\n", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’",
    "ldblquote": "“", "rdblquote": "”", "bullet": "•", "emspace": " ", "enspace": " ",
}  # fmt: skip
_MOST_DEPTH: Final = 10_000


class _State(NamedTuple):
    """What a group inherits and its end restores."""

    skip: bool = False
    hidden: bool = False
    fallback: int = 1  # how many characters stand in for one that is given by number


def extract_rtf(data: bytes, limits: Limits) -> Extracted:
    """Text in the order of the file; a document that ends in the middle of a group is refused."""
    reader = _Reader(limits)
    for match in _TOKEN.finditer(data):
        reader.token(match)
    if reader.depth:
        raise BadRecordError("expected an RTF document, found one that ends in the middle")
    reader.finish()
    title = " ".join(reader.title.split()) or None
    return Extracted(reader.writer.text(), title, Kind.RTF.value, {})


class _Reader:
    def __init__(self, limits: Limits) -> None:
        self.writer = Writer(limits.output_bytes)
        self.title = ""
        self._stack: list[_State] = []
        self._state = _State()
        self._encoding = "cp1252"
        self._bytes = bytearray()
        self._parts: list[str] = []
        self._pending = 0  # stand-ins that are still to be passed over
        self._star = False
        self._title_depth: int | None = None
        self._cells: list[str] = []
        self._rows: list[list[str]] = []
        self._in_table = False

    @property
    def depth(self) -> int:
        return len(self._stack)

    def token(self, match: re.Match[bytes]) -> None:
        word, number, hexadecimal, symbol, brace, text = match.groups()
        if brace is not None:
            self._brace(brace)
        elif word is not None:
            self._word(word.decode("ascii"), number)
        elif hexadecimal is not None:
            self._add(bytes.fromhex(hexadecimal.decode("ascii")))
        elif symbol is not None:
            self._symbol(symbol)
        else:
            self._add(text.replace(b"\r", b"").replace(b"\n", b""))

    def _brace(self, brace: bytes) -> None:
        self._flush()
        self._pending = 0
        if brace == b"{":
            if len(self._stack) >= _MOST_DEPTH:
                raise BadRecordError("expected a document, found one that is nested too deeply")
            self._stack.append(self._state)
        elif self._stack:
            if self._title_depth == len(self._stack):
                self._title_depth = None
            self._state = self._stack.pop()

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._star = True
        elif symbol in b"\\{}":
            self._add(symbol)
        elif symbol == b"~":
            self._text(" ")
        elif symbol in b"\r\n":
            self._word("par", None)

    def _word(self, word: str, number: bytes | None) -> None:
        star, self._star = self._star, False
        value = int(number) if number else None
        self._flush()
        if word == "u" and value is not None:
            self._text(chr(value % 65_536))
            self._pending = self._state.fallback
        elif word == "uc" and value is not None:
            self._state = self._state._replace(fallback=max(0, min(value, 100)))
        elif word == "title" and self._state.skip:
            self._title_depth = len(self._stack)
        elif star or word in _SKIPPED:
            self._state = self._state._replace(skip=True)
        elif word == "ansicpg" and value is not None:
            self._encoding = f"cp{value}"
        elif word == "v":
            self._state = self._state._replace(hidden=value != 0)
        elif word == "bin" and value:
            raise BadRecordError("expected an RTF document of text, found binary data in it")
        elif word in _SIGNS:
            self._text(_SIGNS[word])
        elif not self._state.skip:
            self._structure(word)

    def _structure(self, word: str) -> None:
        if word in {"par", "sect", "page"}:
            if self._in_table:
                self._text(" ")
            else:
                self._end_paragraph()
        elif word == "pard":
            self._in_table = False
        elif word == "intbl":
            self._in_table = True
        elif word == "cell":
            self._cells.append(self._take())
        elif word == "row":
            self._rows.append(self._cells)
            self._cells = []

    def _add(self, data: bytes) -> None:
        if self._pending:
            passed = min(self._pending, len(data))
            self._pending -= passed
            data = data[passed:]
        if self._title_depth is not None or not (self._state.skip or self._state.hidden):
            self._bytes += data

    def _flush(self) -> None:
        if not self._bytes:
            return
        try:
            text = self._bytes.decode(self._encoding, "replace")
        except LookupError:
            text = self._bytes.decode("cp1252", "replace")
        self._bytes.clear()
        self._text(text)

    def _text(self, text: str) -> None:
        if self._title_depth is not None:
            self.title = (self.title + text)[:1000]
        elif not (self._state.skip or self._state.hidden):
            self._parts.append(text)

    def _take(self) -> str:
        text = (
            "".join(self._parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        )
        self._parts.clear()
        return " ".join(text.split())

    def _end_paragraph(self) -> None:
        self._end_table()
        text = self._take()
        if text:
            self.writer.block(text)

    def _end_table(self) -> None:
        rows, self._rows = self._rows, []
        table = markdown_table(rows)
        if table:
            self.writer.block(table)

    def finish(self) -> None:
        """What is still open at the end of the document."""
        self._flush()
        self._end_paragraph()
