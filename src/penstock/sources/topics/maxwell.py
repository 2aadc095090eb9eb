"""Maxwell's JSON as events. Pure.

One row per message: ``database, table, type, ts, xid, data, old``; ``old`` holds the values before
of columns that changed. Types ``bootstrap-*`` and schema changes are passed over, except the rows
of a bootstrap. The record's key, where it is JSON, names the columns of the key (``pk.id``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from penstock.errors import BadRecordError
from penstock.records import Op
from penstock.sources.topics.messages import (
    Message,
    Record,
    microseconds,
    name_of,
    number_of,
    parse,
    row_of,
    stream_of,
)
from penstock.sources.topics.shapes import Event

_OPS: Final[Mapping[str, Op]] = {
    "insert": Op.CREATE,
    "update": Op.UPDATE,
    "delete": Op.DELETE,
    "bootstrap-insert": Op.READ,
}
_PASSED_OVER: Final = (
    "bootstrap-",
    "table-",
    "database-",
)
_KEY: Final = "pk."


class MaxwellFormat:
    """Reads one record's events."""

    def __call__(self, record: Record) -> Iterable[Event]:
        """See `penstock.sources.topics.messages.MessageFormat`."""
        if record.value is None:
            return []  # Maxwell says a delete by a message; the tombstone after it adds nothing
        key = None if record.key is None else Message(parse(record.key, "key"))
        return self.events(record, key, Message(parse(record.value, "value")))

    def events(self, record: Record, key: Message | None, value: Message) -> Iterable[Event]:
        """The events of a record whose bytes have been read."""
        payload = value.payload
        if not isinstance(payload, dict):
            raise BadRecordError(f"expected an object of Maxwell's, got {payload!r:.100}")
        kind = name_of(payload.get("type"))
        op = _OPS.get(kind)
        if op is None:
            if kind.startswith(_PASSED_OVER):
                return []
            raise BadRecordError(f"expected type insert, update or delete, got {kind!r:.50}")
        data = row_of(payload.get("data"), "data")
        database, table = name_of(payload.get("database")), name_of(payload.get("table"))
        if data is None or not database or not table:
            raise BadRecordError("expected database, table and data, got a message without them")
        time_s = number_of(payload.get("ts"))
        xid = number_of(payload.get("xid"))
        old = row_of(payload.get("old"), "old") if op is Op.UPDATE else None
        return [
            Event(
                stream=stream_of(database, table),
                op=op,
                committed_at=microseconds(
                    record.time_ms * 1000 if time_s is None else time_s * 1_000_000
                ),
                before=data if op is Op.DELETE else None if old is None else {**data, **old},
                after=None if op is Op.DELETE else data,
                key=_key(key, payload, data),
                transaction=None if xid is None else str(xid),
            )
        ]


def _key(
    key: Message | None, payload: Mapping[str, Any], data: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    names = payload.get("primary_key_columns")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return {name: data.get(name) for name in names}
    if key is None or not isinstance(key.payload, dict):
        return None
    found = {
        name.removeprefix(_KEY): value
        for name, value in key.payload.items()
        if name.startswith(_KEY)
    }
    return {name: data.get(name) for name in found} or None


maxwell_events: Final = MaxwellFormat()
