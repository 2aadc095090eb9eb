"""Ranking: one score for each candidate, and no passage twice.

Both parts of the score lie between 0 and 1 and mean the same for every question: the cosine of the
question's and the passage's vectors, and the share of the question's words (weighted by how much
each tells) that the passage holds. Their plain sum ranks better than either, than fused ranks and
than scores standardised per question, and it can be compared with a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal, NamedTuple

from penstock.errors import ConfigError
from penstock.records import Microseconds
from penstock.serving.reranking import Ranked, Reranker, RerankError
from penstock.serving.shaping import Shaping, by_recency, joined, without_near_duplicates
from penstock.stores.base import Filter, Hit, Passage, Snapshot, Vectors

Mode = Literal["hybrid", "vector", "text"]

WORDS: Final = 1.0
"""What a full match of words counts, beside a cosine of 1."""
CANDIDATES: Final = 50
"""How many chunks each kind of search gives, at least."""
_RANKS: Final = 60
"""How little the first ranks are preferred when rankings are joined."""
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


class Search(NamedTuple):
    """One text to look for, and its vector (None in mode ``text``)."""

    text: str
    vector: Vectors | None


@dataclass(frozen=True, slots=True)
class Found:
    """Passages, best first. ``reranked`` names what ordered them last, None if that are the scores
    that found them; ``note`` says why, when it should have been another."""

    passages: list[Passage]
    reranked: str | None = None
    note: str | None = None


async def retrieve(
    snapshot: Snapshot,
    question: str,
    vector: Vectors | None,
    *,
    model: str | None = None,
    where: Filter | None = None,
    limit: int = 8,
    mode: Mode = "hybrid",
    reranker: Reranker | None = None,
    shape: Shaping | None = None,
    now: Microseconds | None = None,
    others: Sequence[Search] = (),
) -> Found:
    """The best passages for a question, with their scores, best first.

    ``vector`` is the question's, made by ``model``; mode ``text`` does without one. ``reranker``
    orders what mode ``hybrid`` finds; where it fails, the order before it stands. ``shape`` says
    what else is asked of the passages; recency is counted from ``now``. ``others`` are searched as
    well, and what is found is joined by its ranks.
    """
    if mode != "text" and vector is None:
        raise ConfigError(f"expected the question's vector for mode {mode!r}, got none")
    rankings: list[Ranked] = []
    by, note = None, None
    for search in (Search(question, vector), *others):
        hits = await snapshot.candidates(
            None if mode == "text" else search.vector,
            None if mode == "vector" else search.text,
            limit=max(CANDIDATES, 2 * limit),
            where=where or Filter(),
            model=model,
        )
        ranked: Ranked = fuse(hits, mode)
        if reranker is not None and mode == "hybrid":
            ranked, ranker, said = await again(ranked, reranker, search.text, snapshot)
            by, note = by or ranker, note or said
        rankings.append(ranked)
    if not any(rankings) and where is not None and where.metadata:
        await _expect_fields(where, snapshot)
    ranked = by_ranks(rankings)
    return await _shown(snapshot, ranked, Found([], by, note), limit, shape or Shaping(), now)


def by_ranks(rankings: Sequence[Ranked]) -> Ranked:
    """Several rankings as one, by reciprocal ranks (Cormack, Clarke, Buettcher, 2009). Scores keep
    their meaning: the nth has the nth best of all."""
    if len(rankings) == 1:
        return rankings[0]
    worth: dict[int, float] = {}
    best: dict[int, tuple[Hit, float]] = {}
    for ranking in rankings:
        for rank, (hit, score) in enumerate(ranking, 1):
            worth[hit.chunk] = worth.get(hit.chunk, 0.0) + 1 / (_RANKS + rank)
            if hit.chunk not in best or score > best[hit.chunk][1]:
                best[hit.chunk] = (hit, score)
    scores = sorted((score for _, score in best.values()), reverse=True)
    order = sorted(best, key=lambda chunk: (-worth[chunk], chunk))
    return [(best[chunk][0], score) for chunk, score in zip(order, scores, strict=True)]


async def _shown(
    snapshot: Snapshot,
    ranked: Ranked,
    found: Found,
    limit: int,
    shape: Shaping,
    now: Microseconds | None,
) -> Found:
    """The best of a ranking as passages, with what is asked of them besides."""
    wider = shape.recency_days is not None or shape.near_duplicates is not None
    ranked = ranked[: max(CANDIDATES, 2 * limit) if wider else limit + _SPARE]
    scores = {hit.chunk: (hit, score) for hit, score in ranked}
    passages = await snapshot.passages([hit.chunk for hit, _ in ranked])
    scored = [
        replace(
            passage,
            score=scores[passage.chunk][1],
            similarity=scores[passage.chunk][0].similarity,
            text_score=scores[passage.chunk][0].text_score,
        )
        for passage in distinct(passages)
    ]
    if shape.near_duplicates is not None:
        scored = without_near_duplicates(scored, shape.near_duplicates)
    if shape.recency_days is not None and now is not None:
        scored = by_recency(scored, now, shape.recency_days)
    return replace(found, passages=scored[: limit + _SPARE])


async def widened(
    passages: Sequence[Passage], snapshot: Snapshot, neighbours: int
) -> list[Passage]:
    """Passages of documents with the text around them; offsets stay those of the document."""
    around = await snapshot.around([p.chunk for p in passages if p.stream is None], neighbours)
    wide = []
    for passage in passages:
        if passage.chunk in around:
            text, start, end = joined(around[passage.chunk])
            wide.append(replace(passage, text=text, start=start, end=end))
        else:
            wide.append(passage)
    return distinct(wide)


async def _expect_fields(where: Filter, snapshot: Snapshot) -> None:
    """A filter by a field that no document has is a mistake, not an empty answer."""
    known = await snapshot.fields()
    for name in where.metadata:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise ConfigError(
                f"expected a metadata field to filter by, but no document has {name!r}: {hint}"
            )


async def again(
    ranked: Ranked, reranker: Reranker, question: str, snapshot: Snapshot
) -> tuple[Ranked, str | None, str | None]:
    """The ranking with its best part ordered anew, by whom, and why not if it was not."""
    best, rest = ranked[: reranker.depth], ranked[reranker.depth :]
    if not best:
        return ranked, None, None
    try:
        found = await reranker.rerank(question, snapshot, best)
    except RerankError as error:
        return ranked, None, f"{reranker.name} failed: {error}"
    if found is None:
        return ranked, None, f"{reranker.name} knows not all candidates yet"
    lowest = min(score for _, score in found)
    below = max((score for _, score in rest), default=0.0)
    factor = lowest / below if below > lowest else 1.0
    return [*found, *((hit, score * factor) for hit, score in rest)], reranker.name, None


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
