"""Streams of OpenAI-compatible endpoints as a reader of text gets them, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.errors import FatalError, RetryableError, UnavailableError
from penstock.models.base import Message, Who
from penstock.models.gateway.gateway import AskedGenerator
from penstock.testing import fake_openai as fake
from penstock.testing.clock import SwiftClock
from penstock.testing.fake_openai import FakeOpenAI, Reply
from penstock.testing.gateways import gateway

KEY = "sk-canary-0123456789"
QUESTION = [Message("system", "Answer."), Message("user", "Is it so?")]


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


def opened(endpoint: FakeOpenAI, **more: Any) -> tuple[AskedGenerator, Any]:
    """One model behind the gateway, asked for text; and what closes it."""
    asks = gateway({"m": endpoint}, SwiftClock(), structured=False, key=KEY, **more)
    found = asks.asked_by(Who())
    assert isinstance(found, AskedGenerator)
    return found, asks.close


@pytest.fixture
async def generator(endpoint: FakeOpenAI) -> AsyncIterator[AskedGenerator]:
    made, close = opened(endpoint)
    yield made
    await close()


async def answer(generator: AskedGenerator) -> str:
    return "".join([piece async for piece in generator.stream(QUESTION)])


def piece(text: str, **more: Any) -> bytes:
    return fake.event({"choices": [{"index": 0, "delta": {"content": text}, **more}]})


DONE = b"data: [DONE]\n\n"


async def test_an_answer_is_streamed(endpoint: FakeOpenAI, generator: AskedGenerator) -> None:
    """The pieces together are the answer; the request is what the API documents."""
    endpoint.answer = "Yes, since 09:00 [1]."
    assert await answer(generator) == "Yes, since 09:00 [1]."
    (request,) = endpoint.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
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
    endpoint: FakeOpenAI, generator: AskedGenerator, name: str
) -> None:
    """What endpoints really send is understood."""
    endpoint.script(fake.stream(*STREAMS[name]))
    assert await answer(generator) == "Yes it is"
    assert len(endpoint.requests) == 1


async def test_an_answer_that_is_not_streamed(
    endpoint: FakeOpenAI, generator: AskedGenerator
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
    endpoint: FakeOpenAI, generator: AskedGenerator, name: str
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


async def test_an_answer_that_resets(endpoint: FakeOpenAI, generator: AskedGenerator) -> None:
    """A connection that breaks in the middle of the answer is an error."""
    endpoint.script(fake.stream(piece("Yes"), reset=True))
    with pytest.raises(UnavailableError):
        await answer(generator)


async def test_faults_before_the_first_piece(
    endpoint: FakeOpenAI, generator: AskedGenerator
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
    generator, close = opened(endpoint, timeout_s=0.3)
    endpoint.script(*[fake.stream(*[piece("x")] * 1000, pause_s=0.02)] * 3)
    with pytest.raises(UnavailableError):
        await answer(generator)
    await close()


async def test_a_reader_may_stop(endpoint: FakeOpenAI, generator: AskedGenerator) -> None:
    """Who has heard enough closes the stream, and the next question works."""
    endpoint.script(fake.stream(*[piece("x")] * 1000, pause_s=0.01))
    pieces = generator.stream(QUESTION)
    assert await anext(pieces) == "x"
    await pieces.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert await answer(generator) == endpoint.answer


async def test_a_slow_reader_is_not_the_endpoints_fault(endpoint: FakeOpenAI) -> None:
    """The stream may be read in another task than it was begun in."""
    generator, close = opened(endpoint)
    pieces = generator.stream(QUESTION)
    first = await asyncio.ensure_future(anext(pieces))

    async def rest() -> str:
        return "".join([part async for part in pieces])

    assert first + await asyncio.create_task(rest()) == endpoint.answer
    await close()
