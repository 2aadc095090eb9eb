"""Which pairs can be matches at all: most that share a block are strangers, and a few columns tell.

A pair begins with the largest weight that it can still have and loses as its columns are compared,
those first that cost least for what they tell; below what a match needs it is looked at no
further. What is left is scored as any pair is: this only leaves out, and never a match.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from penstock.identity.fuzzy.model import Model
from penstock.identity.fuzzy.prepared import Comparer, Prepared, Value, exchanged_level

_ROUNDING: Final = 1e-6
"""The same numbers are added in another order here."""
_COSTS: Final = {"long": 20.0, "codes": 3.0, "text": 2.0, "email": 2.0}
"""What a comparison costs, in those of a code."""

Bits: TypeAlias = tuple[float, ...]


class Ready(NamedTuple):
    """A record as it is compared, and what each of its values says where another has the same."""

    prepared: Prepared
    equal: Bits


class _Column(NamedTuple):
    """One column: what each level says, at most what it says where values are not equal, and what
    it may say besides where values are exchanged between columns."""

    place: int
    levels: Bits
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
        self._at_most = [column.at_most for column in found]
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
        return _Column(place, levels, max(unequal, default=0.0), exchanged)

    def _worth(self, column: _Column) -> float:
        """What a pair of strangers loses by a look at this column, for what the look costs."""
        weights = self._model.fields[column.place]
        lost = sum(
            share * (column.at_most - bits)
            for share, bits in zip(weights.u[1:], column.levels[1:], strict=True)
        )
        return lost / _COSTS.get(self._model.columns[column.place].kind, 1.0)

    def ready(self, prepared: Prepared) -> Ready:
        """A record, ready to be screened often."""
        equal = map(self._equal, range(len(prepared.values)), prepared.values)
        return Ready(prepared, tuple(equal))

    def _equal(self, place: int, value: Value | None) -> float:
        text = value if isinstance(value, str) and place not in self._unshared else None
        return 0.0 if value is None else self._model.fields[place].bits(0, text)

    def passes(self, one: Ready, other: Ready) -> bool:
        """Whether the two may be a match."""
        mine, yours = one.prepared.values, other.prepared.values
        most = [
            0.0 if a is None or b is None else equal if a == b else at_most
            for a, b, equal, at_most in zip(mine, yours, one.equal, self._at_most, strict=True)
        ]
        for column in self._exchanged:
            most[column.place] = max(most[column.place], column.exchanged or 0.0)
        left, least = sum(most), self._least
        if left < least:
            return False
        for place, levels, _, exchanged in self._order:
            a, b = mine[place], yours[place]
            if a is None or b is None or a == b:
                continue
            bits = levels[self._comparer.level(place, a, b)]
            if exchanged is not None and bits < exchanged:
                bits = exchanged
            left += bits - most[place]
            if left < least:
                return False
        return True
