"""MySQL's binary JSON, to the text that MySQL prints for it. Pure.

The format is described in MySQL's source, ``json_binary.h``: a type, then the value; objects and
arrays hold small values in their tables and the others by offset.
"""

from __future__ import annotations

import base64
import json
from struct import Struct
from typing import Final

from penstock.sources.mysql.protocol import BROKEN, broken

_int16 = Struct("<h").unpack_from
_uint16 = Struct("<H").unpack_from
_int32 = Struct("<i").unpack_from
_uint32 = Struct("<I").unpack_from
_int64 = Struct("<q").unpack_from
_uint64 = Struct("<Q").unpack_from
_double = Struct("<d").unpack_from

_SMALL_OBJECT: Final = 0
_LARGE_OBJECT: Final = 1
_SMALL_ARRAY: Final = 2
_LARGE_ARRAY: Final = 3
_LITERAL: Final = 4
_STRING: Final = 12
_OPAQUE: Final = 15
_DEEPEST: Final = 100

_NUMBERS: Final = {
    5: _int16,
    6: _uint16,
    7: _int32,
    8: _uint32,
    9: _int64,
    10: _uint64,
}
_INLINE: Final = {False: (4, 5, 6), True: (4, 5, 6, 7, 8)}
"""What stands in the table itself, in small and in large containers."""


def json_text(data: bytes) -> str:
    """The document as text. No bytes at all are MySQL's way to write null.

    Raises:
        ProtocolError: these bytes are no document.
    """
    if not data:
        return "null"
    try:
        return _value(data[0], data, 1, 0)
    except (*BROKEN, KeyError) as error:
        raise broken("a JSON document of MySQL", data) from error


def _value(kind: int, data: bytes, at: int, depth: int) -> str:
    if depth > _DEEPEST:
        raise ValueError(depth)
    if kind <= _LARGE_ARRAY:
        return _container(kind, data, at, depth)
    if kind == _LITERAL:
        return _literal(data[at])
    if kind in _NUMBERS:
        return str(_NUMBERS[kind](data, at)[0])
    if kind == 11:
        return _number(_double(data, at)[0])
    if kind == _STRING:
        length, begin = _length(data, at)
        return _quoted(_piece(data, begin, length).decode())
    if kind == _OPAQUE:
        length, begin = _length(data, at + 1)
        return _opaque(data[at], _piece(data, begin, length))
    raise ValueError(kind)


def _container(kind: int, data: bytes, at: int, depth: int) -> str:
    large = kind in (_LARGE_OBJECT, _LARGE_ARRAY)
    is_object = kind <= _LARGE_OBJECT
    width, number = (4, _uint32) if large else (2, _uint16)
    count, size = number(data, at)[0], number(data, at + width)[0]
    if at + size > len(data) or count > size:
        raise ValueError(size)
    table = at + 2 * width
    keys = []
    if is_object:
        for i in range(count):
            entry = table + i * (width + 2)
            begin, length = number(data, entry)[0], _uint16(data, entry + width)[0]
            keys.append(_quoted(_piece(data, at + begin, length).decode()))
        table += count * (width + 2)
    values = []
    for i in range(count):
        entry = table + i * (width + 1)
        inner = data[entry]
        if inner in _INLINE[large]:
            values.append(_value(inner, data, entry + 1, depth + 1))
        else:
            begin = number(data, entry + 1)[0]
            values.append(_value(inner, data, at + begin, depth + 1))
    if is_object:
        return (
            f"{{{', '.join(f'{key}: {value}' for key, value in zip(keys, values, strict=True))}}}"
        )
    return f"[{', '.join(values)}]"


def _literal(code: int) -> str:
    return {0: "null", 1: "true", 2: "false"}[code]


def _number(value: float) -> str:
    """As MySQL prints it: always recognisable as no integer."""
    shortest = repr(value)
    if "e" in shortest:
        mantissa, _, exponent = shortest.partition("e")
        return f"{mantissa}e{int(exponent)}"
    return shortest


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first."""
    length = 0
    for i in range(5):
        byte = data[at + i]
        length |= (byte & 0x7F) << 7 * i
        if not byte & 0x80:
            return length, at + i + 1
    raise ValueError(at)


def _piece(data: bytes, begin: int, length: int) -> bytes:
    if begin + length > len(data):
        raise ValueError(begin)
    return data[begin : begin + length]


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _opaque(kind: int, value: bytes) -> str:
    """Values of SQL types that JSON does not have: decimals bare, times quoted, others as base64
    behind their type, all as MySQL prints them."""
    from penstock.sources.mysql.forms import ColumnForm
    from penstock.sources.mysql.readers import reader_of

    if kind == 246:
        form = ColumnForm(246, value[0] << 8 | value[1])
        number, end = reader_of(form)(value, 2)
        if end != len(value) or number is None:
            raise ValueError(end)
        return number
    if kind in (10, 7, 12):
        packed = _int64(value, 0)[0]
        part, whole = packed & 0xFFFFFF, packed >> 24
        day, clock = whole >> 17, whole & 0x1FFFF
        months = day >> 5
        date = f"{months // 13:04d}-{months % 13:02d}-{day & 31:02d}"
        if kind == 10:
            return f'"{date}"'
        return f'"{date} {clock >> 12:02d}:{clock >> 6 & 63:02d}:{clock & 63:02d}.{part:06d}"'
    if kind == 11:
        packed = _int64(value, 0)[0]
        minus, packed = ("-", -packed) if packed < 0 else ("", packed)
        part, clock = packed & 0xFFFFFF, packed >> 24
        hours, minutes = clock >> 12 & 0x3FF, clock >> 6 & 63
        return f'"{minus}{hours:02d}:{minutes:02d}:{clock & 63:02d}.{part:06d}"'
    return _quoted(f"base64:type{kind}:{base64.b64encode(value).decode()}")
