"""Kafka Connect's types, Debezium's logical ones among them, as PostgreSQL's types and texts. Pure.

A schema is Connect's JSON form (``{"type": "int32", "name": ..., "parameters": ...}``), which an
Avro schema is turned into as well. Bytes come as base64 in JSON, and as bytes in Avro.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from penstock.errors import BadRecordError
from penstock.sources.topics.times import (
    date_text,
    iso_text,
    time_text,
    timestamp_text,
    zoned_time_text,
)

Json: TypeAlias = Any  # what a JSON parser returns
Render: TypeAlias = Callable[[Any], str]
ConnectSchema: TypeAlias = Mapping[str, Any]

_MOST_SCALE: Final = 100_000


class ColumnType(NamedTuple):
    """A PostgreSQL type, how a value becomes its text, and what a value is in JSON (the fast path's
    expectation; None: anything)."""

    type: str
    render: Render
    json: Any = None


# --------------------------------------------------------------------------- texts of values


def whole(value: Json) -> str:
    """A whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii():
        return value
    raise BadRecordError(f"expected a whole number, got {value!r:.100}")


_FLOATS: Final = MappingProxyType({"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"})
_FLOAT_NAMES: Final = frozenset({"NaN", "Infinity", "-Infinity"})


def floating(value: Json) -> str:
    """A floating-point number; JSON has no name for some of them, so those are strings."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        text = repr(float(value))
        return _FLOATS.get(text, text)
    if isinstance(value, str) and value in _FLOAT_NAMES:
        return str(value)
    raise BadRecordError(f"expected a number, got {value!r:.100}")


def number(value: Json) -> str:
    """A number that is not to be rounded, as far as JSON gave it so."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else floating(value)


def boolean(value: Json) -> str:
    """Yes or no."""
    if value is True or value is False:
        return "t" if value else "f"
    raise BadRecordError(f"expected true or false, got {value!r:.100}")


def text(value: Json) -> str:
    """A string as it is."""
    if isinstance(value, str):
        return value
    raise BadRecordError(f"expected a string, got {value!r:.100}")


def json_text(value: Json) -> str:
    """Any JSON value."""
    return msgspec.json.encode(value).decode()


def json_given(value: Json) -> str:
    """A JSON text inside a string."""
    return text(value)


def plain_bytes(value: Json) -> bytes:
    """Bytes, which JSON has in base64."""
    if isinstance(value, bytes):
        return value
    try:
        return b64decode(text(value), validate=True)
    except ValueError as error:
        raise BadRecordError(f"expected base64, got {value!r:.100}") from error


def hexadecimal(value: Json) -> str:
    """Bytes as PostgreSQL prints them."""
    return f"\\x{plain_bytes(value).hex()}"


def exact(unscaled: int, scale: int) -> str:
    """``unscaled`` times ten to the power of minus ``scale``."""
    if not -_MOST_SCALE <= scale <= _MOST_SCALE:
        raise BadRecordError(f"expected a scale of a decimal, got {scale}")
    if scale <= 0:
        return str(unscaled * 10**-scale)
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    return f"{'-' if unscaled < 0 else ''}{digits[:-scale]}.{digits[-scale:]}"


def decimal_of(scale: int) -> Render:
    """Connect's Decimal: big-endian bytes; or a number, where the converter was told so."""

    def render(value: Json) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return number(value)
        data = plain_bytes(value)
        if len(data) > 1 << 16:
            raise BadRecordError(f"expected a decimal, got {len(data)} bytes")
        return exact(int.from_bytes(data, "big", signed=True), scale)

    return render


def variable_decimal(value: Json) -> str:
    """Debezium's VariableScaleDecimal."""
    if isinstance(value, Mapping) and isinstance(value.get("scale"), int):
        return decimal_of(value["scale"])(value.get("value"))
    raise BadRecordError(f"expected a scale and a value of a decimal, got {value!r:.100}")


