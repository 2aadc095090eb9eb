"""The source of Kinesis streams passes the suite of sources, while shards split and merge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable, Mapping
from itertools import count
from typing import Any

import pytest

from penstock.errors import SourceError
from penstock.records import UNREADABLE, Row, Schema
from penstock.sources.formats.declared import DeclaredStream
from penstock.sources.kinesis import KinesisSource, RecordRows
from penstock.testing.amazon import AmazonServer
from penstock.testing.sources import Replica, RowName, SourceSuite, follow

_STREAMS = count(1)
NOTES = DeclaredStream("notes", ("id",), (("id", "text"), ("note", "text")))


class StreamOfNotes:
    """A producer of rows; with ``resharding``, shards are split and merged while it writes."""

    def __init__(self, server: AmazonServer, *, resharding: bool) -> None:
        self.server = server
        self.client = server.client("kinesis")
        self.stream = f"notes-{next(_STREAMS)}"
        self.client.create_stream(StreamName=self.stream, ShardCount=2)
        self._resharding = resharding
        self._rows: dict[str, str] = {}

    def source(self, **more: Any) -> KinesisSource:
        return KinesisSource(
            "notes",
            self.stream,
            RecordRows("notes", {"notes": NOTES}),
            access=self.server.access,
            poll_s=0.02,
            heartbeat_s=0.02,
            **more,
        )

    async def write(self, number: int) -> None:
        await asyncio.to_thread(self._write, number)

    def _write(self, number: int) -> None:
        key = f"key {number % 7}"
        if number % 10 == 9:
            self._rows.pop(key, None)
            self.put(key, {"op": "delete", "id": key})
        else:
            self._rows[key] = f"note {number}"
            self.put(key, {"id": key, "note": f"note {number}"})
        if self._resharding and number % 15 == 14:
            self.reshard(split=number % 30 == 14)

    def put(self, key: str, payload: object) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.client.put_record(StreamName=self.stream, Data=data, PartitionKey=key)

    def reshard(self, *, split: bool) -> None:
        shards = self.client.describe_stream(StreamName=self.stream)["StreamDescription"]["Shards"]
        live = [s for s in shards if "EndingSequenceNumber" not in s["SequenceNumberRange"]]
        live.sort(key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))
        if split:
            begin, end = (
                int(live[0]["HashKeyRange"][f"{e}HashKey"]) for e in ("Starting", "Ending")
            )
            self.client.split_shard(
                StreamName=self.stream,
                ShardToSplit=live[0]["ShardId"],
                NewStartingHashKey=str((begin + end) // 2),
            )
        else:
            self.client.merge_shards(
                StreamName=self.stream,
                ShardToMerge=live[0]["ShardId"],
                AdjacentShardToMerge=live[1]["ShardId"],
            )

    async def contents(self) -> Mapping[RowName, Hashable]:
        return {("notes", (key,)): note for key, note in self._rows.items()}

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[schema.index("note")]


class TestKinesisSource(SourceSuite):
    """The behaviours of any source."""

    @pytest.fixture
    def system(self, amazon: AmazonServer) -> StreamOfNotes:
        return StreamOfNotes(amazon, resharding=False)


class TestKinesisSourceWhileResharding(SourceSuite):
    """The same, with rows that move from shard to shard."""

    @pytest.fixture
    def system(self, amazon: AmazonServer) -> StreamOfNotes:
        return StreamOfNotes(amazon, resharding=True)


async def test_g13_what_cannot_be_read_is_put_aside(amazon: AmazonServer) -> None:
    """A record is taken wholly or not at all; the next ones come."""
    system = StreamOfNotes(amazon, resharding=False)
    bad = [
        b"\xf3\x89\x9a\xc2aggregated",
        b"no JSON",
        [{"id": "x"}, {"note": "no key"}],
        b"[" * 9999,
    ]
    for payload in [*bad, {"id": "good", "note": "n"}]:
        system.put("k", payload)
    replica = Replica(system)
    batches = await follow(system.source(), replica, lambda: len(replica.operations) == 5)
    changes = [change for batch in batches for change in batch.changes]
    assert [change.schema.stream for change in changes] == [UNREADABLE] * 4 + ["notes"]
    assert "Producer Library" in str(changes[0].value("error"))
    assert len({change.key for change in changes}) == 5
    again = await system.source().read_again(changes[2])
    assert again == [changes[2]]
    mended = DeclaredStream("notes", ("note",), (("id", "text"), ("note", "text")))
    source = KinesisSource("notes", system.stream, RecordRows("notes", {"notes": mended}))
    assert await source.read_again(changes[2]) == [changes[2]]  # its first object has no note


async def test_g2_a_gap_is_named_or_gone_over_when_told_to(amazon: AmazonServer) -> None:
    """The stream was made anew, or reading rested for longer than it keeps."""
    system = StreamOfNotes(amazon, resharding=False)
    await system.write(0)
    replica = Replica(system)
    await follow(system.source(), replica, lambda: bool(replica.operations))
    gaps = ({"stream": "arn:other 1"}, {"as_of": "1"}, {"shard:shardId-that-went": "5"})
    for gap in gaps:
        state = dict(replica.state)
        replica.state.update(gap)
        with pytest.raises(SourceError, match="records may be lost"):
            await follow(system.source(), replica, lambda: False)
        replica.state = state
    replica.state["as_of"] = "1"
    await system.write(1)
    expected = await system.contents()
    await follow(system.source(on_gap="continue"), replica, lambda: replica.contents() == expected)


async def test_a_stream_that_is_not_there_is_named(amazon: AmazonServer) -> None:
    """As an error for a person, and by the check."""
    system = StreamOfNotes(amazon, resharding=False)
    assert [finding.level for finding in await system.source().check()] == ["ok"]
    system.stream = "nowhere"
    with pytest.raises(SourceError, match="correct the stream's name"):
        await follow(system.source(), Replica(system), lambda: False)
    assert [finding.level for finding in await system.source().check()] == ["error"]
