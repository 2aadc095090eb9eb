"""Which pairs of records are compared, kept up change by change.

The pairs are those that share a block of at most so many members, whatever order the records came
in and whatever they were before (G10): a block that grows beyond the limit takes its pairs back,
and gives them again when it has shrunk.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple, TypeAlias

from penstock.identity.evidence import RecordKey

Pair: TypeAlias = tuple[RecordKey, RecordKey]
"""The smaller key first."""


class PairChange(NamedTuple):
    """The pairs that are compared now and were not before, and the other way round; in order."""

    gained: tuple[Pair, ...]
    lost: tuple[Pair, ...]


class BlockIndex:
    """The blocks of all records, in memory."""

    def __init__(self, block_at_most: int) -> None:
        self._most = block_at_most
        self._members: dict[str, set[RecordKey]] = defaultdict(set)
        self._blocks: dict[RecordKey, frozenset[str]] = {}
        self._shared: Counter[Pair] = Counter()
        self._before: dict[Pair, bool] = {}

    def put(self, changes: Iterable[tuple[RecordKey, Iterable[str]]]) -> PairChange:
        """Records with the blocks that they have from now on; a record without any is gone."""
        self._before = {}
        for key, blocks in changes:
            now = frozenset(blocks)
            before = self._blocks.get(key, frozenset())
            for block in sorted(before - now):
                self._leave(block, key)
            for block in sorted(now - before):
                self._enter(block, key)
            if now:
                self._blocks[key] = now
            else:
                self._blocks.pop(key, None)
        gained = sorted(p for p, was in self._before.items() if not was and p in self._shared)
        lost = sorted(p for p, was in self._before.items() if was and p not in self._shared)
        return PairChange(tuple(gained), tuple(lost))

    def pairs(self) -> list[Pair]:
        """All pairs that are compared, in order."""
        return sorted(self._shared)

    def _enter(self, block: str, key: RecordKey) -> None:
        members = self._members[block]
        if len(members) < self._most:
            self._count(((key, other) for other in members), 1)
        elif len(members) == self._most:
            self._count(combinations(members, 2), -1)
        members.add(key)

    def _leave(self, block: str, key: RecordKey) -> None:
        members = self._members[block]
        members.discard(key)
        if len(members) < self._most:
            self._count(((key, other) for other in members), -1)
        elif len(members) == self._most:
            self._count(combinations(members, 2), 1)
        if not members:
            del self._members[block]

    def _count(self, pairs: Iterable[Pair], change: int) -> None:
        for one, other in pairs:
            pair = (one, other) if one < other else (other, one)
            self._before.setdefault(pair, pair in self._shared)
            self._shared[pair] += change
            if not self._shared[pair]:
                del self._shared[pair]
