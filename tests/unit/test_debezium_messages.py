"""Debezium's messages in: every kind of message, Kafka Connect's types, what is no change."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson
import pytest

from penstock.records import UNCHANGED, UNREADABLE, Change, Op
from penstock.sources.topics.base import Headers, Slice, kept_record
from penstock.sources.topics.connect import column_type
from penstock.sources.topics.debezium import DebeziumFormat
from penstock.sources.topics.declared import declared_type
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.messages import MessageDecoder, Wanted
from penstock.sources.topics.positions import Place, nth, place_records
from penstock.sources.topics.shapes import Shapes
from penstock.testing.debezium import SOURCE, envelope, message

Pair = tuple[bytes | None, bytes | None]
TOPIC = "srv.public.items"


def records(*pairs: Pair, topic: str = TOPIC, headers: list[Headers] | None = None) -> Slice:
    count = len(pairs)
    return Slice(
        topic,
        0,
        [f"{i:012x}" for i in range(count)],
        [1_700_000_000_000] * count,
        [key for key, _ in pairs],
        [value for _, value in pairs],
        headers,
    )


def decode(*pairs: Pair, topic: str = TOPIC, decoder: MessageDecoder | None = None) -> list[Change]:
    found = records(*pairs, topic=topic)
    decoder = decoder or DebeziumDecoder(Shapes("shop"), Wanted(["*"]))
    return decoder.decode(found, place_records(found, None).positions)


def reason(change: Change) -> str:
    assert change.schema.stream == UNREADABLE, change
    return str(change.value("error"))


def test_create_update_delete_read_truncate() -> None:
    """Each becomes a change with the source's time and transaction; a tombstone adds nothing."""
    key, created = message("c", {"id": 1}, after={"id": 1, "name": "a"})
    _, updated = message(
        "u", {"id": 1}, before={"id": 1, "name": "a"}, after={"id": 1, "name": "b"}
    )
    _, deleted = message("d", {"id": 1}, before={"id": 1, "name": "b"})
    _, read = message("r", {"id": 2}, after={"id": 2, "name": None}, snapshot="first")
    _, truncated = message("t", None)
    changes = decode(
        (key, created),
        (key, updated),
        (key, deleted),
        (key, None),
        (b'{"id":2}', read),
        (None, truncated),
    )
    assert [c.op for c in changes] == [Op.CREATE, Op.UPDATE, Op.DELETE, Op.READ, Op.TRUNCATE]
    create, update, delete, snapshot, truncate = changes
    assert create.schema.stream == "public.items"
    assert [(c.name, c.type, c.key) for c in create.schema.columns] == [
        ("id", "bigint", True),
        ("name", "text", False),
    ]
    assert (create.key, create.after, create.before) == (("1",), ("1", "a"), None)
    assert (update.after, update.before, update.old_key) == (("1", "b"), ("1", "a"), None)
    assert (delete.key, delete.after, delete.before) == (("1",), None, ("1", "b"))
    assert snapshot.after == ("2", None)
    assert truncate.key == ()
    assert {c.transaction for c in changes} == {"7"}
    assert create.committed_at == 1_700_000_000_000_000
    assert [c.position for c in changes] == sorted(c.position for c in changes)


def test_g4_a_tombstone_alone_is_a_delete() -> None:
    """A compacted topic may have lost the delete before it."""
    key, created = message("c", {"id": 1}, after={"id": 1, "name": "a"})
    changes = decode((key, created), (b'{"id":2}', None))
    assert [(c.op, c.key) for c in changes] == [(Op.CREATE, ("1",)), (Op.DELETE, ("2",))]
    assert decode((b'{"id":2}', None), topic="never.seen.before") == []


def test_an_update_to_another_key_is_a_delete_and_a_create() -> None:
    """As Debezium sends it; a connector that sends one update is understood too."""
    _, gone = message("d", {"id": 1}, before={"id": 1, "name": "a"})
    _, came = message("c", {"id": 2}, after={"id": 2, "name": "a"})
    changes = decode((b'{"id":1}', gone), (b'{"id":1}', None), (b'{"id":2}', came))
    assert [(c.op, c.key) for c in changes] == [(Op.DELETE, ("1",)), (Op.CREATE, ("2",))]
    _, moved = message("u", {"id": 3}, before={"id": 2, "name": "a"}, after={"id": 3, "name": "a"})
    (change,) = decode((b'{"id":3}', moved))
    assert (change.key, change.old_key) == (("3",), ("2",))


