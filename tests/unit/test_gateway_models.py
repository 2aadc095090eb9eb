"""Each kind of language model, over real HTTP on this machine: what is sent and what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from penstock.clock import SystemClock
from penstock.errors import BadRecordError, PenstockError, RetryableError
from penstock.models.base import Usage, Who
from penstock.models.gateway.base import (
    CallPiece,
    Completion,
    Image,
    Piece,
    Request,
    Tool,
    ToolCall,
    Turn,
    completed,
)
from penstock.models.gateway.endpoint import EndpointModel
from penstock.settings import Settings
from penstock.testing import fake_models as models
from penstock.testing import fake_openai as fake
from penstock.testing.fake_openai import AMAZON, FakeOpenAI, Reply
from penstock.wiring.gateway import endpoint_model

KEY = "sk-canary-0123456789"
WHO = Who()
TURNS = (Turn("system", "Be brief."), Turn("user", "Is it so?"))
TOOL = Tool("weather", "The weather of a place.", {"type": "object", "properties": {}})
SHAPE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture(autouse=True)
def amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", AMAZON[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AMAZON[1])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def model(endpoint: FakeOpenAI, kind: str, **more: Any) -> EndpointModel:
    said: dict[str, Any] = {"type": kind, "model": "m"} | more
    if kind == "converse":
        said["endpoint"] = endpoint.base_url.removesuffix("/v1")
    else:
        said |= {"base_url": endpoint.base_url, "api_key": KEY}
    settings = Settings.model_validate(
        {
            "project": "p",
            "sources": {"docs": {"type": "files", "path": "."}},
            "models": {"one": said},
        }
    )
    return endpoint_model(settings, "one", settings.generators["one"], SystemClock())


async def pieces(asked: EndpointModel, request: Request) -> list[Piece]:
    try:
        return [piece async for piece in asked.stream(request, WHO)]
    finally:
        await asked.close()


GOOD: dict[str, Reply] = {
    "chat": models.openai_chat(
        "It ", "is so.", usage={"prompt_tokens": 25, "completion_tokens": 15}
    ),
    "anthropic": models.anthropic("It ", "is so."),
    "converse": models.converse_text("It ", "is so."),
}
SAYS = {"chat": "m-1", "anthropic": "claude-x", "converse": "m"}


@pytest.mark.parametrize("kind", list(GOOD))
async def test_text_comes_in_pieces_and_ends_with_what_it_took(
    endpoint: FakeOpenAI, kind: str
) -> None:
    endpoint.script(GOOD[kind])
    found = await pieces(model(endpoint, kind, input_price=1, output_price=10), Request(TURNS))
    *texts, last = found
    assert texts == ["It ", "is so."]
    assert isinstance(last, Completion)
    assert (last.text, last.finish, last.name, last.model) == (
        "It is so.",
        "stop",
        "one",
        SAYS[kind],
    )
    assert last.usage == Usage(1, 25, 15, 175e-6, last.usage.cached_tokens, estimated=False)
    assert last.waited_ms > 0


async def test_anthropic_is_asked_as_it_wants(endpoint: FakeOpenAI) -> None:
    """Its headers; rules apart from the conversation; results of tools in a user's turn, and turns
    of one role together."""
    endpoint.script(models.anthropic("Sunny."))
    call = ToolCall("t1", "weather", '{"place": "Rome"}')
    turns = (
        *TURNS,
        Turn("assistant", "Let me look.", calls=(call,)),
        Turn("tool", "sun", result_of="t1"),
        Turn("user", "And?", images=(Image("image/png", "QUJD"),)),
    )
    await pieces(model(endpoint, "anthropic"), Request(turns, (TOOL,), "required", stop=("END",)))
    [request] = endpoint.requests
    assert request.path == "/v1/messages"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in request.headers
    body = request.body
    assert body["system"] == [{"type": "text", "text": "Be brief."}]
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"][1] == {
        "type": "tool_use", "id": "t1", "name": "weather", "input": {"place": "Rome"},
    }  # fmt: skip
    assert [block["type"] for block in body["messages"][2]["content"]] == [
        "tool_result", "image", "text",
    ]  # fmt: skip
    assert body["tool_choice"] == {"type": "any"}
    assert body["stop_sequences"] == ["END"]
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (800, 0.0, True)


async def test_long_rules_are_marked_for_keeping(endpoint: FakeOpenAI) -> None:
    """And what was kept counts as read, apart."""
    endpoint.script(models.anthropic("Yes.", read=10, cached=3000))
    turns = (Turn("system", "Rule. " * 2000), Turn("user", "Is it so?"))
    found = await pieces(
        model(endpoint, "anthropic", input_price=1, output_price=1, cached_price=0.1),
        Request(turns),
    )
    assert endpoint.requests[0].body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert isinstance(found[-1], Completion)
    usage = found[-1].usage
    assert (usage.input_tokens, usage.cached_tokens) == (3010, 3000)
    assert usage.cost == pytest.approx((10 + 300 + 15) / 1e6)


async def test_azure_is_asked_as_it_wants(endpoint: FakeOpenAI) -> None:
    endpoint.script(GOOD["chat"])
    await pieces(model(endpoint, "chat", api_version="2024-10-21"), Request(TURNS))
    [request] = endpoint.requests
    assert request.path == "/v1/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers


async def test_bedrock_is_asked_as_its_own_description_says(endpoint: FakeOpenAI) -> None:
    """Signed; and Amazon's own description of Converse has nothing against the body."""
    import botocore.session
    from botocore.validate import ParamValidator

    endpoint.script(models.converse_text("Sunny."))
    name = "us.anthropic.claude-x-v1:0"
    call = ToolCall("t1", "weather", "{}")
    turns = (
        Turn("system", "Rule. " * 2000),
        Turn("user", "Weather?", images=(Image("image/png", "QUJD"),)),
        Turn("assistant", calls=(call,)),
        Turn("tool", "sun", result_of="t1"),
    )
    asked = model(endpoint, "converse", model=name)
    await pieces(asked, Request(turns, (TOOL,), "weather", top_p=0.5, stop=("END",)))
    [request] = endpoint.requests
    assert fake.is_signed(request)
    assert request.path == "/model/us.anthropic.claude-x-v1%3A0/converse-stream"
    description = botocore.session.get_session().get_service_model("bedrock-runtime")
    shape = description.operation_model("ConverseStream").input_shape
    problems = ParamValidator().validate({**request.body, "modelId": name}, shape)
    assert not problems.has_errors(), problems.generate_report()
    assert request.body["system"][1] == {"cachePoint": {"type": "default"}}


