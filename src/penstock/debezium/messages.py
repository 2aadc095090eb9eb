"""Changes as the messages that Debezium would send: topic, key, value, tombstone. Pure.

With ``schemas`` every key and value is ``{"schema": ..., "payload": ...}``, as Kafka Connect's
``JsonConverter`` wants it (a JDBC sink needs that); without, it is the payload alone, as Flink's
``debezium-json`` has it by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from penstock.debezium.envelope import UNAVAILABLE
from penstock.debezium.types import wire_type
from penstock.errors import BadRecordError
from penstock.records import UNCHANGED, Change, Key, Op, Row, Schema, Value

_MOST_SCHEMAS: Final = 4096

_SOURCE_FIELDS: Final = (
    ("version", "string", False),
    ("connector", "string", False),
    ("name", "string", False),
    ("ts_ms", "int64", False),
    ("snapshot", "string", True),
    ("db", "string", False),
    ("sequence", "string", True),
    ("ts_us", "int64", True),
    ("schema", "string", False),
    ("table", "string", False),
    ("txId", "string", True),
)


class Message(NamedTuple):
    """What a broker is given. Messages of one key go to one partition; a truncate has no key, and
    a tombstone no value."""

    topic: str
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class _Form:
    """All that is worked out once per schema of a stream."""

    topic: str
    namespace: str
    table: str
    encoders: tuple[tuple[str, str, Callable[[str], Any]], ...]
    key_wrap: tuple[bytes, bytes]
    value_wrap: tuple[bytes, bytes]


class MessageEncoder:
    """Makes messages. ``prefix`` begins the topics' names; ``version`` is said in ``source``."""

    def __init__(
        self, prefix: str, *, version: str, schemas: bool = False, tombstones: bool = True
    ) -> None:
        self._prefix = prefix
        self._version = version
        self._schemas = schemas
        self._tombstones = tombstones
        self._forms: dict[Schema, _Form] = {}

    def messages(self, change: Change) -> list[Message]:
        """The messages of one change, in order. Raises `BadRecordError` when a value is not of the
        type that its column says."""
        form = self._form(change.schema)
        if change.op is Op.TRUNCATE:
            return [self._message(form, change, None, None, Op.TRUNCATE)]
        if change.old_key is not None and change.old_key != change.key:
            gone = self._message(form, change, change.old_key, None, Op.DELETE)
            came = self._message(form, change, change.key, change.after, Op.CREATE)
            return [gone, *self._tombstone(gone), came]
        said = self._message(form, change, change.key, change.after, change.op)
        return [said, *self._tombstone(said)] if change.op is Op.DELETE else [said]

    def _tombstone(self, deletion: Message) -> list[Message]:
        return [Message(deletion.topic, deletion.key, None)] if self._tombstones else []

    def _message(
        self, form: _Form, change: Change, key: Key | None, after: Row | None, op: Op
    ) -> Message:
        before = change.before
        if before is None and op is Op.DELETE and key is not None:
            before = _key_row(change.schema, key)
        if op is Op.CREATE:
            before = None
        payload = {
            "before": None if op is Op.TRUNCATE else _row(form, before),
            "after": _row(form, after),
            "source": self._source(form, change),
            "op": op.value,
            "ts_ms": change.committed_at // 1000,
            "ts_us": change.committed_at,
            "transaction": None,
        }
        return Message(
            form.topic,
            None if key is None else _wrapped(form.key_wrap, _key(form, change.schema, key)),
            _wrapped(form.value_wrap, payload),
        )

    def _source(self, form: _Form, change: Change) -> dict[str, Any]:
        return {
            "version": self._version,
            "connector": "penstock",
            "name": self._prefix,
            "ts_ms": change.committed_at // 1000,
            "snapshot": "true" if change.op is Op.READ else "false",
            "db": change.schema.source,
            "sequence": change.position,
            "ts_us": change.committed_at,
            "schema": form.namespace,
            "table": form.table,
            "txId": change.transaction,
        }

    # ------------------------------------------------------------------ forms

    def _form(self, schema: Schema) -> _Form:
        form = self._forms.get(schema)
        if form is None:
            if len(self._forms) >= _MOST_SCHEMAS:
                self._forms.clear()
            form = self._forms[schema] = self._make_form(schema)
        return form

    def _make_form(self, schema: Schema) -> _Form:
        namespace, _, table = schema.stream.rpartition(".")
        topic = ".".join(part for part in (self._prefix, namespace, table) if part)
        encoders = tuple(
            (column.name, column.type, wire_type(column.type).encode) for column in schema.columns
        )
        key_wrap = value_wrap = (b"", b"")
        if self._schemas:
            key_wrap = _wrap(_key_schema(topic, schema))
            value_wrap = _wrap(envelope_schema(topic, schema))
        return _Form(topic, namespace, table, encoders, key_wrap, value_wrap)


