"""How good a ranking is. Pure: a ranking is a list of documents, judgements are gains by document.

hit@1: the first is relevant. recall@10: the share of the relevant ones among the first ten.
MRR@10: one over the place of the first relevant one. nDCG@10: gains discounted by the logarithm of
their place, against the best order there could be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

Gains = Mapping[str, int]


def hit(ranking: Sequence[str], gains: Gains, at: int = 1) -> float:
    """1 if one of the first is relevant, else 0."""
    return float(any(gains.get(document, 0) > 0 for document in ranking[:at]))


def recall(ranking: Sequence[str], gains: Gains, at: int = 10) -> float:
    """The share of the relevant documents that is among the first."""
    relevant = {document for document, gain in gains.items() if gain > 0}
    return len(relevant & set(ranking[:at])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], gains: Gains, at: int = 10) -> float:
    """One over the place of the first relevant document; 0 if it comes later than ``at``."""
    for place, document in enumerate(ranking[:at], 1):
        if gains.get(document, 0) > 0:
            return 1 / place
    return 0.0


def ndcg(ranking: Sequence[str], gains: Gains, at: int = 10) -> float:
    """Discounted gain against that of the best order."""
    best = _discounted(sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:at])
    found = _discounted([max(0, gains.get(document, 0)) for document in ranking[:at]])
    return found / best if best else 0.0


def _discounted(gains: Iterable[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))


def measures(ranking: Sequence[str], gains: Gains) -> dict[str, float]:
    """The four measures of one ranking, by name."""
    return {
        "hit@1": hit(ranking, gains),
        "recall@10": recall(ranking, gains),
        "mrr@10": reciprocal_rank(ranking, gains),
        "ndcg@10": ndcg(ranking, gains),
    }


def summary(rankings: Iterable[tuple[Sequence[str], Gains]]) -> dict[str, float]:
    """The four means over some questions."""
    rows = [measures(ranking, gains) for ranking, gains in rankings]
    return {
        name: round(sum(row[name] for row in rows) / len(rows), 4) if rows else 0.0
        for name in measures([], {})
    }


def best_per_document(ranked: Iterable[tuple[str, float]]) -> list[str]:
    """Documents in the order of their best chunk; ``ranked`` are (document, score), best first."""
    return list(dict.fromkeys(document for document, _ in ranked))
