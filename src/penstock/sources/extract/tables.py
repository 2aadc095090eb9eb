"""CSV, TSV, JSON, JSON Lines, Parquet and Avro as Markdown tables or lines of fields. Pure."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from penstock.errors import BadRecordError, MissingExtraError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.text import decode

_DELIMITERS: Final = ",;\t|"
_FIELD_LIMIT: Final = 1_000_000
_MAX_COLUMNS: Final = 1000
_TABLE_COLUMNS: Final = 64


def extract_csv(kind: Kind, data: bytes, limits: Limits) -> Extracted:
    """A table with a header line; its delimiter is the one most used there."""
    text = decode(data)
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = "\t" if kind is Kind.TSV else max(_DELIMITERS, key=first.count)
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = (row for row in reader if row)
        return _table(kind, next(rows, []), rows, limits)
    except csv.Error as error:
        msg = f"expected lines of fields, found an error in line {reader.line_num}: {error}"
        raise BadRecordError(msg) from error


def extract_json(kind: Kind, data: bytes, limits: Limits) -> Extracted:
    """Records of flat fields become a table, anything else lines of ``path: value``."""
    text = decode(data)
    if kind is Kind.JSONL:
        records: list[Any] = [
            _parse(line, number)
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    else:
        whole = _parse(text, None)
        records = whole if isinstance(whole, list) else [whole]
    _check_rows(len(records), limits)
    return _records(kind, records, limits)


def _records(kind: Kind, records: Sequence[Any], limits: Limits) -> Extracted:
    columns = _columns(records)
    if columns is not None and len(records) > 1:
        rows = ([_cell(record.get(name)) for name in columns] for record in records)
        return _table(kind, columns, rows, limits)
    writer = Writer(limits.output_bytes)
    for record in records:
        writer.block(
            "\n".join(f"{path}: {value}" if path else value for path, value in _flat(record))
        )
    return Extracted(writer.text(), None, kind.value, {"rows": len(records)})


def extract_parquet(data: bytes, limits: Limits) -> Extracted:
    """A Parquet file, all columns as text."""
    try:
        import polars as pl
    except ImportError as error:
        raise MissingExtraError("reading Parquet files", "parquet") from error
    try:
        frame = pl.scan_parquet(io.BytesIO(data))
        _check_rows(int(frame.select(pl.len()).collect().item()), limits)
        table = frame.collect()
    except pl.exceptions.PolarsError as error:
        raise BadRecordError(f"expected a Parquet file, found a broken one: {error}") from error
    rows = ([_cell(value) for value in row] for row in table.iter_rows())
    return _table(Kind.PARQUET, table.columns, rows, limits)


def extract_avro(data: bytes, limits: Limits) -> Extracted:
    """An Avro object container file: a table if its records are flat, else lines of fields."""
    try:
        import fastavro
    except ImportError as error:
        raise MissingExtraError("reading Avro files", "avro") from error
    records: list[Any] = []
    try:
        for record in fastavro.reader(io.BytesIO(data)):
            records.append(record)
            _check_rows(len(records), limits)
    except (ValueError, EOFError, LookupError, TypeError, OverflowError, zlib.error) as error:
        raise BadRecordError(f"expected an Avro file, found a broken one: {error}") from error
    return _records(Kind.AVRO, records, limits)


def markdown_row(cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    clean = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(clean)} |"


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first row that is not empty is the header; empty rows left out."""
    full = [row for row in rows if any(row)]
    if not full:
        return ""
    rule = f"|{'---|' * len(full[0])}"
    return "\n".join([markdown_row(full[0]), rule, *(markdown_row(row) for row in full[1:])])


def _table(
    kind: Kind, header: Sequence[str], rows: Iterable[Sequence[str]], limits: Limits
) -> Extracted:
    if len(header) > _MAX_COLUMNS:
        msg = f"expected at most {_MAX_COLUMNS:,} columns, found {len(header):,}: split the file"
        raise BadRecordError(msg)
    lines = [markdown_row(header), f"|{'---|' * len(header)}"] if header else []
    size = count = 0
    for count, row in enumerate(rows, start=1):
        if count > limits.rows:
            _check_rows(count, limits)
        line = markdown_row(row)
        size += len(line) + 1
        if size > limits.output_bytes:
            msg = f"expected at most {limits.output_bytes:,} characters of text: split the file"
            raise BadRecordError(msg)
        lines.append(line)
    facts: dict[str, MetadataValue] = {
        "rows": count,
        "columns": list(header),
        "row_limit": limits.rows,
    }
    return Extracted("\n".join(lines), None, kind.value, facts)


def _check_rows(count: int, limits: Limits) -> None:
    if count > limits.rows:
        msg = (
            f"expected at most {limits.rows:,} rows in a document, found more: "
            "split the file, or load it into a database and capture the table"
        )
        raise BadRecordError(msg)


def _parse(text: str, line: int | None) -> Any:
    where = "" if line is None else f" in line {line}"
    try:
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except json.JSONDecodeError as error:
        msg = f"expected JSON{where}, found an error at character {error.pos}: {error.msg}"
        raise BadRecordError(msg) from error
    except RecursionError as error:
        raise BadRecordError(f"expected JSON{where}, found it nested too deeply") from error


def _columns(records: Sequence[Any]) -> list[str] | None:
    columns: dict[str, None] = {}
    for record in records:
        if not isinstance(record, dict):
            return None
        columns.update(dict.fromkeys(record))
        if len(columns) > _TABLE_COLUMNS:
            return None
    return list(columns)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _flat(record: Any) -> Iterator[tuple[str, str]]:
    pending: list[tuple[str, Any]] = [("", record)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            dotted = f"{path}." if path else ""
            pending.extend((f"{dotted}{name}", value[name]) for name in reversed(value))
        elif isinstance(value, list):
            pending.extend((path, item) for item in reversed(value))
        else:
            yield path, _cell(value)
