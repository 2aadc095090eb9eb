"""A change as Debezium's envelope, the form in which people and other systems know changes.

Column values become JSON values by their SQL type: whole numbers, floats and booleans; everything
else stays the text that the source printed (an exact number must not be rounded).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from penstock.records import UNCHANGED, Change, Key, Row, Schema, Value

UNAVAILABLE: Final = "__debezium_unavailable_value"
"""What Debezium shows of a value that the source did not send."""

_FINITE: Final = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)


def _float(text: str) -> float | str:
    return float(text) if _FINITE.fullmatch(text) else text


def _boolean(text: str) -> bool | str:
    return {"t": True, "true": True, "f": False, "false": False}.get(text, text)


def _whole(text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() else text


_BY_TYPE: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "smallint": _whole,
        "integer": _whole,
        "bigint": _whole,
        "oid": _whole,
        "real": _float,
        "double precision": _float,
        "boolean": _boolean,
    }
)


def to_debezium(change: Change) -> dict[str, Any]:
    """The envelope of one change, ready for JSON. Times are those of the source's commit."""
    schema = change.schema
    namespace, _, table = schema.stream.rpartition(".")
    before = change.before
    if before is None and change.old_key is not None:
        before = _key_row(schema, change.old_key)
    return {
        "before": _row(schema, before),
        "after": _row(schema, change.after),
        "source": {
            "name": schema.source,
            "ts_ms": change.committed_at // 1000,
            "ts_us": change.committed_at,
            "snapshot": "true" if change.op.value == "r" else "false",
            "schema": namespace,
            "table": table,
            "txId": change.transaction,
            "sequence": change.position,
        },
        "op": change.op.value,
        "ts_ms": change.committed_at // 1000,
        "ts_us": change.committed_at,
        "transaction": None if change.transaction is None else {"id": change.transaction},
    }


def _key_row(schema: Schema, key: Key) -> Row:
    values = dict(zip(schema.key_indexes, key, strict=True))
    return tuple(values.get(i) for i in range(len(schema.columns)))


def _row(schema: Schema, row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        column.name: _value(column.type, value)
        for column, value in zip(schema.columns, row, strict=True)
    }


def _value(of: str, value: Value) -> Any:
    if value is None:
        return None
    if value is UNCHANGED:
        return UNAVAILABLE
    render = _BY_TYPE.get(of)
    return value if render is None else render(value)
