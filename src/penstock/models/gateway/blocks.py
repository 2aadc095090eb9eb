"""Money put aside in advance, so that most calls need not ask the database. Pure.

A block is what several calls to come may cost: it is put aside at once, for a tenant and one of
its keys, and calls take from it. It is no more than a hundredth of the budget, all of a process
together about a twentieth, and what nobody takes for a while is given back; what a process that is
killed has left stays put aside, so that a budget holds too little then, never too much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_CALLS: Final = 16
_SHARE: Final = 100
_ALL_SHARE: Final = 20
IDLE_S: Final = 1.0

Place = tuple[str, str]
"""A tenant and one of its keys; "" without one."""


@dataclass(slots=True)
class _Block:
    day: str
    left: int
    used_at: float


class Blocks:
    """What is left of those of one process."""

    def __init__(self) -> None:
        self._held: dict[Place, _Block] = {}

    def take(self, place: Place, day: str, nanos: int, now_s: float) -> bool:
        """Take so much for a call; False: there is not so much left for this day."""
        block = self._held.get(place)
        if block is None or block.day != day or block.left < nanos:
            return False
        block.left -= nanos
        block.used_at = now_s
        return True

    def put(self, place: Place, day: str, nanos: int, now_s: float) -> tuple[str, int] | None:
        """So much more is put aside. Returns what is left of another day: that is given back."""
        block = self._held.get(place)
        if block is not None and block.day == day:
            block.left += nanos
            block.used_at = now_s
            return None
        self._held[place] = _Block(day, nanos, now_s)
        return None if block is None else (block.day, block.left)

    def idle(self, now_s: float, *, all_of_them: bool = False) -> Iterator[tuple[Place, str, int]]:
        """Give back those that nobody has taken from for a while, or all: place, day, amount."""
        for place, block in list(self._held.items()):
            if all_of_them or now_s - block.used_at >= IDLE_S:
                del self._held[place]
                if block.left:
                    yield place, block.day, block.left

    def __bool__(self) -> bool:
        return bool(self._held)

    def size(self, tenant: str, nanos: int, most: Sequence[int | None]) -> int:
        """How much is put aside for a call of ``nanos`` and some that come after it, within these
        budgets and beside what the tenant's other keys hold."""
        smallest = min((limit for limit in most if limit is not None), default=0)
        held = sum(block.left for (whose, _), block in self._held.items() if whose == tenant)
        if held > smallest // _ALL_SHARE:
            return nanos
        return max(nanos, min(_CALLS * nanos, smallest // _SHARE))
