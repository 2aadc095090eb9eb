"""What is known of each stream's columns, and rows made of messages by it.

A message that carries a schema says its columns' types. One that does not leaves them to be
concluded from JSON's own kinds: whole numbers, floating-point numbers, booleans, texts, anything
nested as json; a column widens when a value does not fit, and never narrows. What was concluded is
part of the source's state, so that a restart concludes the same. Types that the project file names
come before both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple, cast

import orjson

from penstock.errors import BadRecordError, SourceError
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Key,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
    Value,
)
from penstock.sources.topics import connect
from penstock.sources.topics.connect import ColumnType, Json

STATE: Final = "shape:"
UNAVAILABLE: Final = "__debezium_unavailable_value"
_UNKNOWN: Final = ""
_MOST_STREAMS: Final = 10_000
_MOST_COLUMNS: Final = 1600

Fields = Mapping[str, Json]
"""A row as its message has it."""


def _unknown(value: Json) -> str:
    raise BadRecordError(f"expected no value, got {value!r:.100}")


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else connect.json_text(value)


_INFERRED: Final[Mapping[str, ColumnType]] = {
    _UNKNOWN: ColumnType("text", _unknown, str),
    "boolean": connect.BOOLEAN,
    "bigint": connect.BIGINT,
    "numeric": ColumnType("numeric", connect.number),
    "double precision": connect.DOUBLE,
    "text": ColumnType(
        "text", lambda value: value if isinstance(value, str) else _as_text(value), str
    ),
    "json": connect.JSON,
}
_WIDER: Final[Mapping[frozenset[str], str]] = {
    frozenset({"bigint", "numeric"}): "numeric",
    frozenset({"bigint", "double precision"}): "double precision",
    frozenset({"numeric", "double precision"}): "numeric",
}


def kind_of(value: Json) -> str:
    """The narrowest type that holds a JSON value."""
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "bigint" if -(1 << 63) <= value < 1 << 63 else "numeric"
    if isinstance(value, float):
        return "double precision"
    return "text" if isinstance(value, str) else "json"


def wider(one: str, other: str) -> str:
    """The type of a column that had the type ``one`` and gets a value of type ``other``."""
    if one == other or other == _UNKNOWN:
        return one
    if one == _UNKNOWN:
        return other
    if one == "double precision" and other == "numeric":
        return one  # a whole number, however large, among floating-point ones
    return _WIDER.get(frozenset({one, other}), "json" if "json" in {one, other} else "text")


class Event(NamedTuple):
    """What a message says, whatever its format: the row before and after by name. ``types`` are
    those of its schema, in the order of the columns; None where they must be concluded.
    ``exact`` says that a row always has all columns: one that is missing was dropped."""

    stream: str
    op: Op
    committed_at: Microseconds
    before: Fields | None = None
    after: Fields | None = None
    key: Fields | None = None
    types: Mapping[str, ColumnType] | None = None
    transaction: str | None = None
    exact: bool = True


@dataclass(frozen=True)
class Plan:
    """All that is worked out once per shape of a stream."""

    schema: Schema
    types: tuple[ColumnType, ...]

    @cached_property
    def key_names(self) -> frozenset[str]:
        """The columns of the key."""
        return frozenset(column.name for column in self.schema.columns if column.key)

    @cached_property
    def key_of(self) -> Callable[[Row], Key]:
        """Takes the key out of a row."""
        indexes = self.schema.key_indexes
        if len(indexes) == 1:
            only = indexes[0]
            return lambda row: (cast("str | None", row[only]),)
        return lambda row: tuple(cast("str | None", row[i]) for i in indexes)

    def row(self, fields: Fields, *, unavailable: str | None) -> Row:
        """The texts of a row; ``unavailable`` is what stands for a value that was not sent (None:
        nothing does)."""
        return tuple(
            self._value(column.name, of, fields.get(column.name), unavailable)
            for column, of in zip(self.schema.columns, self.types, strict=True)
        )

    @staticmethod
    def _value(name: str, of: ColumnType, value: Json, unavailable: str | None) -> Value:
        if value is None:
            return None
        if unavailable is not None and is_unavailable(value, unavailable):
            return UNCHANGED
        try:
            return of.render(value)
        except BadRecordError as error:
            raise BadRecordError(f"column {name!r}: {error.reason}") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise BadRecordError(
                f"column {name!r}: expected {of.type}, got {value!r:.100}"
            ) from error


def is_unavailable(value: Json, mark: str) -> bool:
    """Whether this is Debezium's mark of a value that was not sent, in any of its forms."""
    if isinstance(value, str):
        return value == mark or value == _base64(mark)
    if isinstance(value, bytes):
        return value == mark.encode()
    if isinstance(value, list):
        return len(value) == 1 and value[0] == mark
    return isinstance(value, Mapping) and dict(value) == {mark: mark}


