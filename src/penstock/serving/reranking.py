"""Ranking again: what was found by vectors and words, in a better order.

Two ways: with the vectors of tokens that are stored beside each chunk, on this machine and within
milliseconds (`penstock.models.ranking`), or by a model behind an endpoint that reads question and
passage together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from penstock.errors import BadRecordError, ConfigError, FatalError, RetryableError
from penstock.models.base import Candidate, Embedder, Scorer, Weighted, serving, token_embedder
from penstock.stores.base import ChunkVectors, Hit, Passage, Snapshot

Ranked = Sequence[tuple[Hit, float]]

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
        wanted = [hit.chunk for hit in hits]
        passages = {passage.chunk: passage for passage in await snapshot.passages(wanted)}
        stored = await snapshot.vectors(wanted, model=model.name, head=model.head)
        if len(stored) < len(hits) or len(passages) < len(hits):
            return None
        rarities = await snapshot.rarities(question)
        scores = await model.match(
            question,
            [Weighted(*word) for word in rarities.words],
            rarities.most,
            [_candidate(hit, passages[hit.chunk], stored[hit.chunk]) for hit in hits],
        )
        again = zip(hits, scores, strict=True)
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
        except (RetryableError, BadRecordError, FatalError, ConfigError) as error:
            raise RerankError(str(error)) from error
        again = [(hits[p.chunk], s * _MOST) for p, s in zip(passages, scores, strict=True)]
        return sorted(again, key=lambda pair: (-pair[1], pair[0].chunk))

    async def close(self) -> None:
        """Release connections."""
        await self._scorer.close()


def _candidate(hit: Hit, passage: Passage, stored: ChunkVectors) -> Candidate:
    return Candidate(
        hit.similarity,
        hit.text_score,
        passage.title,
        passage.text,
        stored.vector,
        stored.tokens,
    )
