"""JSON into the texts of columns, digit for digit. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from typing import Any, Final, NoReturn, TypeAlias
from uuid import UUID

from penstock.errors import BadRecordError

Json: TypeAlias = Any
"""What `parse_json` gives: dict, list, str, bool, None and `Number`."""

_DEEP: Final = "expected JSON that is nested less deeply"
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_RANGES: Final = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
_SHOWN: Final = 60


class Number(str):
    """A number as it was written."""

    __slots__ = ()


def parse_json(data: bytes | str) -> Json:
    """The value that some JSON stands for; raises `BadRecordError` with the reason if it is none.
    Numbers keep all their digits, and a name that comes twice is refused: which one was meant?"""
    try:
        return json.loads(
            data if isinstance(data, str) else data.decode(),
            parse_int=Number,
            parse_float=Number,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError as error:
        raise BadRecordError(f"expected JSON in UTF-8, got other bytes: {error.reason}") from error
    except RecursionError as error:
        raise BadRecordError(_DEEP) from error
    except ValueError as error:
        raise BadRecordError(f"expected JSON, got something else: {error}") from error


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def json_text(value: Json) -> str:
    """A value of `parse_json` as JSON again."""
    try:
        return "".join(_pieces(value))
    except RecursionError as error:
        raise BadRecordError(_DEEP) from error


def _pieces(value: Json) -> list[str]:
    if isinstance(value, Number):
        return [value]
    if isinstance(value, dict):
        found = [
            "".join((json.dumps(name, ensure_ascii=False), ": ", *_pieces(part)))
            for name, part in value.items()
        ]
        return ["{", ", ".join(found), "}"]
    if isinstance(value, list):
        return ["[", ", ".join("".join(_pieces(part)) for part in value), "]"]
    return [json.dumps(value, ensure_ascii=False)]


def value_text(value: Json, type_name: str) -> str | None:
    """A value as the text of a column of this type; raises `BadRecordError` when it does not fit.

    Checked are JSON's kind, ranges, and what dates and identifiers look like; PostgreSQL checks the
    rest where the value lands.
    """
    if value is None:
        return None
    base = type_name.partition("(")[0].strip()
    text = _PRINTERS.get(base, _plain)(value, base)
    storable(text)
    return text


def storable(text: str) -> str:
    """The same text; raises `BadRecordError` if PostgreSQL can hold no such text."""
    if "\0" in text:
        raise BadRecordError("expected text without the character NUL, which no column can hold")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError("expected text, got half of a surrogate pair") from error
    return text


def _unfit(value: Json, type_name: str) -> BadRecordError:
    shown = json_text(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return BadRecordError(f"expected a value of type {type_name}, got {shown}")


def _integer(value: Json, base: str) -> str:
    if not isinstance(value, str) or _INTEGER.fullmatch(value) is None:
        raise _unfit(value, base)
    limit = _RANGES[base]
    if not -limit <= int(value) < limit:
        raise _unfit(value, base)
    return str(value)


def _numeric(value: Json, base: str) -> str:
    if not isinstance(value, str) or _NUMBER.fullmatch(value) is None:
        raise _unfit(value, base)
    return str(value)


def _boolean(value: Json, base: str) -> str:
    if not isinstance(value, bool):
        raise _unfit(value, base)
    return "t" if value else "f"


def _document(value: Json, base: str) -> str:
    del base
    return json_text(value)


def _bytes(value: Json, base: str) -> str:
    if not isinstance(value, str) or isinstance(value, Number):
        raise _unfit(value, base)
    try:
        return "\\x" + base64.b64decode(value, validate=True).hex()
    except (binascii.Error, ValueError) as error:
        raise BadRecordError("expected bytes in base64, got something else") from error


def _of(parse: Callable[[str], object]) -> Callable[[Json, str], str]:
    def text(value: Json, base: str) -> str:
        if not isinstance(value, str) or isinstance(value, Number):
            raise _unfit(value, base)
        try:
            parse(value)
        except ValueError as error:
            raise _unfit(value, base) from error
        return value

    return text


def _plain(value: Json, base: str) -> str:
    """Text as it is; anything else as JSON writes it."""
    del base
    return str(value) if isinstance(value, str) else json_text(value)


_PRINTERS: Final[Mapping[str, Callable[[Json, str], str]]] = {
    "smallint": _integer,
    "integer": _integer,
    "bigint": _integer,
    "numeric": _numeric,
    "real": _numeric,
    "double precision": _numeric,
    "boolean": _boolean,
    "text": _plain,
    "character varying": _plain,
    "uuid": _of(UUID),
    "date": _of(date.fromisoformat),
    "time without time zone": _of(time.fromisoformat),
    "timestamp without time zone": _of(datetime.fromisoformat),
    "timestamp with time zone": _of(datetime.fromisoformat),
    "json": _document,
    "jsonb": _document,
    "bytea": _bytes,
}
TYPES: Final = frozenset(_PRINTERS)
"""The types that a declared column may have; numeric and character varying also with sizes."""
