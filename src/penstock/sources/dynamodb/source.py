"""A DynamoDB table: what is in it by a scan, then what its stream says."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal

import structlog

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError, PenstockError, SourceError
from penstock.records import Change, Microseconds, Op, Position, unreadable_schema
from penstock.sources.amazon import AmazonAccess
from penstock.sources.base import Finding, SourceBatch, State, StateChange
from penstock.sources.dynamodb.items import ItemRows
from penstock.sources.dynamodb.service import TableService, created_at
from penstock.sources.shards import Lineage, ShardReader

logger = structlog.get_logger("penstock.dynamodb")

_KEPT_S: Final = 24 * 3600
_RELIST_S: Final = 10.0
_MARGIN_US: Final = 60_000_000
_LAG_US: Final = 1_000_000
"""How late a committed change may appear in the stream."""
_OPS: Final = {"INSERT": Op.CREATE, "MODIFY": Op.UPDATE, "REMOVE": Op.DELETE}


class DynamoDBSource:
    """The items of one table. Its stream must carry new images.

    A scan with consistent reads gives what exists, then the stream is read from a moment before the
    scan began: an item that changed meanwhile may step back to what it was in between, and comes to
    what it is. A change's position is its number, kept in the state beside one sequence number for
    each shard. The interface has no waiting: the shards are asked every ``poll_s``.
    """

    def __init__(
        self,
        name: str,
        table: str,
        *,
        access: AmazonAccess | None = None,
        columns: Mapping[str, str] | None = None,
        on_gap: Literal["stop", "reread"] = "stop",
        poll_s: float = 0.25,
        heartbeat_s: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._table = table
        self._access = access or AmazonAccess()
        self._columns = dict(columns or {})
        self._on_gap = on_gap
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._clock = clock or SystemClock()
        self._reread = False

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        service = TableService(self._table, self._access)
        known: dict[str, str] = dict(state)
        try:
            while True:
                reading = _Reading(self, service, known)
                try:
                    async for batch in reading.batches():
                        _merge(known, batch.state)
                        yield batch
                except SourceError as error:
                    if self._on_gap != "reread" or not error.facts.get("gap"):
                        raise
                    logger.warning("dynamodb.gap", source=self.name, reason=str(error))
                yield reading.begin_anew()
                self._reread = False
                _merge(known, reading.reset)
        finally:
            await service.close()

    async def acknowledge(self, state: StateChange) -> None:
        """Nothing is kept for us: a stream forgets by itself."""

    async def close(self) -> None:
        """All connections are the reading's."""

    async def reread_streams(self, streams: Sequence[str]) -> None:
        """See `RereadableSource.reread_streams`."""
        self._reread |= self._table in streams

    async def check(self) -> Sequence[Finding]:
        """Look at the table, its stream, and the right to read both."""
        service = TableService(self._table, self._access)
        mend = "correct table, region or keys; see docs/howto/aws.md for the rights"
        try:
            description = await service.describe()
            service.follow(stream_of(description))
            shards = await service.shards()
            await service.scan(None)
        except PenstockError as error:
            return [Finding(f"{self.name}: connection", "error", str(error), mend)]
        finally:
            await service.close()
        items = description.get("ItemCount", 0)
        message = f"{self._table}: about {items:,} items, a stream of {len(shards):,} shards"
        return [Finding(self.name, "ok", message)]


