"""What a remote embedder does about an endpoint that fails, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from penstock.errors import BadRecordError, ChangedModelError, FatalError, RetryableError
from penstock.models.base import Vectors, question_vectors
from penstock.models.guard import EVERY_S, PROBE
from penstock.models.limits import Limits, MemoryLedger, MemoryReferences, Use, day_of
from penstock.models.openai import OpenAIEmbedder
from penstock.models.remote import Care
from penstock.testing import fake_openai as fake
from penstock.testing.clock import SwiftClock
from penstock.testing.fake_openai import FakeOpenAI, Reply, Request

DIMENSIONS = 8


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(dimensions=DIMENSIONS) as server:
        yield server


@pytest.fixture
def clock() -> SwiftClock:
    return SwiftClock()


@pytest.fixture
async def embedder(endpoint: FakeOpenAI, clock: SwiftClock) -> AsyncIterator[OpenAIEmbedder]:
    care = Care(references=MemoryReferences(), clock=clock)
    made = make(endpoint, care)
    yield made
    await made.close()


def make(endpoint: FakeOpenAI, care: Care, batch: int = 5, concurrency: int = 4) -> OpenAIEmbedder:
    return OpenAIEmbedder(
        model="m",
        dimensions=DIMENSIONS,
        api_key="k",
        base_url=endpoint.base_url,
        batch_size=batch,
        concurrency=concurrency,
        timeout_s=2,
        care=care,
    )


def right(texts: Sequence[str]) -> Vectors:
    vectors = np.array([fake.direction(text, DIMENSIONS) for text in texts])
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


TEXTS = [f"text {number}" for number in range(20)]


async def test_a_poisoned_text_is_found_and_the_rest_goes_on(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder
) -> None:
    """A text that breaks the server is the only one that is refused, and asked for no more."""
    endpoint.reacts = lambda request: fake.status(500) if "text 7" in request.texts else None
    with pytest.raises(BadRecordError, match="takes other texts and not this one"):
        await embedder.embed(TEXTS, priority="bulk")
    asked = len(endpoint.requests)
    assert asked < 20
    with pytest.raises(BadRecordError):
        await embedder.embed(TEXTS, priority="bulk")
    rest = [text for text in TEXTS if text != "text 7"]
    found = await embedder.embed(rest, priority="bulk")
    assert np.allclose(found, right(rest), atol=1e-6)
    assert len(endpoint.requests) == asked  # what had come was kept


async def test_what_has_come_is_not_asked_for_again(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder
) -> None:
    """A failing request costs no other its vectors: each text is embedded once in the end."""
    failing = {"text 9"}
    endpoint.reacts = lambda request: fake.status(503) if failing & {*request.texts} else None
    with pytest.raises(RetryableError):
        await embedder.embed(TEXTS, priority="bulk")
    failing.clear()
    assert np.allclose(await embedder.embed(TEXTS, priority="bulk"), right(TEXTS), atol=1e-6)
    good = [r for r in endpoint.requests if not (r.texts and "text 9" in r.texts)]
    sent = [text for request in good for text in request.texts if text != PROBE]
    assert len(sent) == len(set(sent))


async def test_an_endpoint_that_refuses_everything_is_no_reason_to_set_texts_aside(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder
) -> None:
    """A wrong parameter is a person's business; not one text goes to the dead letters for it."""
    endpoint.reacts = lambda request: fake.status(400, "dimensions are not supported")
    with pytest.raises(FatalError, match="refuses every text"):
        await embedder.embed(TEXTS)


async def test_pause_is_kept_by_all(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder, clock: SwiftClock
) -> None:
    """After Retry-After nothing is sent before the time has come, by whichever lane."""
    endpoint.script(fake.status(429, retry_after="30"))
    with pytest.raises(RetryableError) as caught:
        await embedder.embed(["a"])
    assert caught.value.retry_after_s == 30
    with pytest.raises(RetryableError) as caught:
        await embedder.embed(["b"], priority="bulk")
    assert caught.value.retry_after_s == pytest.approx(30)
    assert len(endpoint.requests) == 1
    clock.advance(30)
    assert np.allclose(await embedder.embed(["a", "b"]), right(["a", "b"]), atol=1e-6)


