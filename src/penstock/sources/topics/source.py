"""The topics source: records from a transport, changes through a decoder, places in our state.

State, as small named texts: ``at:TOPIC/PARTITION`` (the last record that was read, see
`positions.Place`) and what the decoder learned (``shape:STREAM``). A broker's own memory of what
was consumed is told after the log is durable, for people to look at, and is never read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from penstock.clock import Clock
from penstock.errors import SourceError
from penstock.records import Change, Microseconds
from penstock.sources.base import Finding, SourceBatch, State, StateChange
from penstock.sources.topics.base import Decoder, PartitionName, Transport, kept_record
from penstock.sources.topics.positions import Place, place_records

_AT: Final = "at:"
RECORDS_AT_ONCE: Final = 256
"""How many records are decoded before the event loop may go on."""


class TopicsSource:
    """Reads changes from message topics. ``transport`` and ``decoder`` belong to it."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        decoder: Decoder,
        *,
        clock: Clock,
        heartbeat_s: float = 5.0,
    ) -> None:
        self.name = name
        self._transport = transport
        self._decoder = decoder
        self._clock = clock
        self._heartbeat_s = heartbeat_s

    async def read(self, state: State) -> AsyncGenerator[SourceBatch]:
        """See `penstock.sources.base.Source.read`. May be called again after it has ended."""
        await self._transport.close()
        places = _places(state, self.name)
        self._decoder.restore(state)
        try:
            await self._transport.open({name: place.resume for name, place in places.items()})
            told = Microseconds(0)
            while True:
                fetched = await self._transport.fetch(self._heartbeat_s)
                for records in fetched.slices:
                    for start in range(0, len(records.offsets), RECORDS_AT_ONCE):
                        part = records.cut(start, start + RECORDS_AT_ONCE)
                        await self._decoder.prepare(part)
                        name = PartitionName(part.topic, part.partition)
                        placed = place_records(part, places.get(name))
                        places[name] = placed.place
                        changes = self._decoder.decode(part, placed.positions)
                        yield SourceBatch(
                            changes,
                            {f"{_AT}{name}": placed.place.format(), **self._decoder.learned()},
                        )
                        await asyncio.sleep(0)
                if fetched.complete_at is not None and fetched.complete_at > told:
                    told = fetched.complete_at
                    yield SourceBatch(as_of=told)
        finally:
            await self._transport.close()

    async def acknowledge(self, state: StateChange) -> None:
        places = _places({name: text for name, text in state.items() if text}, self.name)
        if places:
            await self._transport.acknowledge(
                {name: place.offset for name, place in places.items()}
            )

    async def read_again(self, change: Change) -> Sequence[Change]:
        """See `penstock.sources.base.RecordKeepingSource.read_again`."""
        records = kept_record(change)
        await self._decoder.prepare(records)
        return self._decoder.decode(records, [change.position])

    async def close(self) -> None:
        await self._transport.close()
        await self._decoder.close()

    async def check(self) -> Sequence[Finding]:
        """See `penstock.sources.base.CheckableSource.check`."""
        try:
            return await self._transport.check()
        finally:
            await self._transport.close()


def _places(state: State, source: str) -> dict[PartitionName, Place]:
    places: dict[PartitionName, Place] = {}
    for name, text in state.items():
        if not name.startswith(_AT):
            continue
        try:
            partition = PartitionName.parse(name.removeprefix(_AT))
        except ValueError as error:
            raise SourceError(
                f"expected the name of a partition in the state of source {source!r}, got {name!r}"
            ) from error
        places[partition] = Place.parse(text, name)
    return places
