"""Ranking again: what was found by vectors and words, in a better order.

Late interaction compares the question word by word with each of the best candidates. Its score is
added to the two that found them, and then candidates that are like the best ones are moved up a
little: where one passage stands out that changes nothing, where many answer it brings them together
(Diaz, "Regularizing ad hoc retrieval scores", 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BadRecordError, FatalError, RetryableError
from penstock.models.base import Embedder, Scorer, Weighted, serving, token_embedder
from penstock.stores.base import Hit, Snapshot

Ranked = Sequence[tuple[Hit, float]]
Floats = NDArray[np.float64]

LATE: Final = 4.0
"""What a full match word by word counts, beside a cosine of 1 and a full match of words."""
ALIKE: Final = 2.0
"""What full likeness with the best counts."""
PEAKED: Final = 16.0
"""How soon candidates stop being among the best."""
_MOST: Final = 2.0
"""Scores lie between 0 and this, as they do before."""


class Reranker(Protocol):
    """Orders candidates anew."""

    name: str
    depth: int
    """How many of the best it looks at; the others stay behind them, in their order."""

    async def rerank(self, question: str, snapshot: Snapshot, ranked: Ranked) -> Ranked | None:
        """The same candidates with new scores, 0 to 2, best first; None where it cannot tell.
        Raises `RerankError` when the model behind it fails."""

    async def close(self) -> None:
        """Release what is its own."""


class RerankError(RetryableError):
    """A reranker failed: the order before it stands."""


class LateInteraction:
    """Ranks by the vectors of tokens that were stored with each chunk."""

    name = "late_interaction"

    def __init__(self, model: Embedder, *, depth: int = 30) -> None:
        self._embedder = model
        self.depth = depth

    async def rerank(self, question: str, snapshot: Snapshot, ranked: Ranked) -> Ranked | None:
        """None while one of the candidates was stored without tokens, or with those of another
        head: two kinds of scores do not compare."""
        model = token_embedder(await serving(self._embedder, fresh=False))
        if model is None:
            return None
        hits = [hit for hit, _ in ranked]
        stored = await snapshot.vectors(
            [hit.chunk for hit in hits], model=model.name, head=model.head
        )
        if len(stored) < len(hits):
            return None
        rarities = await snapshot.rarities(question)
        late = await model.match(
            question,
            [Weighted(*word) for word in rarities.words],
            rarities.most,
            [stored[hit.chunk].tokens for hit in hits],
        )
        scores = combine(
            np.array([hit.similarity + hit.text_score for hit in hits]),
            np.asarray(late, np.float64),
            np.stack([stored[hit.chunk].vector for hit in hits]).astype(np.float64),
        )
        again = zip(hits, scores.tolist(), strict=True)
        return sorted(again, key=lambda pair: (-pair[1], pair[0].chunk))

    async def close(self) -> None:
        """The model is closed by who opened it."""


class PassageScores:
    """Ranks by what a model says that reads question and passage together."""

    def __init__(self, scorer: Scorer, *, depth: int = 30) -> None:
        self._scorer = scorer
        self.name = scorer.name
        self.depth = depth

    async def rerank(self, question: str, snapshot: Snapshot, ranked: Ranked) -> Ranked | None:
        """The endpoint is asked while the snapshot is open: its time limit is a short one."""
        hits = {hit.chunk: hit for hit, _ in ranked}
        passages = await snapshot.passages(list(hits))
        texts = [f"{p.title} {p.heading}".strip() + "\n" + p.text for p in passages]
        try:
            scores = await self._scorer.scores(question, texts)
        except (RetryableError, BadRecordError, FatalError) as error:
            raise RerankError(str(error)) from error
        again = [(hits[p.chunk], s * _MOST) for p, s in zip(passages, scores, strict=True)]
        return sorted(again, key=lambda pair: (-pair[1], pair[0].chunk))

    async def close(self) -> None:
        """Release connections."""
        await self._scorer.close()


def combine(fused: Floats, late: Floats, vectors: Floats) -> Floats:
    """One score for each candidate, from the two that found it, the match word by word, and how
    alike it is to the best of all."""
    scores = fused + LATE * late
    share = np.exp(PEAKED * (scores - scores.max()))
    alike = vectors @ (share / share.sum() @ vectors)
    combined: Floats = (scores + ALIKE * alike) * (_MOST / (_MOST + LATE + ALIKE))
    return combined
