"""What callers of chat completions send, as models are asked."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from penstock.models.gateway.base import Image
from penstock.serving.api.problems import ProblemError
from penstock.serving.api.shapes import ChatRequest
from penstock.serving.api.tools import asked

TOOL = {"type": "function", "function": {"name": "book"}}


def chat(**more: Any) -> ChatRequest:
    said = {"model": "penstock", "messages": [{"role": "user", "content": "Is it so?"}]}
    return ChatRequest.model_validate(said | more)


def picture(url: str) -> list[dict[str, Any]]:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return [{"role": "user", "content": parts}]


def test_who_leads_the_conversation() -> None:
    """Tools, a form and pictures are the caller's; without them the answer is Penstock's own."""
    assert not chat(temperature=0.5, response_format={"type": "text"}).led
    assert chat(tools=[TOOL]).led
    assert chat(response_format={"type": "json_object"}).led
    assert chat(messages=picture("https://host/x.png")).led


def test_what_is_sent_is_what_is_asked() -> None:
    schema = {"type": "object", "properties": {}}
    said = asked(
        chat(
            messages=[
                {"role": "developer", "content": "Be brief."},
                *picture("data:image/png;base64,AA AA"),
            ],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": schema, "strict": True},
            },
            max_completion_tokens=5,
            max_tokens=9,
            stop="END",
            seed=3,
            top_p=0.25,
            presence_penalty=1,
            service_tier="flex",
        )
    )
    assert [turn.role for turn in said.turns] == ["system", "user"]
    assert said.turns[1].images == (Image("image/png", "AAAA"),)
    assert (said.shape, said.strict, said.max_tokens, said.stop) == (schema, True, 5, ("END",))
    assert (said.seed, said.top_p, said.presence_penalty) == (3, 0.25, 1)
    assert (said.priority, asked(chat()).priority) == ("bulk", "query")
    assert asked(chat(response_format={"type": "json_object"})).shape == {}
    assert asked(chat(messages=picture("https://host/x.png"))).turns[0].images[0].url


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "data:text/html;base64,AAAA", "x", "ftp://h"]
)
def test_a_picture_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ProblemError, match="expected the address of an image"):
        asked(chat(messages=picture(url)))


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 3},
        {"top_p": -1},
        {"max_tokens": 0},
        {"stop": ["a"] * 5},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**more)
