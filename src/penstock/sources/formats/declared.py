"""Rows of a stream whose columns the project declares, because its source does not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.errors import BadRecordError
from penstock.records import Column, Key, Row, Schema
from penstock.sources.formats.values import Json, value_text


@dataclass(frozen=True, slots=True)
class DeclaredStream:
    """A stream's name, its key and its columns with their types, in order."""

    name: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]

    def schema(self, source: str) -> Schema:
        """As changes carry it."""
        columns = tuple(Column(name, kind, name in self.key) for name, kind in self.columns)
        return Schema(source, self.name, columns)


def row_of(schema: Schema, fields: Mapping[str, Json]) -> Row:
    """All columns of an object: what it does not have is NULL, and what is not declared is left
    out. Raises `BadRecordError` for a value that does not fit, or a key that is not whole."""
    return tuple(_value(column, fields) for column in schema.columns)


def key_of(schema: Schema, fields: Mapping[str, Json]) -> Key:
    """The key's texts alone, for a delete."""
    return tuple(_value(column, fields) for column in schema.columns if column.key)


def key_in(schema: Schema, row: Row) -> Key:
    """The key of a row."""
    return tuple(str(row[place]) for place in schema.key_indexes)


def _value(column: Column, fields: Mapping[str, Json]) -> str | None:
    try:
        text = value_text(fields.get(column.name), column.type)
    except BadRecordError as error:
        raise BadRecordError(f"{column.name}: {error.reason}") from error
    if text is None and column.key:
        raise BadRecordError(f"{column.name}: expected a value for this part of the key, got none")
    return text


def objects_of(payload: Json) -> Sequence[Mapping[str, Json]]:
    """The objects of a payload: one, or an array of them."""
    found = payload if isinstance(payload, list) else [payload]
    for item in found:
        if not isinstance(item, dict):
            raise BadRecordError("expected a JSON object, or an array of them")
    return found
