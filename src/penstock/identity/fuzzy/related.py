"""People who are related and not one: households, firms, namesakes of one town.

Fields of strangers are taken to be independent, and they are not: who shares an address shares a
telephone and a surname. Added up, these say "the same person" three times. So beside strangers
there are other ways not to be one person: to share a certain set of fields and to be strangers in
all others. Which sets there are, how often, and how alike their fields are, is learned from the
pairs that agree in something and contradict each other in something else. A match must beat these
explanations too: what counts is what two records share *beyond* what related people share.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.identity.fuzzy.sample import Floats, Numbers

_AGREES: Final = np.log(2.0)
_CONTRADICTS: Final = -np.log(3.0)
_FEWEST: Final = 12
_KINDS: Final = 10
_EXCESS: Final = 2.0
_MOST_SHARED: Final = 2 / 3
_MOST_SHARED_BY_MANY: Final = 5 / 6
_MANY: Final = 1 / 3
_ALIKE: Final = np.log(100.0)
_ROUNDS: Final = 25
_BELIEF: Final = 3.0


@dataclass(frozen=True)
class Relation:
    """A way to be related: the natural logarithm of its share among all pairs, and how often each
    level occurs, for the columns that are shared."""

    prior: float
    levels: dict[int, Floats]


def relations(
    levels: Numbers, said: Floats, log_u: Floats, m: tuple[Floats, ...], total: int, matches: float
) -> tuple[Relation, ...]:
    """The ways to be related that are seen among some pairs. ``said`` is what each column of each
    pair says for a match (natural logarithm), ``log_u`` the logarithm of its u."""
    patterns = _patterns(said, levels, m, matches)
    if not patterns:
        return ()
    for_match = said.sum(axis=1)
    found = [Relation(np.log(many / total), {c: m[c] for c in shared}) for shared, many in patterns]
    prior = np.log(max(matches, 1.0) / total)
    for _ in range(_ROUNDS):
        odds = np.stack([prior + for_match, *(odds_of(r, levels, log_u) for r in found)])
        chances = np.exp(odds - np.logaddexp(0.0, np.logaddexp.reduce(odds, axis=0)))
        prior = np.log(max(float(chances[0].sum()), 1.0) / total)
        found = [
            _learned(relation, levels, chances[number], m, total)
            for number, relation in enumerate(found, 1)
        ]
    return tuple(r for r in found if np.exp(r.prior) * total >= _FEWEST / 2)


def odds_of(relation: Relation, levels: Numbers, log_u: Floats) -> Floats:
    """The natural logarithm of the odds of being so related to being strangers."""
    odds = np.full(len(levels), relation.prior)
    for place, frequencies in relation.levels.items():
        column = levels[:, place]
        share = np.log(np.append(frequencies, 1.0))[column] - log_u[:, place]
        odds += np.where(column >= 0, share, 0.0)
    return odds


def _patterns(
    said: Floats, levels: Numbers, m: tuple[Floats, ...], matches: float
) -> list[tuple[tuple[int, ...], int]]:
    """The sets of columns that pairs share which contradict each other elsewhere, the most frequent
    first: those that are seen far more often than errors in the records of one person explain."""
    agrees = said > _AGREES
    weight = np.where(agrees, said, 0.0).sum(axis=1)
    candidates = (said < _CONTRADICTS).any(axis=1) & (agrees.sum(axis=1) >= 2) & (weight > _ALIKE)
    counts = Counter(tuple(np.flatnonzero(row).tolist()) for row in agrees[candidates])
    chances = [
        _agreement(levels[:, place], agrees[:, place], frequencies)
        for place, frequencies in enumerate(m)
    ]
    # Who shares nearly all that could be said is no relative, but the same with errors, unless
    # there are as many such pairs as no errors explain.
    could = sum(
        float(np.median(said[levels[:, place] == 0, place]))
        for place in range(levels.shape[1])
        if (levels[:, place] == 0).any()
    )
    found: list[tuple[tuple[int, ...], int]] = []
    for shared, many in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        expected = matches
        for place, chance in enumerate(chances):
            expected *= chance if place in shared else 1 - chance
        if many < max(_FEWEST, _EXCESS * expected) or len(found) == _KINDS:
            continue
        such = candidates & (agrees == np.isin(np.arange(agrees.shape[1]), shared)).all(axis=1)
        most = _MOST_SHARED if many < _MANY * matches else _MOST_SHARED_BY_MANY
        if float(weight[such].mean()) <= most * could:
            found.append((shared, many))
    return found


def _agreement(column: Numbers, agrees: NDArray[np.bool_], m: Floats) -> float:
    """How often two records of one person agree in a column, missing values included."""
    level_agrees = np.array([bool(agrees[column == level].any()) for level in range(len(m))])
    return float((column >= 0).mean() * m[level_agrees].sum() / m.sum())


def _learned(
    relation: Relation, levels: Numbers, chances: Floats, m: tuple[Floats, ...], total: int
) -> Relation:
    found = {}
    for place in relation.levels:
        column = levels[:, place]
        there = column >= 0
        counts = np.bincount(column[there], weights=chances[there], minlength=len(m[place]))
        whole = counts + _BELIEF * m[place]
        found[place] = np.asarray(whole / whole.sum())
    return Relation(float(np.log(max(float(chances.sum()), 0.5) / total)), found)
