"""A bucket, a DynamoDB table and a Kinesis stream of a real server, through a running process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from penstock.testing.amazon import REGION, AmazonServer, amazon_server

from .conftest import Home


@pytest.fixture
def amazon() -> Iterator[AmazonServer]:
    with amazon_server() as server:
        yield server


def access(server: AmazonServer) -> str:
    return (
        f"endpoint: {server.endpoint}, region: {REGION}, access_key: test, "
        "secret_key: not-to-be-shown"
    )


def sources(server: AmazonServer) -> str:
    return f"""
  reports: {{type: objects, bucket: reports, prefix: team, relist: 0.2, {access(server)}}}
  shop:
    {{type: dynamodb, tables: {{orders: {{columns: {{total: numeric}}}}}}, {access(server)}}}
  clicks:
    type: kinesis
    stream_name: clicks
    endpoint: {server.endpoint}
    region: {REGION}
    access_key: test
    secret_key: not-to-be-shown
    heartbeat: 0.2
    tables:
      clicks: {{key: [id], columns: {{id: bigint, page: text}}}}
"""


def prepare(server: AmazonServer) -> None:
    s3, dynamodb = server.client("s3"), server.client("dynamodb")
    s3.create_bucket(Bucket="reports", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="reports", Key="team/a.md", Body=b"# A\n\nthe first report")
    s3.put_object(Bucket="reports", Key="team/bad.pdf", Body=b"%PDF-1.7 broken")
    dynamodb.create_table(
        TableName="orders",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    order = {"id": {"N": "1"}, "total": {"N": "9.50"}, "who": {"S": "Ada"}}
    dynamodb.put_item(TableName="orders", Item=order)
    server.client("kinesis").create_stream(StreamName="clicks", ShardCount=1)
    click(server, {"id": 1, "page": "/"})


def click(server: AmazonServer, payload: object) -> None:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    server.client("kinesis").put_record(StreamName="clicks", Data=data, PartitionKey="k")


def eventually(url: str, statement: str, expected: list[tuple[Any, ...]]) -> None:
    deadline = time.monotonic() + 25
    found: list[tuple[Any, ...]] | None = None
    while found != expected:
        assert time.monotonic() < deadline, found
        try:
            with psycopg.connect(url) as connection:
                found = connection.execute(statement.encode()).fetchall()
        except psycopg.errors.UndefinedTable:
            found = None


def test_g2_all_three_come_and_go_on_after_a_kill(
    amazon: AmazonServer, home: Home, database_url: str
) -> None:
    """What exists, what changes, what is deleted, and what is broken; killed in between."""
    prepare(amazon)
    home.project(database_url, sources=sources(amazon))
    program = home.start("run").wait_for("Ctrl-C stops it")
    documents = "SELECT key FROM penstock.documents WHERE deleted_at IS NULL ORDER BY 1"
    orders = "SELECT id::text, total::text, item->>'who' FROM shop.orders ORDER BY 1"
    clicks = "SELECT id::text, page FROM clicks.clicks ORDER BY 1"
    letters = "SELECT count(*)::int FROM penstock.dead_letters"
    eventually(database_url, documents, [("a.md",)])
    eventually(database_url, orders, [("1", "9.50", "Ada")])
    eventually(database_url, clicks, [("1", "/")])
    program.kill()
    s3, dynamodb = amazon.client("s3"), amazon.client("dynamodb")
    s3.put_object(Bucket="reports", Key="team/b.md", Body=b"another")
    s3.delete_object(Bucket="reports", Key="team/a.md")
    dynamodb.delete_item(TableName="orders", Key={"id": {"N": "1"}})
    dynamodb.put_item(TableName="orders", Item={"id": {"N": "2"}, "total": {"N": "1E+2"}})
    click(amazon, b"no JSON")
    click(amazon, [{"id": 1, "op": "delete"}, {"id": 2, "page": "/b"}])
    program = home.start("run").wait_for("Ctrl-C stops it")
    eventually(database_url, documents, [("b.md",)])
    eventually(database_url, orders, [("2", "100", None)])
    eventually(database_url, clicks, [("2", "/b")])
    eventually(database_url, letters, [(2,)])
    assert "not-to-be-shown" not in program.output + program.errors


def test_check_looks_at_all_three_and_verify_compares_the_bucket(
    amazon: AmazonServer, home: Home, database_url: str
) -> None:
    """Reached and readable; a bucket that is not there is told; no secret is."""
    prepare(amazon)
    home.project(database_url, sources=sources(amazon))
    checked = home.run("check")
    assert checked.code == 0, checked.output + checked.errors
    assert "a stream of 1 shards" in " ".join(checked.output.split())
    amazon.client("s3").delete_object(Bucket="reports", Key="team/bad.pdf")
    loaded = home.run("run", "--once")
    assert loaded.code == 0, loaded.output + loaded.errors
    verified = home.run("verify")
    assert verified.code == 0, verified.output + verified.errors
    wrong = sources(amazon).replace("bucket: reports", "bucket: elsewhere")
    home.project(database_url, sources=wrong)
    refused = home.run("check")
    assert refused.code != 0
    assert "NoSuchBucket" in refused.output + refused.errors
    for ended in (checked, loaded, verified, refused):
        assert "not-to-be-shown" not in ended.output + ended.errors