def test_what_was_not_sent_is_unchanged() -> None:
    """In all forms of Debezium's mark; where a row is new, the mark is a text like any other."""
    mark = "__debezium_unavailable_value"
    after = {
        "id": 1,
        "a": mark,
        "b": [mark],
        "c": {mark: mark},
        "d": b64encode(mark.encode()).decode(),
    }
    _, updated = message("u", {"id": 1}, after=after)
    key, created = message("c", {"id": 1}, after={"id": 1, "a": mark, "b": "", "c": "", "d": ""})
    create, update = decode((key, created), (key, updated))
    assert update.after == ("1", UNCHANGED, UNCHANGED, UNCHANGED, UNCHANGED)
    assert create.after == ("1", mark, "", "", "")


@pytest.mark.parametrize(
    ("topic", "value"),
    [
        (TOPIC, envelope("m") | {"message": {"prefix": "foo", "content": "Ymfy"}}),
        ("__debezium-heartbeat.srv", {"ts_ms": 1}),
        (
            "heart",
            {"schema": {"name": "io.debezium.connector.common.Heartbeat"}, "payload": {"ts_ms": 1}},
        ),
        (
            "srv.transaction",
            {"status": "END", "id": "571:1", "event_count": 2, "data_collections": []},
        ),
        (
            "srv",
            {"source": SOURCE, "databaseName": "shop", "ddl": "ALTER TABLE x", "tableChanges": []},
        ),
    ],
)
def test_what_is_no_change_of_a_row_is_passed_over(topic: str, value: dict[str, Any]) -> None:
    """Logical messages, heartbeats, transaction metadata, schema changes."""
    assert decode((b'{"id":1}', orjson.dumps(value)), topic=topic) == []


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (b'{"id":1}', b"\xff\xfe", "expected JSON in the value"),
        (b"\xff", message("c", {}, after={"id": 1})[1], "expected JSON in the key"),
        (b'{"id":1}', b'{"before":null}', "with op c, u, d, r, t or m, got fields 'before'"),
        (b'{"id":1}', b'{"op":"x","source":{}}', "got op 'x'"),
        (b'{"id":1}', b'{"op":"c","source":{},"after":null}', "expected a row in 'after'"),
        (b'{"id":1}', b'{"op":"c","source":{},"after":[1]}', "an object or null for 'after'"),
        (b'{"id":1}', b'{"op":"c","source":7,"after":{}}', "expected an object for 'source'"),
        (b'{"nr":1}', message("c", {}, after={"id": 1})[1], "there is no 'nr'"),
        (b'{"id":1}', message("c", {}, after={"id": None})[1], "expected a value in the key"),
        (None, None, "a record with neither"),
        (b'{"id":1}', b"[" * 100_000, "nested too deeply"),
        (b'{"id":1}', b"7", "expected Debezium's envelope"),
        (b'{"id":1}', b'{"schema":7,"payload":{}}', "expected an object for 'schema'"),
    ],
)
def test_g13_a_broken_record_is_kept_with_its_reason(
    key: bytes | None, value: bytes | None, why: str
) -> None:
    """And with its bytes, so that it can be read again."""
    good = message("c", {"id": 5}, after={"id": 5})
    broken, fine = decode((key, value), good)
    assert why in reason(broken)
    kept = kept_record(broken)
    assert (kept.keys, kept.values, kept.topic) == ([key], [value], TOPIC)
    assert fine.key == ("5",)


def test_a_column_that_came_or_went_makes_a_new_schema() -> None:
    """Types that were concluded stay with their columns."""
    first = message("c", {"id": 1}, after={"id": 1, "name": None, "size": 1})
    second = message("c", {"id": 2}, after={"id": 2, "name": "x", "extra": [1]})
    third = message("c", {"id": 3}, after={"id": 3, "name": "x", "size": 1.5})
    changes = decode(first, second, third)
    types = [{c.name: c.type for c in change.schema.columns} for change in changes]
    assert types[0] == {"id": "bigint", "name": "text", "size": "bigint"}
    assert types[1] == {"id": "bigint", "name": "text", "extra": "json"}
    assert types[2]["size"] == "double precision"


def test_what_was_learned_is_known_after_a_restart() -> None:
    """A column that is NULL at first keeps the type that it had."""
    shapes = Shapes("shop")
    decode(
        message("c", {"id": 1}, after={"id": 1, "n": 5}),
        decoder=DebeziumDecoder(shapes, Wanted(["*"])),
    )
    state = dict(shapes.learned())
    assert list(state) == ["shape:public.items"]
    again = Shapes("shop")
    again.restore(state)
    (change,) = decode(
        message("c", {"id": 2}, after={"id": 2, "n": None}),
        decoder=DebeziumDecoder(again, Wanted(["*"])),
    )
    assert [c.type for c in change.schema.columns] == ["bigint", "bigint"]
    assert again.learned() == {}
    (deleted,) = decode((b'{"id":3}', None), decoder=DebeziumDecoder(again, Wanted(["*"])))
    assert deleted.key == ("3",)


