"""Rows of the binlog, from bytes to texts. Pure.

For each column of a table there is a reader: it takes the bytes and the place of a value, and gives
its text and where it ends. They are made once per shape of a table, so that the loop over rows asks
no questions.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from penstock.errors import SourceError
from penstock.records import UNCHANGED, Row, Value
from penstock.sources.mysql import texts
from penstock.sources.mysql.charsets import BINARY, decoder_of
from penstock.sources.mysql.events import RowsHead, real_type
from penstock.sources.mysql.geometry import ewkt
from penstock.sources.mysql.json_binary import json_text
from penstock.sources.mysql.protocol import BROKEN, ProtocolError, broken, length_encoded

Reader: TypeAlias = Callable[[bytes, int], tuple[str | None, int]]

TINY: Final = 1
SHORT: Final = 2
LONG: Final = 3
FLOAT: Final = 4
DOUBLE: Final = 5
TIMESTAMP: Final = 7
LONGLONG: Final = 8
INT24: Final = 9
DATE: Final = 10
TIME: Final = 11
DATETIME: Final = 12
YEAR: Final = 13
VARCHAR: Final = 15
BIT: Final = 16
TIMESTAMP2: Final = 17
DATETIME2: Final = 18
TIME2: Final = 19
JSON: Final = 245
NEWDECIMAL: Final = 246
ENUM: Final = 247
SET: Final = 248
BLOB: Final = 252
VAR_STRING: Final = 253
STRING: Final = 254
GEOMETRY: Final = 255

_int8 = Struct("<b").unpack_from
_int16 = Struct("<h").unpack_from
_uint16 = Struct("<H").unpack_from
_int32 = Struct("<i").unpack_from
_uint32 = Struct("<I").unpack_from
_big_uint32 = Struct(">I").unpack_from
_int64 = Struct("<q").unpack_from
_uint64 = Struct("<Q").unpack_from
_float = Struct("<f").unpack_from
_double = Struct("<d").unpack_from


class ColumnForm(NamedTuple):
    """How a column's values are written in the binlog. ``charset`` is the server's name of it;
    ``values`` are the texts of an ENUM or SET; ``in_key``: there is no NULL for a zero date."""

    type: int
    metadata: int
    unsigned: bool = False
    charset: str | None = None
    values: tuple[str, ...] = ()
    in_key: bool = False


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
    14: 3, TIMESTAMP: 4, DATETIME: 8, TIME: 3,
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


def reader_of(form: ColumnForm) -> Reader:
    """What reads the values of such a column.

    Raises:
        SourceError: values of this type cannot be read.
    """
    kind = real_type(form.type, form.metadata)
    if kind in _INTEGERS:
        return _INTEGERS[kind][form.unsigned]
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    make = _MADE.get(kind)
    if make is None:
        raise SourceError(
            f"expected a column of a type that can be captured, got binlog type {kind}: leave the "
            "table out, or give the column another type"
        )
    return make(form)


# --------------------------------------------------------------------------- numbers


def _integer(unpack: Callable[[bytes, int], tuple[int]], size: int) -> Reader:
    def read(data: bytes, at: int) -> tuple[str | None, int]:
        return str(unpack(data, at)[0]), at + size

    return read


def _tiny_unsigned(data: bytes, at: int) -> tuple[str | None, int]:
    return str(data[at]), at + 1


def _int24(data: bytes, at: int) -> tuple[str | None, int]:
    number = data[at] | data[at + 1] << 8 | data[at + 2] << 16
    return str(number - 0x1000000 if number & 0x800000 else number), at + 3


def _uint24(data: bytes, at: int) -> tuple[str | None, int]:
    return str(data[at] | data[at + 1] << 8 | data[at + 2] << 16), at + 3


_INTEGERS: Final[Mapping[int, tuple[Reader, Reader]]] = {
    TINY: (_integer(_int8, 1), _tiny_unsigned),
    SHORT: (_integer(_int16, 2), _integer(_uint16, 2)),
    INT24: (_int24, _uint24),
    LONG: (_integer(_int32, 4), _integer(_uint32, 4)),
    LONGLONG: (_integer(_int64, 8), _integer(_uint64, 8)),
}


def _read_float(data: bytes, at: int) -> tuple[str | None, int]:
    return texts.real(_float(data, at)[0]), at + 4


def _read_double(data: bytes, at: int) -> tuple[str | None, int]:
    return texts.double(_double(data, at)[0]), at + 8


def _read_year(data: bytes, at: int) -> tuple[str | None, int]:
    return str(data[at] + 1900 if data[at] else 0), at + 1


_DIGITS_SIZE: Final = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
"""How many bytes so many decimal digits take."""


def _decimal(form: ColumnForm) -> Reader:
    precision, scale = form.metadata >> 8, form.metadata & 0xFF
    if scale > precision or not precision:
        raise SourceError(f"expected a decimal's digits, got ({precision}, {scale})")
    # Groups of nine digits in four bytes each; what is left over stands at the outer ends.
    sizes = [(precision - scale) % 9, *[9] * ((precision - scale) // 9)]
    sizes += [*[9] * (scale // 9), scale % 9]
    total = sum(_DIGITS_SIZE[digits] for digits in sizes)
    groups, below = [], total
    for digits in filter(None, sizes):
        below -= _DIGITS_SIZE[digits]
        groups.append((8 * below, (1 << 8 * _DIGITS_SIZE[digits]) - 1, 10**digits))
    sign, flipped, unit = 1 << 8 * total - 1, (1 << 8 * total) - 1, 10**scale

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        end = at + total
        if end > len(data):
            raise ValueError(at)
        raw = int.from_bytes(data[at:end], "big")
        minus = not raw & sign
        raw ^= sign ^ flipped if minus else sign
        number = 0
        for shift, mask, base in groups:
            group = raw >> shift & mask
            if group >= base:
                raise ValueError(group)
            number = number * base + group
        words = str(number) if unit == 1 else f"{number // unit}.{number % unit:0{scale}d}"
        return f"-{words}" if minus and number else words, end

    return read


def encode_decimal(value: str, precision: int, scale: int) -> bytes:
    """As the binlog holds it; the inverse of what `reader_of` gives for such a column."""
    negative = value.startswith("-")
    whole, _, rest = value.lstrip("-").partition(".")
    whole = whole.lstrip("0").rjust(precision - scale, "0")[-(precision - scale) or len(whole) :]
    if precision == scale:
        whole = ""
    rest = rest.ljust(scale, "0")
    raw = bytearray()
    lead = len(whole) % 9
    pieces = [whole[:lead]] if lead else []
    pieces += [whole[i : i + 9] for i in range(lead, len(whole), 9)]
    pieces += [rest[i : i + 9] for i in range(0, len(rest), 9)]
    for piece in pieces:
        raw += int(piece).to_bytes(_DIGITS_SIZE[len(piece)], "big")
    if negative:
        raw = bytearray(byte ^ 0xFF for byte in raw)
    raw[0] ^= 0x80
    return bytes(raw)


def _bit(form: ColumnForm) -> Reader:
    width = (form.metadata >> 8) * 8 + (form.metadata & 0xFF)
    size = (width + 7) // 8

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        value = data[at : at + size]
        return texts.bits(value, width), at + size

    return read


# --------------------------------------------------------------------------- time


def _read_date(data: bytes, at: int) -> tuple[str | None, int]:
    number = data[at] | data[at + 1] << 8 | data[at + 2] << 16
    return texts.date(number >> 9, number >> 5 & 15, number & 31), at + 3


_POWERS: Final = (1_000_000, 10_000, 100, 1)


def _microseconds(data: bytes, at: int, digits: int) -> int:
    size = (digits + 1) // 2
    if at + size > len(data):
        raise ValueError(at)
    return int.from_bytes(data[at : at + size], "big") * _POWERS[size]


def _datetime2(form: ColumnForm) -> Reader:
    digits, size = form.metadata, 5 + (form.metadata + 1) // 2

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        packed = (data[at] << 32 | _big_uint32(data, at + 1)[0]) - 0x8000000000
        day, clock = packed >> 17, packed & 0x1FFFF
        months = day >> 5
        date = texts.date(months // 13, months % 13, day & 31)
        if date is None:
            return None, at + size
        rest = texts.fraction(_microseconds(data, at + 5, digits)) if digits else ""
        hour, minute, second = clock >> 12, clock >> 6 & 63, clock & 63
        return f"{date} {hour:02d}:{minute:02d}:{second:02d}{rest}", at + size

    return read


def _timestamp2(form: ColumnForm) -> Reader:
    digits, size = form.metadata, 4 + (form.metadata + 1) // 2
    known_day, known = -1, ""

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        nonlocal known_day, known
        (seconds,) = _big_uint32(data, at)
        microseconds = _microseconds(data, at + 4, digits) if digits else 0
        if not seconds and not microseconds:
            return None, at + size  # 0000-00-00 00:00:00: the epoch itself cannot be stored
        day, rest = divmod(seconds, 86400)
        if day != known_day:  # nearly always that of the row before
            known_day, known = day, _day(day)
        minute, second = divmod(rest, 60)
        part = texts.fraction(microseconds) if microseconds else ""
        clock = f"{minute // 60:02d}:{minute % 60:02d}:{second:02d}{part}"
        return f"{known} {clock}+00", at + size

    return read


def _day(days: int) -> str:
    # After Howard Hinnant's "chrono-compatible low-level date algorithms".
    era, day_of_era = divmod(days + 719468, 146097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    year += era * 400 + (month >= 10)
    month += 3 if month < 10 else -9
    return f"{year:04d}-{month:02d}-{day:02d}"


def _time2(form: ColumnForm) -> Reader:
    digits, size = form.metadata, 3 + (form.metadata + 1) // 2
    width = (digits + 1) // 2

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        if at + size > len(data):
            raise ValueError(at)
        # One number, so that the fraction of a negative time is negative with it.
        number = int.from_bytes(data[at : at + size], "big") - (0x800000 << 8 * width)
        negative = number < 0
        clock, part = divmod(abs(number), 1 << 8 * width)
        microseconds = part * 10 ** (6 - 2 * width)
        hours, minutes, seconds = clock >> 12 & 0x3FF, clock >> 6 & 63, clock & 63
        return texts.interval(negative, hours, minutes, seconds, microseconds), at + size

    return read


def _old_datetime(data: bytes, at: int) -> tuple[str | None, int]:
    (number,) = _uint64(data, at)
    day, clock = divmod(number, 1_000_000)
    date = texts.date(day // 10000, day // 100 % 100, day % 100)
    if date is None:
        return None, at + 8
    return f"{date} {clock // 10000:02d}:{clock // 100 % 100:02d}:{clock % 100:02d}", at + 8


def _old_timestamp(data: bytes, at: int) -> tuple[str | None, int]:
    (seconds,) = _uint32(data, at)
    day, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return (f"{_day(day)} {clock}+00" if seconds else None), at + 4


def _old_time(data: bytes, at: int) -> tuple[str | None, int]:
    number = data[at] | data[at + 1] << 8 | data[at + 2] << 16
    number = number - 0x1000000 if number & 0x800000 else number
    clock = abs(number)
    parts = clock // 10000, clock // 100 % 100, clock % 100
    return texts.interval(number < 0, *parts, 0), at + 3


_SIMPLE: Final[Mapping[int, Reader]] = {
    FLOAT: _read_float,
    DOUBLE: _read_double,
    YEAR: _read_year,
    TIMESTAMP: _old_timestamp,
    TIME: _old_time,
}


def _dated(reader: Reader) -> Callable[[ColumnForm], Reader]:
    return lambda form: _never_null(reader) if form.in_key else reader


def _dated_made(make: Callable[[ColumnForm], Reader]) -> Callable[[ColumnForm], Reader]:
    return lambda form: _never_null(make(form)) if form.in_key else make(form)


def _never_null(reader: Reader) -> Reader:
    def read(data: bytes, at: int) -> tuple[str | None, int]:
        value, end = reader(data, at)
        return texts.ZERO_KEY if value is None else value, end

    return read


# --------------------------------------------------------------------------- letters and bytes


def _uuid(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))


def _inet4(value: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, value)


def _inet6(value: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, value)


ADDRESSES: Final[Mapping[str | None, Callable[[bytes], str]]] = {
    "uuid": _uuid,
    "inet4": _inet4,
    "inet6": _inet6,
}
"""Types of MariaDB that the log writes as plain bytes; they stand in the place of a charset."""


def _letters(form: ColumnForm) -> Callable[[bytes], str | None]:
    if form.charset in (None, BINARY):
        return texts.binary
    assert form.charset is not None
    if form.charset in ("utf8mb4", "utf8mb3", "utf8", "ascii"):
        return _utf8
    decode = decoder_of(form.charset)
    if decode is None:
        raise SourceError(
            f"expected a character set that can be read, got {form.charset!r}: "
            "ALTER TABLE ... CONVERT TO CHARACTER SET utf8mb4"
        )
    return decode


def _utf8(value: bytes) -> str:
    try:
        words = value.decode()
    except UnicodeDecodeError:
        words = value.decode("utf-8", "replace")
    return texts.text(words) if "\0" in words else words


def _counted(size: int, convert: Callable[[bytes], str | None]) -> Reader:
    """Bytes behind a length of so many bytes."""
    if size == 1:

        def read_short(data: bytes, at: int) -> tuple[str | None, int]:
            begin = at + 1
            end = begin + data[at]
            return convert(data[begin:end]), end

        return read_short

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        begin = at + size
        end = begin + int.from_bytes(data[at:begin], "little")
        if end > len(data):
            raise ValueError(end)
        return convert(data[begin:end]), end

    return read


def _varchar(form: ColumnForm) -> Reader:
    return _counted(2 if form.metadata > 255 else 1, _letters(form))


def _string(form: ColumnForm) -> Reader:
    first, length = form.metadata >> 8, form.metadata & 0xFF
    if first & 0x30 != 0x30:
        length |= ((first & 0x30) ^ 0x30) << 4
    if form.charset in ADDRESSES:
        address = ADDRESSES[form.charset]
        return _counted(1, lambda value: address(value.ljust(length, b"\0")))
    if form.charset in (None, BINARY):
        # The log leaves out zeros at the end; the column has them.
        return _counted(2 if length > 255 else 1, lambda v: texts.binary(v.ljust(length, b"\0")))
    return _counted(2 if length > 255 else 1, _letters(form))


def _blob(form: ColumnForm) -> Reader:
    return _counted(_length_size(form), _letters(form))


def _json(form: ColumnForm) -> Reader:
    return _counted(_length_size(form), json_text)


def _geometry(form: ColumnForm) -> Reader:
    return _counted(_length_size(form), ewkt)


def _length_size(form: ColumnForm) -> int:
    if not 1 <= form.metadata <= 4:
        raise SourceError(f"expected a length of 1 to 4 bytes, got {form.metadata}")
    return form.metadata


def _enum(form: ColumnForm) -> Reader:
    size, values = form.metadata & 0xFF, ("", *form.values)

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        number = int.from_bytes(data[at : at + size], "little")
        return values[number], at + size

    return read


def _set(form: ColumnForm) -> Reader:
    size, values = form.metadata & 0xFF, form.values

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        number = int.from_bytes(data[at : at + size], "little")
        if number >> len(values):
            raise ValueError(number)
        chosen = (value for i, value in enumerate(values) if number >> i & 1)
        return ",".join(chosen), at + size

    return read


_MADE: Final[Mapping[int, Callable[[ColumnForm], Reader]]] = {
    NEWDECIMAL: _decimal,
    BIT: _bit,
    DATE: _dated(_read_date),
    14: _dated(_read_date),
    DATETIME: _dated(_old_datetime),
    DATETIME2: _dated_made(_datetime2),
    TIMESTAMP2: _dated_made(_timestamp2),
    TIME2: _time2,
    VARCHAR: _varchar,
    VAR_STRING: _varchar,
    STRING: _string,
    BLOB: _blob,
    JSON: _json,
    GEOMETRY: _geometry,
    ENUM: _enum,
    SET: _set,
}
