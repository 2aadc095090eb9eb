"""Types that the project file names, for messages without a schema. Pure.

A JSON number stands for what Debezium would have meant by it: days for a date, milliseconds for a
``timestamp(3)``, microseconds for a ``timestamp`` (its adaptive precision).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal

from penstock.errors import ConfigError
from penstock.sources.topics import connect
from penstock.sources.topics.connect import ColumnType, Json, Render
from penstock.sources.topics.times import date_text, iso_text, time_text, timestamp_text

Decimals = Literal["precise", "string", "double"]

_TYPE: Final = re.compile(
    r"([a-z][a-z ]*?)\s*(?:\((\d+)(?:,\s*(\d+))?\))?( with(?:out)? time zone)?(\[\])*"
)
_NAMES: Final = {
    "int": "integer",
    "int4": "integer",
    "int2": "smallint",
    "int8": "bigint",
    "bool": "boolean",
    "decimal": "numeric",
    "float8": "double precision",
    "float4": "real",
    "varchar": "character varying",
    "char": "character",
    "timestamptz": "timestamp with time zone",
    "timetz": "time with time zone",
}
_PLAIN: Final = {
    "boolean": connect.boolean,
    "bytea": connect.hexadecimal,
    "real": connect.floating,
    "double precision": connect.floating,
}


def declared_type(name: str, decimals: Decimals = "string") -> ColumnType:
    """The column type with this name of PostgreSQL's."""
    match = _TYPE.fullmatch(name.strip().casefold())
    if match is None:
        raise ConfigError(f"expected a type such as numeric(10,2) or date, got {name!r}")
    base = _NAMES.get(match[1], match[1])
    precision, scale = match[2], match[3]
    base, _, zone = base.partition(" with")
    zone = match[4] or (f" with{zone}" if zone else "")
    if base in {"timestamp", "time"} and not zone:
        zone = " without time zone"
    size = "" if precision is None else f"({precision},{scale})" if scale else f"({precision})"
    shown = f"{base}{size}{zone}{match[5] or ''}"
    if match[5]:
        return ColumnType(shown, _or_text(_array))
    return ColumnType(shown, _render(base, int(precision or 6), int(scale or 0), decimals))


def _render(base: str, precision: int, scale: int, decimals: Decimals) -> Render:
    if base in _PLAIN:
        return _PLAIN[base]
    if base == "date":
        return _either(date_text, 1, iso_text)
    if base == "timestamp":
        return _either(timestamp_text, 1000 if precision <= 3 else 1, iso_text)
    if base == "time":
        return _either(time_text, 1000 if precision <= 3 else 1, str)
    if base == "numeric" and decimals == "precise":
        return connect.decimal_of(scale)
    if base in {"json", "jsonb"}:
        return lambda value: value if isinstance(value, str) else connect.json_text(value)
    return _or_text(connect.json_text)


def _either(render: Callable[[int], str], times: int, given: Callable[[str], str]) -> Render:
    def either(value: Json) -> str:
        if isinstance(value, str):
            return given(value)
        return render(int(connect.whole(value)) * times)

    return either


def _or_text(render: Render) -> Render:
    def either(value: Json) -> str:
        if isinstance(value, str):
            return value
        return connect.boolean(value) if isinstance(value, bool) else render(value)

    return either


def _array(value: Json) -> str:
    if not isinstance(value, list):
        return connect.json_text(value)
    one = _or_text(connect.json_text)
    return connect.array_text([None if item is None else one(item) for item in value])