class _Reading:
    """One reading, from a state until it is cut off or begun anew."""

    def __init__(self, source: DynamoDBSource, service: TableService, state: State) -> None:
        self._source = source
        self._service = service
        self._state = state
        self._clock = source._clock  # noqa: SLF001 - a part of the source, kept apart for length
        self._sequence = int(state.get("sequence", "0"))
        self._lineage = Lineage(state)
        self._since = int(state.get("since", "0")) * 1_000_000
        self._as_of = Microseconds(int(state.get("as_of", "0")))
        self.rows: ItemRows | None = None
        self.reset: StateChange = {}

    async def batches(self) -> AsyncIterator[SourceBatch]:
        """Until the source is asked to begin anew."""
        async for batch in self._begun():
            yield batch
        if self._state.get("scan") != "done":
            async for batch in self._scan():
                yield batch
        self._check_age()
        reader = ShardReader(self._service, self._lineage)
        relist = beat = self._clock.monotonic()
        while not self._source._reread:  # noqa: SLF001
            started = self._clock.now()
            moment = self._clock.monotonic()
            if moment - relist >= _RELIST_S:
                relist = moment
                reader.relist()
            found = await reader.round(started)
            changes = [change for record in found.records if (change := self._change(record))]
            state = self._lineage.take_news()
            as_of = None
            until = Microseconds((found.until or 0) - _LAG_US)
            if until > self._as_of and (moment >= beat or changes):
                beat = moment + self._source._heartbeat_s  # noqa: SLF001
                as_of = self._as_of = until
                state["as_of"] = str(as_of)
            if changes:
                state["sequence"] = str(self._sequence)
            if changes or state:
                yield SourceBatch(changes, state, as_of)
            if found.complete:
                await self._clock.sleep(self._source._poll_s)  # noqa: SLF001

    async def _begun(self) -> AsyncIterator[SourceBatch]:
        source = self._source
        description = await self._service.describe()
        self.rows = ItemRows.of(
            source.name,
            source._table,  # noqa: SLF001
            description,
            source._columns,  # noqa: SLF001
        )
        stream = stream_of(description)
        self._service.follow(stream)
        known = self._state.get("stream")
        if known is None:
            now = int(description["now"] or 0)
            self._since = now * 1_000_000
            self._as_of = Microseconds(self._clock.now() - _LAG_US)
            self._lineage.see(await self._service.shards())
            state = {"stream": stream, "since": str(now), "as_of": str(self._as_of), "scan": ""}
            yield SourceBatch((), {**state, **self._lineage.take_news()})
            return
        if known != stream:
            raise SourceError(
                f"expected the stream {known}, found {stream}: it was switched off and on again, "
                "and changes between are lost; read the table again (`on_gap: reread`)",
                gap=True,
            )
        self._check_age()

    def _check_age(self) -> None:
        if self._clock.now() - self._as_of > _KEPT_S * 1_000_000:
            raise SourceError(
                "expected to read on within the 24 hours that the stream keeps, it has been "
                "longer: changes may be lost; read the table again (`on_gap: reread`)",
                gap=True,
            )

    async def _scan(self) -> AsyncIterator[SourceBatch]:
        place = self._state.get("scan") or "null"
        after = _restored(json.loads(place))
        while True:
            items, after = await self._service.scan(after)
            now = self._clock.now()
            changes = [self._row(Op.READ, item, {}, now) for item in items]
            scan = json.dumps(_kept(after)) if after else "done"
            yield SourceBatch(changes, {"scan": scan, "sequence": str(self._sequence)})
            if not after:
                return

    def _change(self, record: Mapping[str, Any]) -> Change | None:
        part = record["dynamodb"]
        at = created_at(record)
        if at is not None and at < self._since - _MARGIN_US:
            return None  # the scan has seen it
        op = _OPS[record["eventName"]]
        return self._row(op, part.get("NewImage", {}), part["Keys"], at or self._clock.now())

    def _row(
        self, op: Op, item: Mapping[str, Any], keys: Mapping[str, Any], at: Microseconds
    ) -> Change:
        assert self.rows is not None
        position = self._position()
        try:
            key = self.rows.key(keys or item)
            row = None if op is Op.DELETE else self.rows.row(item)
        except BadRecordError as error:
            return _unreadable(self._source.name, position, at, item or keys, error.reason)
        return Change(self.rows.schema, op, key, position, at, row)

    def _position(self) -> Position:
        self._sequence += 1
        return Position(f"{self._sequence:016d}")

    def begin_anew(self) -> SourceBatch:
        """A truncate, and a state that has everything before it."""
        assert self.rows is not None
        reset: dict[str, str | None] = dict.fromkeys(self._state)
        position = self._position()
        reset["sequence"] = str(self._sequence)
        self.reset = reset
        change = Change(self.rows.schema, Op.TRUNCATE, (), position, self._clock.now())
        return SourceBatch([change], reset)


def stream_of(description: Mapping[str, Any]) -> str:
    """The table's stream; `SourceError` when it has none that will do."""
    chosen = description.get("StreamSpecification", {})
    view = chosen.get("StreamViewType", "no stream") if chosen.get("StreamEnabled") else "no stream"
    if view not in {"NEW_IMAGE", "NEW_AND_OLD_IMAGES"}:
        raise SourceError(
            f"expected the table's stream to carry new images, found {view}: set its view type to "
            "NEW_IMAGE or NEW_AND_OLD_IMAGES"
        )
    return str(description["LatestStreamArn"])


def _unreadable(
    source: str, position: Position, at: Microseconds, item: Mapping[str, Any], reason: str
) -> Change:
    try:
        text = json.dumps(item, default=repr)
    except RecursionError:
        text = ""
    value = base64.b64encode(text.encode()).decode("ascii")
    row = (str(position), str(at // 1000), None, value, "[]", reason)
    return Change(unreadable_schema(source), Op.CREATE, (str(position),), position, at, row)


def _merge(known: dict[str, str], news: StateChange) -> None:
    for name, value in news.items():
        if value is None:
            known.pop(name, None)
        else:
            known[name] = value


def _kept(key: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """A place of a scan as JSON: of the three types of keys, binary is written in base64."""
    return {
        name: {
            kind: base64.b64encode(value).decode("ascii") if kind == "B" else value
            for kind, value in attribute.items()
        }
        for name, attribute in key.items()
    }


def _restored(key: Mapping[str, Mapping[str, str]] | None) -> dict[str, dict[str, Any]] | None:
    if key is None:
        return None
    return {
        name: {
            kind: base64.b64decode(value) if kind == "B" else value
            for kind, value in attribute.items()
        }
        for name, attribute in key.items()
    }
