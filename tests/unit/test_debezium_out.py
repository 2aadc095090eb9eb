"""Debezium's messages out: the envelope that consumers need, and what comes back from it."""

from __future__ import annotations

from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.debezium.messages import Message, MessageEncoder
from penstock.errors import BadRecordError
from penstock.pipelines.publish import PublishPipeline
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Microseconds,
    Op,
    Position,
    Schema,
    Value,
)
from penstock.sources.topics.base import Slice
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.messages import Wanted
from penstock.sources.topics.positions import place_records
from penstock.sources.topics.shapes import Shapes
from penstock.stores.base import Publish

COLUMNS = (
    Column("id", "bigint", key=True),
    Column("small", "smallint"),
    Column("price", "double precision"),
    Column("ok", "boolean"),
    Column("name", "text"),
    Column("data", "bytea"),
    Column("day", "date"),
    Column("at", "timestamp without time zone"),
    Column("at_ms", "timestamp(3) without time zone"),
    Column("zoned", "timestamp with time zone"),
    Column("clock", "time without time zone"),
    Column("extra", "json"),
    Column("token", "uuid"),
)
SCHEMA = Schema("shop", "public.items", COLUMNS)

ROW: tuple[Value, ...] = (
    "7",
    "-3",
    "0.5",
    "t",
    'a "quoted" text',
    "\\xdeadbeef",
    "0044-03-15 BC",
    "2024-02-29 12:00:00.25",
    "1969-12-31 23:59:59.999",
    "2024-02-29 10:00:00.250000+00",
    "23:59:59.999999",
    '{"a": 1}',
    "6f1c1f0e-5ad0-4b9a-9d0b-0d6ad4b1f0c5",
)


def change(op: Op, after: Any, before: Any = None, **more: Any) -> Change:
    row = after or before
    return Change(
        SCHEMA,
        op,
        (row[0],) if row else (),
        Position("0001"),
        Microseconds(1_700_000_000_123_456),
        after,
        before,
        transaction="990",
        **more,
    )


def back(messages: list[Message]) -> list[Change]:
    """What a source of ours reads from these messages."""
    count = len(messages)
    records = Slice(
        messages[0].topic,
        0,
        [f"{i:012x}" for i in range(count)],
        [1_700_000_000_000] * count,
        [message.key for message in messages],
        [message.value for message in messages],
    )
    decoder = DebeziumDecoder(Shapes("shop"), Wanted(["*"]))
    return decoder.decode(records, place_records(records, None).positions)


def plain(found: Change) -> tuple[Any, ...]:
    """A change without its position, which is the topic's own now."""
    return (found.schema, found.op, found.key, found.committed_at, found.after, found.before)


STRUCT: dict[str, Any] = {
    "type": "object",
    "required": ["type", "fields", "optional"],
    "properties": {
        "type": {"const": "struct"},
        "optional": {"type": "boolean"},
        "name": {"type": "string"},
        "version": {"type": "integer"},
        "field": {"type": "string"},
        "fields": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"$ref": "#/$defs/struct"},
                    {
                        "type": "object",
                        "required": ["type", "optional", "field"],
                        "properties": {
                            "type": {
                                "enum": [
                                    "int8", "int16", "int32", "int64", "float", "double",
                                    "boolean", "string", "bytes",
                                ]
                            }
                        },
                    },
                ]
            },
        },
    },
}  # fmt: skip
CONNECT = {
    "$defs": {"struct": STRUCT},
    "type": "object",
    "required": ["schema", "payload"],
    "additionalProperties": False,
    "properties": {"schema": {"$ref": "#/$defs/struct"}, "payload": {"type": "object"}},
}
"""What Connect's JsonConverter takes with ``schemas.enable``: exactly these two fields, and a
schema in which every field has a name, a type that it knows, and says whether it may be null."""

