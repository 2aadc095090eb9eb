"""The prior and the thresholds, without labels: by what the model itself expects.

The prior makes the expected number of matches agree with itself. The threshold is the one at which
clusters have the best expected F1 among those that are expected to be precise. Clusters count, not
links: ten links that are each right with .99 may chain strangers, and then all their pairs count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Final, TypeAlias

import numpy as np

from penstock.identity.fuzzy.estimation import FIRST_GUESS, Compared, Estimate, Estimator
from penstock.identity.fuzzy.rivals import rivals_seen
from penstock.identity.fuzzy.sample import Floats, Pairs, Sample

PRECISE: Final = 0.995
_WORTH: Final = 0.9
"""Precision is preferred as long as this share of the best F1 remains."""
_LOWEST: Final = 0.3
_POSSIBLE: Final = 0.1
_ROUNDS: Final = 60
_MOST_MATCHED: Final = 0.95
_DOUBT: Final = 2.0
_LARGEST: Final = 2000
"""Two clusters with more pairs between them than this are not joined while looking."""


Seen: TypeAlias = tuple[float, int, float]
"""Odds, how many pairs are in clusters from there on, how many of them are expected to be right."""


@dataclass(frozen=True)
class Found:
    """Natural logarithms: the prior odds, and the odds from which on a pair is linked or possible;
    and what is expected of linking so."""

    prior: float
    link: float
    possible: float
    matches: float
    precision: float
    recall: float


def choose(estimator: Estimator, compared: Compared, estimated: Estimate) -> Found:
    """Prior and thresholds for the pairs that blocking gives."""
    sample, pairs = estimator.sample, compared.pairs
    odds = estimator.odds(compared, estimated)
    prior, chances = _agreeing(sample, pairs, odds)
    if sample.between:
        seen, expected = rivals_seen(sample, pairs, odds)
    else:
        seen, expected = _clusters_seen(estimator, estimated, compared, prior, odds, chances)
    lowest, precision, recall = _best(seen, expected)
    if sample.between:
        # Rivals decide there, not the prior: what ties is as likely as not, or more.
        prior = max(prior, -lowest)
    link = prior + lowest - 1e-6
    possible = min(link - _DOUBT, math.log(_POSSIBLE / (1 - _POSSIBLE)))
    return Found(prior, link, possible, expected, precision, recall)


def _clusters_seen(
    estimator: Estimator,
    estimated: Estimate,
    compared: Compared,
    prior: float,
    odds: Floats,
    chances: Floats,
) -> tuple[list[Seen], float]:
    """What is expected of clusters at each threshold, and how many matches there are."""
    pairs = compared.pairs
    clusters = _Clusters(estimator, estimated, prior)
    order = np.lexsort((np.arange(len(pairs)), -odds))
    seen: list[Seen] = []
    for number, place in enumerate(order):
        if prior + odds[place] < math.log(_LOWEST / (1 - _LOWEST)):
            break
        clusters.join(int(pairs[place, 0]), int(pairs[place, 1]), float(chances[place]))
        following = order[number + 1] if number + 1 < len(order) else None
        if following is None or odds[following] <= odds[place] - 1e-9:
            seen.append((float(odds[place]), clusters.pairs, clusters.right))
    return seen, max([float(chances.sum()), *(right for _, _, right in seen)])


def _best(seen: list[Seen], expected: float) -> tuple[float, float, float]:
    """The odds at which F1 is expected to be best, with precision and recall: among those where
    clusters are precise, unless that costs too much."""
    found = [
        (2 * right / (pairs + expected), right / pairs, right / expected, odds)
        for odds, pairs, right in seen
        if pairs
    ]
    if not found:
        return 50.0, 1.0, 0.0
    best = max(found)
    precise = max([one for one in found if one[1] >= PRECISE], default=best)
    _, precision, recall, lowest = precise if precise[0] >= _WORTH * best[0] else best
    return lowest, precision, recall


def prior_of(sample: Sample, matches: float) -> float:
    """The natural logarithm of the odds of any pair, where there are so many matches.

    Where a source has everybody once, these are the odds against having no match at all: the more
    of the records have one, the more likely is it that the best candidate is it.
    """
    total = sample.all_pairs
    among = min(max(matches, 1.0), total / 2)
    if sample.between:
        alone = 1 - min(_MOST_MATCHED, 2 * among / len(sample))
        return math.log(among / total / alone)
    return math.log(among / (total - among))


def chances_of(sample: Sample, pairs: Pairs, odds: Floats) -> Floats:
    """The chance of each pair to be of one person, from its odds with the prior."""
    weights = np.exp(np.clip(odds, -50, 50))
    rivals = _rivals(sample, pairs, weights) if sample.between else weights
    return np.asarray(weights / (1 + rivals))


def _agreeing(sample: Sample, pairs: Pairs, odds: Floats) -> tuple[float, Floats]:
    """The prior that the chances agree with, and the chances."""
    matches = FIRST_GUESS * len(sample)
    for _ in range(_ROUNDS):
        prior = prior_of(sample, matches)
        matches = float(chances_of(sample, pairs, odds + prior).sum())
    return prior, chances_of(sample, pairs, odds + prior)


def _rivals(sample: Sample, pairs: Pairs, weights: Floats) -> Floats:
    """Where a source has everybody once, the candidates of a record there rule each other out: the
    larger of the sums over both records' candidates."""
    one, other = pairs[:, 0], pairs[:, 1]
    many = int(sample.sources.max()) + 1
    left = one * many + sample.sources[other]
    right = other * many + sample.sources[one]
    sums = np.bincount(
        np.concatenate([left, right]), np.concatenate([weights, weights]), len(sample) * many
    )
    return np.asarray(np.maximum(sums[left], sums[right]))


class _Clusters:
    """Clusters that grow link by link, and how many of their pairs are expected to be right."""

    def __init__(self, estimator: Estimator, estimated: Estimate, prior: float) -> None:
        self._estimator, self._estimated, self._prior = estimator, estimated, prior
        self._of = list(range(len(estimator.sample)))
        self._members: dict[int, list[int]] = {n: [n] for n in self._of}
        self.pairs = 0
        self.right = 0.0

    def join(self, one: int, other: int, chance: float) -> None:
        """Join two clusters by a link that is right with this chance."""
        a, b = self._of[one], self._of[other]
        if a == b:
            return
        mine, yours = self._members[a], self._members[b]
        if len(mine) * len(yours) > _LARGEST:
            return
        across = [(min(x, y), max(x, y)) for x, y in product(mine, yours)]
        self.pairs += len(across)
        self.right += self._chances(np.array(across, dtype=np.int64), chance)
        if len(mine) < len(yours):
            a, b, mine, yours = b, a, yours, mine
        for member in yours:
            self._of[member] = a
        mine += self._members.pop(b)

    def _chances(self, across: Pairs, chance: float) -> float:
        """How many of these pairs are expected to be right. A pair by itself may know little of
        each other, and then it is as right as the link; but what speaks against it counts."""
        compared = self._estimator.compare(across)
        odds = self._estimator.odds(compared, self._estimated)
        against = np.exp(np.clip(odds, -50, 0)) * chance
        by_link = against / (against + 1 - min(chance, 1 - 1e-9))
        by_itself = 1 / (1 + np.exp(-np.clip(odds + self._prior, -50, 50)))
        return float(np.maximum(by_itself, by_link).sum())
