"""What happens in which round, from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from penstock.boundaries import POINTS, Boundary, Point
from penstock.errors import ConfigError


class Fault(StrEnum):
    """Everything that is done to a running project."""

    KILL = "kill"
    KILL_AT = "kill_at"
    KILL_TWICE = "kill_twice"
    KILL_IN_LARGE = "kill_in_large"
    KILL_DATABASE = "kill_database"
    KILL_SOURCE = "kill_source"
    KILL_EVERYTHING_TWICE = "kill_everything_twice"
    STOP = "stop"
    FREEZE = "freeze"
    FREEZE_DATABASE = "freeze_database"
    OUTLIVE_LEASE = "outlive_lease"
    CUT_SOURCE = "cut_source"
    RESET_SOURCE = "reset_source"
    SLOW_SOURCE = "slow_source"
    BYTEWISE_SOURCE = "bytewise_source"
    HALF_OPEN_SOURCE = "half_open_source"
    RESENT = "resent"
    REPLAYED = "replayed"
    SLOT_DROPPED = "slot_dropped"
    CUT_DATABASE = "cut_database"
    RESET_DATABASE = "reset_database"
    SLOW_DATABASE = "slow_database"
    BYTEWISE_DATABASE = "bytewise_database"
    HALF_OPEN_DATABASE = "half_open_database"
    DISK_FULL = "disk_full"


MEANINGS: Final = {
    Fault.KILL: "SIGKILL of our process at a random moment",
    Fault.KILL_AT: "SIGKILL of our process at a named boundary, before and after",
    Fault.KILL_TWICE: "the same, and once more while it comes back",
    Fault.KILL_IN_LARGE: "the same, while a transaction larger than a batch is half in the log",
    Fault.KILL_DATABASE: "SIGKILL of the project's database server",
    Fault.KILL_SOURCE: "SIGKILL of the source's database server",
    Fault.KILL_EVERYTHING_TWICE: "process, database and source, twice in quick succession",
    Fault.STOP: "SIGTERM, while changes flow",
    Fault.FREEZE: "SIGSTOP of our process, SIGCONT a little later",
    Fault.FREEZE_DATABASE: "SIGSTOP of the project's database, SIGCONT a little later",
    Fault.OUTLIVE_LEASE: "SIGSTOP at a boundary, the lock is lost, another takes over; SIGCONT",
    Fault.CUT_SOURCE: "the connections to the source are closed",
    Fault.RESET_SOURCE: "the connections to the source are reset (RST)",
    Fault.SLOW_SOURCE: "every packet from and to the source comes 50 ms late",
    Fault.BYTEWISE_SOURCE: "one byte at a time from and to the source",
    Fault.HALF_OPEN_SOURCE: "the connections to the source stay open and are never answered again",
    Fault.RESENT: "the source sends again what it sent before, and old after new",
    Fault.REPLAYED: "part of the log is processed again (`penstock replay`)",
    Fault.SLOT_DROPPED: "the replication slot is dropped",
    Fault.CUT_DATABASE: "the connections to the project's database are closed",
    Fault.RESET_DATABASE: "the connections to the project's database are reset (RST)",
    Fault.SLOW_DATABASE: "every packet from and to the database comes 50 ms late",
    Fault.BYTEWISE_DATABASE: "one byte at a time from and to the database",
    Fault.HALF_OPEN_DATABASE: "the database is silent, then resets; at times we are killed then",
    Fault.DISK_FULL: "the disk of the project's database is full for a while (a tmpfs; root only)",
}

KILLS: Final = {
    Fault.KILL: 1,
    Fault.KILL_AT: 1,
    Fault.KILL_TWICE: 2,
    Fault.KILL_IN_LARGE: 1,
    Fault.KILL_DATABASE: 1,
    Fault.KILL_SOURCE: 1,
    Fault.KILL_EVERYTHING_TWICE: 6,
}
"""How many processes a fault kills."""

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
}
_RARE: Final = frozenset({Fault.SLOT_DROPPED, Fault.DISK_FULL, Fault.HALF_OPEN_SOURCE})
"""Faults that take long to recover from."""
_GENTLE_ODDS: Final = 1 / 60
_RARE_ODDS: Final = 1 / 300
"""How often each of the faults that kill nobody comes, beside one that kills."""


@dataclass(frozen=True, slots=True)
class Round:
    """One fault, and when it comes: after which share of the round's changes."""

    fault: Fault
    share: float
    length_s: float
    point: Point | None = None
    times: int = 1

    def __str__(self) -> str:
        return f"{self.fault} {self.point}" if self.point else str(self.fault)


class _Maker:
    """Makes rounds until there are enough kills."""

    def __init__(
        self, seed: int, kills: int, only: Sequence[Fault], points: Sequence[Point], repeat: int
    ) -> None:
        self.repeat = repeat
        self.chance = random.Random(seed)
        self.left = kills
        self.wanted = list(only) or list(Fault)
        self.points = list(points) or list(POINTS)
        self.rounds: list[Round] = []

    def add(self, fault: Fault, point: Point | None = None) -> None:
        chance = self.chance
        self.left -= KILLS.get(fault, 0)
        if fault is Fault.OUTLIVE_LEASE:
            allowed = [point for point in _STOPPING if point in self.points] or _STOPPING
            point = chance.choice(allowed)
        early = point is not None and point.boundary in _EARLY
        times = 1 if early else chance.randrange(1, 5)
        self.rounds.append(Round(fault, chance.random(), chance.uniform(0.3, 2.0), point, times))

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
) -> list[Round]:
    """The rounds of a campaign: first every fault and every boundary once, as far as ``kills`` goes
    (faults that kill nobody ``repeat`` times), then whatever the seed says."""
    maker = _Maker(seed, kills, only, points, repeat)
    maker.everything_once()
    maker.the_rest()
    return maker.rounds


def point_named(name: str) -> Point:
    """A side of a boundary as it is written on the command line."""
    for point in POINTS:
        if str(point) == name:
            return point
    known = ", ".join(map(str, POINTS))
    raise ConfigError(f"expected boundaries among {known}, got {name!r}: choose some of these")


def fault_named(name: str) -> Fault:
    """A fault as it is written on the command line."""
    try:
        return Fault(name)
    except ValueError:
        raise ConfigError(
            f"expected faults among {', '.join(Fault)}, got {name!r}: choose some of these"
        ) from None
