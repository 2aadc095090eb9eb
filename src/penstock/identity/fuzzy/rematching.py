"""Which pairs have to be looked at when records change, where blocks and matches are stored.

The pairs that are compared are those that share an *open* block, one that at most so many records
share: that depends on which records there are, and on nothing else (G10). A record that changes is
compared anew with all in its open blocks. A block that a record leaves may open, and then all in it
are compared; one that a record joins may close, and then pairs in it are compared no longer, unless
they share another. `BlockIndex` does the same in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

RecordId: TypeAlias = int
IdPair: TypeAlias = tuple[RecordId, RecordId]
"""The smaller number first."""
Blocks: TypeAlias = Mapping[RecordId, Collection[str]]


@dataclass(frozen=True, slots=True)
class Moves:
    """The blocks that records had and have; how many come to each block and leave it."""

    had: Blocks
    has: Blocks
    came: Counter[str]
    left: Counter[str]

    @property
    def all(self) -> list[str]:
        """Every block that is concerned."""
        found = {block for blocks in (*self.had.values(), *self.has.values()) for block in blocks}
        return sorted(found)

    def most(self, block: str, limit: int) -> int:
        """How many of its members must be seen: were they more, it was closed and still is."""
        return limit + self.came[block] + 1


def moves(had: Blocks, has: Blocks) -> Moves:
    """What changes for blocks when records have others; the keys are all that change."""
    came: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for record in had.keys() | has.keys():
        before, now = set(had.get(record, ())), set(has.get(record, ()))
        came.update(now - before)
        left.update(before - now)
    return Moves(had, has, came, left)


@dataclass(frozen=True, slots=True)
class Plan:
    """``compared``: pairs to score. ``closed``: for each block that has closed, who was in it and
    still is: matches among them hold only where another block that is open has both."""

    compared: frozenset[IdPair]
    closed: Sequence[frozenset[RecordId]]


def plan(moved: Moves, members: Mapping[str, Sequence[RecordId]], limit: int) -> Plan:
    """What to look at. ``members`` are those of each block now, at most `Moves.most` of them."""
    compared: set[IdPair] = set()
    closed: list[frozenset[RecordId]] = []
    changed = moved.had.keys() | moved.has.keys()
    for block in moved.all:
        now = members.get(block, ())
        count, came = len(now), moved.came[block]
        if count > limit + came:
            continue
        was_open = count - came + moved.left[block] <= limit
        if count <= limit:
            if count > 1:
                compared.update(_pairs(now, changed if was_open else now))
        elif was_open:
            closed.append(frozenset(record for record in now if record not in changed))
    return Plan(frozenset(compared), closed)


def _pairs(now: Sequence[RecordId], fresh: Collection[RecordId]) -> Iterator[IdPair]:
    """All pairs of these of which one is fresh, at least."""
    seen: list[RecordId] = []
    for one in now:
        if one in fresh:
            yield from [(one, other) if one < other else (other, one) for other in seen]
            seen.append(one)
    stay = [record for record in now if record not in fresh]
    for one in seen:
        yield from [(one, other) if one < other else (other, one) for other in stay]


def ordered(one: RecordId, other: RecordId) -> IdPair:
    """A pair, the smaller number first."""
    return (one, other) if one < other else (other, one)
