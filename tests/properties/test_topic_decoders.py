"""Whatever bytes come, a decoder gives changes; and many at a time is the same as one by one."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.records import UNREADABLE, Change
from penstock.sources.topics.avro import AvroDecoder
from penstock.sources.topics.base import Slice, kept_record
from penstock.sources.topics.canal import canal_events
from penstock.sources.topics.debezium import DebeziumFormat
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.maxwell import maxwell_events
from penstock.sources.topics.messages import MessageDecoder, Wanted
from penstock.sources.topics.positions import place_records
from penstock.sources.topics.registry import SchemaRegistry
from penstock.sources.topics.rows import RowFormat
from penstock.sources.topics.shapes import Shapes
from penstock.testing.debezium import envelope

Pair = tuple[bytes | None, bytes | None]
MARK = "__debezium_unavailable_value"

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.just(MARK),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["op", "before", "after", "source", "schema", "payload", "ts_ms", "type", "data", "old", "id",
     "database", "table", "pkNames", "mysqlType", "status", "ddl", "fields", "name", "connector"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["c", "u", "d", "r", "t", "m", "insert", "INSERT", "UPDATE", "struct", "mongodb"]
)
MESSAGES = st.recursive(
    JSON | WORDS,
    lambda inner: st.dictionaries(NAMES, inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=20,
)


def encoded(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a number that orjson does not write
        import json

        return json.dumps(value).encode()


BYTES = st.none() | st.binary(max_size=60) | MESSAGES.map(encoded)


def slice_of(pairs: Sequence[Pair], topic: str = "srv.public.items") -> Slice:
    count = len(pairs)
    return Slice(
        topic,
        0,
        [f"{i:012x}" for i in range(count)],
        [1_700_000_000_000] * count,
        [key for key, _ in pairs],
        [value for _, value in pairs],
    )


def decoders() -> list[MessageDecoder]:
    wanted = Wanted(["*"])
    return [
        DebeziumDecoder(Shapes("s"), wanted),
        MessageDecoder(DebeziumFormat(unwrapped=True), Shapes("s"), wanted),
        MessageDecoder(maxwell_events, Shapes("s"), wanted),
        MessageDecoder(canal_events, Shapes("s"), wanted),
        MessageDecoder(RowFormat(), Shapes("s", keys={"public.items": ["id"]}), wanted),
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(BYTES, BYTES), min_size=1, max_size=4))
def test_g13_any_bytes_become_changes(pairs: list[Pair]) -> None:
    """Of a row or of ``unreadable``, with whole rows and keys; never an exception."""
    for decoder in decoders():
        found = slice_of(pairs)
        for change in decoder.decode(found, place_records(found, None).positions):
            check(change)
            if change.schema.stream == UNREADABLE:
                (kept,) = zip(kept_record(change).keys, kept_record(change).values, strict=True)
                assert kept in pairs


def check(change: Change) -> None:
    width = len(change.schema.columns)
    for row in (change.after, change.before):
        assert row is None or len(row) == width
        assert all(not isinstance(value, bytes | int | float) for value in row or ())
    assert all(part is None or isinstance(part, str) for part in change.key)


VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "id": st.integers(0, 5),
    "name": st.none() | st.text(max_size=4) | st.just(MARK),
    "n": st.none() | st.integers(-(1 << 65), 1 << 65) | st.floats(-10, 10),
    "ok": st.none() | st.booleans(),
    "x": JSON,
}


@st.composite
def messages(draw: st.DrawFn) -> Pair:
    """Mostly alike, as a topic's are; other tables, columns and breakage in between."""
    row = st.fixed_dictionaries(dict(VALUES))
    op = draw(st.sampled_from("ccuuudr"))
    after = None if op == "d" else draw(row)
    before = draw(row) if op == "d" or (op == "u" and draw(st.booleans())) else None
    key = {"id": (after or before or {})["id"]}
    value = envelope(op, before=before, after=after, txId=draw(st.none() | st.integers(0, 3)))
    kind = draw(st.integers(0, 24))
    if kind == 0:
        value["source"] = {**value["source"], "table": "others"}
    elif kind == 1 and after is not None:
        after.pop(draw(st.sampled_from(sorted(after))))
    elif kind == 2:
        value["op"] = draw(st.sampled_from(["t", "m", "q", 7]))
    elif kind == 3:
        return orjson.dumps(key), None
    elif kind == 4:
        return draw(BYTES), draw(BYTES)
    elif kind == 5:
        value["transaction"] = {"id": "9:1", "total_order": 1, "data_collection_order": 1}
    elif kind == 6:
        value["source"] = {
            **value["source"],
            "ts_us": draw(st.sampled_from([0, None, "5", 1 << 70])),
        }
    return encoded(key), encoded(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages(), min_size=1, max_size=12))
def test_g1_many_at_a_time_is_one_by_one(pairs: list[Pair]) -> None:
    """The route that reads messages by the hundred gives what reading each would give."""
    quick = DebeziumDecoder(Shapes("s"), Wanted(["*"]))
    slow = DebeziumDecoder(Shapes("s"), Wanted(["*"]))
    place = None
    for start in range(0, len(pairs), 3):
        found = slice_of(pairs[start : start + 3])
        placed = place_records(found, place)
        place = placed.place
        expected = slow._one_by_one(found, placed.positions)[0]
        assert quick.decode(found, placed.positions) == expected
    assert quick.learned() == slow.learned()


class KnownSchemas(SchemaRegistry):
    """A registry that has all its schemas in memory."""

    def __init__(self, schemas: Mapping[int, Any]) -> None:
        super().__init__("http://unused")
        self._known.update(schemas)


AVRO_ROW = {
    "type": "record",
    "name": "Value",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": ["null", "string"]},
        {"name": "data", "type": ["null", "bytes"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "m", "type": {"type": "map", "values": "double"}},
    ],
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=80)), min_size=1, max_size=4),
    st.none() | st.binary(max_size=20),
)
def test_g13_any_bytes_in_avro_become_changes(
    values: list[tuple[int, bytes]], key: bytes | None
) -> None:
    """Of a known schema, of one that is not, and of none at all."""
    shapes = Shapes("s", keys={"public.items": ["id"]})
    registry = KnownSchemas({1: AVRO_ROW, 2: {"type": "nonsense"}})
    decoder = AvroDecoder(RowFormat(), registry, shapes, Wanted(["*"]))
    found = slice_of([(key, struct.pack(">bI", 0, number) + data) for number, data in values])
    for change in decoder.decode(found, place_records(found, None).positions):
        check(change)