def starts(id_: str, name: str, place: int) -> dict[str, Any]:
    return {"start": {"toolUse": {"toolUseId": id_, "name": name}}, "contentBlockIndex": place}


TOOLS: dict[str, Reply] = {
    "chat": models.openai_chat(
        finish="tool_calls",
        calls=[
            {"index": 0, "id": "t1", "function": {"name": "weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"place":'}},
            {"index": 0, "function": {"arguments": ' "Rome"}'}},
        ],
    ),
    "anthropic": models.anthropic(
        stop="tool_use", tools=[("t1", "weather", ['{"place":', ' "Rome"}'])]
    ),
    "converse": models.converse(
        [
            models.frame(
                "contentBlockStart",
                {
                    "start": {"toolUse": {"toolUseId": "t1", "name": "weather"}},
                    "contentBlockIndex": 1,
                },
            ),
            *(
                models.frame(
                    "contentBlockDelta",
                    {"delta": {"toolUse": {"input": part}}, "contentBlockIndex": 1},
                )
                for part in ('{"place":', ' "Rome"}')
            ),
            models.frame("messageStop", {"stopReason": "tool_use"}),
        ]
    ),
}


@pytest.mark.parametrize("kind", list(TOOLS))
async def test_calls_of_tools_are_passed_on(endpoint: FakeOpenAI, kind: str) -> None:
    endpoint.script(TOOLS[kind])
    found = await pieces(model(endpoint, kind), Request(TURNS, (TOOL,)))
    last = found[-1]
    assert isinstance(last, Completion)
    assert last.calls == (ToolCall("t1", "weather", '{"place": "Rome"}'),)
    assert last.finish == "tool_calls"
    parts = [piece for piece in found if isinstance(piece, CallPiece)]
    assert "".join(part.arguments for part in parts) == '{"place": "Rome"}'
    assert (parts[0].id, parts[0].name) == ("t1", "weather")


SHAPED: dict[str, Reply] = {
    "chat": models.openai_chat('{"a":', " 1}"),
    "anthropic": models.anthropic(stop="tool_use", tools=[("t", "written", ['{"a":', " 1}"])]),
    "converse": models.converse(
        [
            models.frame(
                "contentBlockStart",
                {
                    "start": {"toolUse": {"toolUseId": "t", "name": "written"}},
                    "contentBlockIndex": 0,
                },
            ),
            models.frame(
                "contentBlockDelta",
                {"delta": {"toolUse": {"input": '{"a": 1}'}}, "contentBlockIndex": 0},
            ),
            models.frame("messageStop", {"stopReason": "tool_use"}),
        ]
    ),
}


@pytest.mark.parametrize("kind", list(SHAPED))
async def test_a_shape_is_asked_for_and_its_json_is_the_text(
    endpoint: FakeOpenAI, kind: str
) -> None:
    endpoint.script(SHAPED[kind])
    last = (await pieces(model(endpoint, kind), Request(TURNS, shape=SHAPE)))[-1]
    assert isinstance(last, Completion)
    assert orjson.loads(last.text) == {"a": 1}
    assert (last.finish, last.calls) == ("stop", ())
    assert SHAPE["required"] == ["a"]
    assert b'"required":["a"]' in endpoint.requests[0].raw.replace(b" ", b"")


async def test_an_endpoint_that_knows_no_shapes_is_asked_without(endpoint: FakeOpenAI) -> None:
    endpoint.script(fake.status(400, "unknown field response_format"), SHAPED["chat"])
    asked = model(endpoint, "chat")
    last = await completed(asked.stream(Request(TURNS, shape=SHAPE), WHO))
    assert last.text == '{"a": 1}'
    endpoint.script(SHAPED["chat"])
    await completed(asked.stream(Request(TURNS, shape=SHAPE), WHO))
    await asked.close()
    assert ["response_format" in r.body for r in endpoint.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("kind", "name", "more", "word"),
    [
        ("chat", "gpt-5-mini", {"temperature": 0.3}, "temperature"),
        ("chat", "o3", {"stop": ("x",)}, "stop"),
        ("anthropic", "claude", {"seed": 1}, "seed"),
        ("anthropic", "claude", {"temperature": 1.5}, "temperature above 1"),
        ("anthropic", "claude", {"temperature": 0.5, "top_p": 0.5}, "top_p beside"),
        ("converse", "nova", {"seed": 1}, "seed"),
        ("converse", "nova", {"turns": (Turn("user", "x", images=(Image("", url="https://a/b"),)),)},
         "address of an image"),
    ],
)  # fmt: skip
async def test_what_a_model_does_not_take_is_refused_in_a_sentence(
    endpoint: FakeOpenAI, kind: str, name: str, more: dict[str, Any], word: str
) -> None:
    """Before anything is sent."""
    given: dict[str, Any] = {"turns": TURNS} | more
    with pytest.raises(BadRecordError, match=f"takes no {word}"):
        await pieces(model(endpoint, kind, model=name), Request(**given))
    assert endpoint.requests == []


async def test_a_model_that_thinks_gets_no_temperature_of_ours(endpoint: FakeOpenAI) -> None:
    endpoint.script(GOOD["chat"])
    await pieces(model(endpoint, "chat", model="gpt-5-mini"), Request(TURNS))
    body = endpoint.requests[0].body
    assert "temperature" not in body
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 800


BROKEN: dict[str, tuple[str, Reply]] = {
    "html": ("chat", fake.html()),
    "not JSON": ("chat", fake.stream(b"data: {nonsense\n\n")),
    "an error with a good status": ("chat", Reply(pieces=[b'{"error": {"message": "no"}}'])),
    "an error in the stream": ("chat", fake.stream(fake.event({"error": {"message": "no"}}))),
    "breaks off": ("chat", fake.stream(fake.event({"choices": [{"delta": {"content": "a"}}]}))),
    "nothing": ("chat", models.openai_chat()),
    "an empty body": ("chat", fake.stream()),
    "a list": ("chat", Reply(pieces=[b"[1]"])),
    "no choices": ("chat", Reply(pieces=[b"{}"])),
    "endless": ("chat", models.openai_chat(*["x" * 4096] * 40)),
    "a long line": ("chat", fake.stream(b"data: " + b"x" * 2_000_000)),
    "overloaded": (
        "anthropic",
        fake.stream(models.anthropic_event("error", error={"type": "overloaded_error"})),
    ),
    "no message": ("anthropic", Reply(pieces=[b'{"type": "message"}'])),
    "a delta of another kind": (
        "anthropic",
        fake.stream(models.anthropic_event("content_block_delta", index=0, delta=7)),
    ),
    "no frames": ("converse", Reply(headers=models.EVENTS, pieces=[b"x" * 500])),
    "throttled": (
        "converse",
        models.converse([models.frame("throttlingException", {"message": "slow"}, error=True)]),
    ),
    "sse for frames": ("converse", fake.stream(fake.event({}))),
}


@pytest.mark.parametrize("case", list(BROKEN))
async def test_an_answer_that_is_none_is_an_error_in_a_sentence(
    endpoint: FakeOpenAI, case: str
) -> None:
    """Never a truncated answer passed off as whole, and never the key."""
    kind, reply = BROKEN[case]
    endpoint.script(reply)
    with pytest.raises(RetryableError) as caught:
        await pieces(model(endpoint, kind), Request(TURNS))
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["first_timeout", "between_timeout", "timeout"])
async def test_each_wait_has_an_end(endpoint: FakeOpenAI, name: str) -> None:
    """Also of an endpoint that sends signs of life, but nothing else."""
    good = [fake.event({"choices": [{"delta": {"content": "a"}}]})]
    alive = [b": ping\n\n"] * 100
    endpoint.script(fake.stream(*(good if name == "between_timeout" else []), *alive, pause_s=0.05))
    with pytest.raises(RetryableError, match=r"within 0\.2 s"):
        await pieces(model(endpoint, "chat", **{name: 0.2}), Request(TURNS))


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**9, "completion_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 10**7},
        {"prompt_tokens": 10, "completion_tokens": 0},
        {"prompt_tokens": "ten", "completion_tokens": 5.5},
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 99},
        },
        None,
    ],
)
async def test_counts_that_cannot_be_true_are_not_believed(
    endpoint: FakeOpenAI, usage: dict[str, Any] | None
) -> None:
    endpoint.script(models.openai_chat("It is so. " * 20, usage=usage))
    last = (await pieces(model(endpoint, "chat"), Request(TURNS)))[-1]
    assert isinstance(last, Completion)
    assert last.usage.estimated
    assert 5 <= (last.usage.input_tokens or 0) <= 100
    assert 20 <= (last.usage.output_tokens or 0) <= 100


async def test_the_price_of_a_listed_model_is_known(endpoint: FakeOpenAI) -> None:
    """From data that come with the package; of another it is unknown, which is not nothing."""
    for name, known in (("claude-sonnet-4-5", True), ("nobody-knows-1", False)):
        endpoint.script(models.anthropic("Yes."))
        last = (await pieces(model(endpoint, "anthropic", model=name), Request(TURNS)))[-1]
        assert isinstance(last, Completion)
        assert (last.usage.cost is not None) == known


async def test_no_secret_is_in_any_error(
    endpoint: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where the endpoint sends it back."""
    for kind in ("chat", "anthropic"):
        endpoint.script(fake.status(401, f"wrong key {KEY}"))
        with pytest.raises(PenstockError) as caught:
            await pieces(model(endpoint, kind), Request(TURNS))
        assert KEY not in repr(caught.value) + str(caught.value.facts)
        assert "***" in str(caught.value)
    assert KEY not in caplog.text
