"""Several language models as one: who steps in, who is left alone, what is not asked twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from penstock.errors import BadRecordError, FatalError, RetryableError
from penstock.models.base import Message, Who, Writer
from penstock.models.gateway.account import Budgets, MemoryAccount
from penstock.models.gateway.base import Completion, Piece, Request, Turn, completed
from penstock.models.gateway.breaker import Breaker, BreakerRules, Lane
from penstock.models.gateway.canary import Arm, CanaryRules, MemoryCanaries, Standing, worse
from penstock.models.gateway.gateway import Gateway, Route
from penstock.models.gateway.pace import Pace
from penstock.models.gateway.reuse import ResponseCache
from penstock.models.limits import Limits, MemoryLedger
from penstock.principals import Principal
from penstock.serving.answer import Answerer
from penstock.serving.context import ContextBuilder
from penstock.stores.base import Hit
from penstock.telemetry import ReuseMeter
from penstock.testing import fake_openai as fake
from penstock.testing.clock import ManualClock, SwiftClock
from penstock.testing.fake_models import openai_chat
from penstock.testing.fake_openai import FakeOpenAI, Reply
from penstock.testing.gateways import gateway
from penstock.testing.snapshots import ScriptedSnapshots, WordEmbedder, passage

ADA = Who(names=("user:ada",))
USAGE = {"prompt_tokens": 20, "completion_tokens": 10}
WELL = openai_chat("It is so.", usage=USAGE)
SHAPE = {"type": "object"}


def asking(text: str = "Is it so?", **more: Any) -> Request:
    return Request((Turn("user", text),), **more)


@pytest.fixture
async def endpoints() -> AsyncIterator[dict[str, FakeOpenAI]]:
    async with FakeOpenAI() as first, FakeOpenAI() as second:
        for endpoint in (first, second):
            endpoint.reacts = lambda _: WELL
        yield {"first": first, "second": second}


def counts(endpoints: dict[str, FakeOpenAI]) -> list[int]:
    return [len(endpoint.requests) for endpoint in endpoints.values()]


async def asked(asks: Gateway, who: Who = ADA, text: str = "Is it so?", **more: Any) -> Completion:
    return await completed(asks.stream(asking(text, **more), who))


async def into(pieces: list[Piece], stream: AsyncIterator[Piece]) -> None:
    """What came before an error counts."""
    async for piece in stream:
        pieces.append(piece)  # noqa: PERF401


# ------------------------------------------------------------------------- who steps in


async def test_the_next_model_answers_where_the_first_fails(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    """After two more tries; what all of them took is told."""
    endpoints["first"].reacts = lambda _: fake.status(500)
    asks = gateway(endpoints, SwiftClock())
    found = await asked(asks)
    assert (found.name, found.text) == ("second", "It is so.")
    assert counts(endpoints) == [3, 1]
    assert found.usage.requests == 4
    assert found.usage.cost == pytest.approx((20 + 100) / 1e6)
    meter = asks.models["first"].meter
    assert (meter.requests, meter.errors, meter.retries, meter.fallbacks) == (3, 3, 2, 1)
    await asks.close()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_key_that_is_refused_is_no_reason_to_answer_nobody(
    endpoints: dict[str, FakeOpenAI], status: int
) -> None:
    endpoints["first"].reacts = lambda _: fake.status(status)
    asks = gateway(endpoints, SwiftClock())
    assert (await asked(asks)).name == "second"
    assert counts(endpoints) == [1, 1]
    asks.models["second"].breaker.failed()
    endpoints["second"].reacts = lambda _: fake.status(status)
    with pytest.raises(FatalError):
        await asked(asks)
    await asks.close()


async def test_a_request_that_is_wrong_is_wrong_for_all(endpoints: dict[str, FakeOpenAI]) -> None:
    endpoints["first"].reacts = lambda _: fake.status(400, "too long")
    asks = gateway(endpoints, SwiftClock())
    with pytest.raises(BadRecordError, match="too long"):
        await asked(asks)
    assert counts(endpoints) == [1, 0]
    assert state(asks.models["first"].breaker) == "closed"
    await asks.close()


async def test_after_the_first_word_nobody_steps_in(endpoints: dict[str, FakeOpenAI]) -> None:
    """Two models' halves make no answer."""
    half = fake.stream(fake.event({"choices": [{"delta": {"content": "It"}}]}))
    endpoints["first"].reacts = lambda _: half
    asks = gateway(endpoints, SwiftClock())
    pieces: list[Piece] = []
    with pytest.raises(RetryableError, match="broke off"):
        await into(pieces, asks.stream(asking(), ADA))
    assert pieces == ["It"]
    assert counts(endpoints) == [1, 0]
    await asks.close()


