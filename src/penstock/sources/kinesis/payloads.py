"""Records of a stream as rows of declared tables. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import BadRecordError
from penstock.records import Change, Microseconds, Op, Position, unreadable_schema
from penstock.sources.formats.declared import DeclaredStream, key_in, key_of, objects_of, row_of
from penstock.sources.formats.values import Json, parse_json

_AGGREGATED: Final = b"\xf3\x89\x9a\xc2"
_DELETE: Final = frozenset({"delete", "d"})
_UPSERT: Final = frozenset({"upsert", "insert", "create", "update", "c", "r", "u"})


@dataclass(frozen=True)
class RecordRows:
    """A record is a JSON object, or an array of them. Each is the row as it is now, or says with
    ``op_field`` that it was deleted. ``table_field`` says which table it belongs to, where there
    is more than one. Fields that are not declared are left out; those that are missing are NULL."""

    source: str
    streams: Mapping[str, DeclaredStream]
    op_field: str = "op"
    table_field: str = "table"

    def read(self, data: bytes) -> Sequence[tuple[DeclaredStream, Op, Mapping[str, Json]]]:
        """What a record says; raises `BadRecordError` with the reason when it cannot be read."""
        if data.startswith(_AGGREGATED):
            raise BadRecordError(
                "expected JSON, got a record that the Kinesis Producer Library aggregated: switch "
                "aggregation off at the producer"
            )
        return [(self._stream(item), self._op(item), item) for item in objects_of(parse_json(data))]

    def _stream(self, item: Mapping[str, Json]) -> DeclaredStream:
        if len(self.streams) == 1:
            return next(iter(self.streams.values()))
        name = item.get(self.table_field)
        stream = self.streams.get(name) if isinstance(name, str) else None
        if stream is None:
            raise BadRecordError(
                f"{self.table_field}: expected one of {', '.join(self.streams)}, got {name!r:.60}"
            )
        return stream

    def _op(self, item: Mapping[str, Json]) -> Op:
        op = item.get(self.op_field)
        if op is None or (isinstance(op, str) and op.casefold() in _UPSERT):
            return Op.UPDATE
        if isinstance(op, str) and op.casefold() in _DELETE:
            return Op.DELETE
        raise BadRecordError(f"{self.op_field}: expected 'upsert' or 'delete', got {op!r:.60}")

    def change(
        self,
        stream: DeclaredStream,
        op: Op,
        item: Mapping[str, Json],
        position: Position,
        at: Microseconds,
    ) -> Change:
        """One object as a change."""
        schema = stream.schema(self.source)
        if op is Op.DELETE:
            return Change(schema, op, key_of(schema, item), position, at)
        row = row_of(schema, item)
        return Change(schema, op, key_in(schema, row), position, at, row)

    def unreadable(
        self, record: Mapping[str, Any], place: str, position: Position, at: Microseconds, why: str
    ) -> Change:
        """The change that stands for a record which could not be read."""
        value = base64.b64encode(record["Data"]).decode("ascii")
        key = base64.b64encode(str(record["PartitionKey"]).encode()).decode("ascii")
        row = (place, str(at // 1000), key, value, "[]", why)
        return Change(unreadable_schema(self.source), Op.CREATE, (place,), position, at, row)
