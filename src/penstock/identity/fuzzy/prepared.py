"""A record as it is compared, and how alike two of them are, field by field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock.identity.fuzzy.columns import Column, Row, read
from penstock.identity.fuzzy.comparisons import BANDS, COMPARE, LEVELS, words_alike

NO_EVIDENCE: Final = -1
SIMILAR: Final = 0.8
"""What two words that are alike count, of what they would count if they were equal."""
_LOOKED_AT: Final = 14
"""Longer texts have many words with digits: only codes are looked for among what differs."""
RARE_CODE: Final = 8
"""What more records hold (``1080p``) is a measure, and no part number."""
_REMEMBERED: Final = 400_000


@dataclass(frozen=True, slots=True)
class Words:
    """A long text: the weight of each word in a vector of length 1; and which words hold digits."""

    weights: Mapping[str, float]
    codes: tuple[str, ...]


Value: TypeAlias = str | Words


@dataclass(frozen=True, slots=True)
class Prepared:
    """One record: its values in the order of the columns, None where it says nothing."""

    values: tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Rarity:
    """How many of the records that a model was trained with hold a word of a long text. Words that
    one or none of them held are not kept."""

    records: int
    counts: Mapping[str, int]

    def count(self, word: str) -> int:
        return self.counts.get(word, 1)

    def weight(self, word: str) -> float:
        return math.log((1 + self.records) / self.count(word))

    def read(self, text: str) -> Words:
        """The words of a text, weighted by rarity."""
        parts: dict[str, int] = {}
        for word in text.split(" "):
            parts[word] = parts.get(word, 0) + 1
        raw = {word: self.weight(word) * (1 + math.log(n)) for word, n in parts.items()}
        length = math.sqrt(math.fsum(w * w for w in raw.values())) or 1.0
        codes = sorted(w for w in raw if len(w) >= 4 and any(map(str.isdigit, w)))
        return Words({word: w / length for word, w in sorted(raw.items())}, tuple(codes))


def likeness(a: Words, b: Words) -> float:
    """The cosine of two texts, in which words that are alike count as well."""
    if (len(a.weights), sorted(a.weights)) > (len(b.weights), sorted(b.weights)):
        a, b = b, a
    mine, yours = a.weights, b.weights
    total = math.fsum(weight * yours[word] for word, weight in mine.items() if word in yours)
    if max(len(mine), len(yours)) <= _LOOKED_AT:
        left = [word for word in mine if len(word) >= 4 and word not in yours]
        right = [word for word in yours if len(word) >= 4 and word not in mine]
    else:
        left = [word for word in a.codes if word not in yours]
        right = [word for word in b.codes if word not in mine]
    for word in left:
        found = [yours[other] for other in right if words_alike(word, other)]
        if found:
            total += SIMILAR * mine[word] * max(found)
    return total


class Comparer:
    """Compares prepared records; remembers the levels of pairs of values."""

    def __init__(
        self,
        columns: Sequence[Column],
        rarity: Mapping[str, Rarity],
        swapped: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.columns = tuple(columns)
        self.rarity = rarity
        self.swapped = tuple(swapped)
        self._levels: list[dict[tuple[str, str], int]] = [{} for _ in columns]

    def prepare(self, row: Row) -> Prepared:
        """Read a row; any text is read somehow."""
        found: list[Value | None] = []
        for column in self.columns:
            text = read(column, row)
            if text is not None and column.kind == "long":
                found.append(self.rarity[column.name].read(text))
            elif text is not None and column.kind == "codes":
                rarity = self.rarity[column.name]
                rare = (code for code in text.split(" ") if rarity.count(code) <= RARE_CODE)
                found.append(" ".join(rare) or None)
            else:
                found.append(text)
        return Prepared(tuple(found))

    def levels(self, a: Prepared, b: Prepared) -> list[int]:
        """The level of every column; exchanged values count in the first column of their pair."""
        found = [
            NO_EVIDENCE if mine is None or yours is None else self.level(place, mine, yours)
            for place, (mine, yours) in enumerate(zip(a.values, b.values, strict=True))
        ]
        for one, other in self.swapped:
            if _close(found[one]) or _close(found[other]):
                continue
            across = (
                self._across(one, a.values[one], b.values[other])
                + self._across(one, a.values[other], b.values[one])
            )  # fmt: skip
            if across:
                found[one] = exchanged_level(self.columns[one]) + (across == 1)
                found[other] = NO_EVIDENCE
        return found

    def level(self, place: int, a: Value, b: Value) -> int:
        """The level of two values of a column."""
        if a == b:
            return 0
        if isinstance(a, Words) or isinstance(b, Words):
            assert isinstance(a, Words)
            assert isinstance(b, Words)
            alike = likeness(a, b)
            return next((n for n, band in enumerate(BANDS) if alike >= band), len(BANDS))
        key = (a, b) if a < b else (b, a)
        known = self._levels[place]
        found = known.get(key)
        if found is None:
            if len(known) > _REMEMBERED:
                known.clear()
            found = known[key] = COMPARE[self.columns[place].kind](*key)
        return found

    def _across(self, place: int, a: Value | None, b: Value | None) -> bool:
        return a is not None and b is not None and self.level(place, a, b) <= 1


def _close(level: int) -> bool:
    return 0 <= level <= 2


def exchanged_level(column: Column) -> int:
    """The level of a pair of columns whose values are exchanged; the next: one of them moved."""
    return len(LEVELS[column.kind])


def level_names(column: Column, *, swapped: bool) -> tuple[str, ...]:
    """What the levels of a column are called."""
    names = LEVELS[column.kind]
    return (*names, "exchanged", "one moved") if swapped else names
