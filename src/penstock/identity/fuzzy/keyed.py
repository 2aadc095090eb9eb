"""Families of keys over a whole sample, as numbers: their blocks, what they cost, their pairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from penstock.identity.fuzzy.blocking import Family, Part, forms_of, key_parts
from penstock.identity.fuzzy.sample import Numbers, Pairs, Sample


@dataclass(frozen=True)
class Keyed:
    """Which records have which keys; a record may have several of one part."""

    records: Numbers
    keys: Numbers

    def sizes(self) -> Numbers:
        """How many records each block has."""
        return np.unique(self.keys, return_counts=True)[1]

    def cost(self, most: int) -> int:
        """The pairs of the blocks of at most so many records."""
        sizes = self.sizes()
        sizes = sizes[sizes <= most]
        return int((sizes * (sizes - 1) // 2).sum())

    def inside(self, most: int) -> float:
        """The share of keys whose blocks have at most so many records."""
        sizes = self.sizes()
        return float(sizes[sizes <= most].sum() / max(1, sizes.sum()))

    def pairs(self, most: int) -> Pairs:
        """The pairs of the blocks of at most so many records; some of them twice."""
        order = np.lexsort((self.records, self.keys))
        keys, records = self.keys[order], self.records[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        sizes = np.diff(np.append(starts, len(keys)))
        found = []
        for size in np.unique(sizes):
            if 2 <= size <= most:
                within = np.array(list(combinations(range(size), 2)), dtype=np.int64)
                places = starts[sizes == size][:, None, None] + within
                found.append(records[places].reshape(-1, 2))
        return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


class Keys:
    """The keys of all parts of a sample."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._parts: dict[Part, Keyed] = {}
        for place, column in enumerate(sample.columns):
            for form in forms_of(column):
                self._parts[place, form] = self._read((place, form))

    def families(self) -> list[Family]:
        """Every form of every column, and every two of different columns."""
        columns = self._sample.columns
        found: list[Family] = [(part,) for part in self._parts]
        for one, other in combinations(self._parts, 2):
            several = {columns[one[0]].kind, columns[other[0]].kind} <= {"long", "codes"}
            if one[0] != other[0] and not several:
                found.append((one, other))
        return found

    def of(self, family: Family) -> Keyed:
        """The keys of a family."""
        first = self._parts[family[0]]
        if len(family) == 1:
            return first
        second = self._parts[family[1]]
        if self._sample.columns[family[0][0]].kind not in ("long", "codes"):
            first, second = second, first
        # Only long texts and codes give several keys to a record: such a part leads.
        single = np.full(len(self._sample), -1, dtype=np.int64)
        single[second.records] = second.keys
        there = single[first.records] >= 0
        records = first.records[there]
        width = int(single.max(initial=0)) + 1
        return Keyed(records, first.keys[there] * width + single[records])

    def _read(self, part: Part) -> Keyed:
        place, form = part
        column = self._sample.columns[place]
        rarity = self._sample.comparer.rarity.get(column.name)
        numbers: dict[str, int] = {}
        records: list[int] = []
        keys: list[int] = []
        for number, record in enumerate(self._sample.records):
            for key in dict.fromkeys(key_parts(column, form, record.values[place], rarity)):
                records.append(number)
                keys.append(numbers.setdefault(key, len(numbers)))
        return Keyed(np.array(records, dtype=np.int64), np.array(keys, dtype=np.int64))
