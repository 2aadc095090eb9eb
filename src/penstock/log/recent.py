"""Batches that this process appended or read lately, kept decoded for its other readers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from penstock.records import Batch, Change, LogPosition, Microseconds

BYTES_PER_CHANGE = 800
"""What the Python objects of a change take beside its text, about."""


class Stored(NamedTuple):
    """One append to one partition, whole. ``size`` is about what it takes in memory."""

    first: LogPosition
    last: LogPosition
    changes: Sequence[Change]
    streams: frozenset[str]
    as_of: Microseconds | None
    size: int

    def since(self, after: LogPosition) -> Stored:
        """What is left of it for a reader that resumes inside it."""
        if after < self.first:
            return self
        return self._replace(changes=self.changes[after - self.first + 1 :])

    def of(self, streams: frozenset[str] | None) -> Sequence[Change]:
        """The changes of some streams (None: of all)."""
        if streams is None or self.streams <= streams:
            return self.changes
        if self.streams.isdisjoint(streams):
            return ()
        return tuple(change for change in self.changes if change.schema.stream in streams)


def joined(
    pieces: Sequence[tuple[LogPosition, Sequence[Change], Microseconds | None]],
    after: LogPosition,
) -> Batch:
    """One batch of consecutive ``(last, changes, as_of)``, the first of which follows ``after``."""
    times = [as_of for _, _, as_of in pieces if as_of is not None]
    changes = pieces[0][1] if len(pieces) == 1 else [c for _, some, _ in pieces for c in some]
    return Batch(changes, LogPosition(after + 1), pieces[-1][0], max(times) if times else None)


class Recent:
    """Holds at most ``limit`` bytes (as estimated); the longest held go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._partitions: dict[tuple[str, int], dict[LogPosition, Stored]] = {}
        self._arrivals: deque[tuple[tuple[str, int], Stored]] = deque()

    def put(self, topic: str, partition: int, stored: Stored) -> None:
        """Keep an append that is committed."""
        if stored.size > self._limit:
            return
        key = (topic, partition)
        held = self._partitions.setdefault(key, {})
        known = held.get(stored.first)
        if known is not None and known.last == stored.last:
            return
        held[stored.first] = stored
        self._arrivals.append((key, stored))
        self._held += stored.size
        while self._held > self._limit:
            self._drop_oldest()

    def read(
        self,
        topic: str,
        partition: int,
        after: LogPosition,
        max_changes: int,
        streams: frozenset[str] | None,
    ) -> Batch | None:
        """What follows ``after`` as far as it is held; None when the next append is not."""
        held = self._partitions.get((topic, partition))
        if not held:
            return None
        found = held.get(LogPosition(after + 1))
        if found is None:
            return None
        pieces = []
        while found is not None and found.first <= after + max_changes:
            pieces.append((found.last, found.of(streams), found.as_of))
            found = held.get(LogPosition(found.last + 1))
        return joined(pieces, after)

    def forget(self, topic: str) -> None:
        """Drop all that is held of a topic."""
        gone = {key for key in self._partitions if key[0] == topic}
        for key in gone:
            del self._partitions[key]
        kept = [(key, stored) for key, stored in self._arrivals if key not in gone]
        self._arrivals = deque(kept)
        self._held = sum(stored.size for _, stored in kept)

    def clear(self) -> None:
        """Drop all that is held."""
        self._partitions.clear()
        self._arrivals.clear()
        self._held = 0

    def trim(self, topic: str, partition: int, first: LogPosition) -> None:
        """Drop what retention removed below ``first``."""
        held = self._partitions.get((topic, partition))
        if held:
            for position in [known for known in held if known < first]:
                del held[position]

    def _drop_oldest(self) -> None:
        key, stored = self._arrivals.popleft()
        self._held -= stored.size
        held = self._partitions.get(key)
        if held is not None and held.get(stored.first) is stored:
            del held[stored.first]
            if not held:
                del self._partitions[key]