def _wrap(schema: Mapping[str, Any]) -> tuple[bytes, bytes]:
    return b'{"schema":' + orjson.dumps(schema) + b',"payload":', b"}"


def _wrapped(wrap: tuple[bytes, bytes], payload: Any) -> bytes:
    try:
        return wrap[0] + orjson.dumps(payload) + wrap[1]
    except TypeError as error:
        raise BadRecordError(f"expected values that JSON can hold, got {error}") from error


def _key(form: _Form, schema: Schema, key: Key) -> dict[str, Any]:
    return {
        form.encoders[i][0]: _encoded(form.encoders[i], value)
        for i, value in zip(schema.key_indexes, key, strict=True)
    }


def _row(form: _Form, row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        encoder[0]: _encoded(encoder, value)
        for encoder, value in zip(form.encoders, row, strict=True)
    }


def _encoded(encoder: tuple[str, str, Callable[[str], Any]], value: Value) -> Any:
    if value is None:
        return None
    name, of, encode = encoder
    if value is UNCHANGED:
        return _UNAVAILABLE_BYTES if of == "bytea" else UNAVAILABLE
    try:
        return encode(value)
    except BadRecordError as error:
        raise BadRecordError(f"column {name!r}: {error.reason}") from error


_UNAVAILABLE_BYTES: Final = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="  # the same, in base64


def _key_row(schema: Schema, key: Key) -> Row:
    values = dict(zip(schema.key_indexes, key, strict=True))
    return tuple(values.get(i) for i in range(len(schema.columns)))


# --------------------------------------------------------------------------- schemas


def _key_schema(topic: str, schema: Schema) -> dict[str, Any]:
    return {
        "type": "struct",
        "fields": [
            wire_type(column.type).schema(column.name) for column in schema.columns if column.key
        ],
        "optional": False,
        "name": f"{topic}.Key",
    }


def envelope_schema(topic: str, schema: Schema) -> dict[str, Any]:
    """The schema of a table's values, as Connect's JSON converter writes it."""
    row = {
        "type": "struct",
        "fields": [wire_type(column.type).schema(column.name) for column in schema.columns],
        "optional": True,
        "name": f"{topic}.Value",
    }
    return {
        "type": "struct",
        "fields": [
            {**row, "field": "before"},
            {**row, "field": "after"},
            {
                "type": "struct",
                "fields": _plain_fields(_SOURCE_FIELDS),
                "optional": False,
                "name": "io.debezium.connector.penstock.Source",
                "field": "source",
            },
            *_plain_fields((("op", "string", False), ("ts_ms", "int64", True))),
            *_plain_fields((("ts_us", "int64", True),)),
            {
                "type": "struct",
                "fields": _plain_fields(
                    (
                        ("id", "string", False),
                        ("total_order", "int64", False),
                        ("data_collection_order", "int64", False),
                    )
                ),
                "optional": True,
                "name": "event.block",
                "version": 1,
                "field": "transaction",
            },
        ],
        "optional": False,
        "name": f"{topic}.Envelope",
        "version": 1,
    }


def _plain_fields(fields: Sequence[tuple[str, str, bool]]) -> list[dict[str, Any]]:
    return [{"type": of, "optional": optional, "field": name} for name, of, optional in fields]
