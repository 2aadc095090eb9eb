"""Debezium's messages as events. Pure.

Understood: the envelope, with and without ``schema``; rows that Debezium's transformation
``ExtractNewRecordState`` has unwrapped (where the project says so); tombstones. Passed over:
logical messages (``m``), heartbeats, transaction metadata, schema changes. The envelope's own
fields say what a message is, so a broken envelope is never taken for something else.

A tombstone is a delete as well: where a topic is compacted, the delete before it may be gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from penstock.errors import BadRecordError
from penstock.records import Microseconds, Op
from penstock.sources.topics import connect
from penstock.sources.topics.connect import ColumnType, Json, column_type
from penstock.sources.topics.messages import (
    Message,
    Record,
    microseconds,
    name_of,
    number_of,
    parse,
    row_of,
    stream_of,
    topic_stream,
)
from penstock.sources.topics.shapes import Event, Fields

OPS: Final[Mapping[str, Op]] = {
    "c": Op.CREATE,
    "u": Op.UPDATE,
    "d": Op.DELETE,
    "r": Op.READ,
    "t": Op.TRUNCATE,
}
HEARTBEATS: Final = "__debezium-heartbeat"
_HEARTBEAT: Final = "io.debezium.connector.common.Heartbeat"
_PASSED_OVER: Final = (
    "io.debezium.connector.common.TransactionMetadataValue",
    "io.debezium.connector.common.Heartbeat",
)
_TYPES_KEPT: Final = 1000


class DebeziumFormat:
    """Reads one record's events. ``unwrapped`` says that values are rows, not envelopes."""

    def __init__(self, *, unwrapped: bool = False) -> None:
        self._unwrapped = unwrapped
        self._streams: dict[str, str] = {}
        self._types: dict[int, tuple[Json, dict[str, ColumnType]]] = {}

    def __call__(self, record: Record) -> Iterable[Event]:
        """See `penstock.sources.topics.messages.MessageFormat`."""
        key = None if record.key is None else unwrap(parse(record.key, "key"))
        value = Message(None) if record.value is None else unwrap(parse(record.value, "value"))
        return self.events(record, key, value)

    def events(self, record: Record, key: Message | None, value: Message) -> list[Event]:
        """The events of a record whose bytes have been read."""
        payload = value.payload
        if payload is None:
            return self._tombstone(record, key)
        if not isinstance(payload, dict):
            raise BadRecordError(f"expected Debezium's envelope, got {payload!r:.100}")
        if is_passed_over(record.topic, value):
            return []
        if self._unwrapped:
            event = self._row(record, key, value)
        else:
            found = self._envelope(record, key, value)
            if found is None:
                return []
            event = found
        self._streams[record.topic] = event.stream
        return [event]

    # ------------------------------------------------------------------ the envelope

    def _envelope(self, record: Record, key: Message | None, value: Message) -> Event | None:
        payload = value.payload
        letter = payload.get("op")
        if letter == "m":
            return None
        op = OPS.get(letter) if isinstance(letter, str) else None
        if op is None:
            raise BadRecordError(
                "expected an envelope of Debezium with op c, u, d, r, t or m, got "
                + (f"op {letter!r:.50}" if "op" in payload else f"fields {_some(payload)}")
            )
        source = payload.get("source")
        if not isinstance(source, dict):
            raise BadRecordError(f"expected an object for 'source', got {source!r:.100}")
        document = source.get("connector") == "mongodb"
        before, after = (
            (_document(payload, side) if document else row_of(payload.get(side), side))
            for side in ("before", "after")
        )
        if op is Op.DELETE:
            after = None
        elif op is not Op.TRUNCATE and after is None:
            raise BadRecordError(
                f"expected a row in 'after' where op is {letter!r}, got none"
                + (": set capture.mode to change_streams_update_full" if document else "")
            )
        return Event(
            stream=stream_in(source) or topic_stream(record.topic),
            op=op,
            committed_at=committed_at(source, record.time_ms),
            before=None if op is Op.TRUNCATE else before,
            after=None if op is Op.TRUNCATE else after,
            key=_document_key(key) if document else key_fields(key),
            types=_DOCUMENT_TYPES if document else self._envelope_types(value.schema),
            transaction=transaction_in(payload, source),
        )

    def _envelope_types(self, schema: Mapping[str, Any] | None) -> Mapping[str, ColumnType] | None:
        if schema is None:
            return None
        for field in _fields(schema):
            if field.get("field") in {"after", "before"}:
                return self.row_types(field)
        raise BadRecordError("expected 'before' and 'after' in the envelope's schema, got neither")

    def row_types(self, schema: Mapping[str, Any]) -> Mapping[str, ColumnType]:
        """The columns' types in a schema of rows; equal ones are worked out once."""
        fields = _fields(schema)
        known = self._types.get(len(fields))
        if known is not None and known[0] == fields:
            return known[1]
        types = {}
        for field in fields:
            name = field.get("field")
            if not isinstance(name, str):
                raise BadRecordError(f"expected a field's name in the schema, got {name!r:.100}")
            types[name] = column_type(field)
        self._types[len(fields)] = (fields, types)
        return types

    # ------------------------------------------------------------------ rows without envelope

    def _row(self, record: Record, key: Message | None, value: Message) -> Event:
        payload = value.payload
        if isinstance(payload.get("source"), dict) and "op" in payload:
            raise BadRecordError(
                "expected a row, got an envelope of Debezium: set `unwrapped: false`"
            )
        marks = {name: payload[name] for name in payload if name.startswith("__")}
        row = {name: payload[name] for name in payload if name not in marks}
        types = self.row_types(value.schema) if value.schema is not None else None
        if types is not None:
            types = {name: of for name, of in types.items() if not name.startswith("__")}
        deleted = str(marks.get("__deleted", "")).casefold() == "true"
        op = OPS.get(name_of(marks.get("__op")), Op.UPDATE)
        source = {name.removeprefix("__").removeprefix("source_"): v for name, v in marks.items()}
        gone = deleted or op is Op.DELETE
        return Event(
            stream=stream_in(source) or topic_stream(record.topic),
            op=Op.DELETE if gone else op,
            committed_at=committed_at(source, record.time_ms),
            before=row if gone else None,
            after=None if gone else row,
            key=key_fields(key),
            types=types,
            transaction=transaction_in({}, source),
        )

    def _tombstone(self, record: Record, key: Message | None) -> list[Event]:
        """The row with this key is gone, if there was one."""
        if record.topic.startswith(HEARTBEATS):
            return []
        fields = key_fields(key)
        if fields is None:
            raise BadRecordError("expected a key or a value, got a record with neither")
        stream = self._streams.get(record.topic) or topic_stream(record.topic)
        time = microseconds(record.time_ms * 1000)
        return [Event(stream, Op.DELETE, time, key=fields)]


