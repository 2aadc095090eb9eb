"""Which pairs can be matches at all: most that share a block are strangers, and a few columns tell.

A pair begins with the largest weight that it can still have and loses as its columns are compared,
those first that cost least for what they tell; below what a match needs it is looked at no
further. What is left is scored as any pair is: this only leaves out, and never a match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.identity.fuzzy.model import Model
from penstock.identity.fuzzy.prepared import Comparer, Prepared, Value, exchanged_level

_ROUNDING: Final = 1e-6
"""The same numbers are added in another order here."""
_COSTS: Final = {"long": 20.0, "codes": 3.0, "text": 2.0, "email": 2.0}
"""What a comparison costs, in those of a code."""

Bits: TypeAlias = tuple[float, ...]
IdPair: TypeAlias = tuple[int, int]


class Ready(NamedTuple):
    """A record as it is compared. ``marks`` tells which of its values may be another's: 0 for none,
    the same number for the same text; ``equal`` what each says where another has the same."""

    prepared: Prepared
    marks: tuple[int, ...]
    equal: Bits


class _Column(NamedTuple):
    """One column: what each level says, at most what it says where values are not equal, and what
    it may say besides where values are exchanged between columns."""

    place: int
    levels: NDArray[np.float64]
    at_most: float
    exchanged: float | None


class Screening:
    """Leaves out pairs of which no weight from ``least`` on can come."""

    def __init__(self, model: Model, comparer: Comparer, unshared: frozenset[int]) -> None:
        self._model = model
        self._comparer = comparer
        self._unshared = unshared
        self._least = model.possible - model.prior - _ROUNDING
        found = [self._column(place) for place in range(len(model.columns))]
        self._at_most = np.array([column.at_most for column in found])
        self._exchanged = [column for column in found if column.exchanged is not None]
        self._order = sorted(found, key=self._worth, reverse=True)

    def _column(self, place: int) -> _Column:
        model, weights = self._model, self._model.fields[place]
        levels = tuple(weights.bits(level, None) for level in range(len(weights.m)))
        exchanged = None
        if any(place in pair for pair in model.swapped):
            # The second column of a pair says nothing where the first says that they are exchanged.
            exchanged = 0.0
        if weights.swapped_with is not None:
            exchanged = max(0.0, *levels[exchanged_level(model.columns[place]) :])
        # Of texts that differ some say as much as equal ones: nearly the same words, all its codes.
        unequal = levels if model.columns[place].kind in ("long", "codes") else levels[1:]
        return _Column(place, np.array(levels), max(unequal, default=0.0), exchanged)

    def _worth(self, column: _Column) -> float:
        """What a pair of strangers loses by a look at this column, for what the look costs."""
        weights = self._model.fields[column.place]
        lost: float = sum(
            share * (column.at_most - bits)
            for share, bits in zip(weights.u[1:], column.levels[1:].tolist(), strict=True)
        )
        return lost / _COSTS.get(self._model.columns[column.place].kind, 1.0)

    def ready(self, prepared: Prepared) -> Ready:
        """A record, ready to be screened often."""
        values = prepared.values
        # Long texts are never taken for equal: what is said at most is as much.
        marks = [
            0 if value is None else hash(value) or 1 if isinstance(value, str) else -id(value)
            for value in values
        ]
        equal = map(self._equal, range(len(values)), values)
        return Ready(prepared, tuple(marks), tuple(equal))

    def _equal(self, place: int, value: Value | None) -> float:
        text = value if isinstance(value, str) and place not in self._unshared else None
        return 0.0 if value is None else self._model.fields[place].bits(0, text)

    def passes(self, pairs: Sequence[IdPair], ready: Mapping[int, Ready]) -> list[IdPair]:
        """Those of these pairs that may be matches, in order."""
        if not pairs:
            return []
        rows = {number: row for row, number in enumerate(ready)}
        marks = np.array([one.marks for one in ready.values()], dtype=np.int64)
        equal = np.array([one.equal for one in ready.values()], dtype=np.float64)
        one = np.array([rows[a] for a, _ in pairs])
        other = np.array([rows[b] for _, b in pairs])
        mine, yours = marks[one], marks[other]
        same = mine == yours
        nothing = (mine == 0) | (yours == 0)
        most = np.where(nothing, 0.0, np.where(same, equal[one], self._at_most))
        for column in self._exchanged:
            most[:, column.place] = np.maximum(most[:, column.place], column.exchanged or 0.0)
        left, unlike = most.sum(axis=1), ~(same | nothing)
        alive = np.flatnonzero(left >= self._least)
        texts = [one.prepared.values for one in ready.values()]
        for column in self._order:
            place = column.place
            asked = alive[unlike[alive, place]]
            if not len(asked):
                continue
            levels = self._levels(place, one[asked], other[asked], texts)
            bits = column.levels[levels]
            if column.exchanged is not None:
                bits = np.maximum(bits, column.exchanged)
            left[asked] += bits - most[asked, place]
            alive = alive[left[alive] >= self._least]
        return [pairs[n] for n in alive.tolist()]

    def _levels(
        self,
        place: int,
        one: NDArray[np.intp],
        other: NDArray[np.intp],
        texts: Sequence[tuple[Value | None, ...]],
    ) -> NDArray[np.intp]:
        level = self._comparer.level
        column: list[Any] = [values[place] for values in texts]
        pairs = zip(one.tolist(), other.tolist(), strict=True)
        return np.array([level(place, column[a], column[b]) for a, b in pairs])
