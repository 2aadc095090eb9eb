"""The source of DynamoDB tables passes the suite of sources."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable, Mapping
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from penstock.errors import SourceError
from penstock.records import UNREADABLE, Op, Row, Schema
from penstock.sources.dynamodb import DynamoDBSource
from penstock.testing.amazon import AmazonServer
from penstock.testing.sources import Replica, RowName, SourceSuite, follow

_TABLES = count(1)


class TableOfNotes:
    """A table with a stream, and a script of writes to it."""

    def __init__(self, server: AmazonServer, view: str = "NEW_IMAGE") -> None:
        self.server = server
        self.client = server.client("dynamodb")
        self.table = f"notes-{next(_TABLES)}"
        self.client.create_table(
            TableName=self.table,
            KeySchema=[
                {"AttributeName": "team", "KeyType": "HASH"},
                {"AttributeName": "n", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "team", "AttributeType": "S"},
                {"AttributeName": "n", "AttributeType": "N"},
            ],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": view},
        )

    def source(self, **more: Any) -> DynamoDBSource:
        return DynamoDBSource(
            "notes",
            self.table,
            access=self.server.access,
            columns={"note": "text"},
            poll_s=0.02,
            heartbeat_s=0.02,
            **more,
        )

    async def write(self, number: int) -> None:
        await asyncio.to_thread(self._write, number)

    def _write(self, number: int) -> None:
        key = {"team": {"S": f"team {number % 3}"}, "n": {"N": str(number % 4)}}
        if number % 10 == 9:
            self.client.delete_item(TableName=self.table, Key=key)
        else:
            item = {**key, "note": {"S": f"note {number}"}, "tags": {"SS": ["b", "a"]}}
            self.client.put_item(TableName=self.table, Item=item)

    async def contents(self) -> Mapping[RowName, Hashable]:
        items = (await asyncio.to_thread(self.client.scan, TableName=self.table))["Items"]
        return {
            (self.table, (item["team"]["S"], item["n"]["N"])): item["note"]["S"] for item in items
        }

    def image(self, schema: Schema, row: Row) -> Hashable:
        note = row[schema.index("note")]
        whole = json.loads(str(row[schema.index("item")]))
        assert whole["note"] == note
        assert whole["tags"] == ["a", "b"]
        return note


class TestDynamoDBSource(SourceSuite):
    """The behaviours of any source."""

    @pytest.fixture
    def system(self, amazon: AmazonServer) -> TableOfNotes:
        return TableOfNotes(amazon)


async def test_values_of_all_types_keep_what_they_say(amazon: AmazonServer) -> None:
    """Digits, binary, sets, nested values and empty ones."""
    system = TableOfNotes(amazon)
    exact = "12345678901234567890.123456789012345678"
    item = {
        "team": {"S": "é"},
        "n": {"N": exact},
        "b": {"B": b"\x00\xff"},
        "ns": {"NS": ["10", "9", "-1.5"]},
        "deep": {"M": {"l": {"L": [{"NULL": True}, {"BOOL": False}, {"N": "1"}, {"S": ""}]}}},
    }
    system.client.put_item(TableName=system.table, Item=item)
    replica = Replica(system)
    batches = await follow(system.source(), replica, lambda: bool(replica.operations))
    change = next(change for batch in batches for change in batch.changes)
    assert change.key == ("é", exact)
    whole = json.loads(str(change.value("item")), parse_float=Decimal)
    assert whole == {
        "team": "é",
        "n": Decimal(exact),
        "b": "AP8=",
        "ns": [Decimal("-1.5"), 9, 10],
        "deep": {"l": [None, False, 1, ""]},
    }


async def test_g13_an_item_that_does_not_fit_its_column_is_put_aside(amazon: AmazonServer) -> None:
    """It travels with its reason, and the others go on."""
    system = TableOfNotes(amazon)
    system.client.put_item(
        TableName=system.table,
        Item={"team": {"S": "a"}, "n": {"N": "1"}, "count": {"S": "many"}},
    )
    system.client.put_item(
        TableName=system.table, Item={"team": {"S": "a"}, "n": {"N": "2"}, "count": {"N": "2"}}
    )
    source = system.source()
    source._columns = {"count": "integer"}
    replica = Replica(system)
    batches = await follow(source, replica, lambda: len(replica.operations) == 2)
    changes = {change.schema.stream: change for batch in batches for change in batch.changes}
    assert "count: expected a value of type integer" in str(changes[UNREADABLE].value("error"))
    assert changes[system.table].value("count") == "2"


async def test_g2_a_stream_made_anew_is_a_gap_that_is_named_or_mended(amazon: AmazonServer) -> None:
    """Never a silent jump: it stops, or empties the table and reads it again."""
    system = TableOfNotes(amazon)
    for number in range(5):
        await system.write(number)
    replica = Replica(system)
    expected = await system.contents()
    await follow(system.source(), replica, lambda: replica.contents() == expected)
    replica.state["stream"] = "arn:of:another"
    with pytest.raises(SourceError, match="switched off and on again"):
        await follow(system.source(), replica, lambda: False)
    for number in range(5, 12):
        await system.write(number)
    expected = await system.contents()
    await follow(
        system.source(on_gap="reread"),
        replica,
        lambda: replica.contents() == expected and Op.TRUNCATE in replica.operations,
    )


async def test_a_stream_without_images_is_refused(amazon: AmazonServer) -> None:
    """With the mend; the check says it too."""
    system = TableOfNotes(amazon, view="KEYS_ONLY")
    with pytest.raises(SourceError, match="found KEYS_ONLY: set its view type to NEW_IMAGE"):
        await follow(system.source(), Replica(system), lambda: False)
    assert [finding.level for finding in await system.source().check()] == ["error"]
    assert [finding.level for finding in await TableOfNotes(amazon).source().check()] == ["ok"]
