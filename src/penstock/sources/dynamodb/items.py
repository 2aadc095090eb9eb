"""Items of DynamoDB as rows: the key, declared columns, and the whole as JSON. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import BadRecordError
from penstock.records import Column, Key, Row, Schema
from penstock.sources.formats.values import Json, Number, json_text, value_text

ITEM: Final = "item"
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_KEY_TYPES: Final = {"S": "text", "N": "numeric", "B": "bytea"}


def _number(value: str) -> Number:
    if _NUMBER.fullmatch(value) is None:
        raise BadRecordError(f"expected a number, got {value!r:.60}")
    return Number(value)


def _binary(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_PLAIN: Final[Mapping[str, Callable[[Any], Json]]] = {
    "S": str,
    "N": _number,
    "B": _binary,
    "BOOL": bool,
    "NULL": lambda _: None,
    "SS": sorted,
    "NS": lambda values: [_number(value) for value in sorted(values, key=_size)],
    "BS": lambda values: sorted(_binary(value) for value in values),
    "L": lambda values: [plain(value) for value in values],
    "M": lambda values: {name: plain(value) for name, value in values.items()},
}


def _size(value: str) -> tuple[float, str]:
    return float(_number(value)), value


def plain(value: Mapping[str, Any]) -> Json:
    """An attribute's value as JSON has it: numbers with all their digits, binary in base64, sets as
    sorted arrays."""
    if len(value) == 1:
        kind, content = next(iter(value.items()))
        if kind in _PLAIN:
            return _PLAIN[kind](content)
    raise BadRecordError(f"expected one value of a known type, got {', '.join(value) or 'none'}")


@dataclass(frozen=True)
class ItemRows:
    """How the items of one table become rows."""

    schema: Schema

    @classmethod
    def of(
        cls, source: str, table: str, description: Mapping[str, Any], declared: Mapping[str, str]
    ) -> ItemRows:
        """By the table's own description. ``declared`` are columns with their types; an attribute
        of the key has the type that the table says."""
        types = {
            a["AttributeName"]: a["AttributeType"] for a in description["AttributeDefinitions"]
        }
        keys = [part["AttributeName"] for part in description["KeySchema"]]
        columns = [Column(name, _KEY_TYPES[types[name]], key=True) for name in keys]
        columns += [Column(name, kind) for name, kind in declared.items() if name not in keys]
        whole = ITEM if ITEM not in {*keys, *declared} else f"_{ITEM}"
        return cls(Schema(source, table, (*columns, Column(whole, "jsonb"))))

    def row(self, item: Mapping[str, Any]) -> Row:
        """All of an item."""
        values = {name: plain(value) for name, value in item.items()}
        try:
            whole = json_text(values)
        except RecursionError as error:
            raise BadRecordError("expected an item that is nested less deeply") from error
        parts = self._texts(self.schema.columns[:-1], values)
        return (*parts, whole)

    def key(self, item: Mapping[str, Any]) -> Key:
        """The key alone."""
        columns = [column for column in self.schema.columns if column.key]
        missing = [column.name for column in columns if column.name not in item]
        if missing:
            raise BadRecordError(f"{missing[0]}: expected this part of the key, got none")
        return tuple(self._texts(columns, {c.name: plain(item[c.name]) for c in columns}))

    def _texts(self, columns: Sequence[Column], values: Mapping[str, Json]) -> list[str | None]:
        found: list[str | None] = []
        for column in columns:
            try:
                found.append(value_text(values.get(column.name), column.type))
            except BadRecordError as error:
                raise BadRecordError(f"{column.name}: {error.reason}") from error
        return found
