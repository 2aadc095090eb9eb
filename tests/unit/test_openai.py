"""The OpenAI adapters against a fake endpoint that does everything endpoints do wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import stamina

from penstock.errors import (
    ConfigError,
    FatalError,
    PenstockError,
    RetryableError,
    UnavailableError,
)
from penstock.models.base import Message
from penstock.models.endpoint import Endpoint, retry_after_s
from penstock.models.openai import OPENAI, OpenAIEmbedder
from penstock.models.remote import Care
from penstock.testing import fake_openai as fake
from penstock.testing.clock import SwiftClock
from penstock.testing.fake_openai import FakeOpenAI, Reply, Script

KEY = "sk-canary-0123456789"
QUESTION = [Message("system", "Answer."), Message("user", "Is it so?")]


@pytest.fixture(autouse=True)
def quick_retries() -> Any:
    """Retries wait for nothing."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(dimensions=8) as server:
        yield server


@pytest.fixture
async def embedder(endpoint: FakeOpenAI) -> AsyncIterator[OpenAIEmbedder]:
    made = OpenAIEmbedder(
        model="m",
        dimensions=8,
        api_key=KEY,
        base_url=endpoint.base_url,
        batch_size=2,
        timeout_s=2,
        care=Care(clock=SwiftClock()),
    )
    yield made
    await made.close()


def spoiled(change: Any = list, **kw: Any) -> Script:
    return lambda body: fake.embeddings(body, kw.pop("dimensions", 8), change=change, **kw)


def numbers(value: float) -> Script:
    return spoiled(lambda data: [{**entry, "embedding": [value] * 8} for entry in data])