@pytest.mark.parametrize("known", [False, True], ids=["in this run", "from a run before"])
async def test_a_silently_changed_model_is_noticed(
    endpoint: FakeOpenAI, clock: SwiftClock, known: bool
) -> None:
    """Other weights behind the same name: the answer that has their vectors is not used."""
    references = MemoryReferences()
    embedder = make(endpoint, Care(references=references, clock=clock))
    await embedder.embed(["a"])
    if known:
        await embedder.close()
        embedder = make(endpoint, Care(references=references, clock=clock))
    endpoint.weights = "other"
    with pytest.raises(ChangedModelError, match="bring the former model back"):
        await embedder.embed(TEXTS)
    with pytest.raises(ChangedModelError):
        await question_vectors(embedder, ["what?"])
    endpoint.weights = ""
    clock.advance(60)
    assert np.allclose(await embedder.embed(TEXTS), right(TEXTS), atol=1e-6)
    assert np.allclose(await question_vectors(embedder, ["what?"]), right(["what?"]), atol=1e-6)
    await embedder.close()


async def test_a_model_that_says_another_name_is_noticed(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder, clock: SwiftClock
) -> None:
    """Vectors of a model that was exchanged behind our back are not mixed with the others."""
    await embedder.embed(["a"])
    endpoint.script(lambda body: fake.embeddings(body, DIMENSIONS, model="m-2"))
    with pytest.raises(ChangedModelError, match="of the model 'm', got some of 'm-2'"):
        await embedder.embed(["b"])
    clock.advance(60)
    assert np.allclose(await embedder.embed(["b"]), right(["b"]), atol=1e-6)


async def test_another_length_after_a_good_start_waits(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder
) -> None:
    """At first it is a wrong setting and fatal; later it is an exchanged model, and waits."""
    endpoint.script(lambda body: fake.embeddings(body, DIMENSIONS + 1))
    with pytest.raises(FatalError, match="dimensions"):
        await embedder.embed(["a"])
    await embedder.embed(["a"])
    endpoint.script(lambda body: fake.embeddings(body, DIMENSIONS + 1))
    with pytest.raises(ChangedModelError):
        await embedder.embed(["b"])


async def test_questions_are_vouched_for_now_and_then(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder, clock: SwiftClock
) -> None:
    """A question is sent alone; the probe is asked for beside it, once a minute."""
    for _ in range(3):
        await question_vectors(embedder, ["what?"])
    assert [request.texts for request in endpoint.requests].count([PROBE]) == 1
    clock.advance(EVERY_S)
    await question_vectors(embedder, ["what?"])
    assert [request.texts for request in endpoint.requests].count([PROBE]) == 2


async def test_a_key_that_is_taken_back_waits(endpoint: FakeOpenAI, clock: SwiftClock) -> None:
    """401 at the start is a wrong setting; after good answers somebody is at work on it."""
    embedder = make(endpoint, Care(clock=clock))
    endpoint.script(fake.status(401))
    with pytest.raises(FatalError):
        await embedder.embed(["a"])
    await embedder.embed(["a"])
    endpoint.script(fake.status(401))
    with pytest.raises(RetryableError) as caught:
        await embedder.embed(["b"])
    assert caught.value.retry_after_s == 60
    await embedder.close()


# --------------------------------------------------------------------------- limits


