"""DynamoDB's table and its stream, as calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from penstock.errors import RetryableError, SourceError
from penstock.records import Microseconds
from penstock.sources.amazon import AmazonAccess, AmazonClient, error_code
from penstock.sources.shards import Page, Shard

_SCANNED = 1000
_EXPIRED = frozenset({"ExpiredIteratorException"})
_SLOW = frozenset({"LimitExceededException", "ProvisionedThroughputExceededException"})
_TRIMMED = frozenset({"TrimmedDataAccessException"})


class TableService:
    """One table and the stream of its changes."""

    def __init__(self, table: str, access: AmazonAccess) -> None:
        what = f"the table {table!r}"
        self._table = table
        self._stream = ""
        self._tables = AmazonClient(access, "dynamodb", what=what, extra="aws", threads=2)
        self._streams = AmazonClient(
            access, "dynamodbstreams", what=f"the stream of {what}", extra="aws", threads=8
        )

    async def describe(self) -> Mapping[str, Any]:
        """The table as it is, and with ``now`` the server's time in seconds, if it tells it."""
        try:
            answer = await self._tables.call("describe_table", TableName=self._table)
        except RetryableError as error:
            if error_code(error) == "ResourceNotFoundException":
                raise SourceError(f"{error}; correct the table's name or the region") from error
            raise
        table: dict[str, Any] = answer["Table"]
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        now = None if date is None else int(parsedate_to_datetime(date).timestamp())
        return {**table, "now": now}

    def follow(self, stream: str) -> None:
        """Read this stream."""
        self._stream = stream

    async def scan(self, after: Mapping[str, Any] | None) -> tuple[Sequence[Any], Any]:
        """A page of items, and where the next one begins (None: there is none)."""
        more: dict[str, Any] = {"ExclusiveStartKey": after} if after else {}
        answer = await self._tables.call(
            "scan", TableName=self._table, ConsistentRead=True, Limit=_SCANNED, **more
        )
        return answer.get("Items", ()), answer.get("LastEvaluatedKey")

    async def shards(self) -> Sequence[Shard]:
        """See `ShardService.shards`."""
        found: list[Shard] = []
        more: dict[str, str] = {}
        while True:
            answer = await self._streams.call("describe_stream", StreamArn=self._stream, **more)
            description = answer["StreamDescription"]
            for shard in description["Shards"]:
                parent = shard.get("ParentShardId")
                found.append(Shard(shard["ShardId"], (parent,) if parent else ()))
            last = description.get("LastEvaluatedShardId")
            if not last:
                return found
            more = {"ExclusiveStartShardId": last}

    async def iterator(self, shard: str, after: str) -> str:
        """See `ShardService.iterator`."""
        place = (
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": after}
            if after
            else {"ShardIteratorType": "TRIM_HORIZON"}
        )
        try:
            answer = await self._streams.call(
                "get_shard_iterator", StreamArn=self._stream, ShardId=shard, **place
            )
        except RetryableError as error:
            raise _gap(error) if error_code(error) in _TRIMMED else error from error
        return str(answer["ShardIterator"])

    async def page(self, shard: str, iterator: str) -> Page | None:
        """See `ShardService.page`."""
        del shard
        try:
            answer = await self._streams.call("get_records", ShardIterator=iterator)
        except RetryableError as error:
            code = error_code(error)
            if code in _EXPIRED:
                return None
            if code in _SLOW:
                return Page((), None, iterator, behind=True)
            raise _gap(error) if code in _TRIMMED else error from error
        records = answer["Records"]
        last = str(records[-1]["dynamodb"]["SequenceNumber"]) if records else None
        until = created_at(records[-1]) if records else None
        return Page(records, last, answer.get("NextShardIterator"), bool(records), until)

    async def close(self) -> None:
        """Let go of connections."""
        await self._tables.close()
        await self._streams.close()


def created_at(record: Mapping[str, Any]) -> Microseconds | None:
    """When a record's change was made, to the second."""
    moment = record["dynamodb"].get("ApproximateCreationDateTime")
    if moment is None:
        return None
    seconds = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    return Microseconds(int(seconds * 1e6))


def _gap(error: RetryableError) -> SourceError:
    return SourceError(
        f"expected to go on where reading ended, but the stream has forgotten that: {error}",
        gap=True,
    )