def unwrap(found: Json) -> Message:
    """Takes the schema off, where there is one."""
    if isinstance(found, dict) and found.keys() == {"schema", "payload"}:
        schema = found["schema"]
        if isinstance(schema, dict) and schema:
            return Message(found["payload"], schema)
        if not schema:
            return Message(found["payload"])
        raise BadRecordError(f"expected an object for 'schema', got {schema!r:.100}")
    return Message(found)


def is_passed_over(topic: str, value: Message) -> bool:
    """Heartbeats, transaction metadata and schema changes are no changes of rows."""
    payload = value.payload
    if value.schema is not None and value.schema.get("name") in _PASSED_OVER:
        return True
    if payload.keys() == {"ts_ms"}:
        return topic.startswith(HEARTBEATS)
    if "op" in payload:
        return False
    if payload.get("status") in ("BEGIN", "END") and {"id", "event_count"} <= payload.keys():
        return True
    return "source" in payload and "databaseName" in payload and "ddl" in payload


def key_fields(key: Message | None) -> Fields | None:
    """The key's columns. A key that is no struct names none."""
    if key is None or key.payload is None:
        return None
    if isinstance(key.payload, dict):
        # A routing transformation adds this field so that keys of several tables stay apart.
        return {n: v for n, v in key.payload.items() if n != "__dbz__physicalTableIdentifier"}
    return None


def stream_in(source: Mapping[str, Any]) -> str:
    """The stream that ``source`` names; "" when it names none."""
    table = name_of(source.get("table")) or name_of(source.get("collection"))
    if not table:
        return ""
    return stream_of(name_of(source.get("schema")) or name_of(source.get("db")), table)


def committed_at(source: Mapping[str, Any], time_ms: int) -> Microseconds:
    """When the source committed; else the record's time."""
    for name, times, over in (("ts_us", 1, 1), ("ts_ns", 1, 1000), ("ts_ms", 1000, 1)):
        value = number_of(source.get(name))
        if value:
            return microseconds(value * times // over)
    return microseconds(time_ms * 1000)


def transaction_in(payload: Mapping[str, Any], source: Mapping[str, Any]) -> str | None:
    """The source's name of the transaction."""
    block = payload.get("transaction")
    for value in (
        block.get("id") if isinstance(block, dict) else None,
        source.get("gtid"),
        source.get("txId"),
    ):
        if isinstance(value, str | int) and value:
            return str(value)
    return None


def _fields(schema: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    fields = schema.get("fields")
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        raise BadRecordError(f"expected fields in the schema, got {fields!r:.100}")
    return fields


_DOCUMENT_TYPES: Final[Mapping[str, ColumnType]] = {
    "id": ColumnType("text", connect.text, str),
    "document": ColumnType("json", connect.json_given, str),
}


def _document(payload: Mapping[str, Any], side: str) -> dict[str, Any] | None:
    """A MongoDB document, which Debezium sends as a JSON text: its id, and all of it."""
    given = payload.get(side)
    if given is None:
        return None
    parsed = parse(connect.text(given).encode("utf-8", "surrogatepass"), side)
    if not isinstance(parsed, dict) or "_id" not in parsed:
        raise BadRecordError(f"expected a document with an _id in {side!r}, got {given!r:.100}")
    return {"id": connect.json_text(parsed["_id"]), "document": given}


def _document_key(key: Message | None) -> Fields | None:
    fields = key_fields(key)
    if fields is None or "id" not in fields:
        return {"id": None}
    try:
        parsed = parse(connect.text(fields["id"]).encode("utf-8", "surrogatepass"), "key")
    except BadRecordError:
        parsed = fields["id"]
    return {"id": connect.json_text(parsed)}


def _some(payload: Mapping[str, Any]) -> str:
    names = [repr(name) for name in list(payload)[:6]]
    return ", ".join(names) + (", ..." if len(payload) > len(names) else "") or "none"