FLINK = {
    "type": "object",
    "required": ["before", "after", "op"],
    "properties": {
        "before": {"type": ["object", "null"]},
        "after": {"type": ["object", "null"]},
        "op": {"enum": ["c", "r", "u", "d"]},
        "source": {
            "type": "object",
            "required": ["ts_ms", "schema", "table"],
            "properties": {"ts_ms": {"type": "integer"}},
        },
        "ts_ms": {"type": "integer"},
    },
    "allOf": [
        {
            "if": {"properties": {"op": {"enum": ["c", "r", "u"]}}},
            "then": {"properties": {"after": {"type": "object"}}},
        },
        {
            "if": {"properties": {"op": {"enum": ["u", "d"]}}},
            "then": {"properties": {"before": {"type": "object"}}},
        },
    ],
}
"""What Flink's debezium-json reads: the row after for c, r and u, the row before for u and d."""

KINDS = {
    "int16": int,
    "int32": int,
    "int64": int,
    "float": float,
    "double": float,
    "boolean": bool,
    "string": str,
    "bytes": str,
}

CHANGES = [
    change(Op.CREATE, ROW),
    change(Op.READ, ROW),
    change(Op.UPDATE, ROW, (*ROW[:4], "old", *ROW[5:])),
    change(Op.DELETE, None, ROW),
]


@pytest.mark.parametrize("found", CHANGES, ids=lambda c: c.op.name)
def test_flink_reads_it(found: Change) -> None:
    """Without schemas, as its documentation asks; a tombstone follows a delete."""
    messages = MessageEncoder("srv", version="1").messages(found)
    assert messages[0].value is not None
    value = orjson.loads(messages[0].value)
    jsonschema.validate(value, FLINK)
    assert messages[0].topic == "srv.public.items"
    assert orjson.loads(messages[0].key or b"") == {"id": 7}
    assert [m.value for m in messages[1:]] == ([None] if found.op is Op.DELETE else [])


@pytest.mark.parametrize("found", CHANGES, ids=lambda c: c.op.name)
def test_kafka_connect_reads_it(found: Change) -> None:
    """With schemas: key and value conform to the schema that they carry."""
    for message in MessageEncoder("srv", version="1", schemas=True).messages(found):
        for data in (message.key, message.value):
            if data is not None:
                value = orjson.loads(data)
                jsonschema.validate(value, CONNECT)
                conforms(value["payload"], value["schema"])


def conforms(value: Any, schema: Any) -> None:
    """As Connect's converter checks a value against its schema."""
    if value is None:
        assert schema["optional"], schema
    elif schema["type"] == "struct":
        assert set(value) <= {field["field"] for field in schema["fields"]}
        for field in schema["fields"]:
            conforms(value.get(field["field"]), field)
    else:
        assert isinstance(value, KINDS[schema["type"]]), (value, schema)


@pytest.mark.parametrize("found", CHANGES, ids=lambda c: c.op.name)
def test_out_and_in_is_identity(found: Change) -> None:
    """With schemas, types and texts come back as they were."""
    (again,) = back(MessageEncoder("srv", version="1", schemas=True).messages(found))
    assert plain(again) == plain(found)
    assert again.transaction == found.transaction


TEXTS: dict[str, st.SearchStrategy[str]] = {
    "bigint": st.integers(-(1 << 63), (1 << 63) - 1).map(str),
    "smallint": st.integers(-(1 << 15), (1 << 15) - 1).map(str),
    "double precision": st.floats().map(repr).filter(lambda t: t[-3:] not in {"inf", "nan"})
    | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    "boolean": st.sampled_from("tf"),
    "text": st.text(max_size=5),
    "bytea": st.binary(max_size=5).map(lambda data: f"\\x{data.hex()}"),
    "date": st.dates().map(str) | st.sampled_from(["infinity", "-infinity", "12024-01-31"]),
    "timestamp without time zone": st.datetimes().map(lambda at: _trimmed(str(at))),
    "timestamp(3) without time zone": st.datetimes().map(lambda at: _trimmed(str(at)[:23])),
    "timestamp with time zone": st.datetimes().map(
        lambda at: f"{at.isoformat(' ', 'microseconds')}+00"
    ),
    "time without time zone": st.times().map(lambda at: _trimmed(str(at))),
    "json": st.sampled_from(["{}", "[1, 2]", '"a"']),
    "uuid": st.uuids().map(str),
}


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


