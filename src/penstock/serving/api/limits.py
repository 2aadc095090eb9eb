"""How much a key, and all keys together, may ask.

Each has a bucket of tokens, one for a request, that fills at its rate, and a number of requests
that may be at work at once. What is too much is answered with 429 and when to come back; every
answer to a key that has a rate says what is left of it (``RateLimit`` and ``RateLimit-Policy``, as
the IETF's draft has them).

Rates hold for all processes of a project together: each takes blocks of tokens, of a tenth of a
second at most, out of buckets that they share (`penstock.stores.rates`), so that few requests ask
there and a client that is refused costs nothing. While those cannot be reached each process counts
for itself. Requests at work are counted by each process for itself, which is what they load.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.serving.api.guard import Scope
from penstock.serving.api.problems import ProblemError
from penstock.stores.rates import RateStore

ADMITTED: Final = "penstock.admitted"
"""Where a request's scope keeps what its admission is."""
_MOST_KEYS: Final = 10_000
_BLOCK_S: Final = 0.1
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """``rate`` requests a second on average, ``burst`` of them at once, ``concurrent`` at work at
    the same time; None: no bound."""

    rate: float | None = None
    burst: int | None = None
    concurrent: int | None = None

    @property
    def size(self) -> int:
        """The tokens of a full bucket."""
        if self.burst is not None:
            return self.burst
        return max(1, math.ceil(self.rate or 1))


class Counter:
    """What one key has used. With ``rates``, its tokens are those that this process was given."""

    def __init__(
        self, limit: Limit, clock: Clock, rates: RateStore | None = None, name: str = ""
    ) -> None:
        self.limit = limit
        self.working = 0
        self._clock = clock
        self._rates = rates
        self._name = name
        self._asking = asyncio.Lock()
        self._tokens = 0.0 if rates is not None else float(limit.size)
        self._elsewhere = 0.0
        self._at = clock.monotonic()
        self._ask_at = -math.inf

    async def fill(self) -> None:
        """See to it that there is a token, if there can be one."""
        rate, rates = self.limit.rate, self._rates
        if rate is None:
            return
        if rates is None:
            self._fill_alone(rate)
            return
        if self._tokens >= 1 or self._clock.monotonic() < self._ask_at:
            return
        async with self._asking:
            if self._tokens >= 1 or self._clock.monotonic() < self._ask_at:
                return
            size = self.limit.size
            block = max(1, min(size, math.floor(rate * _BLOCK_S)))
            try:
                lease = await rates.lease(self._name, rate=rate, size=size, block=block)
            except PenstockError:  # whoever serves while the database is away
                self._fill_alone(rate)
                return
            self._at = self._clock.monotonic()
            self._tokens += lease.granted
            self._elsewhere = lease.left
            self._ask_at = self._at + (0.0 if lease.granted else (1 - lease.left) / rate)

    def _fill_alone(self, rate: float) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self.limit.size, self._tokens + (now - self._at) * rate)
        self._at = now

    def wait_s(self) -> float:
        """How long until the next request may come; 0: it may come now."""
        rate = self.limit.rate
        if rate is None or self._tokens >= 1:
            return 0.0
        if self._rates is not None:
            return max(self._ask_at - self._clock.monotonic(), 0.001)
        return (1 - self._tokens) / rate

    def full(self) -> bool:
        """Are as many at work as may be?"""
        most = self.limit.concurrent
        return most is not None and self.working >= most

    def take(self) -> None:
        """A request begins."""
        self.working += 1
        if self.limit.rate is not None:
            self._tokens -= 1

    def headers(self, name: str) -> dict[str, str]:
        """What a client is told."""
        rate = self.limit.rate
        if rate is None:
            return {}
        wait = 0.0 if self._tokens + self._elsewhere >= 1 else self.wait_s()
        left = max(0, math.floor(self._tokens + self._elsewhere))
        window = max(1, math.ceil(self.limit.size / rate))
        return {
            "RateLimit-Policy": f'"{name}";q={self.limit.size};w={window}',
            "RateLimit": f'"{name}";r={left};t={max(0, math.ceil(wait))}',
        }


class Admission:
    """A request's place: ends once, with the request."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._ends: list[Callable[[], None]] = []

    def then(self, end: Callable[[], None]) -> None:
        """Do this at the end."""
        self._ends.append(end)

    def end(self) -> None:
        """Give the place back."""
        while self._ends:
            self._ends.pop()()


class Limits:
    """Admits requests, by the key that they show."""

    def __init__(
        self,
        clock: Clock,
        *,
        key: Limit | None = None,
        tenant: Limit | None = None,
        rates: RateStore | None = None,
    ) -> None:
        self._clock = clock
        self._rates = rates
        self._key = key or Limit()
        self._tenant = Counter(tenant or Limit(), clock, rates, "tenant")
        self._keys: OrderedDict[str, Counter] = OrderedDict()

    async def admit(self, scope: Scope, key_id: str) -> None:
        """Let a request in, for as long as it lasts; `ProblemError` when it is too much."""
        admission = scope.get(ADMITTED)
        if admission is None:  # nobody would end it
            return
        mine = self._counter(key_id)
        for _ in range(_TRIES):  # others may take what came while this one waited
            await mine.fill()
            await self._tenant.fill()
            if not mine.wait_s() and not self._tenant.wait_s():
                break
        for counter, name, whose in (
            (mine, "key", "this key"),
            (self._tenant, "tenant", "all keys together"),
        ):
            self._refuse(counter, name, whose)
        for counter in (mine, self._tenant):
            counter.take()
            admission.then(lambda counter=counter: self._leave(counter))
        admission.headers.update(mine.headers("key") or self._tenant.headers("tenant"))

    def _refuse(self, counter: Counter, name: str, whose: str) -> None:
        wait = counter.wait_s()
        limit = counter.limit
        if wait > 0:
            sentence = (
                f"expected at most {limit.rate:g} requests a second of {whose} "
                f"({limit.size} at once), got more: come back in {wait:.1f} s"
            )
        elif counter.full():
            wait = 1.0
            sentence = (
                f"expected at most {limit.concurrent} requests of {whose} at work at once, got "
                "more: wait for one of them"
            )
        else:
            return
        headers = {"Retry-After": str(max(1, math.ceil(wait))), **counter.headers(name)}
        raise ProblemError(429, "too_many_requests", sentence, headers=headers)

    def _leave(self, counter: Counter) -> None:
        counter.working -= 1

    def _counter(self, key_id: str) -> Counter:
        counter = self._keys.get(key_id)
        if counter is None:
            counter = self._keys[key_id] = Counter(
                self._key, self._clock, self._rates, f"key {key_id}"
            )
        self._keys.move_to_end(key_id)
        for old in list(self._keys)[: len(self._keys) - _MOST_KEYS]:
            if self._keys[old].working == 0:
                del self._keys[old]
        return counter
