"""Making a `Route` from a message that was read. See `fast`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from penstock.sources.topics import connect
from penstock.sources.topics.connect import ColumnType
from penstock.sources.topics.debezium import key_fields, stream_in, unwrap
from penstock.sources.topics.messages import Record, parse
from penstock.sources.topics.route import Route, Wrapped, wrapping
from penstock.sources.topics.shapes import Plan, Shapes

_BIGINT = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_PAST = Annotated[int, msgspec.Meta(gt=0, le=1 << 62)]
_PAST_MS = Annotated[int, msgspec.Meta(gt=0, le=(1 << 62) // 1000)]


class _Block(msgspec.Struct, gc=False):
    """``transaction`` of an envelope."""

    id: str


# --------------------------------------------------------------------------- making a route


def make_route(record: Record, shapes: Shapes) -> Route | None:
    """A route for messages that look like this one, which was read; None where none can be."""
    assert record.value is not None
    wrapped = wrapping(record.value)
    payload = unwrap(parse(record.value, "value")).payload
    source = payload.get("source")
    if wrapped is None or source.get("connector") == "mongodb":
        return None
    stream = stream_in(source)
    plan = shapes.known_plan(stream)
    timed = _time_fields(source)
    if not stream or plan is None or timed is None:
        return None
    key = _key_form(record, plan)
    if key is None and record.key is not None:
        return None
    row = _struct(
        "Row",
        [
            (c.name, _json_type(c.type, of))
            for c, of in zip(plan.schema.columns, plan.types, strict=True)
        ],
    )
    origin = _struct("Source", [*_origin_fields(source), *timed], closed=False)
    envelope = msgspec.defstruct(
        "Envelope",
        [
            ("op", Literal["c", "u", "d", "r"]),
            ("source", origin),
            ("before", row | None, None),
            ("after", row | None, None),
            ("transaction", _Block | None, None),
        ],
        gc=False,
    )
    return Route(
        stream,
        plan,
        envelope=envelope,
        wrapped=wrapped,
        key=key,
        micros=timed[0][0] == "ts_us" and timed[0][1] is _PAST,
        unavailable=shapes.unavailable,
    )


def _struct(name: str, fields: Sequence[tuple[Any, ...]], *, closed: bool = True) -> Any:
    """A struct whose fields may have any name."""
    plain = [(f"f{i}", *field[1:]) if closed else field for i, field in enumerate(fields)]
    names = {f"f{i}": field[0] for i, field in enumerate(fields)} if closed else None
    return msgspec.defstruct(
        name, plain, rename=names, forbid_unknown_fields=closed, kw_only=not closed, gc=False
    )


def _json_type(column: str, of: ColumnType) -> Any:
    if of.json is int:
        return (_BIGINT if column == "bigint" else int) | None
    if of.json is None:
        return Any
    if of.render is connect.TEXT.render or of.json is not str:
        return of.json | None
    return str | None


def _origin_fields(source: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Fields of ``source`` that say of which table a row is: they must be as they are here."""
    schema, table = source.get("schema"), source.get("table")
    if not isinstance(table, str) or not table:
        return [("collection", Literal[source["collection"]]), ("table", None, None), *_REST]
    fields: list[tuple[Any, ...]] = [("table", Literal[table])]
    if isinstance(schema, str) and schema:
        return [*fields, ("schema", Literal[schema]), *_REST]
    named = source.get("db")
    db = Literal[named] if isinstance(named, str) and named else None
    return [*fields, ("db", db), ("schema", Literal[""] | None, None), *_REST]


_REST: Final[list[tuple[Any, ...]]] = [
    ("gtid", str | None, None),
    ("txId", int | str | None, None),
]


def _time_fields(source: dict[str, Any]) -> list[tuple[Any, ...]] | None:
    if isinstance(source.get("ts_us"), int) and source["ts_us"] > 0:
        return [("ts_us", _PAST)]
    given = source.get("ts_ms")
    if not source.get("ts_us") and not source.get("ts_ns") and isinstance(given, int) and given > 0:
        return [("ts_us", None, None), ("ts_ns", None, None), ("ts_ms", _PAST_MS)]
    return None


def _key_form(record: Record, plan: Plan) -> tuple[type[Any], Wrapped, Sequence[int]] | None:
    """How the key of messages like this one is read, and where its fields are in it."""
    if record.key is None:
        return None
    wrapped = wrapping(record.key)
    fields = key_fields(unwrap(parse(record.key, "key")))
    if wrapped is None or fields is None or set(fields) != plan.key_names:
        return None
    types = {
        column.name: _json_type(column.type, of)
        for column, of in zip(plan.schema.columns, plan.types, strict=True)
    }
    names = list(fields)
    form = _struct("Key", [(name, types[name]) for name in names])
    indexes = [names.index(plan.schema.columns[i].name) for i in plan.schema.key_indexes]
    return form, wrapped, indexes
