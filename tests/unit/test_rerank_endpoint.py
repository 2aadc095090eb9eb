"""A reranker behind an endpoint, over real HTTP on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from penstock.errors import PenstockError
from penstock.models.rerank import RerankEndpoint
from penstock.serving.reranking import PassageScores
from penstock.serving.retrieval import retrieve
from penstock.testing.fake_openai import FakeOpenAI, Reply
from penstock.testing.snapshots import ScriptedSnapshots, passage

TEXTS = ["one", "two", "three"]


def reply(body: Any, status: int = 200) -> Reply:
    return Reply(status=status, pieces=[orjson.dumps(body)])


def results(*scores: float | None) -> Reply:
    """In the order of their score, as such endpoints answer."""
    found = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
    return reply({"results": found[::-1]})


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as opened:
        yield opened


def scorer(server: FakeOpenAI, timeout_s: float = 5.0) -> RerankEndpoint:
    return RerankEndpoint(
        model="rerank-3", base_url=server.base_url, api_key="secret-key", timeout_s=timeout_s
    )


async def test_scores_come_in_the_order_of_the_texts(server: FakeOpenAI) -> None:
    """Whatever the order of the answer; the request is as Cohere defined it."""
    server.script(results(0.1, 0.9, 0.5))
    opened = scorer(server)
    assert await opened.scores("q?", TEXTS) == [0.1, 0.9, 0.5]
    [request] = server.requests
    assert request.path == "/v1/rerank"
    assert request.headers["authorization"] == "Bearer secret-key"
    assert request.body == {
        "model": "rerank-3", "query": "q?", "documents": TEXTS, "top_n": 3,
    }  # fmt: skip
    await opened.close()


async def test_another_scale_becomes_ours(server: FakeOpenAI) -> None:
    """Models that answer with plain numbers keep their order, between 0 and 1."""
    server.script(reply({"data": [{"index": 0, "score": -3.5}, {"index": 1, "score": 900}]}))
    opened = scorer(server)
    low, high = await opened.scores("q?", TEXTS[:2])
    assert 0 < low < 0.1 < 0.9 < high <= 1
    await opened.close()


@pytest.mark.parametrize(
    "answer",
    [
        results(0.1, 0.2),
        results(0.1, 0.2, None),
        reply({"results": [{"index": 0, "relevance_score": 0.1}] * 3}),
        reply({"results": [{"index": i, "relevance_score": 0.1} for i in (1, 2, 3)]}),
        reply({"results": "none"}),
        reply(["x"]),
        reply(7),
        reply({"error": {"message": "busy"}}),
        reply({"error": {"message": "no such model"}}, 404),
        reply({"error": {"message": "wrong key"}}, 401),
        reply({"message": "too long"}, 422),
        reply({}, 503),
        Reply(pieces=[b"<html>"]),
        Reply(pieces=[b'{"results"'], reset=True),
    ],
)
async def test_a_bad_answer_leaves_the_order_and_is_told(server: FakeOpenAI, answer: Reply) -> None:
    """As an error here, as a note in the context; never the key."""
    server.script(answer, answer)
    opened = scorer(server)
    with pytest.raises(PenstockError) as caught:
        await opened.scores("q?", TEXTS)
    assert "secret-key" not in str(caught.value)
    store = ScriptedSnapshots(passages=[passage(i, text) for i, text in enumerate(TEXTS)])
    found = await retrieve(store, "q?", store.vector, reranker=PassageScores(opened))
    assert [p.chunk for p in found.passages] == [0, 1, 2]
    assert found.reranked is None
    assert found.note is not None
    assert found.note.startswith("rerank/rerank-3 failed: ")
    await opened.close()


async def test_who_does_not_answer_in_time_is_not_waited_for(server: FakeOpenAI) -> None:
    server.script(Reply(pieces=[b"{", b"}"], pause_s=30))
    opened = scorer(server, timeout_s=0.2)
    store = ScriptedSnapshots(passages=[passage(i, text) for i, text in enumerate(TEXTS)])
    found = await retrieve(store, "q?", store.vector, reranker=PassageScores(opened))
    assert found.note is not None
    assert "within 0.2 s" in found.note
    await opened.close()


async def test_passages_are_ordered_by_what_the_model_says(server: FakeOpenAI) -> None:
    """It reads title and text; scores lie between 0 and 2."""
    server.script(results(0.2, 0.9, 0.4))
    store = ScriptedSnapshots(passages=[passage(i, t, title="T") for i, t in enumerate(TEXTS)])
    reranker = PassageScores(scorer(server))
    found = await retrieve(store, "q?", store.vector, reranker=reranker)
    assert [(p.chunk, p.score) for p in found.passages] == [(1, 1.8), (2, 0.8), (0, 0.4)]
    assert server.requests[0].body["documents"] == ["T\none", "T\ntwo", "T\nthree"]
    await reranker.close()
