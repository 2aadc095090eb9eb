"""What a delivery says, as changes without their positions. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from penstock.errors import BadRecordError
from penstock.records import Microseconds, Op, Schema, document_schema
from penstock.sources.documents.patterns import Patterns
from penstock.sources.documents.rows import timestamp
from penstock.sources.formats.declared import DeclaredStream, key_in, key_of, objects_of, row_of
from penstock.sources.formats.values import Json, Number, json_text, parse_json, storable
from penstock.sources.inbox import News

_UPSERT: Final = frozenset({"upsert", "insert", "create", "update", "c", "r", "u"})
_DELETE: Final = frozenset({"delete", "d"})
_MOST_OBJECTS: Final = 10_000
_LONGEST_PATH: Final = 1000


class Payloads(Protocol):
    """How the bodies of a source's deliveries are read."""

    def read(self, stream: str, body: bytes, now: Microseconds) -> Sequence[News]:
        """What a body says, wholly or not at all: raises `BadRecordError` with the reason.
        ``stream`` is what the address says after the source's name; ``KeyError`` when there is no
        such stream."""


@dataclass(frozen=True)
class RowPayloads:
    """Objects that are rows of declared streams. ``op_field`` is where an object says what
    happened to the row; without it, the object is the row as it is now."""

    source: str
    streams: Mapping[str, DeclaredStream]
    op_field: str = "op"

    def read(self, stream: str, body: bytes, now: Microseconds) -> Sequence[News]:
        """See `Payloads.read`. With one stream, the address need not name it."""
        del now
        if not stream and len(self.streams) == 1:
            stream = next(iter(self.streams))
        schema = self.streams[stream].schema(self.source)
        return _each(body, lambda item: self._news(schema, item))

    def _news(self, schema: Schema, item: Mapping[str, Json]) -> News:
        op = _operation(item.get(self.op_field), self.op_field)
        if op is Op.DELETE:
            return News(schema, op, key_of(schema, item), None)
        row = row_of(schema, item)
        return News(schema, op, key_in(schema, row), row)


@dataclass(frozen=True)
class DocumentPayloads:
    """Objects that are documents: ``path`` and ``text``, perhaps ``title``, ``media_type`` and
    ``metadata``; with the op ``delete``, ``path`` alone."""

    source: str
    patterns: Patterns

    def read(self, stream: str, body: bytes, now: Microseconds) -> Sequence[News]:
        """See `Payloads.read`. Paths that the project does not want are passed over."""
        if stream:
            raise KeyError(stream)
        schema = document_schema(self.source)
        news = _each(body, lambda item: self._news(schema, item, now))
        return [item for item in news if self.patterns.wanted(str(item.key[0]))]

    def _news(self, schema: Schema, item: Mapping[str, Json], now: Microseconds) -> News:
        path = _text(item, "path")
        if not path or len(path) > _LONGEST_PATH:
            raise BadRecordError(f"path: expected 1 to {_LONGEST_PATH} characters")
        op = _operation(item.get("op"), "op")
        if op is Op.DELETE:
            return News(schema, op, (path,), None)
        text = _text(item, "text")
        if text is None:
            raise BadRecordError("text: expected the document's text, got none")
        data = text.encode()
        metadata = item.get("metadata", {})
        if not isinstance(metadata, dict):
            raise BadRecordError("metadata: expected an object")
        row = (
            path,
            _text(item, "title"),
            _text(item, "media_type") or "text/markdown",
            text,
            hashlib.sha256(data).hexdigest(),
            str(len(data)),
            timestamp(now * 1000),
            storable(json_text(metadata)),
            None,
        )
        return News(schema, op, (path,), row)


def _each(body: bytes, news: Reader) -> Sequence[News]:
    items = objects_of(parse_json(body))
    if len(items) > _MOST_OBJECTS:
        raise BadRecordError(
            f"expected at most {_MOST_OBJECTS:,} objects in one delivery, got {len(items):,}"
        )
    found: list[News] = []
    for place, item in enumerate(items):
        try:
            found.append(news(item))
        except BadRecordError as error:
            raise BadRecordError(f"object {place + 1}: {error.reason}") from error
    return found


def _operation(value: Json, field: str) -> Op:
    if value is None or (isinstance(value, str) and value.casefold() in _UPSERT):
        return Op.UPDATE
    if isinstance(value, str) and value.casefold() in _DELETE:
        return Op.DELETE
    shown = json.dumps(value)[:60]
    raise BadRecordError(f"{field}: expected 'upsert' or 'delete', got {shown}")


def _text(item: Mapping[str, Json], name: str) -> str | None:
    value = item.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or isinstance(value, Number):
        raise BadRecordError(f"{name}: expected text")
    try:
        return storable(value)
    except BadRecordError as error:
        raise BadRecordError(f"{name}: {error.reason}") from error


class Reader(Protocol):
    """One object's news."""

    def __call__(self, item: Mapping[str, Json], /) -> News:
        """Raises `BadRecordError` when it is none."""
