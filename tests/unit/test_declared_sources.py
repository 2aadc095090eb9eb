"""Settings of sources with declared tables, and the texts of their values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.config import parse_settings
from penstock.errors import BadRecordError, ConfigError
from penstock.sources.dynamodb.items import ItemRows, plain
from penstock.sources.formats.values import Number, json_text, parse_json, value_text

WEBHOOK = {
    "type": "webhook",
    "secret": "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy0wMDAx",
    "tables": {"t": {"key": ["id"], "columns": {"id": "int", "at": "timestamptz"}}},
}


def parsed(source: dict[str, Any]) -> Any:
    text = json.dumps({"project": "p", "sources": {"hook": source}})
    return parse_settings(text, environment={}).sources["hook"]


def test_declared_types_are_postgresqls() -> None:
    """What people write and what PostgreSQL prints."""
    table = parsed(WEBHOOK).tables["t"]
    assert table.columns == {"id": "integer", "at": "timestamp with time zone"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"columns": {"id": "integr"}}, "expected one of the types"),
        ({"key": ["nope"]}, "key: expected a declared column, got 'nope'"),
        ({"searched": ["nope"]}, "searched: expected a declared column, got 'nope'"),
        ({"key": []}, "key"),
        ({"colums": {}}, "did you mean 'columns'"),
    ],
)
def test_wrong_declarations_are_told(change: dict[str, Any], sentence: str) -> None:
    """Before anything starts, with the place."""
    table = {**WEBHOOK["tables"]["t"], **change}  # type: ignore[index]
    with pytest.raises(ConfigError) as raised:
        parsed({**WEBHOOK, "tables": {"t": table}})
    assert sentence in str(raised.value)
    assert "c2VjcmV0" not in str(raised.value)


def test_secrets_are_not_shown() -> None:
    """In no representation of the settings."""
    assert "c2VjcmV0" not in repr(parsed(WEBHOOK))
    objects = {"type": "objects", "bucket": "b", "secret_key": "hidden-secret"}
    assert "hidden-secret" not in repr(parsed(objects))
    with pytest.raises(ConfigError) as raised:
        parsed({**objects, "secret_key": ["hidden-secret"]})
    assert "hidden-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("written", "kind", "text"),
    [
        ("12345678901234567890.10", "numeric", "12345678901234567890.10"),
        ('"9.50"', "numeric", "9.50"),
        ("-9223372036854775808", "bigint", "-9223372036854775808"),
        ("true", "boolean", "t"),
        ("1.0", "text", "1.0"),
        ('{"a": [1.10, null]}', "text", '{"a": [1.10, null]}'),
        ('"x"', "jsonb", '"x"'),
        ('"2026-02-28T10:00:00Z"', "timestamp with time zone", "2026-02-28T10:00:00Z"),
        ('"AP8="', "bytea", "\\x00ff"),
        ("null", "integer", None),
    ],
)
def test_values_keep_their_digits(written: str, kind: str, text: str | None) -> None:
    """Nothing goes through a float."""
    assert value_text(parse_json(written), kind) == text


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("9223372036854775808", "bigint"),
        ("1.5", "integer"),
        ("true", "integer"),
        ('"t"', "boolean"),
        ('"NaN"', "numeric"),
        ('"2026-02-30"', "date"),
        ("20260228", "date"),
        ('"no base64"', "bytea"),
        ('"a\\u0000b"', "text"),
        ('"\\ud800"', "text"),
        ("[]", "uuid"),
    ],
)
def test_values_that_do_not_fit_are_refused(written: str, kind: str) -> None:
    """With a reason, before they are taken."""
    with pytest.raises(BadRecordError):
        value_text(parse_json(written), kind)


@pytest.mark.parametrize("written", ["NaN", "[Infinity]", '{"a":1,"a":2}', "[" * 100_000, "\udcff"])
def test_what_is_no_json_is_refused(written: str) -> None:
    """Also what Python's own parser would take."""
    with pytest.raises(BadRecordError):
        parse_json(written.encode(errors="surrogateescape"))


def test_items_have_a_key_declared_columns_and_all_of_it() -> None:
    """A declared column named ``item`` moves ours aside."""
    description = {
        "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "B"}],
    }
    rows = ItemRows.of("s", "t", description, {"item": "text"})
    assert [column.name for column in rows.schema.columns] == ["k", "item", "_item"]
    item = {"k": {"B": b"\x01"}, "item": {"S": "x"}, "n": {"NS": ["2", "1"]}}
    assert rows.row(item) == ("\\x01", "x", '{"k": "AQ==", "item": "x", "n": [1, 2]}')
    assert rows.key({"k": {"B": b"\x01"}}) == ("\\x01",)
    with pytest.raises(BadRecordError, match="k: expected"):
        rows.key({})
    for odd in ({}, {"S": "a", "N": "1"}, {"X": 1}, {"N": "0x1"}):
        with pytest.raises(BadRecordError):
            plain(odd)
    assert json_text({"a": Number("1.10")}) == '{"a": 1.10}'
