"""Answers to questions that are almost the same: given where all else is, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.test_answers_are_kept import Kept

from penstock.models.base import Matter, Who
from penstock.models.gateway.base import Completion, Request, Tool, Turn, completed
from penstock.models.gateway.gateway import Gateway
from penstock.models.gateway.reuse import ResponseCache
from penstock.models.gateway.similar import SimilarAnswers, telling
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.answer import Answer, Answerer
from penstock.serving.context import Context, ContextBuilder
from penstock.serving.prompt import prompted, read_template
from penstock.stores.base import Hit, Passage
from penstock.telemetry import ReuseMeter
from penstock.testing.clock import SwiftClock
from penstock.testing.fake_models import openai_chat
from penstock.testing.fake_openai import FakeOpenAI
from penstock.testing.gateways import gateway
from penstock.testing.snapshots import ScriptedSnapshots, WordEmbedder, passage

ADA = Who(names=("user:ada",), answer="ans_1")
FIRST, SECOND = "Until when can I cancel a flight?", "Till when can I cancel a flight?"


async def vector(question: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Counts of letters: what is written alike is alike."""
    found = np.zeros(128, np.float32)
    for letter in question.casefold():
        found[ord(letter) % 128] += 1
    return found


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        server.reacts = lambda _: openai_chat("24 hours.")
        yield server


def asking(question: str = FIRST, rest: str = "r", **more: Any) -> Request:
    turns = (Turn("user", f"{rest} {question}"),)
    return Request(turns, matter=Matter(rest, question), **more)


def opened(endpoint: FakeOpenAI, clock: SwiftClock | None = None, **more: Any) -> Gateway:
    clock = clock or SwiftClock()
    similar = SimilarAnswers(clock, vector, least=0.95, entries=10, ttl_s=60)
    return gateway({"m": endpoint}, clock, similar=similar, **more)


async def asked(asks: Gateway, request: Request, who: Who = ADA) -> Completion:
    return await completed(asks.stream(request, who))


async def test_a_question_that_is_almost_the_same_gets_the_answer(endpoint: FakeOpenAI) -> None:
    """It says so, says which answer that was, and took nothing; until it is old."""
    clock, meter = SwiftClock(), ReuseMeter()
    asks = opened(endpoint, clock, reuse=meter)
    assert (await asked(asks, asking())).reused == ""
    found = await asked(asks, asking(SECOND), replace(ADA, answer="ans_2"))
    assert (found.text, found.reused, found.of) == ("24 hours.", "similar", "ans_1")
    assert (found.usage.requests, found.usage.cost, found.author.of) == (0, 0.0, "ans_1")
    assert (len(endpoint.requests), meter.similar) == (1, 1)
    clock.advance(61)
    assert (await asked(asks, asking(SECOND))).reused == ""
    await asks.close()


OTHERS: dict[str, tuple[Who, Request]] = {
    "tenant": (replace(ADA, tenant="other"), asking(SECOND)),
    "user": (Who(names=("user:bob",)), asking(SECOND)),
    "groups": (Who(names=("user:ada", "group:staff")), asking(SECOND)),
    "nobody": (Who(), asking(SECOND)),
    "session": (replace(ADA, session="s"), asking(SECOND)),
    "snapshot": (ADA, asking(SECOND, rest="r2")),
    "temperature": (ADA, asking(SECOND, temperature=0.5)),
    "max_tokens": (ADA, asking(SECOND, max_tokens=9)),
    "shape": (ADA, asking(SECOND, shape={"type": "object"})),
    "tools": (ADA, asking(SECOND, tools=(Tool("t", "", {}),))),
    "anew": (ADA, asking(SECOND, reusable=False)),
    "nothing told": (ADA, replace(asking(SECOND), matter=None)),
    "number": (ADA, asking("Until when can I cancel a flight 7?")),
    "name": (ADA, asking("Until when can I cancel a Flight?")),
    "denial": (ADA, asking("Until when can I not cancel a flight?")),
    "another question": (ADA, asking("What does a bag cost?")),
}


@pytest.mark.parametrize("other", list(OTHERS))
async def test_no_answer_crosses_what_matters(endpoint: FakeOpenAI, other: str) -> None:
    """Neither tenants nor permissions nor snapshots; nor what a vector hardly sees."""
    who, request = OTHERS[other]
    endpoint.reacts = lambda _: openai_chat("{}")
    asks = opened(endpoint)
    await asked(asks, asking())
    assert (await asked(asks, asking(SECOND))).reused == "similar"
    assert (await asked(asks, request, who)).reused == ""
    assert len(endpoint.requests) == 2
    await asks.close()


