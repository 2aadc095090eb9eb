"""Candidates are ordered anew, and the order before stands where that fails."""

from __future__ import annotations

import pytest

from penstock.errors import UnavailableError
from penstock.models.base import TokenEmbedder, token_embedder
from penstock.models.constant import ConstantEmbedder
from penstock.models.minilm import MiniLMEmbedder
from penstock.models.recent import RecentVectors
from penstock.serving.reranking import LateInteraction, Ranked, RerankError
from penstock.serving.retrieval import retrieve
from penstock.stores.base import ChunkVectors, Hit, Snapshot
from penstock.testing.snapshots import ScriptedSnapshots, passage

TEXTS = {
    1: "The turbine was delivered by ship in spring.",
    2: "A ship carries the mail to the island.",
    3: "The valve of the turbine broke in winter.",
}


class Scripted:
    """Turns the order round, or fails."""

    name = "scripted"
    depth = 2

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def rerank(self, question: str, snapshot: Snapshot, ranked: Ranked) -> Ranked | None:
        del question, snapshot
        if self.error is not None:
            raise self.error
        return [(hit, 0.3) for hit, _ in reversed(ranked)]

    async def close(self) -> None:
        pass


def store() -> ScriptedSnapshots:
    hits = [Hit(1, 0.5, 0.4), Hit(2, 0.5, 0.3), Hit(3, 0.5, 0.2)]
    return ScriptedSnapshots(passages=[passage(i, text) for i, text in TEXTS.items()], hits=hits)


async def test_only_the_best_are_ordered_anew() -> None:
    """The others stay behind them, and no score behind is larger than one before."""
    opened = store()
    found = await retrieve(opened, "q", opened.vector, model="m", reranker=Scripted())
    assert [p.chunk for p in found.passages] == [2, 1, 3]
    scores = [p.score for p in found.passages]
    assert scores == sorted(scores, reverse=True)
    assert (found.reranked, found.note) == ("scripted", None)


@pytest.mark.parametrize("mode", ["vector", "text"])
async def test_only_the_mode_hybrid_is_ordered_anew(mode: str) -> None:
    opened = store()
    found = await retrieve(opened, "q", opened.vector, mode=mode, reranker=Scripted())  # type: ignore[arg-type]
    assert found.reranked is None


async def test_a_reranker_that_fails_leaves_the_order_and_says_so() -> None:
    """A model that cannot be reached costs quality, not the answer; a database does."""
    opened = store()
    failing = Scripted(RerankError("the endpoint is down"))
    found = await retrieve(opened, "q", opened.vector, model="m", reranker=failing)
    assert [p.chunk for p in found.passages] == [1, 2, 3]
    assert found.reranked is None
    assert found.note == "scripted failed: the endpoint is down"
    with pytest.raises(UnavailableError):
        await retrieve(opened, "q", opened.vector, reranker=Scripted(UnavailableError("gone")))


async def minilm() -> TokenEmbedder:
    model = token_embedder(MiniLMEmbedder(threads=1))
    assert model is not None
    return model


async def test_late_interaction_finds_the_passage_that_says_it() -> None:
    """Equal in all that found them, told apart word by word."""
    model = await minilm()
    made = await model.embed_tokens(list(TEXTS.values()))
    stored = {
        chunk: ChunkVectors(vector, tokens)
        for chunk, vector, tokens in zip(TEXTS, made.vectors, made.tokens, strict=True)
    }
    opened = ScriptedSnapshots(
        passages=[passage(i, text) for i, text in TEXTS.items()],
        hits=[Hit(chunk, 0.5, 0.5) for chunk in TEXTS],
        vectors=stored,
    )
    reranker = LateInteraction(model)
    for question, best in (
        ("How does mail reach the island?", 2),
        ("When did the valve break?", 3),
    ):
        found = await retrieve(opened, question, opened.vector, model=model.name, reranker=reranker)
        assert found.passages[0].chunk == best
        assert found.reranked == "late_interaction"
    assert f"vectors {model.name} {model.head}" in opened.events
    await model.close()


async def test_a_candidate_without_tokens_leaves_the_order() -> None:
    """Stored before there was a head, or under another: two kinds of scores do not compare."""
    model = await minilm()
    made = await model.embed_tokens([TEXTS[1]])
    opened = store()
    opened._vectors = {1: ChunkVectors(made.vectors[0], made.tokens[0])}
    found = await retrieve(opened, "q", opened.vector, reranker=LateInteraction(model))
    assert [p.chunk for p in found.passages] == [1, 2, 3]
    assert found.note == "late_interaction knows not all candidates yet"
    await model.close()


def test_models_without_tokens_are_known() -> None:
    """Also behind what remembers recent vectors, and where they are switched off."""
    assert token_embedder(ConstantEmbedder()) is None
    assert token_embedder(RecentVectors(ConstantEmbedder())) is None
    assert token_embedder(MiniLMEmbedder(tokens=False)) is None
    assert token_embedder(RecentVectors(MiniLMEmbedder())) is not None
