"""A new model for a share of those who ask: taken back by itself when it fails too often or answers
worse than the others, and promoted when it is shown that it does not.

An answer is *good* if it says something, rests on what it cites, and nothing of it had to be
dropped; a rating counts beside that. Which of two shares of good answers is higher is looked at
after every answer, so the test is one that may be looked at at any time: the mixture sequential
probability ratio test (Johari, Koomen, Pekelis and Walsh, "Always Valid Inference: Continuous
Monitoring of A/B Tests", Operations Research 70(3), 2022), for a difference that is as good as
normal, with a normal mixture.

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
_WRONG: Final = 0.05
"""How often a decision on quality may be wrong, however often it is looked at."""
_EXPECTED: Final = 0.1
"""How large differences of quality are, as they are expected: found soonest, but others are too."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one of the two models was asked, and how often it failed (also: wrote no JSON where that
    was wanted, or was cut off)."""

    requests: int = 0
    errors: int = 0
    judged: int = 0
    """Of how many answers and ratings it is known how good they are."""
    good: int = 0

    def plus(self, other: Arm) -> Arm:
        """Both together."""
        return Arm(
            self.requests + other.requests,
            self.errors + other.errors,
            self.judged + other.judged,
            self.good + other.good,
        )

    @property
    def quality(self) -> float | None:
        """The share that is good; None: nobody knows of any."""
        return self.good / self.judged if self.judged else None

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
    least_judged: int = 200
    """Answers and ratings of each side, before its quality decides anything."""
    margin: float = 0.03
    """So much less of its answers may be good."""
    promotes: bool = True
    """Whether it is promoted when it is shown to be as good."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How it goes."""

    state: State = "running"
    canary: Arm = Arm()
    others: Arm = Arm()
    reason: str = ""

    def judged(self, rules: CanaryRules) -> Standing:
        """Rolled back or promoted, if what it did says so."""
        if self.state != "running" or self.canary.requests < rules.least_requests:
            return self
        allowed = max(rules.most_errors, self.others.rate)
        failed = (
            f"{self.canary.errors} of {self.canary.requests} requests failed, beside "
            f"{self.others.errors} of {self.others.requests} with the other models"
        )
        if self.canary.at_least > allowed:
            return replace(self, state="rolled back", reason=failed)
        if min(self.canary.judged, self.others.judged) < rules.least_judged:
            return self
        good = (
            f"{self.canary.good} of {self.canary.judged} answers and ratings were good, beside "
            f"{self.others.good} of {self.others.judged} with the other models"
        )
        if worse(self.canary, self.others):
            return replace(self, state="rolled back", reason=good)
        sound = self.canary.rate <= allowed
        if rules.promotes and sound and worse(self.others, self.canary, by=-rules.margin):
            return replace(self, state="promoted", reason=f"{good}; {failed}")
        return self


def worse(one: Arm, other: Arm, *, by: float = 0.0) -> bool:
    """Whether it is shown, whenever that is looked at, that the share of ``other`` that is good is
    above that of ``one`` by more than ``by``."""
    a, b = _smoothed(one), _smoothed(other)
    variance = a * (1 - a) / one.judged + b * (1 - b) / other.judged
    difference = b - a - by
    if difference <= 0:
        return False
    spread = _EXPECTED**2
    ratio = math.sqrt(variance / (variance + spread)) * math.exp(
        min(700.0, spread * difference**2 / (2 * variance * (variance + spread)))
    )
    return ratio >= 1 / _WRONG


def _smoothed(arm: Arm) -> float:
    """The share that is good, never 0 or 1: that all were so far does not make it certain."""
    return (arm.good + 1) / (arm.judged + 2)


class CanaryBook(Protocol):
    """Where it is kept how canaries go."""

    def standing(self, model: str) -> Standing:
        """As far as this process knows."""

    def count(self, rules: CanaryRules, *, canary: bool, failed: bool) -> None:
        """One request more."""

    def judge(self, rules: CanaryRules, *, canary: bool, good: bool) -> None:
        """It is known of one answer more how good it is."""


class MemoryCanaries:
    """Kept in this process."""

    def __init__(self) -> None:
        self.known: dict[str, Standing] = {}

    def standing(self, model: str) -> Standing:
        return self.known.get(model, Standing())

    def count(self, rules: CanaryRules, *, canary: bool, failed: bool) -> None:
        self._add(rules, Arm(1, int(failed)), canary=canary)

    def judge(self, rules: CanaryRules, *, canary: bool, good: bool) -> None:
        self._add(rules, Arm(judged=1, good=int(good)), canary=canary)

    def _add(self, rules: CanaryRules, arm: Arm, *, canary: bool) -> None:
        had = self.standing(rules.model)
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
