"""When an endpoint is not asked: a breaker for each, a budget of tries, and lanes.

A breaker opens after failures, is half open after a while (one request is let through to see), and
closes when that goes well. Its time is the clock that it is given.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

from penstock.clock import Clock
from penstock.errors import FatalError, RetryableError, UnavailableError
from penstock.models.base import Priority

State = Literal["closed", "half-open", "open"]
RANKS: Final[dict[Priority, int]] = {"query": 0, "live": 1, "bulk": 2}
_LONGEST_OPEN_S: Final = 300.0
_MOST_TRIES: Final = 10.0


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """Opens after ``failures`` in a row, or when ``share`` of the last ``window`` requests failed;
    stays so for ``open_s``, twice as long each time that the request that looks fails as well."""

    failures: int = 5
    share: float = 0.5
    window: int = 20
    open_s: float = 10.0


class Breaker:
    """Of one endpoint."""

    def __init__(self, name: str, rules: BreakerRules, clock: Clock) -> None:
        self.name = name
        self.opened = 0
        self._rules = rules
        self._clock = clock
        self._recent: deque[bool] = deque(maxlen=rules.window)
        self._in_a_row = 0
        self._until: float | None = None
        self._open_s = rules.open_s
        self._looking = False

    @property
    def state(self) -> State:
        """Whether requests are let through."""
        if self._until is None:
            return "closed"
        return "open" if self._clock.monotonic() < self._until else "half-open"

    def enter(self) -> None:
        """Raise `UnavailableError` if this request is not to be sent."""
        state = self.state
        if state == "closed":
            return
        if state == "half-open" and not self._looking:
            self._looking = True
            return
        wait = max(0.1, (self._until or 0.0) - self._clock.monotonic())
        raise UnavailableError(
            f"{self.name} has failed again and again, so it is not asked for another {wait:.1f} s",
            retry_after_s=wait,
            breaker=True,
        )

    def succeeded(self) -> None:
        """It answered."""
        self._looking = False
        self._in_a_row = 0
        self._recent.append(True)
        if self._until is not None:
            self._until, self._open_s = None, self._rules.open_s
            self._recent.clear()

    def failed(self, retry_after_s: float | None = None) -> None:
        """It did not, for a reason of its own."""
        again = self._until is not None
        self._looking = False
        self._in_a_row += 1
        self._recent.append(False)
        bad = self._recent.count(False)
        full = len(self._recent) == self._rules.window
        often = full and bad >= self._rules.share * self._rules.window
        if again:
            self._open_s = min(_LONGEST_OPEN_S, self._open_s * 2)
        if again or often or self._in_a_row >= self._rules.failures:
            wait = min(_LONGEST_OPEN_S, max(self._open_s, retry_after_s or 0.0))
            self._until = self._clock.monotonic() + wait
            self._recent.clear()
            self.opened += 1

    def left(self) -> None:
        """It was not heard to the end (whoever asked has gone): that says nothing of it."""
        self._looking = False


def is_fault(error: BaseException) -> bool:
    """Whether an error is the endpoint's: a budget, its limits and our own breaker are not."""
    if isinstance(error, RetryableError):
        return not any(error.facts.get(name) for name in ("budget", "own", "breaker"))
    return isinstance(error, FatalError)


class TryBudget:
    """Second tries are a share of the first ones: an endpoint that fails is not asked three times
    as much as one that is well."""

    def __init__(self, share: float = 0.2) -> None:
        self._share = share
        self._left = _MOST_TRIES

    def asked(self) -> None:
        """A first try."""
        self._left = min(_MOST_TRIES, self._left + self._share)

    def take(self) -> bool:
        """Whether one more try may be made."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Lane:
    """At most so many requests to an endpoint at once. Whoever is asked by a person overtakes, and
    one place is never given to what can wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_once = 0
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(not future.done() for _, _, future in self._waiting)

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a place, and give it back."""
        rank = RANKS[priority]
        if not self._has_room(rank) or self._waits_before(rank):
            await self._queue(rank)
        else:
            self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1
            self._call()

    async def _queue(self, rank: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._at_once -= 1  # the place was given just now
            future.cancel()
            self._call()
            raise

    def _has_room(self, rank: int) -> bool:
        kept = 1 if rank == RANKS["bulk"] and self._most > 1 else 0
        return self._at_once < self._most - kept

    def _waits_before(self, rank: int) -> bool:
        return any(not f.done() and there <= rank for there, _, f in self._waiting)

    def _call(self) -> None:
        while self._waiting:
            rank, _, future = self._waiting[0]
            if future.done():
                heapq.heappop(self._waiting)
                continue
            if not self._has_room(rank):
                return
            heapq.heappop(self._waiting)
            self._at_once += 1
            future.set_result(None)
