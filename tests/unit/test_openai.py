"""The OpenAI adapters against a fake endpoint that does everything endpoints do wrong."""

from __future__ import annotations

import asyncio
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
from penstock.models.endpoint import retry_after_s
from penstock.models.openai import OpenAIEmbedder, OpenAIGenerator
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


@pytest.fixture
async def generator(endpoint: FakeOpenAI) -> AsyncIterator[OpenAIGenerator]:
    made = OpenAIGenerator(model="m", api_key=KEY, base_url=endpoint.base_url, timeout_s=2)
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
        OpenAIGenerator(model="m", api_key=KEY, base_url=base_url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-\nX: y", "sk-ключ", "two words"])
def test_keys_are_checked(key: str) -> None:
    """A key that would break the header is refused without being shown."""
    with pytest.raises(ConfigError) as caught:
        OpenAIGenerator(model="m", api_key=key)
    assert key not in str(caught.value)


def test_estimated_tokens_are_on_the_high_side(embedder: OpenAIEmbedder) -> None:
    """Chunks that are cut by the estimate fit the model."""
    words, chinese = "word " * 100, "船" * 100
    counts = embedder.count_tokens([words, chinese, ""])
    assert counts[0] >= 100
    assert counts[1] >= 100
    assert counts[2] == 0


# --------------------------------------------------------------------------- generator


async def answer(generator: OpenAIGenerator) -> str:
    return "".join([piece async for piece in generator.stream(QUESTION)])


def piece(text: str, **more: Any) -> bytes:
    return fake.event({"choices": [{"index": 0, "delta": {"content": text}, **more}]})


DONE = b"data: [DONE]\n\n"


async def test_an_answer_is_streamed(endpoint: FakeOpenAI, generator: OpenAIGenerator) -> None:
    """The pieces together are the answer; the request is what the API documents."""
    endpoint.answer = "Yes, since 09:00 [1]."
    assert await answer(generator) == "Yes, since 09:00 [1]."
    (request,) = endpoint.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 800,
        "stream": True,
        "messages": [
            {"role": "system", "content": "Answer."},
            {"role": "user", "content": "Is it so?"},
        ],
    }


STREAMS = {
    "cut anywhere": [
        b"da",
        b"ta: {",
        piece("Yes")[7:],
        piece(" it"),
        piece(" is")[:9],
        piece(" is")[9:],
        DONE,
    ],
    "windows line ends": [(piece("Yes it") + piece(" is") + DONE).replace(b"\n", b"\r\n")],
    "comments and events": [
        b": ping\n\nevent: message\nid: 3\n",
        piece("Yes it is"),
        b"junk\n",
        DONE,
    ],
    "no space after data": [piece("Yes it is").replace(b"data: ", b"data:"), DONE],
    "no DONE": [piece("Yes it"), piece(" is", finish_reason="stop")],
    "no last line end": [piece("Yes it is", finish_reason="stop").rstrip()],
    "empty choices": [
        fake.event({"choices": []}),
        piece("Yes it is"),
        fake.event({"usage": {}}),
        DONE,
    ],
    "null content": [
        fake.event({"choices": [{"delta": {"content": None}}]}),
        piece("Yes it is"),
        DONE,
    ],
}


@pytest.mark.parametrize("name", STREAMS)
async def test_streams_of_all_kinds(
    endpoint: FakeOpenAI, generator: OpenAIGenerator, name: str
) -> None:
    """What endpoints really send is understood."""
    endpoint.script(fake.stream(*STREAMS[name]))
    assert await answer(generator) == "Yes it is"
    assert len(endpoint.requests) == 1


async def test_an_answer_that_is_not_streamed(
    endpoint: FakeOpenAI, generator: OpenAIGenerator
) -> None:
    """An endpoint that does not stream is understood as well."""
    endpoint.script(Reply(pieces=[b'{"choices": [{"message": {"content": "Yes"}}]}']))
    assert await answer(generator) == "Yes"


BROKEN = {
    "ends early": [piece("Yes")],
    "error object": [piece("Yes"), fake.event({"error": {"message": f"overloaded {KEY}"}})],
    "not json": [piece("Yes"), b"data: {oops\n\n"],
    "endless line": [piece("Yes"), *[b"x" * 600_000] * 2],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_is_an_error(
    endpoint: FakeOpenAI, generator: OpenAIGenerator, name: str
) -> None:
    """Half an answer is never taken for a whole one, and is not begun again behind the reader."""
    endpoint.script(fake.stream(*BROKEN[name]))
    received: list[str] = []

    async def receive() -> None:
        async for part in generator.stream(QUESTION):
            received.append(part)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(RetryableError) as caught:
        await receive()
    assert received == ["Yes"]
    assert KEY not in str(caught.value)
    assert len(endpoint.requests) == 1


async def test_an_answer_that_resets(endpoint: FakeOpenAI, generator: OpenAIGenerator) -> None:
    """A connection that breaks in the middle of the answer is an error."""
    endpoint.script(fake.stream(piece("Yes"), reset=True))
    with pytest.raises(UnavailableError):
        await answer(generator)


async def test_faults_before_the_first_piece(
    endpoint: FakeOpenAI, generator: OpenAIGenerator
) -> None:
    """Before anything was said, the request is simply made again; but not for ever."""
    endpoint.script(fake.status(503), fake.html())
    assert await answer(generator) == endpoint.answer
    endpoint.script(*[fake.status(503)] * 3)
    with pytest.raises(RetryableError):
        await answer(generator)
    endpoint.script(fake.status(401))
    with pytest.raises(FatalError):
        await answer(generator)
    assert len(endpoint.requests) == 7


async def test_a_dripping_answer_times_out(endpoint: FakeOpenAI) -> None:
    """An answer that drips for ever ends with the time limit."""
    generator = OpenAIGenerator(model="m", api_key=KEY, base_url=endpoint.base_url, timeout_s=0.3)
    endpoint.script(*[fake.stream(*[piece("x")] * 1000, pause_s=0.02)] * 3)
    with pytest.raises(UnavailableError):
        await answer(generator)
    await generator.close()


async def test_a_reader_may_stop(endpoint: FakeOpenAI, generator: OpenAIGenerator) -> None:
    """Who has heard enough closes the stream, and the next question works."""
    endpoint.script(fake.stream(*[piece("x")] * 1000, pause_s=0.01))
    pieces = generator.stream(QUESTION)
    assert await anext(pieces) == "x"
    await pieces.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert await answer(generator) == endpoint.answer


async def test_a_slow_reader_is_not_the_endpoints_fault(endpoint: FakeOpenAI) -> None:
    """The stream may be read in another task than it was begun in."""
    generator = OpenAIGenerator(model="m", api_key=KEY, base_url=endpoint.base_url, timeout_s=5)
    pieces = generator.stream(QUESTION)
    first = await asyncio.ensure_future(anext(pieces))

    async def rest() -> str:
        return "".join([part async for part in pieces])

    assert first + await asyncio.create_task(rest()) == endpoint.answer
    await generator.close()
