"""What happens in which round, from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from penstock.boundaries import POINTS, Boundary, Point
from penstock.errors import ConfigError
from penstock.torture.kinds import DEFAULT, KILLS, Fault, Setting, why_not
from penstock.torture.pairs import cover

_EARLY: Final = frozenset({Boundary.MIGRATE, Boundary.CHUNK})
"""Boundaries that are passed at the beginning, and after the slot was lost, only."""
_STOPPING: Final = tuple(
    point
    for point in POINTS
    if point.boundary in {Boundary.RECEIVE, Boundary.APPEND, Boundary.ACKNOWLEDGE}
    or str(point) == "apply.before"
)
"""Where a process may stand still without holding what the one that takes over needs."""
_WEIGHTS: Final = {
    Fault.KILL: 6,
    Fault.KILL_AT: 10,
    Fault.KILL_TWICE: 2,
    Fault.KILL_IN_LARGE: 1,
    Fault.KILL_DATABASE: 3,
    Fault.KILL_SOURCE: 3,
    Fault.KILL_EVERYTHING_TWICE: 1,
    Fault.KILL_BROKER: 3,
}
_RARE: Final = frozenset(
    {Fault.SLOT_DROPPED, Fault.BINLOG_PURGED, Fault.DISK_FULL, Fault.HALF_OPEN_SOURCE,
     Fault.LATE_SENDER}
)  # fmt: skip
"""Faults that take long to recover from."""
_GENTLE_ODDS: Final = 1 / 60
_RARE_ODDS: Final = 1 / 300
"""How often each of the faults that kill nobody comes, beside one that kills."""


@dataclass(frozen=True, slots=True)
class Round:
    """One fault, and when it comes: after which share of the round's changes. ``also`` are others
    that come close to it, before all is well again."""

    fault: Fault
    share: float
    length_s: float
    point: Point | None = None
    times: int = 1
    also: tuple[Round, ...] = ()

    def __str__(self) -> str:
        own = f"{self.fault} {self.point}" if self.point else str(self.fault)
        return " + ".join([own, *map(str, self.also)])

    @property
    def number(self) -> int:
        """Any number, to choose one of several processes."""
        return int(self.share * 997)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All of them."""
        return (self.fault, *(other.fault for other in self.also))


class _Maker:
    """Makes rounds until there are enough kills."""

    def __init__(
        self, seed: int, kills: int, wanted: Sequence[Fault], points: Sequence[Point], repeat: int
    ) -> None:
        self.repeat = repeat
        self.chance = random.Random(seed)
        self.left = kills
        self.wanted = list(wanted)
        self.points = list(points) or list(POINTS)
        self.rounds: list[Round] = []

    def add(self, fault: Fault, point: Point | None = None) -> None:
        self.rounds.append(self.one(fault, point))

    def one(self, fault: Fault, point: Point | None = None) -> Round:
        chance = self.chance
        self.left -= KILLS.get(fault, 0)
        if fault is Fault.OUTLIVE_LEASE:
            allowed = [point for point in _STOPPING if point in self.points] or _STOPPING
            point = chance.choice(allowed)
        early = point is not None and point.boundary in _EARLY
        times = 1 if early else chance.randrange(1, 5)
        return Round(fault, chance.random(), chance.uniform(0.3, 2.0), point, times)

    def together(self) -> None:
        """Every pair of kinds that can be together, close in time at least once."""
        later = [point for point in self.points if point.boundary not in _EARLY] or self.points
        rounds = []
        for faults in cover(self.wanted, self.chance):
            first, *others = [
                self.one(fault, self.chance.choice(later) if fault is Fault.KILL_AT else None)
                for fault in faults
            ]
            rounds.append(replace(first, also=tuple(others)))
        self.chance.shuffle(rounds)
        self.rounds += rounds

    def everything_once(self) -> None:
        """While a project begins there are migrations, and copies of what there is; then all else,
        in any order."""
        rest: list[tuple[Fault, Point | None]] = [
            (fault, None)
            for fault in self.wanted
            for _ in range(1 if fault in KILLS else self.repeat)
            if fault is not Fault.KILL_AT
        ]
        if Fault.KILL_AT in self.wanted:
            early = [point for point in self.points if point.boundary in _EARLY]
            for one in sorted(early, key=lambda point: point.boundary is Boundary.CHUNK):
                self.add(Fault.KILL_AT, one)
            rest += [(Fault.KILL_AT, point) for point in self.points if point not in early]
        self.chance.shuffle(rest)
        for fault, point in rest:
            if self.left > 0 or fault not in KILLS:
                self.add(fault, point)

    def the_rest(self) -> None:
        """Kills by weight, and now and then one of the faults that kill nobody."""
        chance = self.chance
        killing = [fault for fault in self.wanted if fault in KILLS]
        weights = [_WEIGHTS[fault] for fault in killing]
        later = [point for point in self.points if point.boundary not in _EARLY] or self.points
        others = [fault for fault in self.wanted if fault not in KILLS]
        odds = [_RARE_ODDS if fault in _RARE else _GENTLE_ODDS for fault in others]
        while self.left > 0 and killing:
            if others and chance.random() < sum(odds):
                self.add(chance.choices(others, odds)[0])
            [fault] = chance.choices(killing, weights)
            self.add(fault, chance.choice(later) if fault is Fault.KILL_AT else None)


def make_plan(
    seed: int,
    kills: int,
    only: Sequence[Fault] = (),
    points: Sequence[Point] = (),
    repeat: int = 1,
    *,
    setting: Setting = DEFAULT,
    pairs: bool = False,
) -> list[Round]:
    """The rounds of a campaign: first every fault and every boundary once, as far as ``kills`` goes
    (faults that kill nobody ``repeat`` times), then with ``pairs`` all of them two by two, however
    many that kills, then whatever the seed says."""
    wanted = [fault for fault in only or Fault if why_not(fault, setting) is None]
    maker = _Maker(seed, kills, wanted, points, repeat)
    maker.everything_once()
    if pairs:
        maker.together()
    maker.the_rest()
    return maker.rounds


def point_named(name: str) -> Point:
    """A side of a boundary as it is written on the command line."""
    for point in POINTS:
        if str(point) == name:
            return point
    known = ", ".join(map(str, POINTS))
    raise ConfigError(f"expected boundaries among {known}, got {name!r}: choose some of these")
