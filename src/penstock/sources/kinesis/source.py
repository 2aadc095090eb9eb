"""A Kinesis stream: all that it still keeps, then all that comes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal

import structlog

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError, PenstockError, SourceError
from penstock.records import Change, Microseconds, Position
from penstock.sources.amazon import AmazonAccess
from penstock.sources.base import Finding, SourceBatch, State, StateChange
from penstock.sources.kinesis.payloads import RecordRows
from penstock.sources.kinesis.service import StreamService, arrived_at
from penstock.sources.shards import Lineage, ShardReader

logger = structlog.get_logger("penstock.kinesis")

_RELIST_S: Final = 10.0
_LAG_US: Final = 1_000_000


class KinesisSource:
    """The records of one stream, as rows of declared tables.

    Shards are read parents first, so that what has one partition key comes in order through splits
    and merges: give the changes of one row one partition key. A change's position is its number,
    kept in the state beside one sequence number for each shard. The interface has no waiting: the
    shards are asked every ``poll_s``.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        rows: RecordRows,
        *,
        access: AmazonAccess | None = None,
        on_gap: Literal["stop", "continue"] = "stop",
        poll_s: float = 0.25,
        heartbeat_s: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._stream = stream
        self._rows = rows
        self._access = access or AmazonAccess()
        self._on_gap = on_gap
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._clock = clock or SystemClock()

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        service = StreamService(self._stream, self._access)
        try:
            anew = await self._begin(service, state)
            known = state
            if anew is not None:
                yield SourceBatch((), anew)
                kept = {name: value for name, value in anew.items() if value is not None}
                known = {"sequence": state.get("sequence", "0"), **kept}
            async for batch in self._follow(service, known):
                yield batch
        finally:
            await service.close()

    async def _begin(self, service: StreamService, state: State) -> StateChange | None:
        """Whether reading can go on where it ended: None, or the state of a new beginning."""
        description = await service.describe()
        identity = f"{description['StreamARN']} {description.get('StreamCreationTimestamp', '')}"
        kept_us = int(description.get("RetentionPeriodHours", 24)) * 3600 * 1_000_000
        known = state.get("stream")
        now = Microseconds(self._clock.now() - _LAG_US)
        beginning: StateChange = {"stream": identity, "as_of": str(now)}
        if known is None:
            return beginning
        gap = None
        if known != identity:
            gap = "the stream was made anew"
        elif self._clock.now() - int(state.get("as_of", "0")) > kept_us:
            gap = "it has been longer than the stream keeps its records"
        else:
            try:
                Lineage(state).see(await service.shards())
            except SourceError as error:
                gap = str(error)
        if gap is None:
            return None
        message = (
            f"expected to go on where reading ended, but {gap}: records may be lost; have the "
            "producer send everything again, and set `on_gap: continue`"
        )
        if self._on_gap == "stop":
            raise SourceError(message, gap=True)
        logger.warning("kinesis.gap", source=self.name, reason=message)
        gone = {name: None for name in state if name.startswith("shard:")}
        return {**gone, **beginning}

    async def _follow(self, service: StreamService, state: State) -> AsyncIterator[SourceBatch]:
        lineage = Lineage(state)
        reader = ShardReader(service, lineage)
        numbers = _Numbers(int(state.get("sequence", "0")))
        reported = Microseconds(int(state.get("as_of", "0")))
        relist = beat = self._clock.monotonic()
        while True:
            moment = self._clock.monotonic()
            if moment - relist >= _RELIST_S:
                relist = moment
                reader.relist()
            found = await reader.round(self._clock.now())
            changes = [
                change
                for shard, record in found.records
                for change in self._changes(shard, record, numbers)
            ]
            news = lineage.take_news()
            as_of = None
            until = Microseconds((found.until or 0) - _LAG_US)
            if until > reported and (moment >= beat or changes):
                beat = moment + self._heartbeat_s
                as_of = reported = until
                news["as_of"] = str(as_of)
            if changes:
                news["sequence"] = str(numbers.last)
            if changes or news:
                yield SourceBatch(changes, news, as_of)
            if found.complete:
                await self._clock.sleep(self._poll_s)

    def _changes(self, shard: str, record: Mapping[str, Any], numbers: _Numbers) -> list[Change]:
        at = arrived_at(record) or self._clock.now()
        before = numbers.last
        try:
            return [
                self._rows.change(stream, op, item, numbers.next(), at)
                for stream, op, item in self._rows.read(record["Data"])
            ]
        except BadRecordError as error:  # all of it or nothing: what it said before counts not
            numbers.last = before
            place = f"{self._stream}/{shard}/{record['SequenceNumber']}"
            return [self._rows.unreadable(record, place, numbers.next(), at, error.reason)]

    async def read_again(self, change: Change) -> Sequence[Change]:
        """What the record of an unreadable change means by now, at the position that it had; the
        change itself when it still cannot be read."""
        data = base64.b64decode(str(change.value("value")))
        try:
            return [
                self._rows.change(stream, op, item, change.position, change.committed_at)
                for stream, op, item in self._rows.read(data)
            ]
        except BadRecordError:
            return [change]

    async def acknowledge(self, state: StateChange) -> None:
        """Nothing is kept for us: a stream forgets by itself."""

    async def close(self) -> None:
        """All connections are the reading's."""

    async def check(self) -> Sequence[Finding]:
        """Look at the stream and the right to read it."""
        service = StreamService(self._stream, self._access)
        mend = "correct stream, region or keys; see docs/howto/aws.md for the rights"
        try:
            description = await service.describe()
            shards = await service.shards()
            if shards:
                await service.page(shards[0].id, await service.iterator(shards[0].id, ""))
        except PenstockError as error:
            return [Finding(f"{self.name}: connection", "error", str(error), mend)]
        finally:
            await service.close()
        hours = description.get("RetentionPeriodHours", 24)
        message = f"{self._stream}: {len(shards):,} shards, kept for {hours} hours"
        return [Finding(self.name, "ok", message)]


class _Numbers:
    """The numbers of changes, which are their positions."""

    def __init__(self, last: int) -> None:
        self.last = last

    def next(self) -> Position:
        """The next one."""
        self.last += 1
        return Position(f"{self.last:016d}")
