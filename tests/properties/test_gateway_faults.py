"""Under any faults of language models, in any order: a whole answer or an error in a sentence, and
never more money than there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import PenstockError, RetryableError
from penstock.models.base import Usage, Who
from penstock.models.gateway.account import NANOS, Budgets, MemoryAccount
from penstock.models.gateway.base import Completion, Piece, Request, Turn
from penstock.models.gateway.gateway import Gateway
from penstock.testing import fake_openai as fake
from penstock.testing.clock import SwiftClock
from penstock.testing.fake_models import openai_chat
from penstock.testing.fake_openai import FakeOpenAI, Reply
from penstock.testing.gateways import gateway

TEXT = "It is so, and it was so."
WORDS = ["It is so,", " and it", " was so."]
USAGE = {"prompt_tokens": 20, "completion_tokens": 10}


def word(text: str) -> bytes:
    return fake.event({"choices": [{"delta": {"content": text}}]})


FAULTS: dict[str, Callable[[], Reply]] = {
    "429": lambda: fake.status(429),
    "429 for long": lambda: fake.status(429, retry_after="60"),
    "500": lambda: fake.status(500),
    "503": lambda: fake.status(503),
    "401": lambda: fake.status(401),
    "400": lambda: fake.status(400, "no"),
    "html": fake.html,
    "reset": lambda: Reply(headers={"content-type": "text/event-stream"}, reset=True),
    "reset in the middle": lambda: fake.stream(word(WORDS[0]), reset=True),
    "breaks off": lambda: fake.stream(word(WORDS[0])),
    "nothing": openai_chat,
    "an empty stream": fake.stream,
    "nonsense": lambda: fake.stream(b"data: {]\n\n"),
    "nonsense in the middle": lambda: fake.stream(word(WORDS[0]), b"data: {]\n\n"),
    "an error with 200": lambda: Reply(pieces=[b'{"error": "no"}']),
    "an error in the middle": lambda: fake.stream(word(WORDS[0]), fake.event({"error": "no"})),
    "endless": lambda: fake.stream(*[word("x" * 1000)] * 20),
    "lies": lambda: openai_chat(*WORDS, usage={"prompt_tokens": 10**12, "completion_tokens": 0}),
    "whole": lambda: Reply(
        pieces=[b'{"choices": [{"message": {"content": "%s"}}]}' % TEXT.encode()]
    ),
    "well": lambda: openai_chat(*WORDS, usage=USAGE),
}
OUTCOMES = st.sampled_from(["less", "all", "none", "unknown"])
names = st.sampled_from(sorted(FAULTS))


async def into(pieces: list[Piece], asks: Gateway, question: str, who: Who) -> PenstockError | None:
    """All that came, and the error that ended it; any other error fails the test."""
    try:
        async for piece in asks.stream(Request((Turn("user", question),)), who):
            assert not pieces or not isinstance(pieces[-1], Completion)
            pieces.append(piece)
    except PenstockError as error:
        return error
    return None


async def play(first: list[str], second: list[str], asked: int, budget: float) -> None:
    clock = SwiftClock()
    account = MemoryAccount(clock)
    async with FakeOpenAI() as one, FakeOpenAI() as two:
        for endpoint, faults in ((one, iter(first)), (two, iter(second))):
            endpoint.reacts = lambda _, f=faults: FAULTS[next(f, "well")]()
        budgets = Budgets(per_tenant=budget, per_key=budget / 2)
        asks = gateway({"one": one, "two": two}, clock, account=account, budgets=budgets)
        for number in range(asked):
            who = Who(key=f"k{number % 2}")
            pieces: list[Piece] = []
            error = await into(pieces, asks, str(number), who)
            if error is not None:
                assert len(str(error)) < 1000
                assert not any(isinstance(piece, Completion) for piece in pieces)
            else:
                last = pieces[-1]
                assert isinstance(last, Completion)
                assert last.text == "".join(p for p in pieces if isinstance(p, str)) == TEXT
                assert 0 < (last.usage.output_tokens or 1) < 1000
        for model in asks.models.values():
            assert model._lane._at_once == 0
            assert not model.breaker._looking
        taken = sum(
            n for (_, _, key), n in account.taken.items() if not key
        )  # also what was put aside for calls of which nobody knows what they took
        assert taken <= budget * NANOS
        spent = sum(s.nanos for s in account.spent.values())
        assert spent <= taken
        requests = sum(s.requests for s in account.spent.values())
        assert requests == len(one.requests) + len(two.requests)
        assert not asks._flights._now
        await asks.close()


@given(
    first=st.lists(names, max_size=12),
    second=st.lists(names, max_size=8),
    budget=st.sampled_from([0.002, 0.01, 1.0]),
)
@settings(deadline=None, max_examples=60)
def test_a_whole_answer_or_an_error(first: list[str], second: list[str], budget: float) -> None:
    """Whatever the endpoints do, and in whichever order; each request is counted once."""
    asyncio.run(play(first, second, 5, budget))


@given(
    costs=st.lists(st.integers(0, 400), min_size=1, max_size=40),
    keys=st.lists(st.sampled_from(["", "a", "b"]), min_size=40, max_size=40),
    outcomes=st.lists(OUTCOMES, min_size=40, max_size=40),
)
@settings(deadline=None)
def test_calls_at_once_never_overshoot_a_budget(
    costs: list[int], keys: list[str], outcomes: list[str]
) -> None:
    """Reserved before, settled in any order: the sum of what was really spent stays within."""

    async def run() -> None:
        account = MemoryAccount(SwiftClock())
        budgets = Budgets(per_tenant=1000 / NANOS, per_key=500 / NANOS)
        truly: dict[str, int] = {"": 0, "a": 0, "b": 0}

        async def call(cost: int, key: str, outcome: str) -> None:
            try:
                reserved = await account.reserve(Who(key=key), cost, budgets)
            except RetryableError:
                return
            await asyncio.sleep(0)
            real = {"less": cost // 2, "all": cost, "none": 0, "unknown": cost}[outcome]
            for whose in {"", key}:
                truly[whose] += real
                assert truly[whose] <= (500 if whose else 1000)
            known = None if outcome == "unknown" else real / NANOS
            usage = None if outcome == "none" else Usage(1, 1, 1, known)
            account.settle(reserved, "m", usage)

        await asyncio.gather(*map(call, costs, keys, outcomes))
        taken = {key: n for (_, _, key), n in account.taken.items()}
        assert all(taken.get(key, 0) == n for key, n in truly.items())

    asyncio.run(run())
