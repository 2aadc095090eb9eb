"""A Kinesis stream, as calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from penstock.errors import RetryableError, SourceError
from penstock.records import Microseconds
from penstock.sources.amazon import AmazonAccess, AmazonClient, error_code
from penstock.sources.shards import Page, Shard

_EXPIRED: Final = frozenset({"ExpiredIteratorException"})
_SLOW: Final = frozenset({"ProvisionedThroughputExceededException", "LimitExceededException"})
_MISSING: Final = "ResourceNotFoundException"
_MOST: Final = 1000


class StreamService:
    """One stream."""

    def __init__(self, stream: str, access: AmazonAccess) -> None:
        self._stream = stream
        self._client = AmazonClient(
            access, "kinesis", what=f"the stream {stream!r}", extra="aws", threads=8
        )

    async def describe(self) -> Mapping[str, Any]:
        """The stream as it is."""
        try:
            answer = await self._client.call("describe_stream_summary", StreamName=self._stream)
        except RetryableError as error:
            if error_code(error) == _MISSING:
                raise SourceError(f"{error}; correct the stream's name or the region") from error
            raise
        found: dict[str, Any] = answer["StreamDescriptionSummary"]
        return found

    async def shards(self) -> Sequence[Shard]:
        """See `ShardService.shards`."""
        found: list[Shard] = []
        more: dict[str, str] = {"StreamName": self._stream}
        while True:
            answer = await self._client.call("list_shards", **more)
            for shard in answer["Shards"]:
                parents = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
                found.append(Shard(shard["ShardId"], tuple(filter(None, parents))))
            if not answer.get("NextToken"):
                return found
            more = {"NextToken": answer["NextToken"]}

    async def iterator(self, shard: str, after: str) -> str:
        """See `ShardService.iterator`."""
        place = (
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
            if after
            else {"ShardIteratorType": "TRIM_HORIZON"}
        )
        answer = await self._client.call(
            "get_shard_iterator", StreamName=self._stream, ShardId=shard, **place
        )
        return str(answer["ShardIterator"])

    async def page(self, shard: str, iterator: str) -> Page | None:
        """See `ShardService.page`."""
        try:
            answer = await self._client.call("get_records", ShardIterator=iterator, Limit=_MOST)
        except RetryableError as error:
            if error_code(error) in _EXPIRED:
                return None
            if error_code(error) in _SLOW:
                return Page((), None, iterator, behind=True)
            raise
        records = [(shard, record) for record in answer["Records"]]
        last = str(records[-1][1]["SequenceNumber"]) if records else None
        until = arrived_at(records[-1][1]) if records else None
        behind = bool(answer.get("MillisBehindLatest")) or bool(records)
        return Page(records, last, answer.get("NextShardIterator"), behind, until)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()


def arrived_at(record: Mapping[str, Any]) -> Microseconds | None:
    """When a record came into the stream."""
    moment = record.get("ApproximateArrivalTimestamp")
    return Microseconds(int(moment.timestamp() * 1e6)) if isinstance(moment, datetime) else None
