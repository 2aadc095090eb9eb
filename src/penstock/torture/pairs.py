"""Faults two by two: a covering array of strength 2, made greedily.

Each row is a few kinds of faults that come close to each other; together the rows hold every pair
that can be together. The generator is our own: it is twenty lines, and rows of a free choice of
kinds with forbidden pairs are not what libraries for parameters with values give.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Final

from penstock.torture.kinds import COMMANDED, DATABASE_WIRES, LASTING, Fault

WIDTH: Final = 3
"""So many faults come together at most: with more it takes long until all is well again."""
_BARRED: Final = (LASTING & (DATABASE_WIRES | {Fault.FREEZE_DATABASE})) | {Fault.DISK_FULL}
"""While these last nobody would give a command, or two processes could not be told apart."""


def can_be_together(one: Fault, other: Fault) -> bool:
    """Whether a pair makes sense. Two commands do not (each stops all processes and waits until it
    is done), nor a command to a database that is silent, frozen or full; and the same wire has one
    manner at a time."""
    pair = {one, other}
    if pair <= COMMANDED | {Fault.OUTLIVE_LEASE}:
        return False
    if pair & (COMMANDED | {Fault.OUTLIVE_LEASE}) and pair & _BARRED:
        return False
    manners = [
        {fault for fault in pair & LASTING if fault.value.endswith(side)}
        for side in ("_source", "_database", "_broker")
    ]
    return all(len(found) < len(pair) for found in manners)


def pairs_of(kinds: Sequence[Fault]) -> set[frozenset[Fault]]:
    """All pairs that can be together."""
    return {frozenset(pair) for pair in combinations(kinds, 2) if can_be_together(*pair)}


def cover(
    kinds: Sequence[Fault], chance: random.Random, width: int = WIDTH
) -> list[tuple[Fault, ...]]:
    """Rows of up to ``width`` kinds in which every pair that can be together is."""
    left = pairs_of(kinds)
    rows: list[tuple[Fault, ...]] = []
    while left:
        # The pair is chosen by chance, what joins it by how many pairs it adds.
        row = chance.choice(sorted(map(sorted, left)))
        while len(row) < width:
            open_kinds = [k for k in kinds if all(can_be_together(k, one) for one in set(row))]
            gains = {k: _gain(k, row, left) for k in open_kinds if k not in row}
            best = max(gains.values(), default=0)
            if best == 0:
                break
            row = [*row, chance.choice([k for k, gain in gains.items() if gain == best])]
        left -= pairs_of(row)
        chance.shuffle(row)
        rows.append(tuple(row))
    return rows


def _gain(kind: Fault, row: Sequence[Fault], left: set[frozenset[Fault]]) -> int:
    return sum(frozenset((kind, one)) in left for one in row)
