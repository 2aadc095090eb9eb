"""Excel workbooks to Markdown tables, one sheet after the other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.tables import markdown_table
from penstock.sources.extract.zipped import (
    Archive,
    Attributes,
    Facts,
    local,
    parse_xml,
    relations,
    unpacked,
)

MAIN: Final = "xl/workbook.xml"
_DATES: Final = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
_LITERAL: Final = re.compile(r'"[^"]*"|\\.|\[(?![hms]+\])[^\]]*\]|_.|\*.', re.I)
_MOST_COLUMNS: Final = 16_384
_DAYS: Final = 2_958_466  # Excel's last day is in the year 9999


def extract_xlsx(data: bytes, limits: Limits) -> Extracted:
    """Values as last calculated, dates as dates. A sheet begins with its name as a heading; rows
    without a gap are a table with its first row as the header. Sheets are separated by a form feed;
    a hidden one is left empty, so numbers stay."""
    with unpacked(data, limits, "a workbook") as archive:
        workbook = _Workbook()
        parse_xml(archive.part(MAIN), workbook.start)
        targets = relations(archive, MAIN)
        strings = _strings(archive)
        styles = _Styles()
        if "xl/styles.xml" in archive.names:
            parse_xml(archive.part("xl/styles.xml"), styles.start, styles.end)
        writer = Writer(limits.output_bytes)
        pages: list[str] = []
        rows = 0
        for name, relation, visible in workbook.sheets:
            target = targets.get(relation)
            if not visible or target not in archive.names:
                pages.append("")
                continue
            sheet = _Sheet(strings, styles.dates, limits.rows - rows, epoch=workbook.epoch)
            parse_xml(archive.part(target), sheet.start, sheet.end, sheet.characters)
            rows += len(sheet.rows)
            blocks = _blocks(sheet.rows, limits)
            blocks = [f"## {name}", *blocks] if blocks else []
            for block in blocks:
                writer.block(block)
            pages.append("\n\n".join(blocks))
        facts = Facts()
        facts.read(archive, "docProps/core.xml")
    title = facts.found.pop("title", None)
    metadata: dict[str, MetadataValue] = {
        **facts.found,
        "sheets": [name for name, _, visible in workbook.sheets if visible],
        "rows": rows,
    }
    return Extracted("\f".join(pages), title, Kind.XLSX.value, metadata)


class _Workbook:
    """The sheets with their relations, and the day from which dates count."""

    def __init__(self) -> None:
        self.sheets: list[tuple[str, str, bool]] = []
        self.epoch = datetime(1899, 12, 30)  # noqa: DTZ001 - a sheet's dates have no zone

    def start(self, tag: str, attributes: Attributes) -> None:
        name = local(tag)
        if name == "sheet":
            relation = next((v for k, v in attributes.items() if k.endswith(":id")), "")
            visible = attributes.get("state", "visible") == "visible"
            title = " ".join(attributes.get("name", "").split())
            self.sheets.append((title, relation, visible))
        elif name == "workbookPr" and attributes.get("date1904") in {"1", "true"}:
            self.epoch = datetime(1904, 1, 1)  # noqa: DTZ001 - a sheet's dates have no zone


class _Styles:
    """Which styles of cells show dates."""

    def __init__(self) -> None:
        self.dates: list[bool] = []
        self._formats: dict[str, bool] = {}
        self._inside = False

    def start(self, tag: str, attributes: Attributes) -> None:
        name = local(tag)
        if name == "numFmt":
            code = _LITERAL.sub("", attributes.get("formatCode", "")).lower()
            shows = any(letter in code for letter in "ymdhs") and "general" not in code
            self._formats[attributes.get("numFmtId", "")] = shows
        elif name == "cellXfs":
            self._inside = True
        elif name == "xf" and self._inside:
            number = attributes.get("numFmtId", "0")
            built_in = number.isdecimal() and len(number) < 4 and int(number) in _DATES
            self.dates.append(self._formats.get(number, built_in))

    def end(self, tag: str) -> None:
        if local(tag) == "cellXfs":
            self._inside = False


def _strings(archive: Archive) -> list[str]:
    """The texts that cells refer to by number; reading aids (phonetic) left out."""
    name = "xl/sharedStrings.xml"
    found: list[str] = []
    parts: list[str] = []
    inside = [False, False]  # a text, a reading aid

    def start(tag: str, _attributes: Attributes) -> None:
        inside[0] = local(tag) == "t"
        inside[1] = inside[1] or local(tag) == "rPh"

    def end(tag: str) -> None:
        inside[0] = False
        if local(tag) == "rPh":
            inside[1] = False
        elif local(tag) == "si":
            found.append("".join(parts))
            parts.clear()

    def characters(data: str) -> None:
        if inside[0] and not inside[1]:
            parts.append(data)

    if name in archive.names:
        parse_xml(archive.part(name), start, end, characters)
    return found


class _Sheet:
    """The cells of one sheet that hold something: by row and column."""

    def __init__(
        self, strings: Sequence[str], dates: Sequence[bool], most: int, *, epoch: datetime
    ) -> None:
        self.rows: dict[int, dict[int, str]] = {}
        self._strings = strings
        self._dates = dates
        self._most = most
        self._epoch = epoch
        self._row = 0
        self._column = 0
        self._type = ""
        self._style = ""
        self._parts: list[str] = []
        self._collecting = False

    def start(self, tag: str, attributes: Attributes) -> None:
        name = local(tag)
        if name == "row":
            number = attributes.get("r", "")
            self._row = int(number) if number.isdecimal() and len(number) < 9 else self._row + 1
            self._column = 0
        elif name == "c":
            self._column = _column(attributes.get("r", "")) or self._column + 1
            if self._column > _MOST_COLUMNS:
                msg = f"expected at most {_MOST_COLUMNS:,} columns, found a cell beyond"
                raise BadRecordError(msg)
            self._type = attributes.get("t", "n")
            self._style = attributes.get("s", "")
            self._parts.clear()
        elif name in {"v", "t"}:
            self._collecting = True

    def end(self, tag: str) -> None:
        name = local(tag)
        if name in {"v", "t"}:
            self._collecting = False
        elif name == "c" and self._parts:
            value = self._value("".join(self._parts))
            self._parts.clear()
            if value.strip():
                self.rows.setdefault(self._row, {})[self._column] = value
                if len(self.rows) > self._most:
                    msg = (
                        "expected fewer rows in a document, found too many: split the file, or "
                        "load it into a database and capture the table"
                    )
                    raise BadRecordError(msg)

    def characters(self, data: str) -> None:
        if self._collecting:
            self._parts.append(data)

    def _value(self, raw: str) -> str:
        if self._type == "s":
            place = int(raw) if raw.isdecimal() and len(raw) < 12 else -1
            return self._strings[place] if 0 <= place < len(self._strings) else ""
        if self._type == "b":
            return "true" if raw.strip() == "1" else "false"
        if self._type != "n":
            return raw
        try:
            number = float(raw)
        except ValueError:
            return raw
        style = int(self._style) if self._style.isdecimal() and len(self._style) < 7 else -1
        if 0 <= style < len(self._dates) and self._dates[style] and 0 <= number < _DAYS:
            return _moment(self._epoch, number)
        return format(number, ".15g")


def _moment(epoch: datetime, days: float) -> str:
    seconds = round((days % 1) * 86_400)
    if days < 1:
        return str(timedelta(seconds=seconds))
    try:
        found = epoch + timedelta(days=int(days), seconds=seconds)
    except OverflowError:
        return format(days, ".15g")
    return found.isoformat(" ") if seconds else found.date().isoformat()


def _column(reference: str) -> int:
    """The number of the column in a reference such as ``AB12``; 0 when there is none."""
    number = 0
    for letter in reference[:4]:
        if not "A" <= letter <= "Z":
            break
        number = number * 26 + ord(letter) - 64
    return number


def _blocks(rows: Mapping[int, Mapping[int, str]], limits: Limits) -> list[str]:
    """Tables and lines of text, parted where a row is empty."""
    groups: list[list[Mapping[int, str]]] = []
    before = -1
    for number in sorted(rows):
        if number != before + 1 or not groups:
            groups.append([])
        groups[-1].append(rows[number])
        before = number
    return [_block(group, limits) for group in groups]


def _block(rows: Sequence[Mapping[int, str]], limits: Limits) -> str:
    columns = sorted({column for row in rows for column in row})
    if len(columns) * len(rows) * 3 > limits.output_bytes:
        msg = f"expected at most {limits.output_bytes:,} characters of text: split the file"
        raise BadRecordError(msg)
    if len(columns) == 1 and len(rows) == 1:
        return " ".join(rows[0][columns[0]].split())
    return markdown_table([[row.get(column, "") for column in columns] for row in rows])
