"""Questions as searches: more is found, and what goes wrong costs nothing but that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import parse_settings
from penstock.errors import ConfigError, RetryableError
from penstock.models.base import Message, Usage, Who, Writer, Written
from penstock.principals import Principal
from penstock.serving.answer import Answerer
from penstock.serving.api.metrics import render
from penstock.serving.context import Context, ContextBuilder
from penstock.serving.retrieval import by_ranks
from penstock.serving.rewriting import LONGEST_SEARCH, Rewriter, both, checked_searches
from penstock.stores.base import Hit
from penstock.telemetry import Meters, RewriteMeter
from penstock.testing import fake_openai as fake
from penstock.testing.clock import SwiftClock
from penstock.testing.fake_openai import FakeOpenAI, Reply
from penstock.testing.gateways import gateway
from penstock.testing.snapshots import ScriptedSnapshots, WordEmbedder, passage

QUESTION = "How long do refunds take and what does a bag cost?"


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


def said(value: object) -> Reply:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    body = {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
    return Reply(pieces=[orjson.dumps(body)])


class Recording(ScriptedSnapshots):
    """Finds by the text that is looked for, and keeps what that was."""

    def __init__(self, by_text: Mapping[str, Sequence[Hit]], **more: Any) -> None:
        super().__init__(**more)
        self.by_text = by_text
        self.looked_for: list[str | None] = []

    async def candidates(self, vector: Any, text: str | None, **more: Any) -> list[Hit]:
        self.looked_for.append(text)
        return list(self.by_text.get(text or "", ()))


FOUND = {
    QUESTION: [Hit(1, 0.6, 0.3), Hit(2, 0.5, 0.3)],
    "refund duration": [Hit(3, 0.9, 0.9), Hit(1, 0.2, 0.1)],
    "price of a bag": [Hit(4, 0.8, 0.9), Hit(2, 0.2, 0.1)],
}
PASSAGES = [passage(number, f"text {number}") for number in (1, 2, 3, 4)]


async def context(
    endpoint: FakeOpenAI,
    *,
    most: int = 3,
    timeout_s: float = 5.0,
    meter: RewriteMeter | None = None,
) -> tuple[Context, list[str | None]]:
    """The context of the question, and what was looked for."""
    asks = gateway({"m": endpoint}, SwiftClock())
    writer = asks.asked_by(Who())
    assert isinstance(writer, Writer)
    rewriter = Rewriter(writer, most=most, timeout_s=timeout_s, meter=meter)
    snapshots = Recording(FOUND, passages=PASSAGES)
    builder = ContextBuilder(snapshots, WordEmbedder(), rewriter=rewriter)
    try:
        return await builder.context(QUESTION, Principal()), snapshots.looked_for
    finally:
        await rewriter.close()
        await asks.close()


async def test_the_parts_of_a_question_are_searched(endpoint: FakeOpenAI) -> None:
    """The question first, then its parts; what is found for each is there."""
    endpoint.script(said({"searches": ["refund duration", "price of a bag"]}))
    found, looked_for = await context(endpoint)
    assert looked_for == [QUESTION, "refund duration", "price of a bag"]
    assert {p.chunk for p in found.passages} == {1, 2, 3, 4}
    assert found.scores == sorted(found.scores, reverse=True)
    assert found.to_dict()["searches"] == ["refund duration", "price of a bag"]
    assert found.usage == Usage(1, 100, 10, 0.0002)
    assert found.notes == ()
    assert "rewrite" in found.timings_ms
    prompt = endpoint.requests[0].body["messages"]
    assert QUESTION not in prompt[0]["content"]
    assert QUESTION in prompt[1]["content"]


FAULTS: dict[str, Reply] = {
    "server error": fake.status(500),
    "rate limit": fake.status(429, retry_after="60"),
    "wrong key": fake.status(401),
    "refused": fake.status(400),
    "html": fake.html(),
    "reset": fake.reset(),
    "no json": said("I would search for refunds."),
    "another shape": said({"queries": ["refund"]}),
    "a list": said(["refund"]),
    "slow": Reply(pieces=[b" "] * 1000, pause_s=0.05),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_costs_nothing_but_the_rewrite(endpoint: FakeOpenAI, fault: str) -> None:
    """The question alone is searched, the context says why, and it is counted."""
    endpoint.reacts = lambda request: FAULTS[fault]
    meter = RewriteMeter()
    async with asyncio.timeout(5):
        found, looked_for = await context(endpoint, timeout_s=0.4, meter=meter)
    assert looked_for == [QUESTION]
    assert [p.chunk for p in found.passages] == [1, 2]
    assert found.searches == ()
    [note] = found.notes
    assert note.startswith("the question was not rewritten: ")
    assert (meter.asked, meter.failed) == (1, 1)


async def test_a_cancelled_question_is_cancelled(endpoint: FakeOpenAI) -> None:
    """Only its own deadline is taken for a fault."""
    endpoint.reacts = lambda request: FAULTS["slow"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await context(endpoint)


async def test_an_answer_says_what_was_searched_and_what_both_took(endpoint: FakeOpenAI) -> None:
    """`ask --json` shows the searches, the notes, and the cost of rewriting and writing."""
    endpoint.script(
        said({"searches": ["refund duration"]}),
        said({"statements": [{"text": "Seven days.", "items": [1]}]}),
    )
    asks = gateway({"m": endpoint}, SwiftClock())
    writer = asks.asked_by(Who())
    assert isinstance(writer, Writer)
    embedder = WordEmbedder()
    builder = ContextBuilder(
        Recording(FOUND, passages=PASSAGES), embedder, rewriter=Rewriter(writer, most=3)
    )
    answer = await Answerer(builder, embedder=embedder, generator=writer).answer(
        QUESTION, Principal()
    )
    await asks.close()
    shown = answer.to_dict()
    assert shown["searches"] == ["refund duration"]
    assert shown["notes"] == []
    assert (shown["usage"]["requests"], shown["usage"]["cost"]) == (2, 0.0004)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"searches": []}, ()),
        ({"searches": ["a", "b", "c", "d"]}, ("a", "b", "c")),
        ({"searches": ["Is it SO?", "is it so", "x", "X "]}, ("x",)),
        ({"searches": [1, None, "", " ", "\x00\x1b", "a\nb"]}, ("a b",)),
        ({"searches": ["x" * (LONGEST_SEARCH + 1)]}, ()),
        ({"searches": "refund"}, None),
        (["a"], None),
        (None, None),
    ],
)
def test_what_is_written_is_looked_at(value: object, expected: tuple[str, ...] | None) -> None:
    assert checked_searches(value, "is it so?", 3) == expected


rankings = st.lists(
    st.lists(
        st.tuples(st.integers(1, 30), st.floats(0, 2)), max_size=12, unique_by=lambda pair: pair[0]
    ),
    min_size=1,
    max_size=4,
)


@given(rankings)
def test_joined_rankings_lose_nothing_and_stay_ordered(
    given: list[list[tuple[int, float]]],
) -> None:
    """Each chunk once, scores falling, none invented; one ranking stays as it is."""
    ranked = [
        [(Hit(chunk, 0.0, 0.0), score) for chunk, score in sorted(part, key=lambda p: -p[1])]
        for part in given
    ]
    joined = by_ranks(ranked)
    assert sorted(hit.chunk for hit, _ in joined) == sorted({c for part in given for c, _ in part})
    scores = [score for _, score in joined]
    assert scores == sorted(scores, reverse=True)
    assert set(scores) <= {score for part in given for _, score in part}
    assert by_ranks(ranked[:1]) == ranked[0]


def test_what_two_rankings_agree_on_comes_first() -> None:
    """By reciprocal ranks: second and second beat first and nowhere."""
    first = [(Hit(1, 0, 0), 1.9), (Hit(2, 0, 0), 1.0)]
    second = [(Hit(3, 0, 0), 1.8), (Hit(2, 0, 0), 0.5)]
    assert [(hit.chunk, score) for hit, score in by_ranks([first, second])] == [
        (2, 1.9), (1, 1.8), (3, 1.0),
    ]  # fmt: skip


def test_an_unknown_part_makes_the_sum_unknown() -> None:
    assert both(None, None) is None
    assert both(Usage(1, 2, 3, None), None) == Usage(1, 2, 3, None)
    assert both(Usage(1, 2, None, 1.0), Usage(1, 2, 3, None)) == Usage(2, 4, None, None)


def test_the_metrics_are_there() -> None:
    meters = Meters()
    meters.rewrites.asked = 3
    assert b"penstock_rewrites_total 3.0" in render(meters)
    assert b"penstock_rewrites_failed_total 0.0" in render(meters)


def test_the_setting_needs_a_generator() -> None:
    text = "project: p\nsources: {d: {type: files, path: ./d}}\nanswers: {rewrite: 3%s}\n"
    with pytest.raises(ConfigError, match="structured generator"):
        parse_settings(text % "", environment={})
    settings = parse_settings(text % ", generator: {type: openai, model: m}", environment={})
    assert settings.answers.rewrite == 3


class Failing:
    """A writer that cannot."""

    name = "failing"

    async def write(self, messages: Sequence[Message], shape: Mapping[str, Any]) -> Written:
        raise RetryableError("it cannot")

    async def close(self) -> None:
        pass


async def test_what_a_failed_rewrite_took_is_unknown() -> None:
    found = await Rewriter(Failing(), most=2).rewrite("q")
    assert found.usage == Usage(1, None, None, None)
