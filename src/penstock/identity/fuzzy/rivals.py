"""Thresholds where every source has everybody once: by the candidates that cannot be right.

Of a record's candidates in another source one may be right; the best of the others shows how well
a stranger scores at best. Were the record not in the other source, its best candidate would score
like that. So second best candidates tell how many best ones above a threshold are strangers,
whatever the weights are worth (as decoys do in mass spectrometry: Elias and Gygi 2007; the share of
records without a match after Storey 2002).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from penstock.identity.fuzzy.sample import Floats, Pairs, Sample

_ENOUGH: Final = 0.25
_FEWEST_ALONE: Final = 0.02
_NEVER: Final = -1e9


def rivals_seen(
    sample: Sample, pairs: Pairs, odds: Floats
) -> tuple[list[tuple[float, int, float]], float]:
    """At each threshold: the odds, how many pairs are linked, how many are expected to be right;
    and how many matches there are in all."""
    best, second = _two_best(sample, pairs, odds)
    alone = _share_alone(best, second)
    linked = np.sort(_greedy(sample, pairs, odds))[::-1]
    many = len(best)
    rank = many - np.searchsorted(np.sort(second), linked, side="left")
    wrong = np.minimum.accumulate((alone * rank / 2)[::-1])[::-1]
    seen = [
        (float(at), number, max(0.0, number - float(false)))
        for number, (at, false) in enumerate(zip(linked, wrong, strict=True), 1)
    ]
    return seen, max([(1 - alone) * many / 2, *(right for _, _, right in seen)])


def _two_best(sample: Sample, pairs: Pairs, odds: Floats) -> tuple[Floats, Floats]:
    """The odds of the best and of the second best candidate of each record in another source."""
    many = int(sample.sources.max()) + 1
    ends = np.concatenate([pairs[:, 0], pairs[:, 1]])
    others = sample.sources[np.concatenate([pairs[:, 1], pairs[:, 0]])]
    keys, both = ends * many + others, np.concatenate([odds, odds])
    order = np.lexsort((-both, keys))
    keys, both = keys[order], both[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    following = np.minimum(starts + 1, max(0, len(keys) - 1))
    same = (following > starts) & (keys[following] == keys[starts]) if len(keys) else starts > 0
    best = np.full(len(sample) * (many - 1), _NEVER)
    second = best.copy()
    best[: len(starts)] = both[starts]
    second[: len(starts)] = np.where(same, both[following], _NEVER)
    return best, second


def _share_alone(best: Floats, second: Floats) -> float:
    """The share of records without a match. Below any score there are at least the strangers of
    those that are alone: the tightest of these bounds."""
    a, b = np.sort(best), np.sort(second)
    share = 1.0
    for at in np.unique(np.quantile(b, np.linspace(0.02, 1, 60))):
        strangers = np.searchsorted(b, at, side="right") / len(b)
        if strangers >= _ENOUGH:
            share = min(share, float(np.searchsorted(a, at, side="right") / len(a) / strangers))
    return max(share, _FEWEST_ALONE)


def _greedy(sample: Sample, pairs: Pairs, odds: Floats) -> Floats:
    """The odds of pairs that are linked, the best first, each record once in each source."""
    taken: set[tuple[int, int]] = set()
    found = []
    order = np.lexsort((np.arange(len(pairs)), -odds))
    sources = sample.sources.tolist()
    for place in order.tolist():
        one, other = pairs[place].tolist()
        mine, yours = (one, sources[other]), (other, sources[one])
        if mine not in taken and yours not in taken:
            taken |= {mine, yours}
            found.append(odds[place])
    return np.array(found, dtype=np.float64)