def bits_of(length: int) -> Render:
    """Debezium's Bits: little-endian bytes; as many bits as the type has, if it says so."""

    def render(value: Json) -> str:
        data = plain_bytes(value)
        width = length if 0 < length <= 8 * len(data) else 8 * len(data)
        return format(int.from_bytes(data, "little"), f"0{width}b")[-width:] if width else ""

    return render


def point(value: Json) -> str:
    """Debezium's Point; its other form (WKB) is not needed."""
    if isinstance(value, Mapping) and {"x", "y"} <= value.keys():
        return f"({floating(value['x'])},{floating(value['y'])})"
    raise BadRecordError(f"expected x and y of a point, got {value!r:.100}")


def geometry(value: Json) -> str:
    """Debezium's Geometry: WKB in hexadecimal, with the SRID in front as PostGIS writes it."""
    if not isinstance(value, Mapping):
        raise BadRecordError(f"expected a geometry, got {value!r:.100}")
    wkb, srid = plain_bytes(value.get("wkb")).hex(), value.get("srid")
    return wkb if srid is None else f"SRID={whole(srid)};{wkb}"


def scaled(render: Callable[[int], str], times: int, over: int = 1) -> Render:
    """A whole number of other units, brought to those of ``render``."""
    return lambda value: render(int(whole(value)) * times // over)


def year_zero_text(value: Json) -> str:
    """A date or time stamp in ISO 8601."""
    return iso_text(text(value))


# --------------------------------------------------------------------------- types

_INTEGER: Final = ColumnType("integer", whole, int)
_BIGINT: Final = ColumnType("bigint", whole, int)
TEXT: Final = ColumnType("text", text, str)
JSON: Final = ColumnType("json", json_text)
BOOLEAN: Final = ColumnType("boolean", boolean, bool)
DOUBLE: Final = ColumnType("double precision", floating, float)
BYTES: Final = ColumnType("bytea", hexadecimal, str)
BIGINT: Final = _BIGINT

_PRIMITIVES: Final[Mapping[str, ColumnType]] = MappingProxyType(
    {
        "int8": ColumnType("smallint", whole, int),
        "int16": ColumnType("smallint", whole, int),
        "int32": _INTEGER,
        "int64": _BIGINT,
        "float": ColumnType("real", floating, float),
        "float32": ColumnType("real", floating, float),
        "double": DOUBLE,
        "float64": DOUBLE,
        "boolean": BOOLEAN,
        "string": TEXT,
        "bytes": BYTES,
        "map": JSON,
        "struct": JSON,
    }
)

_DATE: Final = ColumnType("date", scaled(date_text, 1), int)
_TIME: Final = "time without time zone"
_STAMP: Final = "timestamp without time zone"
_MILLI_TIME: Final = ColumnType("time(3) without time zone", scaled(time_text, 1000), int)
_MILLI_STAMP: Final = ColumnType(
    "timestamp(3) without time zone", scaled(timestamp_text, 1000), int
)
_JSON_GIVEN: Final = ColumnType("json", json_given, str)

_LOGICAL: Final[Mapping[str, ColumnType]] = MappingProxyType(
    {
        "org.apache.kafka.connect.data.Date": _DATE,
        "org.apache.kafka.connect.data.Time": _MILLI_TIME,
        "org.apache.kafka.connect.data.Timestamp": _MILLI_STAMP,
        "io.debezium.time.Date": _DATE,
        "io.debezium.time.Time": _MILLI_TIME,
        "io.debezium.time.MicroTime": ColumnType(_TIME, scaled(time_text, 1), int),
        "io.debezium.time.NanoTime": ColumnType(_TIME, scaled(time_text, 1, 1000), int),
        "io.debezium.time.Timestamp": _MILLI_STAMP,
        "io.debezium.time.MicroTimestamp": ColumnType(_STAMP, scaled(timestamp_text, 1), int),
        "io.debezium.time.NanoTimestamp": ColumnType(_STAMP, scaled(timestamp_text, 1, 1000), int),
        "io.debezium.time.ZonedTimestamp": ColumnType(
            "timestamp with time zone", year_zero_text, str
        ),
        "io.debezium.time.ZonedTime": ColumnType(
            "time with time zone", lambda value: zoned_time_text(text(value)), str
        ),
        "io.debezium.time.IsoDate": ColumnType(
            "date", lambda value: year_zero_text(text(value).rstrip("Z")), str
        ),
        "io.debezium.time.IsoTime": ColumnType(_TIME, lambda value: text(value).rstrip("Z"), str),
        "io.debezium.time.IsoTimestamp": ColumnType(
            _STAMP, lambda value: year_zero_text(text(value).rstrip("Z")), str
        ),
        "io.debezium.time.Year": _INTEGER,
        "io.debezium.time.MicroDuration": ColumnType("interval", scaled(time_text, 1), int),
        "io.debezium.time.NanoDuration": ColumnType("interval", scaled(time_text, 1, 1000), int),
        "io.debezium.time.Interval": ColumnType("interval", text, str),
        "io.debezium.data.Json": _JSON_GIVEN,
        "io.debezium.data.Uuid": ColumnType("uuid", text, str),
        "io.debezium.data.Xml": ColumnType("xml", text, str),
        "io.debezium.data.VariableScaleDecimal": ColumnType("numeric", variable_decimal),
        "io.debezium.data.geometry.Point": ColumnType("point", point),
        "io.debezium.data.geometry.Geometry": ColumnType("text", geometry),
        "io.debezium.data.geometry.Geography": ColumnType("text", geometry),
    }
)


def column_type(schema: ConnectSchema) -> ColumnType:
    """The type of a field; ``BadRecordError`` when the schema is none."""
    name, parameters = schema.get("name"), schema.get("parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    if name == "org.apache.kafka.connect.data.Decimal":
        return _decimal(parameters)
    if name == "io.debezium.data.Bits":
        length = _number(parameters, "length", 0)
        limited = 0 < length < 1 << 20
        return ColumnType(
            f"bit varying({length})" if limited else "bit varying",
            bits_of(length if limited else 0),
            str,
        )
    found = _LOGICAL.get(name) if isinstance(name, str) else None
    if found is not None:
        return found
    of = schema.get("type")
    if of == "array":
        return _array(schema.get("items"))
    primitive = _PRIMITIVES.get(of) if isinstance(of, str) else None
    if primitive is None:
        raise BadRecordError(f"expected a type of Kafka Connect, got {of!r:.100}")
    return primitive


def _decimal(parameters: Mapping[str, Any]) -> ColumnType:
    scale = _number(parameters, "scale", 0)
    precision = _number(parameters, "connect.decimal.precision", 0)
    fits = 0 < precision <= 1000 and 0 <= scale <= precision
    return ColumnType(f"numeric({precision},{scale})" if fits else "numeric", decimal_of(scale))


def _number(parameters: Mapping[str, Any], name: str, default: int) -> int:
    value = parameters.get(name, default)
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise BadRecordError(f"expected a number for {name!r}, got {value!r:.100}") from error


def _array(items: Json) -> ColumnType:
    if not isinstance(items, Mapping):
        return JSON
    item = column_type(items)
    if item.type.endswith("[]") or item is JSON:
        return JSON
    return ColumnType(f"{item.type}[]", _array_of(item.render))


def _array_of(render: Render) -> Render:
    def render_array(value: Json) -> str:
        if not isinstance(value, list):
            raise BadRecordError(f"expected an array, got {value!r:.100}")
        return array_text([None if item is None else render(item) for item in value])

    return render_array


def array_text(items: list[str | None]) -> str:
    """An array as PostgreSQL prints it, every element in quotes."""
    parts = []
    for item in items:
        if item is None:
            parts.append("NULL")
        else:
            escaped = item.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{escaped}"')
    return "{" + ",".join(parts) + "}"
