"""Changes as people see them."""

from __future__ import annotations

import json

from penstock.debezium.envelope import UNAVAILABLE, to_debezium
from penstock.records import UNCHANGED, Change, Column, Microseconds, Op, Position, Schema

SCHEMA = Schema(
    "shop",
    "public.flights",
    (
        Column("id", "bigint", key=True),
        Column("price", "numeric(10,2)"),
        Column("seats", "integer"),
        Column("open", "boolean"),
        Column("load", "double precision"),
        Column("notes", "text"),
    ),
)


def test_an_update_has_the_fields_of_the_envelope() -> None:
    """Numbers and booleans are JSON's own; exact numbers stay text; what was not sent is said."""
    change = Change(
        SCHEMA,
        Op.UPDATE,
        ("7",),
        Position("0001"),
        Microseconds(1_700_000_000_123_456),
        ("7", "19.90", "-3", "t", "0.5", UNCHANGED),
        None,
        ("6",),
        "990",
    )
    envelope = to_debezium(change)
    assert envelope["after"] == {
        "id": 7,
        "price": "19.90",
        "seats": -3,
        "open": True,
        "load": 0.5,
        "notes": UNAVAILABLE,
    }
    assert envelope["before"]["id"] == 6
    assert envelope["op"] == "u"
    assert envelope["ts_ms"] == 1_700_000_000_123
    assert envelope["source"]["schema"] == "public"
    assert envelope["source"]["table"] == "flights"
    assert envelope["source"]["sequence"] == "0001"
    assert envelope["transaction"] == {"id": "990"}
    json.dumps(envelope, allow_nan=False)


def test_what_json_has_no_number_for_stays_text() -> None:
    """And a snapshot read and a truncate are told apart."""
    row = ("7", None, "x", "maybe", "NaN", "")
    read = Change(SCHEMA, Op.READ, ("7",), Position("1"), Microseconds(1), row)
    envelope = to_debezium(read)
    assert envelope["after"]["load"] == "NaN"
    assert envelope["after"]["open"] == "maybe"
    assert envelope["source"]["snapshot"] == "true"
    truncate = Change(SCHEMA, Op.TRUNCATE, (), Position("1"), Microseconds(1))
    assert (to_debezium(truncate)["before"], to_debezium(truncate)["after"]) == (None, None)
