"""What a log on Kafka holds, and taking away what is too old or too much.

The broker is told to keep everything: it does not know what has been processed. Records are removed
here, whole appends from the oldest on, and never one that a registered consumer still needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from penstock.log.base import PartitionInfo
from penstock.log.kafka.client import REQUEST_S, Client, library
from penstock.log.kafka.places import Bounds, Places
from penstock.log.kafka.readers import Partition
from penstock.records import LogPosition, Microseconds

if TYPE_CHECKING:
    from penstock.log.base import Consumers


async def describe(
    places: Places, topic: str, partitions: Sequence[Partition]
) -> list[PartitionInfo]:
    """The partitions of one topic as they are now."""
    bounds = await places.bounds(partitions)
    found = []
    for partition, (low, _) in sorted(bounds.items()):
        last, newest = await places.newest(partition, bounds[partition])
        oldest = await places.total_before(partition, low, bounds[partition])
        found.append(
            PartitionInfo(
                topic,
                partition[1],
                LogPosition(low + 1),
                LogPosition(max(last, low)),
                max(0, newest.changes - oldest.changes),
                max(0, newest.size - oldest.size),
            )
        )
    return found


class Trimming:
    """One trim of one topic."""

    def __init__(
        self,
        client: Client,
        places: Places,
        bounds: Mapping[Partition, Bounds],
    ) -> None:
        self._client = client
        self._places = places
        self._bounds = bounds

    async def run(
        self,
        topic: str,
        consumers: Consumers,
        *,
        before: Microseconds | None,
        max_bytes: int | None,
        now: Microseconds,
    ) -> int:
        """Remove what `Log.trim` says; returns how many changes."""
        cuts = {partition: bounds.low for partition, bounds in self._bounds.items()}
        if before is not None:
            cuts = self._later(cuts, await self._since(before))
        if max_bytes is not None:
            cuts = self._later(cuts, await self._for_size(max_bytes, now))
        slowest = await consumers.slowest(topic)
        allowed = {
            partition: min(cut, slowest.get(partition[1], cut)) for partition, cut in cuts.items()
        }
        wanted = {p: cut for p, cut in allowed.items() if cut > self._bounds[p].low}
        removed = 0
        for partition, cut in wanted.items():
            removed += await self._changes_between(partition, self._bounds[partition].low, cut)
        if wanted:
            await self._client.call(self._delete, wanted)
        return removed

    async def _since(self, time: Microseconds) -> dict[Partition, LogPosition]:
        return {p: await self._places.since(p, time, b) for p, b in self._bounds.items()}

    async def _for_size(self, most: int, now: Microseconds) -> dict[Partition, LogPosition]:
        """The earliest moment (to the millisecond) since when there is no more than ``most``."""
        lows = {partition: bounds.low for partition, bounds in self._bounds.items()}
        if await self._size_after(lows) <= most:
            return lows
        early, late = Microseconds(0), Microseconds(now + 1000)
        cuts = await self._since(late)
        while late - early > 1000:
            middle = Microseconds((early + late) // 2)
            tried = await self._since(middle)
            if await self._size_after(tried) <= most:
                late, cuts = middle, tried
            else:
                early = middle
        return cuts

    async def _size_after(self, cuts: Mapping[Partition, LogPosition]) -> int:
        size = 0
        for partition, cut in cuts.items():
            bounds = self._bounds[partition]
            newest = (await self._places.newest(partition, bounds)).totals
            size += newest.size - (await self._places.total_before(partition, cut, bounds)).size
        return size

    async def _changes_between(
        self, partition: Partition, low: LogPosition, cut: LogPosition
    ) -> int:
        bounds = self._bounds[partition]
        kept = await self._places.total_before(partition, cut, bounds)
        gone = await self._places.total_before(partition, low, bounds)
        return max(0, kept.changes - gone.changes)

    @staticmethod
    def _later(
        one: Mapping[Partition, LogPosition], other: Mapping[Partition, LogPosition]
    ) -> dict[Partition, LogPosition]:
        return {partition: max(cut, other[partition]) for partition, cut in one.items()}

    def _delete(self, cuts: Mapping[Partition, LogPosition]) -> None:
        kafka = library()
        wanted = [kafka.TopicPartition(*partition, cut) for partition, cut in cuts.items()]
        for future in (
            self._client.admin().delete_records(wanted, request_timeout=REQUEST_S).values()
        ):
            future.result()
