"""What training looks at: records, pairs of them, and the levels of these pairs as numbers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.identity.fuzzy.columns import Column, Described, Row, describe, read
from penstock.identity.fuzzy.prepared import Comparer, Prepared, Rarity, level_names

Numbers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Pairs: TypeAlias = NDArray[np.int64]
"""Two columns: the numbers of two records, the smaller one first."""

_OVERLAP: Final = 0.005
"""From this share of common values on, values of two columns may have been exchanged."""


@dataclass(frozen=True)
class Sample:
    """The records of a training, prepared. ``sources`` numbers where each of them comes from;
    ``between`` says that only pairs of two sources are looked at."""

    columns: tuple[Column, ...]
    described: tuple[Described, ...]
    comparer: Comparer
    records: tuple[Prepared, ...]
    sources: Numbers
    between: bool = False

    def __len__(self) -> int:
        return len(self.records)

    @property
    def all_pairs(self) -> int:
        """How many pairs there are."""
        everything = len(self) * (len(self) - 1) // 2
        if not self.between:
            return everything
        sizes = Counter(self.sources.tolist()).values()
        return everything - sum(n * (n - 1) // 2 for n in sizes)

    def names(self, place: int) -> tuple[str, ...]:
        """The levels of a column."""
        swapped = any(one == place for one, _ in self.comparer.swapped)
        return level_names(self.columns[place], swapped=swapped)

    @cached_property
    def values(self) -> tuple[tuple[str, ...], ...]:
        """The values of each column in order; long texts have none."""
        return tuple(
            tuple(sorted({v for r in self.records if isinstance(v := r.values[place], str)}))
            for place in range(len(self.columns))
        )

    @cached_property
    def codes(self) -> tuple[Numbers, ...]:
        """For each column and record: the place of its value among `values`, or -1."""
        found = []
        for place, known in enumerate(self.values):
            number = {value: n for n, value in enumerate(known)}
            texts = (record.values[place] for record in self.records)
            found.append(
                np.array([number[t] if isinstance(t, str) else -1 for t in texts], dtype=np.int64)
            )
        return tuple(found)

    def looked_at(self, pairs: Pairs) -> Pairs:
        """Those of some pairs that are looked at, each once, in order."""
        if self.between and len(pairs):
            pairs = pairs[self.sources[pairs[:, 0]] != self.sources[pairs[:, 1]]]
        return np.asarray(np.unique(pairs, axis=0)) if len(pairs) else pairs.reshape(0, 2)

    def levels(self, pairs: Pairs) -> Numbers:
        """A row of levels for each pair."""
        compare, records = self.comparer.levels, self.records
        rows = [compare(records[i], records[j]) for i, j in pairs.tolist()]
        return np.array(rows, dtype=np.int64).reshape(len(pairs), len(self.columns))

    def random_pairs(self, most: int, seed: int) -> Pairs:
        """Pairs of all there are, each at most once, in order."""
        total = len(self)
        if total * (total - 1) // 2 <= 3 * most:
            every = self.looked_at(np.array(list(combinations(range(total), 2)), dtype=np.int64))
            return few(every, most, seed)
        chance = np.random.default_rng(seed)
        drawn = np.sort(chance.integers(0, total, (3 * most, 2)), axis=1)
        return few(self.looked_at(drawn[drawn[:, 0] < drawn[:, 1]]), most, seed)


def few(pairs: Pairs, most: int, seed: int) -> Pairs:
    """At most so many of these pairs, in order."""
    if len(pairs) <= most:
        return pairs
    chosen = random.Random(seed).sample(range(len(pairs)), most)
    return np.asarray(pairs[np.sort(np.array(chosen))])


def read_sample(rows: Sequence[Row], sources: Sequence[str]) -> Sample:
    """Find out what the columns hold, and read all rows."""
    columns, described = describe(rows)
    rarity = {c.name: _rarity(c, rows) for c in columns if c.kind in ("long", "codes")}
    comparer = Comparer(columns, rarity, _exchanged(columns, rows))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(sources))}
    return Sample(
        tuple(columns),
        tuple(described),
        comparer,
        tuple(comparer.prepare(row) for row in rows),
        np.array([numbers[name] for name in sources], dtype=np.int64),
    )


def _rarity(column: Column, rows: Sequence[Row]) -> Rarity:
    counts: Counter[str] = Counter()
    for row in rows:
        text = read(column, row)
        if text is not None:
            counts.update(set(text.split(" ")))
    return Rarity(len(rows), {word: n for word, n in sorted(counts.items()) if n > 1})


def _exchanged(columns: Sequence[Column], rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Columns between which values move (a given name and a surname): they have values in common.
    Each column is in one pair at most."""
    shares = {
        place: _shares(column, rows)
        for place, column in enumerate(columns)
        if column.kind == "text"
    }
    overlaps = []
    for one, other in combinations(shares, 2):
        mine, yours = shares[one], shares[other]
        overlap = sum(min(share, yours.get(value, 0.0)) for value, share in sorted(mine.items()))
        if overlap >= _OVERLAP:
            overlaps.append((-overlap, one, other))
    taken: set[int] = set()
    pairs = []
    for _, one, other in sorted(overlaps):
        if not taken & {one, other}:
            taken |= {one, other}
            pairs.append((one, other))
    return pairs


def _shares(column: Column, rows: Sequence[Row]) -> Mapping[str, float]:
    counts = Counter(text for row in rows if (text := read(column, row)) is not None)
    total = sum(counts.values()) or 1
    return {value: n / total for value, n in counts.items()}