def _base64(mark: str) -> str:
    from base64 import b64encode

    return b64encode(mark.encode()).decode()


@dataclass
class Shapes:
    """The shapes of one source's streams. ``declared`` are types that the project names, by stream
    and column; ``keys`` the columns of the key, by stream, where messages do not say them."""

    source: str
    declared: Mapping[str, Mapping[str, ColumnType]] = field(default_factory=dict)
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unavailable: str = UNAVAILABLE
    _plans: dict[str, Plan] = field(default_factory=dict, init=False)
    _inferred: dict[str, dict[str, str]] = field(default_factory=dict, init=False)
    _restored: dict[str, Schema] = field(default_factory=dict, init=False)
    _learned: dict[str, str] = field(default_factory=dict, init=False)
    _events: dict[str, Mapping[str, ColumnType] | None] = field(default_factory=dict, init=False)

    # ------------------------------------------------------------------ the state

    def restore(self, state: Mapping[str, str]) -> None:
        """Begin with what an earlier process learned."""
        for known in (self._plans, self._inferred, self._restored, self._learned, self._events):
            known.clear()
        for name, text in state.items():
            if not name.startswith(STATE):
                continue
            stream = name.removeprefix(STATE)
            try:
                columns, inferred = orjson.loads(text)
                self._restored[stream] = Schema(
                    self.source, stream, tuple(Column(*column) for column in columns)
                )
                self._inferred[stream] = dict(inferred)
            except (ValueError, TypeError) as error:
                raise SourceError(
                    f"expected the columns of {stream!r} in the state of source {self.source!r}, "
                    f"got {text!r:.100}: it was written by something else"
                ) from error

    def learned(self) -> Mapping[str, str]:
        """What changed since this was last asked."""
        learned, self._learned = self._learned, {}
        return learned

    def known_plan(self, stream: str) -> Plan | None:
        """The plan of the latest schema of a stream that came in a message."""
        return self._plans.get(stream)

    def schema(self, stream: str) -> Schema | None:
        """The latest schema of a stream."""
        plan = self._plans.get(stream)
        return self._restored.get(stream) if plan is None else plan.schema

    # ------------------------------------------------------------------ changes

    def change(self, event: Event, position: Position) -> Change | None:
        """The change that an event means; None when there is nothing that it could change."""
        if event.op is Op.TRUNCATE or (event.before is None and event.after is None):
            return self._without_row(event, position)
        plan = self.plan(event)
        fresh = event.op in {Op.CREATE, Op.READ}
        after = before = None
        if event.after is not None:
            after = plan.row(event.after, unavailable=None if fresh else self.unavailable)
        if event.before is not None:
            before = _known(plan.row(event.before, unavailable=self.unavailable))
        key = plan.key_of(after if after is not None else before or ())
        if event.op is Op.DELETE and event.key is not None and plan.key_names <= event.key.keys():
            key = plan.key_of(plan.row(event.key, unavailable=None))
        if UNCHANGED in cast("Row", key) or all(part is None for part in key):
            raise BadRecordError(
                f"expected a value in the key {_names(plan.schema)} of {event.stream!r}, got none"
            )
        old_key = None
        if before is not None and after is not None:
            old_key = plan.key_of(before)
            if old_key == key or all(part is None for part in old_key):
                old_key = None
        return Change(
            plan.schema,
            event.op,
            key,
            position,
            event.committed_at,
            after,
            before,
            old_key,
            event.transaction,
        )

    def _without_row(self, event: Event, position: Position) -> Change | None:
        """A truncate, or a delete of which only the key is known."""
        schema = self.schema(event.stream)
        if schema is None:
            return None  # nothing came of this stream, so there is nothing to take away
        key: Key = ()
        if event.op is not Op.TRUNCATE:
            fields = event.key or {}
            if set(fields) != {column.name for column in schema.columns if column.key}:
                raise BadRecordError(
                    f"expected the key {_names(schema)} of {event.stream!r}, got "
                    f"{', '.join(map(repr, fields)) or 'none'}"
                )
            plan = self._plans.get(event.stream) or self._plan_of(schema)
            key = plan.key_of(plan.row(fields, unavailable=None))
        return Change(
            schema,
            event.op,
            key,
            position,
            event.committed_at,
            transaction=event.transaction,
        )

    def _plan_of(self, schema: Schema) -> Plan:
        """A plan for a schema of the state, enough for keys."""
        types = tuple(
            _INFERRED.get(c.type, connect.TEXT)._replace(type=c.type) for c in schema.columns
        )
        return Plan(schema, tuple(t._replace(render=_plain_text) for t in types))

    def plan(self, event: Event) -> Plan:
        """The plan for an event with a row; learns what is new in it."""
        known = self._plans.get(event.stream)
        row = event.after if event.after is not None else event.before
        assert row is not None
        if known is not None and event.after is None and row.keys() <= set(known.schema.names):
            return known  # a delete may carry a part of the row: it says nothing about columns
        names = self._columns(event, row)
        key = self._key(event, names)
        declared = self.declared.get(event.stream, {})
        types: dict[str, ColumnType] = {}
        inferred: dict[str, str] = {}
        for name in names:
            if name in declared:
                types[name] = declared[name]
            elif event.types is not None and name in event.types:
                types[name] = event.types[name]
            else:
                inferred[name] = self._infer(event, name)
                types[name] = _INFERRED[inferred[name]]
        columns = tuple(Column(name, types[name].type, name in key) for name in names)
        if (
            known is not None
            and known.schema.columns == columns
            and self._inferred.get(event.stream, {}) == inferred
        ):
            return known
        return self._learn(event.stream, columns, tuple(types[name] for name in names), inferred)

    def _learn(
        self,
        stream: str,
        columns: tuple[Column, ...],
        types: tuple[ColumnType, ...],
        inferred: dict[str, str],
    ) -> Plan:
        if stream not in self._plans and len(self._plans) >= _MOST_STREAMS:
            raise BadRecordError(
                f"expected at most {_MOST_STREAMS} streams, got one more: {stream!r}"
            )
        plan = self._plans[stream] = Plan(Schema(self.source, stream, columns), types)
        before = self._restored.pop(stream, None)
        if before is None or before != plan.schema or self._inferred.get(stream, {}) != inferred:
            self._learned[f"{STATE}{stream}"] = orjson.dumps(
                [[list(column) for column in columns], inferred]
            ).decode()
        self._inferred[stream] = inferred
        return plan

    def _columns(self, event: Event, row: Fields) -> Sequence[str]:
        names = list(event.types if event.types is not None else row)
        schema = self.schema(event.stream)
        # JSON's fields have no order, a delete may carry a part of the row, and formats that leave
        # fields out (not ``exact``) do not say that a column is gone.
        if schema is not None and (
            not event.exact or event.after is None or set(names) == set(schema.names)
        ):
            names = [*schema.names, *(name for name in names if name not in schema.names)]
        if not names or len(names) > _MOST_COLUMNS:
            raise BadRecordError(f"expected 1 to {_MOST_COLUMNS} columns, got {len(names)}")
        return names

    def _key(self, event: Event, names: Collection[str]) -> Collection[str]:
        key: Collection[str] = self.keys.get(event.stream) or event.key or ()
        if not key and not event.exact:
            raise BadRecordError(
                f"expected a key for rows of {event.stream!r}, got none: name its columns in the "
                "project file (`key`), or send a key in JSON with each message"
            )
        if not key:
            return names  # without a key, the whole row is it
        missing = [name for name in key if name not in names]
        if missing:
            raise BadRecordError(
                f"expected the key's fields among the columns of {event.stream!r}, but there is no "
                f"{missing[0]!r}: name the columns of the key in the project file"
            )
        return key

    def _infer(self, event: Event, name: str) -> str:
        found = self._inferred.get(event.stream, {}).get(name, _UNKNOWN)
        fresh = event.op in {Op.CREATE, Op.READ}
        for row, marked in ((event.before, True), (event.after, not fresh)):
            value = None if row is None else row.get(name)
            if value is None or (marked and is_unavailable(value, self.unavailable)):
                continue
            found = wider(found, kind_of(value))
        return found


def _plain_text(value: Json) -> str:
    if isinstance(value, str):
        return value
    return connect.boolean(value) if isinstance(value, bool) else connect.json_text(value)


def _known(row: Row) -> Row:
    """A row before, of which what was not sent is not known."""
    return tuple(None if value is UNCHANGED else value for value in row)


def _names(schema: Schema) -> str:
    return "(" + ", ".join(column.name for column in schema.columns if column.key) + ")"