def test_rows_that_were_unwrapped() -> None:
    """Where the project says so: ``__deleted`` and tombstones are deletes."""
    decoder = MessageDecoder(DebeziumFormat(unwrapped=True), Shapes("shop"), Wanted(["*"]))
    changes = decode(
        (b'{"id":1}', b'{"id":1,"name":"a","__op":"c","__deleted":"false"}'),
        (b'{"id":2}', b'{"id":2,"name":"b","__deleted":"true"}'),
        (b'{"id":1}', None),
        (b'{"id":1}', message("c", {}, after={"id": 1})[1]),
        decoder=decoder,
    )
    assert [c.op for c in changes[:3]] == [Op.CREATE, Op.DELETE, Op.DELETE]
    assert changes[0].schema.names == ("id", "name")
    assert "set `unwrapped: false`" in reason(changes[3])


def test_a_document_of_mongodb() -> None:
    """Its id, and all of it as JSON."""
    document = '{"_id": {"$numberLong": "1004"}, "name": "Anne"}'
    value = envelope("c", connector="mongodb", db="inventory", collection="customers", table=None)
    value["after"] = document
    (change,) = decode((b'{"id":"1004"}', orjson.dumps(value)))
    assert change.schema.stream == "public.customers"
    assert change.after == ('{"$numberLong":"1004"}', document)


