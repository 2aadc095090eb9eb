"""What an endpoint may be asked: requests and tokens a minute, characters and money a day.

A request is reserved before it is sent, so limits hold however many requests are under way; where
the ledger is in the database they hold over all processes of a project. Rates are kept by the
generic cell rate algorithm (ITU-T I.371): each request moves a time forward by what it takes, and
waits until that time is at most a burst ahead. At 88 % of the rate, with a burst of 1.2 seconds and
requests of at most a tenth of a minute's tokens, no minute has more than the limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

from penstock.clock import Clock
from penstock.errors import RetryableError
from penstock.records import Microseconds

_SHARE: Final = 0.88
BURST_S: Final = 1.2


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. ``price`` is that of a million tokens, in ``cost_per_day``'s currency."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    characters_per_day: int | None = None
    cost_per_day: float | None = None
    price: float | None = None

    @property
    def tokens_per_day(self) -> float | None:
        """What the money of a day buys."""
        if self.cost_per_day is None or not self.price:
            return None
        return self.cost_per_day / self.price * 1e6

    @property
    def batch_tokens(self) -> int | None:
        """The most that one request should have, so that it is no more than a burst."""
        return None if self.tokens_per_minute is None else max(1, self.tokens_per_minute // 10)

    def takes_s(self, use: Use) -> tuple[float, float]:
        """How far a request moves the times of requests and of tokens."""
        requests, tokens = self.requests_per_minute, self.tokens_per_minute
        return (
            0.0 if requests is None else use.requests * 60.0 / (requests * _SHARE),
            0.0 if tokens is None else use.tokens * 60.0 / (tokens * _SHARE),
        )


class Use(NamedTuple):
    """What a request takes, or a day has taken."""

    requests: int = 0
    characters: int = 0
    tokens: int = 0

    def plus(self, other: Use, sign: int = 1) -> Use:
        """The sum (or, with -1, the difference, never below 0)."""
        return Use(*(max(0, a + sign * b) for a, b in zip(self, other, strict=True)))


class Ledger(Protocol):
    """Who counts."""

    async def reserve(self, use: Use, *, priority: bool) -> float:
        """Count a request that is about to be sent; returns the seconds to wait before it is.

        Raises `RetryableError` when the day's budget does not hold it. With ``priority`` (a person
        waits) it is counted and neither waits nor is refused.
        """

    async def settle(self, reserved: Use, used: Use) -> None:
        """Correct what was reserved to what was used (nothing, when the endpoint refused)."""


def day_of(now: Microseconds) -> str:
    """The day of a moment, in UTC."""
    return datetime.fromtimestamp(now / 1e6, UTC).date().isoformat()


def refuse_beyond(limits: Limits, today: Use, use: Use, now: Microseconds) -> None:
    """Raise when the day's budget does not hold one more request."""
    total = today.plus(use)
    most_tokens = limits.tokens_per_day
    if limits.characters_per_day is not None and total.characters > limits.characters_per_day:
        said = f"{limits.characters_per_day:,} characters"
        used = f"{today.characters:,}"
    elif most_tokens is not None and total.tokens > most_tokens:
        said = f"{limits.cost_per_day:g} ({most_tokens:,.0f} tokens)"
        used = f"{today.tokens / most_tokens * (limits.cost_per_day or 0):.4g}"
    else:
        return
    moment = datetime.fromtimestamp(now / 1e6, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    raise RetryableError(
        f"the budget of {said} a day holds no further request (used today: {used}): it goes on at "
        "midnight UTC, or raise `budget` of the model; what is stored keeps serving",
        retry_after_s=min(300.0, (midnight - moment).total_seconds()),
        budget=True,
    )


def paced(tat_s: float, now_s: float, takes_s: float) -> tuple[float, float]:
    """The new time of a rate, and how long this request waits."""
    begins = max(tat_s, now_s)
    return begins + takes_s, max(0.0, begins - now_s - BURST_S)


@dataclass
class MemoryLedger:
    """Counts in this process."""

    limits: Limits
    clock: Clock
    days: dict[str, Use] = field(default_factory=lambda: defaultdict(Use))
    _tat: list[float] = field(default_factory=lambda: [0.0, 0.0])

    async def reserve(self, use: Use, *, priority: bool) -> float:
        now = self.clock.now()
        today = self.days[day_of(now)]
        if not priority:
            refuse_beyond(self.limits, today, use, now)
        self.days[day_of(now)] = today.plus(use)
        waits = [0.0]
        for place, takes in enumerate(self.limits.takes_s(use)):
            if takes:
                self._tat[place], wait = paced(self._tat[place], self.clock.monotonic(), takes)
                waits.append(wait)
        return 0.0 if priority else max(waits)

    async def settle(self, reserved: Use, used: Use) -> None:
        day = day_of(self.clock.now())
        self.days[day] = self.days[day].plus(reserved, -1).plus(used)


class References(Protocol):
    """Where it is kept what a model gave for the probe when its first vectors were stored."""

    async def recall(self, name: str) -> bytes | None:
        """The probe's vector (float32, little-endian) under this name."""

    async def remember(self, name: str, vector: bytes) -> bytes:
        """Keep it, unless there is one already; returns the one that is kept."""


class MemoryReferences:
    """Kept in this process."""

    def __init__(self, kept: Mapping[str, bytes] | None = None) -> None:
        self.kept = dict(kept or {})

    async def recall(self, name: str) -> bytes | None:
        return self.kept.get(name)

    async def remember(self, name: str, vector: bytes) -> bytes:
        return self.kept.setdefault(name, vector)
