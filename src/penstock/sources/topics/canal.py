"""Canal's flat JSON messages as events. Pure.

A message holds rows of one statement: ``database, table, type, es, data: [...], old: [...],
pkNames, mysqlType``. All values are texts; ``mysqlType`` says what they are. Schema changes
(``isDdl``) are passed over, except a truncate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from penstock.errors import BadRecordError
from penstock.records import Op
from penstock.sources.topics import connect
from penstock.sources.topics.connect import ColumnType, Json
from penstock.sources.topics.messages import (
    Message,
    Record,
    microseconds,
    name_of,
    number_of,
    parse,
    stream_of,
)
from penstock.sources.topics.shapes import Event

_OPS: Final[Mapping[str, Op]] = {"INSERT": Op.CREATE, "UPDATE": Op.UPDATE, "DELETE": Op.DELETE}
_TYPE: Final = re.compile(r"([a-z]+)(?:\((\d+)(?:,(\d+))?\))?(.*)", re.DOTALL)
_SIMPLE: Final[Mapping[str, str]] = {
    "tinyint": "smallint",
    "smallint": "smallint",
    "mediumint": "integer",
    "int": "integer",
    "integer": "integer",
    "bigint": "bigint",
    "float": "real",
    "double": "double precision",
    "date": "date",
    "year": "integer",
    "json": "json",
}
_UNSIGNED: Final[Mapping[str, str]] = {
    "smallint": "integer",
    "int": "bigint",
    "integer": "bigint",
    "bigint": "numeric(20,0)",
}
_BINARY: Final = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})


class CanalFormat:
    """Reads one record's events."""

    def __call__(self, record: Record) -> Iterable[Event]:
        """See `penstock.sources.topics.messages.MessageFormat`."""
        if record.value is None:
            raise BadRecordError("expected a flat message of Canal's, got no value")
        return self.events(record, None, Message(parse(record.value, "value")))

    def events(self, record: Record, key: Message | None, value: Message) -> Iterable[Event]:  # noqa: ARG002 - Canal's key is not the row's
        """The events of a record whose bytes have been read."""
        payload = value.payload
        if not isinstance(payload, dict):
            raise BadRecordError(f"expected a flat message of Canal's, got {payload!r:.100}")
        kind = name_of(payload.get("type")).upper()
        stream = stream_of(name_of(payload.get("database")), name_of(payload.get("table")))
        time_ms = number_of(payload.get("es"))
        time = microseconds((record.time_ms if time_ms is None else time_ms) * 1000)
        if kind == "TRUNCATE":
            return [Event(stream, Op.TRUNCATE, time)]
        op = _OPS.get(kind)
        if op is None:
            if payload.get("isDdl") is True or kind == "QUERY":
                return []
            raise BadRecordError(f"expected type INSERT, UPDATE or DELETE, got {kind!r:.50}")
        if not name_of(payload.get("database")) or not name_of(payload.get("table")):
            raise BadRecordError("expected a database and a table, got a message without them")
        gtid = name_of(payload.get("gtid")) or None
        rows, olds = _rows(payload.get("data"), "data"), payload.get("old")
        before: list[dict[str, Any]] = _rows(olds, "old") if op is Op.UPDATE and olds else []
        return [
            Event(
                stream=stream,
                op=op,
                committed_at=time,
                before=row
                if op is Op.DELETE
                else {**row, **before[i]}
                if i < len(before)
                else None,
                after=None if op is Op.DELETE else row,
                key=_key(payload.get("pkNames"), row),
                types=_types(payload.get("mysqlType"), row),
                transaction=gtid,
            )
            for i, row in enumerate(rows)
        ]


def _rows(given: Json, what: str) -> list[dict[str, Any]]:
    if isinstance(given, list) and all(isinstance(row, dict) for row in given):
        return given
    raise BadRecordError(f"expected an array of rows for {what!r}, got {given!r:.100}")


def _key(names: Json, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return {name: row.get(name) for name in names} or None


def _types(given: Json, row: Mapping[str, Any]) -> Mapping[str, ColumnType] | None:
    if not isinstance(given, dict) or not given.keys() >= row.keys():
        return None
    return {name: mysql_type(name_of(given[name])) for name in row}


def mysql_type(name: str) -> ColumnType:
    """The column type of a type that MySQL prints, for values that are texts."""
    match = _TYPE.fullmatch(name.strip().casefold())
    if match is None:
        return connect.TEXT
    base, size, scale, rest = match[1], match[2], match[3], match[4]
    if base == "tinyint" and size == "1":
        return _texts("boolean", _truth)
    if base in _BINARY:
        return _texts("bytea", _binary)
    if base in {"decimal", "numeric"}:
        return _texts(f"numeric({size or 10},{scale or 0})")
    if base in {"datetime", "timestamp"}:
        return _texts(f"timestamp({size or 0}) without time zone", _not_zero)
    if base == "date":
        return _texts("date", _not_zero)
    if "unsigned" in rest and base in _UNSIGNED:
        return _texts(_UNSIGNED[base])
    return _texts(_SIMPLE.get(base, "text"))


def _texts(of: str, render: Callable[[str], str] = str) -> ColumnType:
    def text(value: Json) -> str:
        return render(value if isinstance(value, str) else connect.json_text(value))

    return ColumnType(of, text)


def _truth(value: str) -> str:
    # A tinyint(1) may hold other numbers too; all but 0 are true, as MySQL has it.
    return {"0": "f", "false": "f"}.get(value, "t")


def _binary(value: str) -> str:
    try:
        return f"\\x{value.encode('latin-1').hex()}"  # Canal prints bytes as ISO-8859-1
    except UnicodeEncodeError as error:
        raise BadRecordError(f"expected bytes in ISO-8859-1, got {value!r:.50}") from error


def _not_zero(value: str) -> str:
    if value.startswith("0000-00-00"):
        raise BadRecordError(f"expected a date, got MySQL's {value!r}: PostgreSQL has no such date")
    return value


canal_events: Final = CanalFormat()
