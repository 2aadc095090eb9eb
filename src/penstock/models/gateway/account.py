"""What calls may cost, and what they did: reserved before, settled afterwards.

The most that a call can cost is reserved before it is sent, in one step with the look at the
budget, so that no number of calls at once spends more than there is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

from penstock.clock import Clock
from penstock.errors import RetryableError
from penstock.models.base import Usage, Who
from penstock.models.limits import day_of
from penstock.records import Microseconds

NANOS: Final = 1_000_000_000
"""Money is counted in billionths: sums stay whole."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """Of a day (UTC), in the currency of the prices. None: no limit. ``keys`` holds those of single
    keys, by their ids, instead of ``per_key``."""

    per_tenant: float | None = None
    per_key: float | None = None
    keys: Mapping[str, float] = field(default_factory=dict)

    def of(self, who: Who) -> tuple[int | None, int | None]:
        """The tenant's and the key's, in billionths."""
        key = self.keys.get(who.key, self.per_key) if who.key else None
        return _nanos(self.per_tenant), _nanos(key)

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.per_tenant is not None or self.per_key is not None or bool(self.keys)


class Reservation(NamedTuple):
    """What was put aside for a call: for whom, on which day, how much."""

    who: Who
    day: str
    nanos: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls of one kind have taken. ``unknown`` is how many of them cost nobody knows what;
    ``failed`` is how many came to nothing."""

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    nanos: int = 0
    unknown: int = 0

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(*(getattr(self, n) + getattr(other, n) for n in self.__slots__))


class Account(Protocol):
    """Who counts."""

    async def reserve(self, who: Who, nanos: int, budgets: Budgets) -> Reservation:
        """Put so much aside. `RetryableError` when a budget does not hold it."""

    def settle(self, reserved: Reservation, model: str, usage: Usage | None) -> None:
        """Say what the call took; None: nothing, because it was not answered. At once: what is
        stored is written a moment later."""

    async def close(self) -> None:
        """Write down what is still to be written."""


class MemoryAccount:
    """Counts in this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.taken: dict[tuple[str, str, str], int] = defaultdict(int)
        """By tenant, day and key ("" is the tenant's whole): settled and reserved."""
        self.spent: dict[tuple[str, str, str, str], Spent] = defaultdict(Spent)
        """By tenant, day, key and model."""

    async def reserve(self, who: Who, nanos: int, budgets: Budgets) -> Reservation:
        now = self._clock.now()
        day = day_of(now)
        places = [(who.tenant, day, "")] + ([(who.tenant, day, who.key)] if who.key else [])
        for place, most in zip(places, budgets.of(who), strict=False):
            if most is not None and self.taken[place] + nanos > most:
                raise beyond(most, self.taken[place], place[2], now)
        for place in places:
            self.taken[place] += nanos
        return Reservation(who, day, nanos)

    def settle(self, reserved: Reservation, model: str, usage: Usage | None) -> None:
        who, day, _ = reserved
        spent = spent_of(usage)
        for key in {"", who.key}:
            self.taken[who.tenant, day, key] += difference(reserved, usage)
        self.spent[who.tenant, day, who.key, model] = self.spent[
            who.tenant, day, who.key, model
        ].plus(spent)

    async def close(self) -> None:
        """Nothing is kept."""


def spent_of(usage: Usage | None) -> Spent:
    """What is written down of one call."""
    if usage is None:
        return Spent(requests=1, failed=1)
    return Spent(
        1,
        0,
        usage.input_tokens or 0,
        usage.output_tokens or 0,
        usage.cached_tokens or 0,
        _nanos(usage.cost) or 0,
        int(usage.cost is None),
    )


def difference(reserved: Reservation, usage: Usage | None) -> int:
    """From what was put aside to what was spent. What is unknown stays put aside."""
    if usage is None:
        return -reserved.nanos
    cost = _nanos(usage.cost)
    return 0 if cost is None else cost - reserved.nanos


def beyond(most: int, taken: int, key: str, now: Microseconds) -> RetryableError:
    """The error when a budget does not hold one more call."""
    moment = datetime.fromtimestamp(now / 1e6, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    whose = f"the key {key}" if key else "the project"
    return RetryableError(
        f"the budget of {most / NANOS:g} a day of {whose} holds no further call of a model (used "
        f"and put aside today: {taken / NANOS:.6g}): ask again after midnight UTC, or raise "
        "`budgets` of the generator",
        retry_after_s=min(300.0, (midnight - moment).total_seconds()),
        budget=True,
    )


def _nanos(amount: float | None) -> int | None:
    return None if amount is None else round(amount * NANOS)