NAN = Reply(pieces=[b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}'])

FAULTS: dict[str, tuple[Script | Reply, type[PenstockError]]] = {
    "rate limit": (fake.status(429), RetryableError),
    "server error": (fake.status(500), RetryableError),
    "overloaded": (fake.status(503), RetryableError),
    "html": (fake.html(), RetryableError),
    "broken json": (Reply(pieces=[b'{"data": [']), RetryableError),
    "nan": (NAN, RetryableError),
    "reset": (fake.reset(), UnavailableError),
    "no data": (Reply(pieces=[b"{}"]), RetryableError),
    "a list": (Reply(pieces=[b"[]"]), RetryableError),
    "error with 200": (Reply(pieces=[b'{"error": {"message": "busy"}}']), RetryableError),
    "too few": (spoiled(lambda data: data[:-1]), RetryableError),
    "too many": (spoiled(lambda data: [*data, data[0]]), RetryableError),
    "an index twice": (
        spoiled(lambda d: [{**e, "index": 0} for e in [*d, *d][:2]]),
        RetryableError,
    ),
    "no index": (spoiled(lambda d: [{"embedding": e["embedding"]} for e in d]), RetryableError),
    "not numbers": (spoiled(lambda d: [{**e, "embedding": ["x"]} for e in d]), RetryableError),
    "no embedding": (spoiled(lambda d: [{"index": e["index"]} for e in d]), RetryableError),
    "wrong dimension": (spoiled(dimensions=9), FatalError),
    "zeros": (numbers(0.0), RetryableError),
    "overflow": (numbers(1e200), RetryableError),
    "wrong key": (fake.status(401, f"Incorrect API key: {KEY}"), FatalError),
    "no such model": (fake.status(404), FatalError),
    "bad request": (fake.status(400, "too long"), FatalError),
    "redirect": (fake.redirect("http://127.0.0.1:9/v1/embeddings"), FatalError),
    "huge": (Reply(pieces=[b" " * 1_000_000] * 3), RetryableError),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_have_their_consequence(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each fault raises the error that says what to do, shows no key, and leaves no damage."""
    embedder._endpoint.max_bytes = 2_000_000
    caplog.set_level(logging.DEBUG)
    reply, expected = FAULTS[fault]
    endpoint.reacts = lambda request: reply if isinstance(reply, Reply) else reply(request.body)
    with pytest.raises(expected) as caught:
        await embedder.embed(["text"] if fault != "an index twice" else ["text", "other"])
    shown = f"{caught.value} {caught.value!r} {caught.value.facts} {caught.value.__cause__!r}"
    assert KEY not in shown + caplog.text + repr(embedder)
    endpoint.reacts = None
    assert (await embedder.embed(["text"])).shape == (1, 8)


async def test_vectors_belong_to_their_texts(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder
) -> None:
    """Embeddings in another order are assigned by index, over several batches."""
    endpoint.script(*[spoiled(lambda data: data[::-1])] * 3)
    texts = ["a", "b", "c", "d", "e"]
    found = await embedder.embed(texts)
    expected = np.array([fake.direction(text, 8) for text in texts])
    assert np.allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert [len(request.body["input"]) for request in endpoint.requests] == [2, 2, 1]


async def test_the_request(endpoint: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    """Key, model and texts arrive; what the API refuses is made acceptable first."""
    await embedder.embed(["", "a\0b"])
    (request,) = endpoint.requests
    assert request.path == "/v1/embeddings"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {"model": "m", "input": [" ", "ab"], "encoding_format": "float"}


async def test_dimensions_are_sent_where_they_can_be(endpoint: FakeOpenAI) -> None:
    """Models that shorten their vectors are told to."""
    embedder = OpenAIEmbedder(
        model="text-embedding-3-small", dimensions=8, api_key="", base_url=endpoint.base_url
    )
    await embedder.embed(["a"])
    await embedder.close()
    assert endpoint.requests[0].body["dimensions"] == 8
    assert "authorization" not in endpoint.requests[0].headers


async def test_waits_as_long_as_asked(endpoint: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    """Retry-After reaches the caller's loop."""
    endpoint.script(fake.status(429, retry_after="7"))
    with pytest.raises(RetryableError) as caught:
        await embedder.embed(["a"], priority="bulk")
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e9"}, 300.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Fri, 02 Jan 2026 00:00:09 GMT"}, None),
        (
            {
                "retry-after": "Fri, 02 Jan 2026 00:00:09 GMT",
                "date": "Fri, 02 Jan 2026 00:00:05 GMT",
            },
            4.0,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds or a date, within reason; nonsense is as good as nothing."""
    import httpx2

    assert retry_after_s(httpx2.Headers(headers)) == seconds


async def test_questions_are_tried_again(endpoint: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    """A question survives two faults; a load leaves repeating to its loop."""
    endpoint.script(fake.status(500), fake.status(429, retry_after="0"))
    assert (await embedder.embed(["a"], priority="query")).shape == (1, 8)
    endpoint.script(fake.status(503), fake.status(503))
    with pytest.raises(RetryableError):
        await embedder.embed(["a"], priority="bulk")
    assert len(endpoint.requests) == 4


async def test_questions_do_not_wait_for_long(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder
) -> None:
    """When the endpoint asks for a minute, the person who asks hears it at once."""
    endpoint.script(fake.status(429, retry_after="60"))
    with pytest.raises(RetryableError):
        await embedder.embed(["a"], priority="query")
    assert len(endpoint.requests) == 1


async def test_slow_endpoints_time_out(endpoint: FakeOpenAI) -> None:
    """Bytes that drip do not extend the time limit."""
    embedder = OpenAIEmbedder(
        model="m", dimensions=8, api_key=KEY, base_url=endpoint.base_url, timeout_s=0.3
    )
    endpoint.reacts = lambda request: Reply(pieces=[b" "] * 1000, pause_s=0.05)
    with pytest.raises(UnavailableError, match=r"within 0\.3 s"):
        await embedder.embed(["a"])
    await embedder.close()


async def test_unreachable() -> None:
    """No server is an error that says where none is."""
    embedder = OpenAIEmbedder(
        model="m", dimensions=8, api_key=KEY, base_url="http://127.0.0.1:9/v1", timeout_s=2
    )
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        await embedder.embed(["a"])
    await embedder.close()


async def test_g12_requests_are_bounded(endpoint: FakeOpenAI) -> None:
    """A load of many batches keeps only some requests under way."""
    embedder = OpenAIEmbedder(
        model="m",
        dimensions=8,
        api_key="k",
        base_url=endpoint.base_url,
        batch_size=1,
        concurrency=3,
    )

    def reply(body: dict[str, Any]) -> Reply:
        return Reply(pieces=fake.embeddings(body, 8).pieces, pause_s=0.01)

    endpoint.script(*[reply] * 20)
    await embedder.embed([str(i) for i in range(20)], priority="bulk")
    await embedder.close()
    assert endpoint.most_at_once == 3


async def test_environment_proxies_are_not_used(
    endpoint: FakeOpenAI, embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key does not travel through a proxy that happens to be in the environment."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await embedder.embed(["a"])).shape == (1, 8)


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://host/v1",
        "host/v1",
        "file:///etc/passwd",
        "http://",
        "https://u:pw@h/v1",
        "http://h?x",
        "http://[::",
    ],
)
def test_base_url_is_checked(base_url: str) -> None:
    """Only plain http and https addresses, and no password is shown."""
    with pytest.raises(ConfigError, match="expected base_url like") as caught:
        Endpoint(base_url, KEY, timeout_s=2, connections=1, max_bytes=1_000)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-\nX: y", "sk-ключ", "two words"])
def test_keys_are_checked(key: str) -> None:
    """A key that would break the header is refused without being shown."""
    with pytest.raises(ConfigError) as caught:
        Endpoint(OPENAI, key, timeout_s=2, connections=1, max_bytes=1_000)
    assert key not in str(caught.value)


def test_estimated_tokens_are_on_the_high_side(embedder: OpenAIEmbedder) -> None:
    """Chunks that are cut by the estimate fit the model."""
    words, chinese = "word " * 100, "船" * 100
    counts = embedder.count_tokens([words, chinese, ""])
    assert counts[0] >= 100
    assert counts[1] >= 100
    assert counts[2] == 0