async def test_json_that_is_none_is_tried_again_and_then_asked_of_the_next(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    """It is paid for all the same, and counted."""
    endpoints["first"].reacts = lambda _: openai_chat("Sure! Here", usage=USAGE)
    endpoints["second"].reacts = lambda _: openai_chat('```json\n{"a": 1}\n```', usage=USAGE)
    asks = gateway(endpoints, SwiftClock())
    writer = asks.asked_by(ADA)
    assert isinstance(writer, Writer)
    written = await writer.write([Message("user", "Is it so?")], SHAPE)
    assert written.value == {"a": 1}
    assert (written.usage.requests, written.usage.input_tokens) == (4, 80)
    assert counts(endpoints) == [3, 1]
    await asks.close()


async def test_an_answer_that_is_cut_off_or_declined_is_said_to_be(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    asks = gateway(endpoints, SwiftClock())
    writer = asks.asked_by(ADA)
    assert isinstance(writer, Writer)
    for finish, said in (("length", "cut off"), ("content_filter", "declined")):
        endpoints["first"].reacts = lambda _, f=finish: openai_chat('{"a"', finish=f)
        with pytest.raises(BadRecordError, match=said):
            await writer.write([Message("user", "Is it so?")], SHAPE)
    await asks.close()


async def test_second_tries_are_few_where_all_fails(endpoints: dict[str, FakeOpenAI]) -> None:
    """An endpoint in trouble is not asked three times as much."""
    endpoints["first"].reacts = lambda _: fake.status(500)
    asks = gateway({"first": endpoints["first"]}, SwiftClock())
    asks.models["first"].breaker._rules = BreakerRules(failures=10**6, share=2.0)
    for number in range(100):
        with pytest.raises(RetryableError):
            await asked(asks, text=str(number))
    assert 100 + 20 <= counts(endpoints)[0] <= 100 + 10 + 21
    await asks.close()


# ------------------------------------------------------------------------- who is left alone


def state(breaker: Breaker) -> str:
    """As it is now."""
    return breaker.state


def test_a_breaker_opens_looks_and_closes() -> None:
    """On the clock that it is given."""
    clock = ManualClock()
    breaker = Breaker("m", BreakerRules(failures=3, open_s=10), clock)
    for _ in range(3):
        breaker.enter()
        breaker.failed()
    assert (state(breaker), breaker.opened) == ("open", 1)
    with pytest.raises(RetryableError, match=r"not asked for another 10\.0 s"):
        breaker.enter()
    clock.advance(10)
    assert state(breaker) == "half-open"
    breaker.enter()
    with pytest.raises(RetryableError):
        breaker.enter()  # one looks, the others wait
    breaker.failed()
    clock.advance(19.9)
    assert state(breaker) == "open"  # twice as long
    clock.advance(0.2)
    breaker.enter()
    breaker.left()  # whoever looked has gone: the next one looks
    breaker.enter()
    breaker.succeeded()
    assert state(breaker) == "closed"
    for good in [True, False] * 10:
        breaker.enter()
        breaker.succeeded() if good else breaker.failed()
    assert state(breaker) == "open"


async def test_an_endpoint_that_fails_is_not_asked_for_a_while(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    clock = SwiftClock()
    endpoints["first"].reacts = lambda _: fake.status(503)
    asks = gateway(endpoints, clock)
    for number in range(6):
        assert (await asked(asks, text=str(number))).name == "second"
    assert state(asks.models["first"].breaker) == "open"
    was = counts(endpoints)[0]
    assert (await asked(asks, text="more")).name == "second"
    assert counts(endpoints)[0] == was
    endpoints["first"].reacts = lambda _: WELL
    clock.advance(11)
    assert (await asked(asks, text="again")).name == "first"
    assert state(asks.models["first"].breaker) == "closed"
    await asks.close()


async def test_what_a_person_asks_overtakes_and_has_a_place_kept() -> None:
    lane, order = Lane(2), []
    hold = asyncio.Event()

    async def one(name: str, priority: Any) -> None:
        async with lane.turn(priority):
            order.append(name)
            await hold.wait()

    first = [asyncio.create_task(one(f"bulk {n}", "bulk")) for n in range(3)]
    while lane.waiting < 2:
        await asyncio.sleep(0)
    second = [asyncio.create_task(one(f"asked {n}", "query")) for n in range(2)]
    while len(order) < 2:
        await asyncio.sleep(0)
    assert order == ["bulk 0", "asked 0"]
    first[1].cancel()
    hold.set()
    await asyncio.gather(*first, *second, return_exceptions=True)
    assert order == ["bulk 0", "asked 0", "asked 1", "bulk 2"]
    assert lane.waiting == 0


async def test_questions_overtake_what_can_wait(endpoints: dict[str, FakeOpenAI]) -> None:
    """An evaluation asks one question after another; under a limit of two at once, what a person
    asks is sent before what waits, and does not join what lets others go first."""
    held = Reply(WELL.status, WELL.headers, WELL.pieces, 0.05)
    endpoints["first"].reacts = lambda _: held
    one = {"first": endpoints["first"]}
    asks = gateway(one, SwiftClock(), at_once=2, structured=False)
    embedder = WordEmbedder()
    found = ScriptedSnapshots(passages=[passage(1, "It is so.")], hits=[Hit(1, 0.9, 0.9)])
    answerer = Answerer(ContextBuilder(found, embedder), embedder=embedder, generator=asks)
    measured = answerer.unkept()
    waiting = [
        asyncio.create_task(measured.answer(f"Is it {number}?", Principal())) for number in range(6)
    ]
    while asks.models["first"]._lane.waiting < 5:
        await asyncio.sleep(0)
    person = asyncio.create_task(answerer.answer("Is it 5?", Principal()))
    await person
    order = [r.body["messages"][-1]["content"] for r in endpoints["first"].requests]
    assert "Is it 5?" in order[1]
    assert len(order) <= 3
    await asyncio.gather(*waiting)
    assert len(endpoints["first"].requests) == 7
    await asks.close()


async def test_what_can_wait_is_put_off_by_limits_not_refused() -> None:
    clock = SwiftClock()
    pace = Pace("m", MemoryLedger(Limits(requests_per_minute=2), clock), clock)
    for _ in range(3):
        await pace.enter(asking(priority="bulk"))
    assert clock.monotonic() > 60
    with pytest.raises(RetryableError, match="put a request off"):
        await pace.enter(asking())


# ------------------------------------------------------------------------- what is not asked twice


async def test_the_same_question_at_once_is_one_request(endpoints: dict[str, FakeOpenAI]) -> None:
    """Whoever leaves does not take the answer from the others."""
    endpoints["first"].reacts = lambda _: Reply(WELL.status, WELL.headers, WELL.pieces, 0.02)
    meter = ReuseMeter()
    asks = gateway(endpoints, SwiftClock(), reuse=meter)
    tasks = [asyncio.create_task(asked(asks)) for _ in range(10)]
    while not endpoints["first"].requests:
        await asyncio.sleep(0)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {f.text for f in found[1:] if isinstance(f, Completion)} == {"It is so."}
    assert counts(endpoints) == [1, 0]
    assert meter.coalesced == 9
    await asked(asks)
    assert counts(endpoints) == [2, 0]  # that was not at the same time
    await asks.close()


async def test_a_request_that_nobody_waits_for_any_more_ends(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    endpoints["first"].reacts = lambda _: Reply(WELL.status, WELL.headers, WELL.pieces, 5.0)
    asks = gateway(endpoints, SwiftClock())
    tasks = [asyncio.create_task(asked(asks)) for _ in range(2)]
    while not endpoints["first"].requests:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert asks._flights._now == {}
    assert state(asks.models["first"].breaker) == "closed"
    assert asks.models["first"]._lane._at_once == 0
    await asks.close()


async def test_an_answer_is_given_again_until_it_is_old(endpoints: dict[str, FakeOpenAI]) -> None:
    clock = ManualClock()
    meter = ReuseMeter()
    cache = ResponseCache(clock, entries=2, ttl_s=60)
    asks = gateway(endpoints, clock, cache=cache, reuse=meter)
    assert not (await asked(asks)).reused
    again = await asked(asks)
    assert (again.text, again.reused, again.usage.requests, again.usage.cost) == (
        "It is so.", "cache", 0, 0.0,
    )  # fmt: skip
    assert meter.cache == 1
    clock.advance(61)
    assert not (await asked(asks)).reused
    await asked(asks, text="b")
    await asked(asks, text="c")
    assert len(cache._known) == 2
    assert not (await asked(asks)).reused
    await asks.close()


OTHERS: dict[str, tuple[Who, dict[str, Any]]] = {
    "tenant": (Who("other", ADA.names), {}),
    "user": (Who(names=("user:bob",)), {}),
    "groups": (Who(names=("user:ada", "group:staff")), {}),
    "nobody": (Who(), {}),
    "session": (Who(names=ADA.names, session="s"), {}),
    "question": (ADA, {"text": "Is it so!"}),
    "temperature": (ADA, {"temperature": 0.5}),
    "max_tokens": (ADA, {"max_tokens": 99}),
    "shape": (ADA, {"shape": {"type": "array"}}),
    "stop": (ADA, {"stop": ("x",)}),
}


@pytest.mark.parametrize("other", list(OTHERS))
async def test_no_answer_crosses_tenants_or_permissions(
    endpoints: dict[str, FakeOpenAI], other: str
) -> None:
    """Neither one of before nor one under way; nor one that was asked for in another way."""
    who, more = OTHERS[other]
    for endpoint in endpoints.values():
        endpoint.reacts = lambda _: openai_chat("[]", usage=USAGE)
    clock = SwiftClock()
    asks = gateway(endpoints, clock, cache=ResponseCache(clock, entries=10, ttl_s=60))
    found = await asyncio.gather(asked(asks), asked(asks, who, **more))
    assert [f.reused for f in found] == ["", ""]
    assert counts(endpoints) == [2, 0]
    assert (await asked(asks, who, **more)).reused
    assert counts(endpoints) == [2, 0]
    await asks.close()


async def test_a_text_that_is_none_is_asked_all_the_same(endpoints: dict[str, FakeOpenAI]) -> None:
    """Half of a pair of surrogates can come in a question, and cannot be sent."""
    asks = gateway(endpoints, SwiftClock())
    assert (await asked(asks, text="Is it \ud800 so?")).text == "It is so."
    assert endpoints["first"].requests[0].body["messages"][0]["content"] == "Is it ? so?"
    await asks.close()


async def test_half_an_answer_is_not_kept(endpoints: dict[str, FakeOpenAI]) -> None:
    endpoints["first"].reacts = lambda _: openai_chat("It is", finish="length")
    clock = SwiftClock()
    asks = gateway(endpoints, clock, cache=ResponseCache(clock, entries=10, ttl_s=60))
    for _ in range(2):
        assert not (await asked(asks)).reused
    await asks.close()


# ------------------------------------------------------------------------- who is asked


async def test_requests_go_where_their_route_says(endpoints: dict[str, FakeOpenAI]) -> None:
    routes = [Route(("second",), tenant="acme"), Route(("second",), key="k1", longer_than=100)]
    asks = gateway(endpoints, SwiftClock(), chain=("first",), routes=routes)
    assert (await asked(asks)).name == "first"
    assert (await asked(asks, Who("acme"))).name == "second"
    assert (await asked(asks, Who(key="k1"))).name == "first"
    assert (await asked(asks, Who(key="k1"), text="long " * 200)).name == "second"
    await asks.close()


async def test_a_canary_is_asked_by_its_share_and_by_the_same_people(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    rules = CanaryRules("second", 0.05)
    asks = gateway(endpoints, SwiftClock(), chain=("first",), canary=rules)
    people = [Who(names=(f"user:{n}",)) for n in range(4000)]
    first = [asks.names(asking(), who)[0] for who in people]
    assert 150 < first.count("second") < 250
    assert first == [asks.names(asking("Another?"), who)[0] for who in people]
    await asks.close()


async def test_a_canary_that_fails_is_rolled_back_and_nobody_notices(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    """Its questions are answered by the others meanwhile."""
    endpoints["second"].reacts = lambda _: fake.status(404)
    book = MemoryCanaries()
    rules = CanaryRules("second", 0.5, least_requests=10)
    asks = gateway(endpoints, SwiftClock(), chain=("first",), canary=rules, canaries=book)
    for number in range(100):
        found = await asked(asks, Who(names=(f"user:{number}",)), text=str(number))
        assert found.name == "first"
    standing = book.standing("second")
    assert standing.state == "rolled back"
    assert standing.canary == Arm(10, 10)
    assert "10 of 10 requests failed" in standing.reason
    assert len(endpoints["second"].requests) == 5  # then its breaker was open
    book.known["second"] = Standing("promoted")
    assert {asks.names(asking(), Who(names=(str(n),)))[0] for n in range(9)} == {"second"}
    await asks.close()


def test_a_canary_that_fails_as_seldom_as_the_others_stays() -> None:
    rules = CanaryRules("m", 0.05)
    assert Standing("running", Arm(100, 8), Arm(1000, 80)).judged(rules).state == "running"
    assert Standing("running", Arm(20, 2), Arm(1000, 0)).judged(rules).state == "running"
    assert Standing("running", Arm(100, 30), Arm(1000, 0)).judged(rules).state == "rolled back"


def outcomes(book: MemoryCanaries, rules: CanaryRules, seed: int, new: float, old: float) -> int:
    """Answers of both sides, good by chance, until something is decided; how many that took."""
    chance = random.Random(seed)
    for number in range(1, 20_001):
        book.count(rules, canary=True, failed=False)
        book.judge(rules, canary=True, good=chance.random() < new)
        book.judge(rules, canary=False, good=chance.random() < old)
        if book.standing(rules.model).state != "running":
            return number
    return 0


@pytest.mark.parametrize("seed", range(8))
def test_a_canary_that_answers_worse_is_rolled_back_and_one_as_good_is_promoted(seed: int) -> None:
    """However often that is looked at, and not before there are enough answers."""
    rules = CanaryRules("m", 0.05, least_judged=100)
    book = MemoryCanaries()
    assert outcomes(book, rules, seed, new=0.6, old=0.9) == 100
    worse_one = book.standing("m")
    assert worse_one.state == "rolled back"
    assert "of 100 answers and ratings were good" in worse_one.reason
    book = MemoryCanaries()
    assert outcomes(book, rules, seed, new=0.92, old=0.9) > 100
    assert book.standing("m").state == "promoted"
    assert "requests failed" in book.standing("m").reason
    book = MemoryCanaries()
    assert outcomes(book, replace(rules, promotes=False), seed, new=0.9, old=0.9) == 0


def test_a_decision_on_quality_is_seldom_wrong() -> None:
    """Of 100 that are as good as the others hardly any is taken back, though it is looked at after
    every answer; of 100 that are worse by twice the margin hardly any is promoted."""
    rules = CanaryRules("m", 0.05, least_judged=50, promotes=False)
    back = promoted = 0
    for seed in range(100):
        chance = random.Random(seed)
        same, other = [chance.random() < 0.8 for _ in range(1500)], Arm(judged=1, good=0)
        new, bad = Arm(judged=1, good=1), Arm(judged=1, good=1)
        wrong_back = wrong_up = False
        for number, good in enumerate(same):
            other = other.plus(Arm(judged=1, good=chance.random() < 0.8))
            new = new.plus(Arm(judged=1, good=good))
            bad = bad.plus(Arm(judged=1, good=chance.random() < 0.74))
            if number > 50 and number % 10 == 0:
                wrong_back |= worse(new, other)
                wrong_up |= worse(other, bad, by=-rules.margin)
        back, promoted = back + wrong_back, promoted + wrong_up
    assert back <= 5
    assert promoted <= 5


async def test_how_good_an_answer_is_counts_for_the_side_that_wrote_it(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    """Not for one that was given again, nor once the trial is over."""
    book, rules = MemoryCanaries(), CanaryRules("second", 0.5)
    clock = SwiftClock()
    cache = ResponseCache(clock, entries=10, ttl_s=60)
    asks = gateway(
        endpoints, clock, chain=("first",), canary=rules, canaries=book, cache=cache
    )  # fmt: skip
    for number in range(40):
        who = Who(names=(f"user:{number}",))
        for _ in range(2):
            asks.judged((await asked(asks, who)).author, good=number % 2 == 0)
    found = book.standing("second")
    assert found.canary.judged + found.others.judged == 40
    assert found.canary.judged == len(endpoints["second"].requests) > 5
    assert found.canary.good + found.others.good == 20
    author = (await asked(asks, Who(names=("user:new",)))).author
    book.known["second"] = Standing("promoted")
    asks.judged(author, good=False)
    assert book.standing("second") == Standing("promoted")
    await asks.close()


# ------------------------------------------------------------------------- what it may cost


async def test_a_call_beyond_the_budget_is_refused_before_it_is_sent(
    endpoints: dict[str, FakeOpenAI],
) -> None:
    """Of the key, or of the whole; the next day goes on, and nobody is asked instead."""
    clock = SwiftClock()
    account = MemoryAccount(clock)
    budgets = Budgets(per_tenant=0.01, per_key=0.0013)
    asks = gateway(endpoints, clock, account=account, budgets=budgets)
    key, other = Who(key="k1"), Who(key="k2")
    await asked(asks, key, text="1")
    await asked(asks, key, text="2")
    await asked(asks, key, text="3")
    with pytest.raises(RetryableError, match=r"the budget of 0\.0013 a day of the key k1"):
        await asked(asks, key, text="4")
    assert counts(endpoints) == [3, 0]
    await asked(asks, other, text="4")
    [spent] = [s for (_, _, k, _), s in account.spent.items() if k == "k1"]
    assert (spent.requests, spent.input_tokens, spent.nanos) == (3, 60, 3 * 120_000)
    clock.advance(86_400)
    await asked(asks, key, text="5")
    await asks.close()