async def test_an_answer_that_is_erased_is_not_given_again(endpoint: FakeOpenAI) -> None:
    """Neither to the same question nor to one like it; and it is held no longer."""
    there = {"ans_1"}

    async def alive(answer: str) -> bool:
        return answer in there

    clock = SwiftClock()
    cache = ResponseCache(clock, entries=10, ttl_s=60)
    asks = opened(endpoint, clock, cache=cache, alive=alive)
    await asked(asks, asking())
    assert (await asked(asks, asking())).reused == "cache"
    assert (await asked(asks, asking(SECOND))).reused == "similar"
    there.clear()
    assert (await asked(asks, asking(SECOND), replace(ADA, answer="ans_3"))).reused == ""
    assert (await asked(asks, asking(), replace(ADA, answer="ans_4"))).reused == ""
    await asks.close()


async def test_what_is_old_is_held_no_longer(endpoint: FakeOpenAI) -> None:
    clock = SwiftClock()
    cache = ResponseCache(clock, entries=10, ttl_s=60)
    asks = opened(endpoint, clock, cache=cache)
    await asked(asks, asking())
    clock.advance(61)
    await asked(asks, asking("What does a bag cost?", rest="other"))
    assert len(cache._known) == 1
    assert asks._similar is not None
    assert len(asks._similar._known) == 1
    await asks.close()


def test_what_must_be_the_same() -> None:
    assert telling("May I take 2 bags to Rome, or not?") == {"2 1", "rome 1", "not 1"}
    assert telling("Can't I fly?") == {"can't 1"}
    assert telling("Rome?") == telling("Paris?") == frozenset()


async def context(*items: Passage) -> Context:
    """What is found."""
    hits = [Hit(p.chunk, 0.9, 0.9) for p in items]
    snapshots = ScriptedSnapshots(passages=list(items), hits=hits)
    return await ContextBuilder(snapshots, WordEmbedder()).context(FIRST, Principal())


async def test_the_matter_is_all_but_the_question_and_the_age() -> None:
    """What a prompt says otherwise is part of it, by construction: also versions, and the day."""
    template = read_template()
    one = await context(passage(1, "24 hours."))
    told = prompted(template, one).matter
    aged = replace(one, sources=tuple(replace(s, age_ms=9e6) for s in one.sources))
    assert prompted(template, aged).matter == told
    other = prompted(template, replace(one, question=SECOND)).matter
    assert (other.rest, other.question) == (told.rest, SECOND)
    changed = [
        await context(passage(1, "25 hours.")),
        await context(passage(1, "24 hours."), passage(2, "More.")),
        await context(replace(passage(1, "24 hours."), version=Position("another"))),
        replace(one, taken_at=Microseconds(one.taken_at + 86_400_000_000)),
    ]
    rests = {prompted(template, each).matter.rest for each in changed}
    rests.add(prompted(replace(template, system="Be brief."), one).matter.rest)
    assert len(rests | {told.rest}) == 6


async def test_g8_the_ledger_says_of_which_answer_it_was(endpoint: FakeOpenAI) -> None:
    """From the question to the entry, through the answerer."""
    asks = opened(endpoint, structured=False)
    kept = Kept()
    snapshots = ScriptedSnapshots(
        passages=[passage(1, "You may cancel up to 24 hours before.")], hits=[Hit(1, 0.9, 0.9)]
    )
    embedder = WordEmbedder()
    answerer = Answerer(
        ContextBuilder(snapshots, embedder), embedder=embedder, generator=asks, keeper=kept
    )
    endpoint.reacts = lambda _: openai_chat("24 hours [1].")
    first = await answerer.answer(FIRST, Principal("ada"))
    second = await answerer.answer(SECOND, Principal("ada"))
    other = await answerer.answer(SECOND, Principal("bob"))
    assert [a.author.reused for a in (first, second, other) if a.author] == ["", "similar", ""]
    (asked_first, _), (_, kept_second), _ = kept.whole
    assert kept_second.author is not None
    assert kept_second.author.of == asked_first.id
    assert isinstance(second, Answer)
    assert second.to_dict()["author"]["of"] == asked_first.id
    assert len(endpoint.requests) == 2
    again = await answerer.from_context(first.context, Principal("ada"), read_template())
    assert again.author is not None
    assert again.author.reused == ""
    await answerer.close()
