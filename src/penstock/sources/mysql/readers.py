"""Readers of values in rows of the binlog: numbers, letters, bytes. Pure.

For each column of a table there is a reader: it takes the bytes and the place of a value, and gives
its text and where it ends. They are made once per shape of a table, so that the loop over rows asks
no questions.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final

from penstock.errors import SourceError
from penstock.sources.mysql import texts
from penstock.sources.mysql.charsets import BINARY, decoder_of
from penstock.sources.mysql.forms import (
    BIT,
    BLOB,
    DOUBLE,
    ENUM,
    FLOAT,
    GEOMETRY,
    INT24,
    JSON,
    LONG,
    LONGLONG,
    NEWDECIMAL,
    SET,
    SHORT,
    STRING,
    TINY,
    VAR_STRING,
    VARCHAR,
    YEAR,
    ColumnForm,
    Reader,
    real_type,
)
from penstock.sources.mysql.geometry import ewkt
from penstock.sources.mysql.json_binary import json_text
from penstock.sources.mysql.moments import MOMENTS

_int8 = Struct("<b").unpack_from
_int16 = Struct("<h").unpack_from
_uint16 = Struct("<H").unpack_from
_int32 = Struct("<i").unpack_from
_uint32 = Struct("<I").unpack_from
_int64 = Struct("<q").unpack_from
_uint64 = Struct("<Q").unpack_from
_float = Struct("<f").unpack_from
_double = Struct("<d").unpack_from


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


# --------------------------------------------------------------------------- by type

_SIMPLE: Final[Mapping[int, Reader]] = {
    FLOAT: _read_float,
    DOUBLE: _read_double,
    YEAR: _read_year,
}
_MADE: Final[Mapping[int, Callable[[ColumnForm], Reader]]] = {
    **MOMENTS,
    NEWDECIMAL: _decimal,
    BIT: _bit,
    VARCHAR: _varchar,
    VAR_STRING: _varchar,
    STRING: _string,
    BLOB: _blob,
    JSON: _json,
    GEOMETRY: _geometry,
    ENUM: _enum,
    SET: _set,
}
