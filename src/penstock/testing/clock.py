"""A clock that moves only when it is told to."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

from penstock.records import Microseconds


class ManualClock:
    """Time stands still until `advance`; whoever sleeps wakes when their moment has come."""

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self._start = now
        self._elapsed_s = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def now(self) -> Microseconds:
        return Microseconds(self._start + round(self._elapsed_s * 1e6))

    def monotonic(self) -> float:
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        event = asyncio.Event()
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._order), event))
        await event.wait()

    @property
    def sleeping(self) -> int:
        """How many wait for time to pass."""
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass and wake those whose moment has come."""
        self._elapsed_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed_s:
            heapq.heappop(self._sleepers)[2].set()


class SwiftClock(ManualClock):
    """Whoever sleeps wakes at once, and so much time has passed."""

    async def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)
