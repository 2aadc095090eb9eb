"""How a table is asked for, and how the values of the answer become texts. Pure.

The texts are those that the binlog's rows give: see ``texts.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Final

from penstock.sources.mysql import texts
from penstock.sources.mysql.charsets import BINARY
from penstock.sources.mysql.connections import quoted
from penstock.sources.mysql.geometry import ewkt
from penstock.sources.mysql.protocol import Converter
from penstock.sources.mysql.shapes import GEOMETRIES, ShapeColumn

_APPROXIMATE: Final = frozenset({"float", "double", "double precision", "real"})
ORDERED: Final = frozenset(
    {
        "tinyint", "smallint", "mediumint", "int", "integer", "bigint", "year", "decimal",
        "numeric", "dec", "fixed", "date", "datetime", "timestamp", "time", "char", "varchar",
        "binary", "varbinary", "uuid", "inet4", "inet6",
    }
)  # fmt: skip
"""Types by whose values a copy can be cut off and go on: they compare as they are written."""


def selected(column: ShapeColumn) -> str:
    """The column in a SELECT. Floating point numbers are multiplied by one, for the server rounds
    them when it prints a column and not when it prints a result."""
    name = quoted(column.name)
    return f"{name} * 1e0" if column.kind in _APPROXIMATE else name


def converter_of(column: ShapeColumn) -> Converter:
    """From the bytes of a result to the text."""
    kind = column.kind
    if kind in _TIMES:
        convert = _TIMES[kind]
        return _never_null(convert) if column.key and kind != "time" else convert
    if kind in _CONVERTERS:
        return _CONVERTERS[kind]
    if kind in GEOMETRIES:
        return ewkt
    if kind == "bit":
        width = int(column.arguments or 1)
        return lambda value: texts.bits(value, width)
    if kind in ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"):
        return texts.binary
    if column.charset == BINARY and kind not in ("enum", "set"):
        return texts.binary
    return _utf8


def _utf8(value: bytes) -> str:
    return texts.text(value.decode("utf-8", "replace"))


def _integer(value: bytes) -> str:
    return str(int(value))


def _ascii(value: bytes) -> str:
    return value.decode("ascii")


def _float(value: bytes) -> str:
    return texts.real_of_double(float(value))


def _double(value: bytes) -> str:
    return texts.double(float(value))


def _numeric(value: bytes) -> str:
    return texts.numeric(value.decode("ascii"))


def _trimmed(words: str) -> str:
    return words.rstrip("0").rstrip(".") if "." in words else words


def _date(value: bytes) -> str | None:
    words = value.decode("ascii")
    return texts.date(int(words[:4]), int(words[5:7]), int(words[8:10]))


def _datetime(value: bytes) -> str | None:
    return None if _date(value[:10]) is None else _trimmed(value.decode("ascii"))


def _timestamp(value: bytes) -> str | None:
    moment = _datetime(value)
    return None if moment is None else moment + "+00"


def _time(value: bytes) -> str:
    words = _trimmed(value.decode("ascii"))
    return words[1:] if words.startswith("-") and not words.strip("-0:.") else words


def _inet(family: int) -> Callable[[bytes], str]:
    def convert(value: bytes) -> str:
        return socket.inet_ntop(family, socket.inet_pton(family, value.decode("ascii")))

    return convert


def _never_null(convert: Callable[[bytes], str | None]) -> Converter:
    def converted(value: bytes) -> str | None:
        found = convert(value)
        return texts.ZERO_KEY if found is None else found

    return converted


_TIMES: Final[Mapping[str, Converter]] = {
    "date": _date,
    "datetime": _datetime,
    "timestamp": _timestamp,
    "time": _time,
}
_CONVERTERS: Final[Mapping[str, Converter]] = {
    "tinyint": _integer,
    "bool": _integer,
    "boolean": _integer,
    "smallint": _integer,
    "mediumint": _integer,
    "int": _integer,
    "integer": _integer,
    "bigint": _integer,
    "year": _integer,
    "float": _float,
    "double": _double,
    "double precision": _double,
    "real": _double,
    "decimal": _numeric,
    "numeric": _numeric,
    "dec": _numeric,
    "fixed": _numeric,
    "uuid": _ascii,
    "inet4": _inet(socket.AF_INET),
    "inet6": _inet(socket.AF_INET6),
    "json": _utf8,
}
