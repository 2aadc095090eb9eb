"""The source of object stores passes the suite of sources, with and without a queue of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable, Mapping
from hashlib import sha256
from itertools import count
from urllib.parse import quote_plus

import pytest

from penstock.records import DOCUMENTS, Row, Schema
from penstock.sources.objects import ObjectsSource, Place
from penstock.testing.amazon import AmazonServer
from penstock.testing.sources import RowName, SourceSuite

_BUCKETS = count(1)


class BucketOfNotes:
    """A bucket that a script writes to; with a queue, messages tell of some of the writes: listing
    finds the others."""

    def __init__(self, server: AmazonServer, *, queue: bool) -> None:
        self._access = server.access
        self._told = 0
        self._s3 = server.client("s3")
        self._sqs = server.client("sqs")
        name = f"notes-{next(_BUCKETS)}"
        self._place = Place(name, "team")
        self._s3.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        self._queue = self._sqs.create_queue(QueueName=name)["QueueUrl"] if queue else None

    def source(self) -> ObjectsSource:
        return ObjectsSource(
            "docs", self._place, access=self._access, queue=self._queue, relist_s=0.5
        )

    async def write(self, number: int) -> None:
        await asyncio.to_thread(self._write, number)

    def _write(self, number: int) -> None:
        place = number % 10
        folder = f"team/{number // 10}"
        if place == 9:
            self._delete(f"team/{number // 10 - 1}/6.md" if number > 10 else f"{folder}/1.md")
        elif place == 7:  # deleted, then created again at once
            self._delete(f"{folder}/2.md")
            self._put(f"{folder}/2.md", number)
        elif place == 5:
            self._put(f"{folder}/3.md", number)
        elif place == 8:
            self._put(f"{folder}/ä b+%41.md", number)
        else:
            self._put(f"{folder}/{place}.md", number)

    def _put(self, key: str, number: int) -> None:
        text = f"# Note {number}\n\nbody {number}\n"
        self._s3.put_object(Bucket=self._place.bucket, Key=key, Body=text.encode())
        self._tell("ObjectCreated:Put", key)

    def _delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._place.bucket, Key=key)
        self._tell("ObjectRemoved:Delete", key)

    def _tell(self, event: str, key: str) -> None:
        self._told += 1
        if self._queue is None or self._told % 3:
            return
        part = {"bucket": {"name": self._place.bucket}, "object": {"key": quote_plus(key)}}
        body = json.dumps({"Records": [{"eventName": event, "s3": part}]})
        self._sqs.send_message(QueueUrl=self._queue, MessageBody=body)

    async def contents(self) -> Mapping[RowName, Hashable]:
        return await asyncio.to_thread(self._contents)

    def _contents(self) -> Mapping[RowName, Hashable]:
        bucket = self._place.bucket
        listed = self._s3.list_objects_v2(Bucket=bucket).get("Contents", ())
        return {
            (DOCUMENTS, (entry["Key"].removeprefix("team/"),)): sha256(
                self._s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            ).hexdigest()
            for entry in listed
        }

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[schema.index("content_hash")]


class TestListedBucket(SourceSuite):
    """The behaviours of any source."""

    @pytest.fixture
    def system(self, amazon: AmazonServer) -> BucketOfNotes:
        return BucketOfNotes(amazon, queue=False)


class TestBucketWithQueue(SourceSuite):
    """The behaviours of any source, while messages come too."""

    @pytest.fixture
    def system(self, amazon: AmazonServer) -> BucketOfNotes:
        return BucketOfNotes(amazon, queue=True)