ROWS = st.tuples(*(TEXTS[c.type] if c.key else st.none() | TEXTS[c.type] for c in COLUMNS))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(ROWS, st.sampled_from([Op.CREATE, Op.UPDATE, Op.READ])), min_size=1, max_size=5
    )
)
def test_out_and_in_is_identity_for_any_row(rows: list[tuple[Any, Op]]) -> None:
    """Whatever the values are."""
    encoder = MessageEncoder("srv", version="1", schemas=True)
    changes = [change(op, row) for row, op in rows]
    messages = [message for one in changes for message in encoder.messages(one)]
    assert [plain(found) for found in back(messages)] == [plain(one) for one in changes]


def test_a_row_that_moved_is_a_delete_and_a_create() -> None:
    """As Debezium has it; each with its own key, so each in its own partition's order."""
    moved = change(Op.UPDATE, ROW, old_key=("6",))
    messages = MessageEncoder("srv", version="1").messages(moved)
    assert [orjson.loads(m.key or b"null") for m in messages] == [{"id": 6}, {"id": 6}, {"id": 7}]
    values: list[Any] = [m.value and orjson.loads(m.value) for m in messages]
    assert [value and value["op"] for value in values] == ["d", None, "c"]
    assert values[0]["before"]["id"] == 6


def test_what_was_not_sent_is_marked_and_a_truncate_has_no_key() -> None:
    """In the column's own kind: bytes are base64."""
    after = (*ROW[:4], UNCHANGED, UNCHANGED, *ROW[6:])
    for schemas in (True, False):
        (message,) = MessageEncoder("srv", version="1", schemas=schemas).messages(
            change(Op.UPDATE, after)
        )
        (again,) = back([message])
        assert again.after is not None
        assert again.after[4:6] == (UNCHANGED, UNCHANGED)
    (truncate,) = MessageEncoder("srv", version="1").messages(change(Op.TRUNCATE, None))
    assert truncate.key is None
    assert orjson.loads(truncate.value or b"")["op"] == "t"


async def test_g13_a_value_that_is_not_of_its_type_is_put_aside() -> None:
    """The others are published."""
    pipeline = PublishPipeline("publish_bus", ("shop",), "bus", ("public.*",), "srv", "1")
    bad = change(Op.CREATE, ("8", *ROW[1:6], "not a date", *ROW[7:]))
    other = change(Op.CREATE, ROW)._replace(schema=Schema("shop", "hidden.items", COLUMNS))
    outcome = await pipeline.compute([change(Op.CREATE, ROW), bad, other], None)  # type: ignore[arg-type]
    (effect,) = outcome.effects
    assert isinstance(effect, Publish)
    assert len(effect.messages) == 1
    (rejected,) = outcome.rejected
    assert rejected.reason.startswith("column 'day': expected a date")


async def test_g4_only_truncates_of_the_source_are_published() -> None:
    """One that ends a copy takes what is older than its position, which consumers cannot tell."""
    pipeline = PublishPipeline(
        "publish_bus", ("shop",), "bus", ("public.*",), "srv", "1", truncates=True
    )
    theirs = change(Op.CREATE, ROW)._replace(op=Op.TRUNCATE, key=(), after=None, transaction="9")
    ours = theirs._replace(transaction=None)
    outcome = await pipeline.compute([theirs, ours], None)  # type: ignore[arg-type]
    (effect,) = outcome.effects
    assert isinstance(effect, Publish)
    assert len(effect.messages) == 1
    assert (await pipeline.compute([ours], None)).effects == ()  # type: ignore[arg-type]


def test_values_that_json_cannot_hold_are_refused() -> None:
    """A lone surrogate, for instance."""
    bad = change(Op.CREATE, (*ROW[:4], "\ud800", *ROW[5:]))
    with pytest.raises(BadRecordError, match="expected values that JSON can hold"):
        MessageEncoder("srv", version="1").messages(bad)
