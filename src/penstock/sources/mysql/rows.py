"""Rows of the binlog, from bytes to texts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from penstock.errors import SourceError
from penstock.records import UNCHANGED, Row, Value
from penstock.sources.mysql.events import RowsHead
from penstock.sources.mysql.forms import (
    BLOB,
    DATE,
    DATETIME,
    DATETIME2,
    DOUBLE,
    ENUM,
    FLOAT,
    GEOMETRY,
    INT24,
    JSON,
    LONG,
    LONGLONG,
    NEWDATE,
    SET,
    SHORT,
    TIME,
    TIME2,
    TIMESTAMP,
    TIMESTAMP2,
    TINY,
    VAR_STRING,
    VARCHAR,
    YEAR,
    ColumnForm,
    Reader,
    real_type,
)
from penstock.sources.mysql.protocol import BROKEN, ProtocolError, broken, length_encoded


class RowImages(NamedTuple):
    """One row of an event, before and after; ``place`` is where it begins in the event."""

    place: int
    before: Row | None
    after: Row | None


def decode_rows(
    head: RowsHead, readers: Sequence[Reader], images: Images | None = None
) -> Iterator[RowImages]:
    """The rows of an event, in order. Columns that it does not have are `UNCHANGED`; of a row
    before an update that has all columns afterwards only the key is told (None elsewhere).

    Raises:
        ProtocolError: the rows are not as the table was described.
    """
    data, at = head.data, head.start
    if head.width != len(readers):
        raise ProtocolError(
            f"expected rows of {len(readers)} columns, got {head.width}: the stream is damaged"
        )
    if images is None:
        images = Images(readers, ())
    before, after = images.of(head)
    end = len(data)
    while at < end:
        place = at
        old = new = None
        try:
            if before is not None:
                old, at = before.read(data, at)
            if after is not None:
                if head.partial:
                    at = _whole_values_only(data, at)
                new, at = after.read(data, at)
            if at > end or at == place:
                raise ValueError(at)
        except BROKEN as error:
            raise broken("a row as its table was described", data[place:]) from error
        yield RowImages(place, old, new)


class Images:
    """The readers of the images of one table, made once per kind of event. With ``skippers``, old
    rows are passed over where only their key matters."""

    def __init__(
        self,
        readers: Sequence[Reader],
        key: Sequence[int],
        skippers: Sequence[Skipper | None] | None = None,
    ) -> None:
        self._readers = tuple(readers)
        keyed = [
            reader if skip is None or i in key else _passing(skip)
            for i, (reader, skip) in enumerate(
                zip(readers, skippers or [None] * len(readers), strict=True)
            )
        ]
        self._key_only = tuple(keyed)
        self._made: dict[
            tuple[object, object], tuple[_ImageReader | None, _ImageReader | None]
        ] = {}

    def of(self, head: RowsHead) -> tuple[_ImageReader | None, _ImageReader | None]:
        """The readers for before and after of such an event."""
        kind = (head.before, head.after)
        found = self._made.get(kind)
        if found is None:
            whole = head.after is not None and len(head.after) == head.width
            old = self._key_only if whole else self._readers
            found = self._made[kind] = (
                None if head.before is None else _ImageReader(head.before, old),
                None if head.after is None else _ImageReader(head.after, self._readers),
            )
        return found


Skipper: TypeAlias = tuple[int, int]
"""How many bytes a value takes: so many, and as many more as a length of so many bytes says."""


def skipper_of(form: ColumnForm) -> Skipper | None:
    """How to pass over the values of such a column; None where they must be read for that."""
    kind, metadata = real_type(form.type, form.metadata), form.metadata
    if kind in _FIXED:
        return _FIXED[kind], 0
    if kind in (VARCHAR, VAR_STRING):
        return 0, 2 if metadata > 255 else 1
    if kind in (BLOB, JSON, GEOMETRY):
        return 0, metadata
    if kind in (ENUM, SET):
        return metadata & 0xFF, 0
    if kind in _FRACTIONAL:
        return _FRACTIONAL[kind] + (metadata + 1) // 2, 0
    return None


_FIXED: Final = {
    TINY: 1, SHORT: 2, INT24: 3, LONG: 4, LONGLONG: 8, FLOAT: 4, DOUBLE: 8, YEAR: 1, DATE: 3,
    NEWDATE: 3, TIMESTAMP: 4, DATETIME: 8, TIME: 3,
}  # fmt: skip
_FRACTIONAL: Final = {TIMESTAMP2: 4, DATETIME2: 5, TIME2: 3}


def _passing(skip: Skipper) -> Reader:
    size, length = skip
    if not length:
        return lambda _, at: (None, at + size)
    if length == 1:
        return lambda data, at: (None, at + 1 + data[at])

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        begin = at + length
        return None, begin + int.from_bytes(data[at:begin], "little")

    return read


def _whole_values_only(data: bytes, at: int) -> int:
    options, at = length_encoded(data, at)
    if options:
        raise SourceError(
            "expected JSON columns to be logged whole, got a row of which only parts are: "
            "SET GLOBAL binlog_row_value_options = '', reconnect the applications, then "
            "`penstock drop` the source and run again"
        )
    return at


class _ImageReader:
    """Reads images with these columns."""

    def __init__(self, present: Sequence[int], readers: Sequence[Reader]) -> None:
        self._width = len(readers)
        self._places = tuple(present)
        self._readers = tuple(readers[i] for i in present)
        self._nulls = (len(present) + 7) // 8
        self._whole = len(present) == len(readers)

    def read(self, data: bytes, at: int) -> tuple[Row, int]:
        size = self._nulls
        empty = int.from_bytes(data[at : at + size], "little")
        at += size
        values: list[Value] = []
        append = values.append
        if not empty:
            for reader in self._readers:
                value, at = reader(data, at)
                append(value)
        else:
            for reader in self._readers:
                if empty & 1:
                    append(None)
                else:
                    value, at = reader(data, at)
                    append(value)
                empty >>= 1
        # A slice never complains about a missing end, so the last place is compared once.
        if at > len(data):
            raise ValueError(at)
        if self._whole:
            return tuple(values), at
        row: list[Value] = [UNCHANGED] * self._width
        for place, found in zip(self._places, values, strict=True):
            row[place] = found
        return tuple(row), at
