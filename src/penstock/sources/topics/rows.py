"""Plain rows as events: a message is the row as it is now, no value means that it is gone. Pure.

The row's table is the topic's name. Fields that a message leaves out are NULL.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock.errors import BadRecordError
from penstock.records import Op
from penstock.sources.topics.debezium import DebeziumFormat, key_fields, unwrap
from penstock.sources.topics.messages import Message, Record, microseconds, parse, topic_stream
from penstock.sources.topics.shapes import Event


class RowFormat:
    """Reads one record's events."""

    def __init__(self) -> None:
        self._schemas = DebeziumFormat()

    def __call__(self, record: Record) -> Iterable[Event]:
        """See `penstock.sources.topics.messages.MessageFormat`."""
        key = None
        if record.key is not None:
            try:
                key = unwrap(parse(record.key, "key"))
            except BadRecordError:
                key = None  # a key that is no JSON only says in which partition the row is
        value = Message(None) if record.value is None else unwrap(parse(record.value, "value"))
        return self.events(record, key, value)

    def events(self, record: Record, key: Message | None, value: Message) -> Iterable[Event]:
        """The events of a record whose bytes have been read."""
        stream = topic_stream(record.topic)
        time = microseconds(record.time_ms * 1000)
        fields = key_fields(key)
        if value.payload is None:
            if fields is None:
                raise BadRecordError("expected a key in JSON where there is no value, got none")
            return [Event(stream, Op.DELETE, time, key=fields)]
        if not isinstance(value.payload, dict):
            raise BadRecordError(f"expected a row, got {value.payload!r:.100}")
        row = value.payload if fields is None else {**fields, **value.payload}
        types = None if value.schema is None else self._schemas.row_types(value.schema)
        return [Event(stream, Op.UPDATE, time, after=row, key=fields, types=types, exact=False)]
