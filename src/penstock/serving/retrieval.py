"""Ranking: one score for each candidate, and no passage twice.

Both parts of the score lie between 0 and 1 and mean the same for every question: the cosine of the
question's and the passage's vectors, and the share of the question's words (weighted by how much
each tells) that the passage holds. Their plain sum ranks better than either, than fused ranks and
than scores standardised per question, and it can be compared with a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from penstock.errors import ConfigError
from penstock.stores.base import Filter, Hit, Passage, Snapshot, Vectors

Mode = Literal["hybrid", "vector", "text"]

WORDS: Final = 1.0
"""What a full match of words counts, beside a cosine of 1."""
CANDIDATES: Final = 50
"""How many chunks each kind of search gives, at least."""
_SPARE: Final = 4
"""Passages read beyond those wanted: some are repetitions, some stand for rows that are gone."""


def fuse(hits: Sequence[Hit], mode: Mode = "hybrid") -> list[tuple[Hit, float]]:
    """Candidates with their score, best first; equals in the order of their chunks.

    In mode ``text``, chunks that hold none of the question's words are no candidates.
    """
    if mode == "vector":
        scored = [(hit, hit.similarity) for hit in hits]
    elif mode == "text":
        scored = [(hit, hit.text_score) for hit in hits if hit.text_score > 0]
    else:
        scored = [(hit, hit.similarity + WORDS * hit.text_score) for hit in hits]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0].chunk))


async def retrieve(
    snapshot: Snapshot,
    question: str,
    vector: Vectors | None,
    *,
    model: str | None = None,
    where: Filter | None = None,
    limit: int = 8,
    mode: Mode = "hybrid",
) -> list[Passage]:
    """The best passages for a question, with their scores, best first.

    ``vector`` is the question's, made by ``model``; mode ``text`` does without one.
    """
    if mode != "text" and vector is None:
        raise ConfigError(f"expected the question's vector for mode {mode!r}, got none")
    hits = await snapshot.candidates(
        None if mode == "text" else vector,
        None if mode == "vector" else question,
        limit=max(CANDIDATES, 2 * limit),
        where=where or Filter(),
        model=model,
    )
    ranked = fuse(hits, mode)[: limit + _SPARE]
    scores = {hit.chunk: (hit, score) for hit, score in ranked}
    passages = await snapshot.passages([hit.chunk for hit, _ in ranked])
    return [
        replace(
            passage,
            score=scores[passage.chunk][1],
            similarity=scores[passage.chunk][0].similarity,
            text_score=scores[passage.chunk][0].text_score,
        )
        for passage in distinct(passages)
    ]


def distinct(passages: Sequence[Passage]) -> list[Passage]:
    """Without passages that repeat a better one: the same words in another document, or a part of
    the same document that lies wholly inside. Rows always stay: each is a thing of its own."""
    kept: list[Passage] = []
    seen: set[str] = set()
    for passage in passages:
        if passage.stream is None:
            words = re.sub(r"\W+", " ", passage.text).strip().lower()
            if words in seen or any(_inside(passage, other) for other in kept):
                continue
            seen.add(words)
        kept.append(passage)
    return kept


def _inside(passage: Passage, other: Passage) -> bool:
    return (
        passage.document == other.document
        and other.start <= passage.start
        and passage.end <= other.end
    )
