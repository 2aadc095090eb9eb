"""Messages in Avro, in Confluent's wire format: a zero byte, the schema's number, the data.

Debezium's converter writes Connect's schemas as Avro and notes what Avro has no word for
(``connect.name``, ``connect.parameters``); `connect_schema` goes back, so that the formats see what
they would see in JSON. Avro's own logical types are left unread: Connect's names say more.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final

from penstock.errors import BadRecordError, MissingExtraError
from penstock.records import Change, Position
from penstock.sources.topics.base import Slice, unreadable
from penstock.sources.topics.messages import Message, MessageFormat, Wanted, record_at
from penstock.sources.topics.positions import nth
from penstock.sources.topics.registry import SchemaRegistry
from penstock.sources.topics.shapes import Shapes

_HEAD: Final = struct.Struct(">bI")
_MOST_DEPTH: Final = 40
_TYPES: Final[Mapping[str, str]] = {
    "int": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "boolean",
    "string": "string",
    "bytes": "bytes",
    "fixed": "bytes",
    "enum": "string",
    "map": "map",
}


class AvroDecoder:
    """The decoder of any format whose messages are in Avro
    (`penstock.sources.topics.base.Decoder`)."""

    def __init__(
        self, format_: MessageFormat, registry: SchemaRegistry, shapes: Shapes, wanted: Wanted
    ) -> None:
        try:
            import fastavro  # noqa: F401 - here is where to say that it is missing
        except ImportError as error:
            raise MissingExtraError("reading messages in Avro", "avro") from error
        self._format = format_
        self._registry = registry
        self._shapes = shapes
        self._wanted = wanted
        self._readers: dict[int, tuple[Any, Any, Mapping[str, Any]]] = {}

    def restore(self, state: Mapping[str, str]) -> None:
        self._shapes.restore(state)

    def learned(self) -> Mapping[str, str]:
        return self._shapes.learned()

    async def prepare(self, records: Slice) -> None:
        """Fetch the schemas that these records name."""
        numbers = {
            _HEAD.unpack_from(data)[1]
            for data in (*records.keys, *records.values)
            if data is not None and len(data) >= _HEAD.size and data[0] == 0
        }
        for number in sorted(numbers):
            await self._registry.fetch(number)

    async def close(self) -> None:
        await self._registry.close()

    def decode(self, records: Slice, positions: Sequence[Position]) -> list[Change]:
        changes: list[Change] = []
        for i, position in enumerate(positions):
            try:
                changes += self._one(records, i, position)
            except BadRecordError as error:
                changes.append(unreadable(self._shapes.source, records, i, position, error.reason))
        return changes

    def _one(self, records: Slice, i: int, position: Position) -> list[Change]:
        record = record_at(records, i)
        key = None if record.key is None else self._read(record.key, "key")
        value = Message(None) if record.value is None else self._read(record.value, "value")
        changes = []
        for number, event in enumerate(self._format.events(record, key, value)):
            if self._wanted.takes(event.stream):
                change = self._shapes.change(event, nth(position, number))
                if change is not None:
                    changes.append(change)
        return changes

    def _read(self, data: bytes, what: str) -> Message:
        """The message in these bytes, with the schema that they name."""
        import fastavro
        from fastavro.schema import SchemaParseException, UnknownType

        if len(data) < _HEAD.size or data[0] != 0:
            raise BadRecordError(
                f"expected the {what} in Avro with a schema's number in front, got {data[:20]!r}"
            )
        number = _HEAD.unpack_from(data)[1]
        try:
            found, parsed, connect = self._reader(number)
            stream = BytesIO(data)
            stream.seek(_HEAD.size)
            payload = fastavro.schemaless_reader(stream, parsed, None)
        except (
            SchemaParseException,
            UnknownType,
            EOFError,
            ValueError,
            TypeError,
            LookupError,
            OverflowError,
            RecursionError,
            MemoryError,
            struct.error,
            AttributeError,
        ) as error:
            raise BadRecordError(
                f"expected the {what} in Avro with schema {number}, got {error!r:.200}"
            ) from error
        if stream.tell() != len(data):
            raise BadRecordError(
                f"expected the {what} to end with its last field, got "
                f"{len(data) - stream.tell()} more bytes"
            )
        assert found is not None
        return Message(payload, connect)

    def _reader(self, number: int) -> tuple[Any, Any, Mapping[str, Any]]:
        import fastavro

        schema = self._registry.known(number)
        known = self._readers.get(number)
        if known is None or known[0] is not schema:
            parsed = fastavro.parse_schema(_plain(schema))
            known = self._readers[number] = (schema, parsed, connect_schema(schema))
        return known


def _plain(schema: Any, depth: int = 0) -> Any:
    """The schema without Avro's logical types: values come as they are written."""
    if depth > _MOST_DEPTH * 4:
        raise BadRecordError("expected a schema, got one nested too deeply")
    if isinstance(schema, list):
        return [_plain(branch, depth + 1) for branch in schema]
    if isinstance(schema, dict):
        return {
            name: _plain(value, depth + 1)
            for name, value in schema.items()
            if name not in {"logicalType", "default"}
        }
    return schema


def connect_schema(
    schema: Any, named: dict[str, Any] | None = None, depth: int = 0
) -> dict[str, Any]:
    """An Avro schema as Connect's JSON form of it."""
    named = {} if named is None else named
    if depth > _MOST_DEPTH:
        raise BadRecordError("expected a schema, got one nested too deeply")
    if isinstance(schema, list):  # a union: null and one type, or else any of several
        branches = [branch for branch in schema if branch != "null"]
        return (
            connect_schema(branches[0], named, depth + 1) if len(branches) == 1 else {"type": "map"}
        )
    if isinstance(schema, str):
        of = _TYPES.get(schema)
        return dict(named.get(schema) or {"type": "struct"}) if of is None else {"type": of}
    if not isinstance(schema, dict):
        raise BadRecordError(f"expected an Avro schema, got {schema!r:.100}")
    return _described(schema, named, depth)


def _described(schema: Mapping[str, Any], named: dict[str, Any], depth: int) -> dict[str, Any]:
    of = schema.get("type")
    if isinstance(of, dict | list):
        return connect_schema(of, named, depth + 1)
    found: dict[str, Any] = {"type": schema.get("connect.type") or _TYPES.get(str(of), "struct")}
    if isinstance(schema.get("connect.name"), str):
        found["name"] = schema["connect.name"]
    if isinstance(schema.get("connect.parameters"), Mapping):
        found["parameters"] = schema["connect.parameters"]
    if of == "array":
        found |= {"type": "array", "items": connect_schema(schema.get("items"), named, depth + 1)}
    elif of == "record":
        fields = schema.get("fields")
        if not isinstance(fields, list) or not all(isinstance(one, dict) for one in fields):
            raise BadRecordError(f"expected fields in the Avro schema, got {fields!r:.100}")
        found["fields"] = [
            {"field": one.get("name"), **connect_schema(one.get("type"), named, depth + 1)}
            for one in fields
        ]
        found["name"] = found.get("name") or _full_name(schema)
    if isinstance(schema.get("name"), str):
        named[schema["name"]] = named[_full_name(schema)] = found
    return found


def _full_name(schema: Mapping[str, Any]) -> str:
    namespace = schema.get("namespace")
    name = str(schema.get("name"))
    return f"{namespace}.{name}" if namespace and "." not in name else name