class Timed:
    """When requests came, by the clock of the embedder."""

    def __init__(self, clock: SwiftClock) -> None:
        self._clock = clock
        self.at: list[tuple[float, int]] = []

    def __call__(self, request: Request) -> Reply | None:
        size = sum(-(-len(text) // 3) for text in request.texts)
        self.at.append((self._clock.monotonic(), size))
        return None

    def most_in_a_minute(self, what: int) -> int:
        counted = [(at, 1 if what == 0 else size) for at, size in self.at]
        return max(sum(n for other, n in counted if at <= other < at + 60.0) for at, _ in counted)


@pytest.mark.parametrize(
    "limits",
    [*(Limits(requests_per_minute=n) for n in (1, 2, 9, 60)), Limits(tokens_per_minute=300)],
    ids=str,
)
async def test_no_minute_has_more_than_the_limit(limits: Limits) -> None:
    """However the requests come: all at once, or now and then."""
    clock = SwiftClock()
    ledger = MemoryLedger(limits, clock)
    sent: list[tuple[float, int]] = []
    rng = np.random.default_rng(1)
    for number in range(400):
        use = Use(1, 90, 1 + int(rng.integers(30)))
        at = clock.monotonic() + await ledger.reserve(use, priority=False)
        sent.append((at, use.requests if limits.requests_per_minute else use.tokens))
        if number % 40 == 39:
            clock.advance(float(rng.integers(200)))
    most = limits.requests_per_minute or limits.tokens_per_minute
    assert most is not None
    for start, _ in sent:
        assert sum(n for at, n in sent if start <= at < start + 60.0) <= most
    whole = sum(n for _, n in sent)
    assert sent[-1][0] - sent[0][0] < whole * 60 / most / 0.8 + 1000  # and not much less


async def test_batches_keep_the_rates(endpoint: FakeOpenAI, clock: SwiftClock) -> None:
    """Batches are made small enough for the rate of tokens, and wait their turn."""
    limits = Limits(tokens_per_minute=300, requests_per_minute=20)
    care = Care(limits=limits, ledger=MemoryLedger(limits, clock), clock=clock)
    embedder = make(endpoint, care, batch=100, concurrency=1)
    timed = endpoint.reacts = Timed(clock)
    await embedder.embed([f"{i:030}" for i in range(100)], priority="bulk")
    await embedder.close()
    assert timed.most_in_a_minute(0) <= 20
    assert timed.most_in_a_minute(1) <= 300
    assert clock.monotonic() < 1.3 * 1000 / 300 * 60


async def test_budget_of_a_day(endpoint: FakeOpenAI, clock: SwiftClock) -> None:
    """Loads stop at the budget, say until when, and go on the next day; questions go on."""
    limits = Limits(characters_per_day=100)
    ledger = MemoryLedger(limits, clock)
    embedder = make(endpoint, Care(limits=limits, ledger=ledger, clock=clock), batch=1)
    with pytest.raises(RetryableError, match=r"100 characters a day.*midnight UTC"):
        await embedder.embed([f"{i:010}" for i in range(12)], priority="bulk")
    assert sum(len(t) for request in endpoint.requests for t in request.texts) == 100
    await question_vectors(embedder, ["what?"])
    assert ledger.days[day_of(clock.now())].characters == 105
    clock.advance(86_400)
    await embedder.embed([f"{i:010}" for i in range(12)], priority="bulk")
    assert sum(len(t) for request in endpoint.requests for t in request.texts) == 125
    await embedder.close()


async def test_budget_in_money(endpoint: FakeOpenAI, clock: SwiftClock) -> None:
    """Money is counted in tokens; a request that was refused costs nothing."""
    limits = Limits(cost_per_day=0.001, price=10.0)  # 100 tokens
    ledger = MemoryLedger(limits, clock)
    embedder = make(endpoint, Care(limits=limits, ledger=ledger, clock=clock), batch=1)
    endpoint.script(fake.status(503))
    with pytest.raises(RetryableError):
        await embedder.embed(["x" * 30])
    assert ledger.days[day_of(clock.now())] == Use()
    with pytest.raises(RetryableError, match=r"0\.001 \(100 tokens\) a day"):
        await embedder.embed([f"{i:030}" for i in range(11)])
    assert ledger.days[day_of(clock.now())].tokens == 100
    await embedder.close()
