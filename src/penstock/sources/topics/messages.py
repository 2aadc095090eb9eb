"""What decoders of single messages share: reading JSON, names of streams, and never an exception.

A format is a function from one record to events; `MessageDecoder` turns those into changes and
whatever cannot be read into changes of the stream ``unreadable``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import msgspec

from penstock.errors import BadRecordError
from penstock.records import Change, Microseconds, Position
from penstock.sources.topics.base import NO_HEADERS, Headers, Slice, unreadable
from penstock.sources.topics.connect import Json
from penstock.sources.topics.positions import nth
from penstock.sources.topics.shapes import Event, Shapes

_parse = msgspec.json.Decoder().decode


class Record(NamedTuple):
    """One record of a slice."""

    topic: str
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = NO_HEADERS


class Message(NamedTuple):
    """A key or value whose bytes were read, with its schema (Connect's) where it came with one."""

    payload: Json
    schema: Mapping[str, Any] | None = None


class MessageFormat(Protocol):
    """How a format reads one record: both raise `BadRecordError`, and give no event for what is no
    change of a row."""

    def __call__(self, record: Record) -> Iterable[Event]:
        """The events in a record of JSON."""

    def events(self, record: Record, key: Message | None, value: Message) -> Iterable[Event]:
        """The events of a record whose bytes have been read."""


class Wanted:
    """Which streams are taken: names and globs, as `fnmatch` has them."""

    def __init__(self, patterns: Sequence[str]) -> None:
        names = {pattern for pattern in patterns if not any(mark in pattern for mark in "*?[")}
        globs = [pattern for pattern in patterns if pattern not in names]

        @lru_cache(maxsize=10_000)
        def wanted(stream: str) -> bool:
            return stream in names or any(fnmatchcase(stream, glob) for glob in globs)

        self._wanted = wanted

    def takes(self, stream: str) -> bool:
        """Whether changes of this stream are taken."""
        return self._wanted(stream)


class MessageDecoder:
    """Decodes record by record: the `penstock.sources.topics.base.Decoder` of most formats."""

    def __init__(self, format_: MessageFormat, shapes: Shapes, wanted: Wanted) -> None:
        self._format = format_
        self._shapes = shapes
        self._wanted = wanted

    def restore(self, state: Mapping[str, str]) -> None:
        self._shapes.restore(state)

    async def prepare(self, records: Slice) -> None:
        """Nothing is needed."""

    def learned(self) -> Mapping[str, str]:
        return self._shapes.learned()

    async def close(self) -> None:
        """Nothing is held."""

    def decode(self, records: Slice, positions: Sequence[Position]) -> list[Change]:
        changes: list[Change] = []
        for i, position in enumerate(positions):
            record = record_at(records, i)
            try:
                changes += self._changes(record, position)
            except BadRecordError as error:
                changes.append(unreadable(self._shapes.source, records, i, position, error.reason))
        return changes

    def _changes(self, record: Record, position: Position) -> list[Change]:
        changes = []
        for number, event in enumerate(self._format(record)):
            if self._wanted.takes(event.stream):
                change = self._shapes.change(event, nth(position, number))
                if change is not None:
                    changes.append(change)
        return changes


def record_at(records: Slice, i: int) -> Record:
    """Record number ``i`` of a slice."""
    return Record(
        records.name,
        records.times[i],
        records.keys[i],
        records.values[i],
        NO_HEADERS if records.headers is None else records.headers[i],
    )


def parse(data: bytes, what: str) -> Json:
    """The JSON in these bytes. Whole numbers stay exact, whatever their size."""
    try:
        return _parse(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRecordError(f"expected JSON in the {what}, got {data[:60]!r}: {error}") from error
    except RecursionError as error:
        raise BadRecordError(f"expected JSON in the {what}, got one nested too deeply") from error


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in these bytes."""
    found = parse(data, what)
    if not isinstance(found, dict):
        raise BadRecordError(f"expected a JSON object in the {what}, got {data[:60]!r}")
    return found


def row_of(value: Json, what: str) -> dict[str, Any] | None:
    """A row, or none."""
    if value is None or isinstance(value, dict):
        return value
    raise BadRecordError(f"expected an object or null for {what!r}, got {value!r:.100}")


def number_of(value: Json) -> int | None:
    """A whole number, also one in a string; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 30:
        return int(value)
    return None


def name_of(value: Json) -> str:
    """A name; "" for anything else."""
    return value if isinstance(value, str) else ""


def stream_of(schema: str, table: str) -> str:
    """The stream of a table."""
    return f"{schema or 'public'}.{table}"


def topic_stream(topic: str) -> str:
    """The stream of a topic that holds one table: the last two parts of its name."""
    schema, _, table = topic.rpartition(".")
    return stream_of(schema.rpartition(".")[2], table or topic)


_MOST_TIME = (1 << 62) - 1


def microseconds(value: int) -> Microseconds:
    """A time within what can be stored."""
    return Microseconds(max(-_MOST_TIME, min(value, _MOST_TIME)))