@pytest.mark.parametrize(
    ("schema", "value", "of", "text"),
    [
        ({"type": "int16"}, -3, "smallint", "-3"),
        ({"type": "int64"}, 2**63 - 1, "bigint", "9223372036854775807"),
        ({"type": "float"}, 0.5, "real", "0.5"),
        ({"type": "double"}, "NaN", "double precision", "NaN"),
        ({"type": "boolean"}, True, "boolean", "t"),
        ({"type": "bytes"}, "3q2+7w==", "bytea", "\\xdeadbeef"),
        ({"type": "bytes"}, b"\xde\xad", "bytea", "\\xdead"),
        ({"type": "int32", "name": "io.debezium.time.Date"}, 19_782, "date", "2024-02-29"),
        ({"type": "int32", "name": "io.debezium.time.Date"}, -735_160, "date", "0044-03-15 BC"),
        ({"type": "int32", "name": "org.apache.kafka.connect.data.Date"}, 0, "date", "1970-01-01"),
        (
            {"type": "int64", "name": "io.debezium.time.MicroTimestamp"},
            1_700_000_000_123_400,
            "timestamp without time zone",
            "2023-11-14 22:13:20.1234",
        ),
        (
            {"type": "int64", "name": "io.debezium.time.MicroTimestamp"},
            9_223_371_331_200_000_000,
            "timestamp without time zone",
            "infinity",
        ),
        (
            {"type": "int64", "name": "io.debezium.time.Timestamp"},
            -1,
            "timestamp(3) without time zone",
            "1969-12-31 23:59:59.999",
        ),
        (
            {"type": "int64", "name": "io.debezium.time.NanoTimestamp"},
            1_500,
            "timestamp without time zone",
            "1970-01-01 00:00:00.000001",
        ),
        (
            {"type": "int64", "name": "io.debezium.time.MicroTime"},
            86_400_000_000,
            "time without time zone",
            "24:00:00",
        ),
        (
            {"type": "string", "name": "io.debezium.time.ZonedTimestamp"},
            "2024-02-29T10:00:00.25Z",
            "timestamp with time zone",
            "2024-02-29 10:00:00.25+00",
        ),
        (
            {"type": "string", "name": "io.debezium.time.ZonedTime"},
            "10:00:00Z",
            "time with time zone",
            "10:00:00+00",
        ),
        (
            {"type": "int64", "name": "io.debezium.time.MicroDuration"},
            -90_000_000,
            "interval",
            "-00:01:30",
        ),
        (
            {
                "type": "bytes",
                "name": "org.apache.kafka.connect.data.Decimal",
                "parameters": {"scale": "2", "connect.decimal.precision": "5"},
            },
            b64encode((-1).to_bytes(1, "big", signed=True)).decode(),
            "numeric(5,2)",
            "-0.01",
        ),
        (
            {
                "type": "bytes",
                "name": "org.apache.kafka.connect.data.Decimal",
                "parameters": {"scale": "-3"},
            },
            b"\x05",
            "numeric",
            "5000",
        ),
        (
            {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal"},
            {"scale": 4, "value": b64encode(b"\x01\xe2\x40").decode()},
            "numeric",
            "12.3456",
        ),
        (
            {"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "7"}},
            b64encode(b"\x05").decode(),
            "bit varying(7)",
            "0000101",
        ),
        ({"type": "string", "name": "io.debezium.data.Json"}, '{"a": 1}', "json", '{"a": 1}'),
        (
            {"type": "struct", "name": "io.debezium.data.geometry.Point"},
            {"x": 1.0, "y": -2.5, "wkb": "AQ==", "srid": None},
            "point",
            "(1.0,-2.5)",
        ),
        (
            {"type": "array", "items": {"type": "string"}},
            ['a"b', None, ""],
            "text[]",
            '{"a\\"b",NULL,""}',
        ),
        ({"type": "map"}, {"a": "1"}, "json", '{"a":"1"}'),
    ],
)
def test_types_of_kafka_connect(schema: dict[str, Any], value: Any, of: str, text: str) -> None:
    """As PostgreSQL's types and texts."""
    found = column_type(schema)
    assert (found.type, found.render(value)) == (of, text)


def test_types_that_the_project_names() -> None:
    """For messages without schemas: numbers stand for what Debezium means by them."""
    cases: list[tuple[str, Any, str, str]] = [
        ("date", 19_782, "date", "2024-02-29"),
        ("date", "2024-02-29", "date", "2024-02-29"),
        ("timestamp(3)", 1_000, "timestamp(3) without time zone", "1970-01-01 00:00:01"),
        ("timestamp", 1_000_000, "timestamp without time zone", "1970-01-01 00:00:01"),
        (
            "timestamptz",
            "2024-02-29T10:00:00Z",
            "timestamp with time zone",
            "2024-02-29 10:00:00+00",
        ),
        ("numeric(10,2)", "19.90", "numeric(10,2)", "19.90"),
        ("int", 7, "integer", "7"),
        ("text[]", ["a", None], "text[]", '{"a",NULL}'),
    ]
    for name, value, of, text in cases:
        found = declared_type(name)
        assert (found.type, found.render(value)) == (of, text)
    precise = declared_type("numeric(10,2)", "precise")
    assert precise.render(b64encode(b"\x07\xc6").decode()) == "19.90"


def test_g1_positions_follow_offsets_whatever_the_clocks_say() -> None:
    """Within a partition; and the same record has the same position whenever it is read."""
    times = [5, 3, -1, 9, 1 << 60, 2]
    found = Slice("t", 0, [f"{i:012x}" for i in range(6)], times, [None] * 6, [b""] * 6)
    placed = place_records(found, None)
    assert list(placed.positions) == sorted(placed.positions)
    assert len(set(placed.positions)) == 6
    first = place_records(found.cut(0, 2), None)
    second = place_records(found.cut(2, 6), first.place)
    assert [*first.positions, *second.positions] == list(placed.positions)
    assert Place.parse(placed.place.format(), "t") == placed.place
    parts = [nth(placed.positions[0], i) for i in (0, 1, 15, 16, 4096)]
    assert parts == sorted(parts)
    assert parts[-1] < placed.positions[1]


@pytest.mark.data
def test_real_examples_of_debezium() -> None:
    """The messages of its documentation and of its tests are read, or refused with a reason."""
    folder = Path(os.environ["PENSTOCK_DATA"]) / "cdc" / "debezium"
    found: dict[str, Change | None] = {}
    for file in sorted(
        [*folder.glob("doc_examples/*.json"), *folder.glob("serde_json/serde*.json")]
    ):
        content = json.loads(file.read_text())
        content = content.get("json", content)
        changes = decode((None, orjson.dumps(content)))
        found[file.stem] = changes[0] if changes else None
    for name, op in {
        "postgresql_05": Op.CREATE,
        "postgresql_06": Op.UPDATE,
        "postgresql_07": Op.DELETE,
        "shared-mariadb-mysql_07": Op.CREATE,
        "shared-mariadb-mysql_08": Op.UPDATE,
        "shared-mariadb-mysql_09": Op.DELETE,
        "serde-with-schema": Op.CREATE,
        "serde-without-schema": Op.CREATE,
        "serde-update": Op.UPDATE,
        "mongodb_08": Op.UPDATE,
    }.items():
        change = found[name]
        assert change is not None
        assert (change.op, change.schema.stream != UNREADABLE) == (op, True)
    assert found["postgresql_09"] is None  # a logical message
    assert found["shared-mariadb-mysql_02"] is None  # a schema change
