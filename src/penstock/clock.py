"""Time, as something that is passed in. Standard library only."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from penstock.records import Microseconds


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> Microseconds:
        """The wall clock in microseconds since 1970 UTC: for stamps that are stored."""

    def monotonic(self) -> float:
        """Seconds that never go back: for durations and limits."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Microseconds:
        return Microseconds(time.time_ns() // 1000)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
