"""Training without labels: from rows to a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from penstock.errors import ConfigError
from penstock.identity.fuzzy.blocking import Family
from penstock.identity.fuzzy.columns import Described, Row
from penstock.identity.fuzzy.estimation import FIRST_GUESS, Estimate, Estimator, scale
from penstock.identity.fuzzy.keyed import Keys
from penstock.identity.fuzzy.model import FieldWeights, Model, RelatedWeights
from penstock.identity.fuzzy.sample import Floats, Sample, read_sample
from penstock.identity.fuzzy.sources import each_once
from penstock.identity.fuzzy.thresholds import chances_of, choose, prior_of

BLOCK_AT_MOST: Final = 60
_BUDGET: Final = 30
"""Pairs that are compared for each record, about; more for rare words, which have no other way."""
_BUDGET_OF_WORDS: Final = 80
_SIMULATED: Final = 5000
_ENOUGH: Final = 0.9999
_SURE: Final = 0.6
"""What is drawn is only nearly so: several families must reach a pair."""
_ROUNDS: Final = 8


@dataclass(frozen=True)
class Trained:
    """A model, and what was learned about the data on the way."""

    model: Model
    described: tuple[Described, ...]
    pairs_compared: int
    matches_expected: float
    precision_expected: float
    recall_expected: float


def train(rows: Sequence[Row], sources: Sequence[str], *, seed: int = 1) -> Trained:
    """Learn the weights from unlabelled rows; ``sources`` says where each comes from.

    `ConfigError` when no column can tell records apart.
    """
    sample = read_sample(rows, sources)
    if not sample.columns or len(rows) < 2:
        raise ConfigError(
            "expected at least two records and a column whose values differ, got "
            f"{len(rows)} records in which no column tells them apart"
        )
    names = [column.name for column in sample.described if column.kind is not None]
    if len(set(sources)) > 1 and each_once(names, rows, sources):
        sample = replace(sample, between=True)
    keys = Keys(sample)
    estimator = Estimator(sample, keys, seed)
    estimated = estimator.first()
    families = _families(sample, keys, estimated, seed)
    reached = [keys.of(family).pairs(BLOCK_AT_MOST) for family in families]
    none = np.empty((0, 2), dtype=np.int64)
    compared = estimator.compare(sample.looked_at(np.concatenate([none, *reached])))
    matches = FIRST_GUESS * len(sample)
    for _ in range(_ROUNDS):
        odds = estimator.odds(compared, estimated)
        chances = chances_of(sample, compared.pairs, odds + prior_of(sample, matches))
        matches = float(chances.sum())
        estimated = estimator.again(estimated, compared, chances)
        estimated = estimator.with_relations(compared, estimated, matches)
    chosen = choose(estimator, compared, estimated)
    model = Model(
        sample.columns,
        _weights(sample, estimated),
        sample.comparer.rarity,
        families,
        chosen.prior / math.log(2),
        chosen.link / math.log(2),
        chosen.possible / math.log(2),
        BLOCK_AT_MOST,
        sample.between,
        _relations(estimated),
    )
    return Trained(
        model,
        sample.described,
        len(compared.pairs),
        chosen.matches,
        chosen.precision,
        chosen.recall,
    )


def _weights(sample: Sample, estimated: Estimate) -> tuple[FieldWeights, ...]:
    """What was estimated, as it is kept: values that few have share what is said of them."""
    partner = dict(sample.comparer.swapped)
    found = []
    for place, shares in enumerate(estimated.shares):
        bearers = np.bincount(sample.codes[place][sample.codes[place] >= 0], minlength=len(shares))
        frequent = {
            value: round(float(share), 9)
            for value, share, many in zip(sample.values[place], shares, bearers, strict=True)
            if many >= 3
        }
        rest = shares[bearers < 3]
        found.append(
            FieldWeights(
                tuple(round(float(x), 9) for x in estimated.m[place]),
                tuple(round(float(x), 9) for x in estimated.u[place]),
                frequent,
                float(rest[0]) if len(rest) else 0.5 / len(sample),
                partner.get(place),
            )
        )
    return tuple(found)


def _relations(estimated: Estimate) -> tuple[RelatedWeights, ...]:
    return tuple(
        RelatedWeights(
            relation.prior / math.log(2),
            tuple((c, tuple(round(float(x), 9) for x in f)) for c, f in relation.levels.items()),
        )
        for relation in estimated.relations
    )


def _families(sample: Sample, keys: Keys, estimated: Estimate, seed: int) -> tuple[Family, ...]:
    """The families that together reach nearly all pairs of one person at the least cost.

    Which pairs a family reaches is told by pairs that are drawn from m, column by column; the next
    one is always that which reaches most that none has reached, for what it costs.
    """
    total = len(sample)
    drawn = _draw(sample, estimated, seed)
    offered = []
    for family in keys.families():
        keyed = keys.of(family)
        cost = float(keyed.cost(BLOCK_AT_MOST))
        if all(form == "rare" for _, form in family):
            cost *= _BUDGET / _BUDGET_OF_WORDS
        if 0 < cost <= _BUDGET * total:
            reached = np.all([drawn[part] for part in family], axis=0)
            offered.append((family, cost, _SURE * keyed.inside(BLOCK_AT_MOST) * reached))
    missed = np.ones(_SIMULATED)
    chosen: list[Family] = []
    left = float(_BUDGET * total)
    while missed.mean() > 1 - _ENOUGH:
        offered = [one for one in offered if one[1] <= left]
        gains = [float((missed * hit).sum()) / (cost + total / 10) for _, cost, hit in offered]
        if not gains or max(gains) <= 0:
            break
        family, cost, hit = offered.pop(int(np.argmax(gains)))
        missed = missed * (1 - hit)
        chosen.append(family)
        left -= cost
    return tuple(sorted(chosen))


def _draw(sample: Sample, estimated: Estimate, seed: int) -> dict[tuple[int, str], Floats]:
    """For each form of a column: which of the drawn pairs agree in it."""
    chance = np.random.default_rng(seed)
    drawn: dict[tuple[int, str], Floats] = {}
    for place in range(len(sample.columns)):
        filled = np.mean([record.values[place] is not None for record in sample.records])
        m = estimated.m[place] / estimated.m[place].sum()
        levels = chance.choice(len(m), size=_SIMULATED, p=m)
        there = chance.random(_SIMULATED) < filled**2
        luck = chance.random(_SIMULATED)
        near = levels == 1
        alike = {
            "rare": levels < len(scale(sample, place)) - 1,
            "equal": levels == 0,
            "sound": (levels == 0) | (near & (luck < 0.5)),
            "start": (levels == 0) | (near & (luck < 0.5)),
            "rest": (levels == 0) | (near & (luck >= 0.5)),
        }
        for form, agrees in alike.items():
            drawn[place, form] = (there & agrees).astype(float)
    return drawn
