"""A new model for a share of those who ask: taken back by itself when it fails too often.

Who is asked by which model is decided by a stable hash, so nobody changes models between two
questions. Rolled back and promoted are said once, and hold in all processes of a project.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, Literal, Protocol

from penstock.models.base import Who

State = Literal["running", "promoted", "rolled back"]
_Z: Final = 1.645
"""One-sided 95 %."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one of the two models was asked, and how often it failed (also: wrote no JSON where that
    was wanted, or was cut off)."""

    requests: int = 0
    errors: int = 0

    def plus(self, other: Arm) -> Arm:
        """Both together."""
        return Arm(self.requests + other.requests, self.errors + other.errors)

    @property
    def rate(self) -> float:
        """The share that failed."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def at_least(self) -> float:
        """The share below which it is hardly (5 %), by Wilson's score."""
        n = self.requests
        if not n:
            return 0.0
        middle = self.rate + _Z**2 / (2 * n)
        spread = _Z * math.sqrt(self.rate * (1 - self.rate) / n + _Z**2 / (4 * n * n))
        return max(0.0, (middle - spread) / (1 + _Z**2 / n))


@dataclass(frozen=True, slots=True)
class CanaryRules:
    """Which model, for which share, and how much may fail: more than ``most_errors`` and more than
    those of the other models, looked at from ``least_requests`` on."""

    model: str
    share: float
    most_errors: float = 0.05
    least_requests: int = 20


@dataclass(frozen=True, slots=True)
class Standing:
    """How it goes."""

    state: State = "running"
    canary: Arm = Arm()
    others: Arm = Arm()
    reason: str = ""

    def judged(self, rules: CanaryRules) -> Standing:
        """Rolled back, if what it did says so."""
        if self.state != "running" or self.canary.requests < rules.least_requests:
            return self
        allowed = max(rules.most_errors, self.others.rate)
        if self.canary.at_least <= allowed:
            return self
        reason = (
            f"{self.canary.errors} of {self.canary.requests} requests failed, beside "
            f"{self.others.errors} of {self.others.requests} with the other models"
        )
        return replace(self, state="rolled back", reason=reason)


class CanaryBook(Protocol):
    """Where it is kept how canaries go."""

    def standing(self, model: str) -> Standing:
        """As far as this process knows."""

    def count(self, rules: CanaryRules, *, canary: bool, failed: bool) -> None:
        """One request more."""


class MemoryCanaries:
    """Kept in this process."""

    def __init__(self) -> None:
        self.known: dict[str, Standing] = {}

    def standing(self, model: str) -> Standing:
        return self.known.get(model, Standing())

    def count(self, rules: CanaryRules, *, canary: bool, failed: bool) -> None:
        had, arm = self.standing(rules.model), Arm(1, int(failed))
        now = (
            replace(had, canary=had.canary.plus(arm))
            if canary
            else replace(had, others=had.others.plus(arm))
        )
        self.known[rules.model] = now.judged(rules)


def chosen(rules: CanaryRules, standing: Standing, who: Who, prompt: str) -> bool:
    """Whether the new model is asked. Who has no name is told apart by what is asked."""
    if standing.state != "running":
        return standing.state == "promoted"
    whose = who.session or "\0".join(who.names) or who.key or prompt
    told = f"{rules.model}\0{who.tenant}\0{whose}".encode("utf-8", "replace")
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "big") < rules.share * 2**64
