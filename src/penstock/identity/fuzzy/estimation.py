"""m and u without labels (Fellegi and Sunter 1969; estimation by EM after Winkler 1988).

u comes from random pairs, nearly all of which are of two people; how much so is taken into account,
because in small heaps the few that are not decide what u is where values are alike. m comes from EM
over pairs that agree on some columns, for the *other* columns, several times with other columns to
agree on: pairs that are alike in what they were chosen by say nothing about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from penstock.identity.fuzzy.blocking import Family
from penstock.identity.fuzzy.columns import Kind
from penstock.identity.fuzzy.comparisons import BANDS
from penstock.identity.fuzzy.keyed import Keyed, Keys
from penstock.identity.fuzzy.related import Relation, odds_of, relations
from penstock.identity.fuzzy.sample import Floats, Numbers, Pairs, Sample, few

EXPECTED: Final[dict[Kind, tuple[float, ...]]] = {
    "text": (0.75, 0.1, 0.05, 0.03, 0.07),
    "code": (0.75, 0.1, 0.05, 0.1),
    "phone": (0.75, 0.1, 0.05, 0.1),
    "email": (0.75, 0.1, 0.05, 0.05, 0.05),
    "date": (0.75, 0.1, 0.06, 0.04, 0.05),
    "codes": (0.78, 0.12, 0.1),
    "number": (0.5, 0.15, 0.1, 0.1, 0.15),
    "long": (0.2,) + (0.08,) * (len(BANDS) - 1) + (0.08,),
}
"""Where nothing is known yet: most values of one person are equal."""
_EXCHANGED: Final = (0.01, 0.01)
_BELIEF: Final = 5.0
"""So many pairs count what is expected as much as they count themselves."""
_FIRM: Final = 1e6
"""That part numbers tell things apart is known; things of one series would teach otherwise."""
_LEAST: Final = 0.02
"""What is left of u, at least, when the pairs of one person are taken out."""
_RANDOM: Final = 60_000
_PAIRS: Final = 15_000
_ROUNDS: Final = 25
_FAMILIES_OF_A_COLUMN: Final = 6
_FEWEST: Final = 20
_MOST_PAIRS: Final = 60
FIRST_GUESS: Final = 0.25
"""So many matches for each record, before anything is known."""


@dataclass(frozen=True)
class Compared:
    """Some pairs, with their levels."""

    pairs: Pairs
    levels: Numbers


@dataclass(frozen=True)
class Estimate:
    """m and u by column and level, and for each column the chance that somebody else has the value
    that a record has, by the place of the value."""

    m: tuple[Floats, ...]
    u: tuple[Floats, ...]
    shares: tuple[Floats, ...]
    relations: tuple[Relation, ...] = ()


class Estimator:
    """Estimates m and u of a sample again and again, with what is known by then."""

    def __init__(self, sample: Sample, keys: Keys, seed: int) -> None:
        self.sample = sample
        self._random = self._compare(sample.random_pairs(_RANDOM, seed))
        self._places = range(len(sample.columns))
        self._expected = [self._expect(place) for place in self._places]
        self._chosen: list[tuple[Compared, list[int]]] = []
        for family, keyed in _training_families(sample, keys):
            others = _others(sample, family)
            pairs = sample.looked_at(keyed.pairs(400))
            if others and len(pairs) >= _FEWEST:
                self._chosen.append((self._compare(few(pairs, _PAIRS, seed)), others))

    def first(self) -> Estimate:
        """With nothing but expectation: as if a quarter of the records had a match."""
        share = FIRST_GUESS * len(self.sample) / self.sample.all_pairs
        u = []
        for place in self._places:
            found = self._frequencies(place)
            u.append(_without(found, share, self._expected[place]))
        shares = self.shares(np.empty((0, 2), dtype=np.int64), np.empty(0))
        return self._with_m(tuple(u), shares)

    def again(self, before: Estimate, matched: Compared, chances: Floats) -> Estimate:
        """With the chances of pairs to be of one person, as known from before."""
        share = float(chances.sum()) / self.sample.all_pairs
        u = tuple(
            _without(self._frequencies(place), share, before.m[place]) for place in self._places
        )
        shares = self.shares(matched.pairs, chances)
        if not self.sample.between:
            return self._with_m(u, shares)
        # Rivals rule each other out, so that what pairs were chosen by does not decide: all count.
        more = [_tally(matched.levels, p, chances, len(before.m[p])) for p in self._places]
        return self._with_m(u, shares, more)

    def odds(self, compared: Compared, estimated: Estimate) -> Floats:
        """The natural logarithm of the odds of one person to anything else, without the prior."""
        said, log_u = self.said(compared, estimated)
        total = np.asarray(said.sum(axis=1))
        if estimated.relations:
            related = [odds_of(r, compared.levels, log_u) for r in estimated.relations]
            total = total - np.logaddexp(0.0, np.logaddexp.reduce(related, axis=0))
        return total

    def said(self, compared: Compared, estimated: Estimate) -> tuple[Floats, Floats]:
        """What each column of each pair says for a match, and the logarithm of its u."""
        log_u = np.zeros(compared.levels.shape)
        said = np.zeros(compared.levels.shape)
        for place in self._places:
            log_u[:, place] = self._log_u(compared, place, estimated)
            said[:, place] = _said(compared.levels, place, estimated.m[place], log_u[:, place])
        return said, log_u

    def with_relations(self, compared: Compared, estimated: Estimate, matches: float) -> Estimate:
        """The same, with the ways to be related that these pairs show."""
        said, log_u = self.said(compared, estimated)
        found = relations(compared.levels, said, log_u, estimated.m, self.sample.all_pairs, matches)
        return replace(estimated, relations=found)

    def compare(self, pairs: Pairs) -> Compared:
        """Pairs with their levels."""
        return self._compare(pairs)

    def _compare(self, pairs: Pairs) -> Compared:
        return Compared(pairs, self.sample.levels(pairs))

    def _expect(self, place: int) -> Floats:
        base = EXPECTED[self.sample.columns[place].kind]
        found = np.array(base + _EXCHANGED[: len(self.sample.names(place)) - len(base)])
        return np.asarray(found / found.sum())

    def _frequencies(self, place: int) -> Floats:
        """How often each level occurs among all pairs."""
        every = np.ones(len(self._random.pairs))
        counts = _tally(self._random.levels, place, every, len(self.sample.names(place))) + 0.5
        return np.asarray(counts / counts.sum())

    def shares(self, pairs: Pairs, chances: Floats) -> tuple[Floats, ...]:
        """For each value the chance that another person has it too: of the pairs that share it,
        those that are expected to be of one person do not count. Rare values share one chance."""
        found = []
        for codes, known in zip(self.sample.codes, self.sample.values, strict=True):
            there = codes[codes >= 0]
            bearers = np.bincount(there, minlength=len(known)).astype(float)
            same = np.zeros(len(known))
            if len(pairs):
                one, other = codes[pairs[:, 0]], codes[pairs[:, 1]]
                equal = (one == other) & (one >= 0)
                np.add.at(same, one[equal], chances[equal])
            strangers = np.maximum(bearers * (bearers - 1) - 2 * same, 0.0)
            rare = bearers < 3
            pooled = strangers[rare].sum() / max(1.0, bearers[rare].sum())
            each = np.where(rare, pooled, strangers / np.maximum(bearers, 1.0))
            found.append(np.maximum(each, 0.5) / max(1, len(there)))
        return tuple(found)

    def _with_m(
        self, u: tuple[Floats, ...], shares: tuple[Floats, ...], more: Sequence[Floats] = ()
    ) -> Estimate:
        known = Estimate(tuple(self._expected), u, shares)
        counted: list[list[Floats]] = [[] for _ in self._places]
        for compared, places in self._chosen:
            for place, found in self._maximise(compared, places, known).items():
                counted[place].append(found)
        counts = [
            _most_agreeing(found, np.zeros_like(expected), len(scale(self.sample, place)) - 1)
            for place, (found, expected) in enumerate(zip(counted, self._expected, strict=True))
        ]
        if more:
            counts = [count + found for count, found in zip(counts, more, strict=True)]
        m = tuple(
            self._falling(self._believed(place, count), u[place], place)
            for place, count in enumerate(counts)
        )
        return Estimate(m, u, shares)

    def _believed(self, place: int, counts: Floats, belief: float = _BELIEF) -> Floats:
        """M by what was counted and what is expected."""
        firm = self.sample.columns[place].kind == "codes"
        whole = counts + (_FIRM if firm else belief) * self._expected[place]
        return np.asarray(whole / whole.sum())

    def _maximise(
        self, compared: Compared, places: Sequence[int], known: Estimate
    ) -> dict[int, Floats]:
        """How often each level occurred between records of one person among these pairs."""
        log_u = {place: self._log_u(compared, place, known) for place in places}
        m = {place: known.m[place] for place in places}
        counts: dict[int, Floats] = {}
        share = 0.2
        for _ in range(_ROUNDS):
            odds = np.full(len(compared.pairs), np.log(share / (1 - share)))
            for place in places:
                odds += _said(compared.levels, place, m[place], log_u[place])
            chance = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
            share = float(np.clip(chance.mean(), 1e-4, 1 - 1e-4))
            for place in places:
                counts[place] = _tally(compared.levels, place, chance, len(m[place]))
                m[place] = self._believed(place, counts[place], belief=2.0)
        return counts

    def _log_u(self, compared: Compared, place: int, estimated: Estimate) -> Floats:
        """The logarithm of u of every pair in one column, by the rarity of equal values."""
        column = compared.levels[:, place]
        found = np.log(np.append(estimated.u[place], 1.0))[column]
        shares = estimated.shares[place]
        if len(shares):
            equal = column == 0
            codes = self.sample.codes[place][compared.pairs[equal, 0]]
            found[equal] = np.log(shares)[codes]
        return np.asarray(found)

    def _falling(self, m: Floats, u: Floats, place: int) -> Floats:
        """The m with which m/u falls from level to level: less alike never says more. Neighbours
        that break this are pooled (Ayer et al. 1955)."""
        ordered = len(scale(self.sample, place))
        pools: list[list[int]] = []
        for level in range(ordered):
            pools.append([level])
            while len(pools) > 1 and _ratio(m, u, pools[-2]) < _ratio(m, u, pools[-1]):
                last = pools.pop()
                pools[-1] += last
        found = m.copy()
        for pool in pools:
            found[pool] = _ratio(m, u, pool) * u[pool]
        return np.maximum(found, 1e-6)


def scale(sample: Sample, place: int) -> tuple[str, ...]:
    """The levels that are ordered: exchanged values stand beside them."""
    names = sample.names(place)
    return names[:-2] if names[-1] == "one moved" else names


def _most_agreeing(counted: Sequence[Floats], none: Floats, last: int) -> Floats:
    """The counts of the third of the families in which a column differs least.

    Where related people share much (an address, a telephone), a family that chooses by some of it
    finds them in the rest of it, and takes them for one person with another name. Families differ
    in how many of these they let in; those that let in fewest tell best how one person is written.
    """
    told = [counts for counts in counted if counts.sum() >= _FEWEST / 2]
    told.sort(key=lambda counts: float(counts[last] / counts.sum()))
    return np.asarray(sum(told[: max(1, len(told) // 3)], start=none))


def _training_families(sample: Sample, keys: Keys) -> list[tuple[Family, Keyed]]:
    """Families that give neither too few pairs to learn from nor too many strangers, the most
    selective first, each column in a few of them."""
    sized = []
    for family in keys.families():
        keyed = keys.of(family)
        pairs = keyed.cost(len(sample))
        if _FEWEST <= pairs <= _MOST_PAIRS * len(sample):
            sized.append((pairs, family, keyed))
    if any(not _of_words(sample, family) for _, family, _ in sized):
        sized = [
            one for one in sized if not _of_words(sample, one[1])
        ]  # alike by choice, and not by chance
    used: Counter[int] = Counter()
    chosen = []
    for _, family, keyed in sorted(sized, key=lambda one: one[:2]):
        places = {place for place, _ in family}
        if any(used[place] < _FAMILIES_OF_A_COLUMN for place in places):
            used.update(places)
            chosen.append((family, keyed))
    return chosen


def _of_words(sample: Sample, family: Family) -> bool:
    return any(sample.columns[place].kind == "long" for place, _ in family)


def _others(sample: Sample, family: Family) -> list[int]:
    """The columns that a family does not choose by, not even with exchanged values."""
    taken = {place for place, _ in family}
    for one, other in sample.comparer.swapped:
        if {one, other} & taken:
            taken |= {one, other}
    return [place for place in range(len(sample.columns)) if place not in taken]


def _tally(levels: Numbers, place: int, weights: Floats, many: int) -> Floats:
    """How often each level of a column occurs, by weight."""
    column = levels[:, place]
    there = column >= 0
    counts = np.bincount(column[there], weights=weights[there], minlength=many)
    return np.asarray(counts, dtype=np.float64)


def _without(found: Floats, share: float, matched: Floats) -> Floats:
    """The frequencies of strangers, where this share of the pairs is of one person."""
    left = np.maximum(found - share * matched, _LEAST * found)
    return np.asarray(left / left.sum())


def _said(levels: Numbers, place: int, m: Floats, log_u: Floats) -> Floats:
    column = levels[:, place]
    return np.where(column >= 0, np.log(np.append(m, 1.0))[column] - log_u, 0.0)


def _ratio(m: Floats, u: Floats, pool: list[int]) -> float:
    return float(m[pool].sum() / u[pool].sum())
