"""Anthropic's messages. Structured answers are asked for as the one tool that must be called, which
all its models know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from penstock.errors import BadRecordError, RetryableError
from penstock.models.base import Who
from penstock.models.endpoint import malformed
from penstock.models.gateway.base import CallPiece, Finish, Image, Request, Turn
from penstock.models.gateway.draft import Draft, no_penalties, not_taken
from penstock.models.gateway.frames import sse
from penstock.models.gateway.openai import clean
from penstock.models.remote import estimate

ANTHROPIC: Final = "https://api.anthropic.com/v1"
VERSION: Final = {"anthropic-version": "2023-06-01"}
WRITTEN: Final = "written"
"""The tool whose arguments are a structured answer."""
_FINISHED: Final[dict[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refused",
}
_WORTH_KEEPING: Final = 1_024
_ANY: Final = {"type": "object"}
"""Tokens from which on an endpoint keeps the beginning of a prompt."""
_PASSING: Final = frozenset({"overloaded_error", "rate_limit_error", "api_error"})
_KEPT: Final = {"type": "ephemeral"}


class AnthropicDialect:
    """Requests and answers of ``/messages``."""

    path = "/messages"
    frames = staticmethod(sse)
    media = "text/event-stream"
    takes_temperature = True

    def __init__(self, model: str, *, hints: bool = True) -> None:
        self.model = model
        self._hints = hints
        self.forgone: set[str] = set()

    optional: Final = {"cache_control": re.compile("cache_control", re.IGNORECASE)}

    def body(self, request: Request, who: Who) -> dict[str, Any]:
        """The request as this API has it."""
        del who
        body: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "max_tokens": request.max_tokens,
            "messages": alternating([_content(turn) for turn in _spoken(request)]),
        }
        no_penalties(self.model, request)
        if request.temperature is not None:
            if not 0 <= request.temperature <= 1:
                raise not_taken(self.model, "temperature above 1", "set one from 0 to 1")
            body["temperature"] = request.temperature
        if request.top_p is not None:
            if request.temperature is not None:
                raise not_taken(self.model, "top_p beside temperature", "set one of them")
            body["top_p"] = request.top_p
        if request.stop:
            body["stop_sequences"] = list(request.stop)
        if system := system_text(request):
            block: dict[str, Any] = {"type": "text", "text": system}
            if self._keeps(system):
                block["cache_control"] = _KEPT
            body["system"] = [block]
        self._tools(request, body)
        return body

    def draft(self, request: Request) -> Draft:
        """What its answer becomes."""
        return Draft(shaped=request.shape is not None and not request.tools)

    def read(self, event: dict[str, Any], draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of one event."""
        kind = event.get("type")
        if kind == "error":
            raise _said(event.get("error"))
        if kind == "message_start":
            self._begun(event.get("message"), draft)
        elif kind == "content_block_start":
            yield from _begins(event.get("content_block"), place_of(event.get("index")), draft)
        elif kind == "content_block_delta":
            yield from _grows(event.get("delta"), place_of(event.get("index")), draft)
        elif kind == "message_delta":
            delta = event.get("delta")
            if isinstance(delta, dict):
                self._ended(delta.get("stop_reason"), draft)
            _count(event.get("usage"), draft)

    def whole(self, body: object, draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of an answer that does not stream."""
        content = body.get("content") if isinstance(body, dict) else None
        if isinstance(body, dict) and body.get("type") == "error":
            raise _said(body.get("error"))
        if not isinstance(body, dict) or not isinstance(content, list):
            raise malformed(f"expected a message with content, got {str(body)[:200]!r}")
        self._begun(body, draft)
        self._ended(body.get("stop_reason"), draft)
        for place, block in enumerate(content):
            yield from _begins(block, place, draft)
            if isinstance(block, dict) and block.get("type") == "tool_use":
                arguments = orjson.dumps(block.get("input") or {}).decode()
                yield draft.called(CallPiece(place, "", "", arguments))

    def _keeps(self, text: str) -> bool:
        wanted = self._hints and "cache_control" not in self.forgone
        return wanted and estimate(text) >= _WORTH_KEEPING

    def _tools(self, request: Request, body: dict[str, Any]) -> None:
        if request.tools:
            if request.shape is not None:
                raise not_taken(self.model, "tools beside a shape", "ask for one of them")
            body["tools"] = [
                {"name": t.name, "description": t.description, "input_schema": dict(t.parameters)}
                for t in request.tools
            ]
            if self._keeps(str(body["tools"])):
                body["tools"][-1]["cache_control"] = _KEPT
            kinds = {"auto": "auto", "none": "none", "required": "any"}
            named = {"type": "tool", "name": request.tool_choice}
            kind = kinds.get(request.tool_choice)
            body["tool_choice"] = {"type": kind} if kind else named
        elif request.shape is not None:
            said = "The whole answer."
            tool = {
                "name": WRITTEN,
                "description": said,
                "input_schema": dict(request.shape) or _ANY,
            }
            body["tools"] = [tool]
            body["tool_choice"] = {"type": "tool", "name": WRITTEN}

    def _begun(self, message: object, draft: Draft) -> None:
        if isinstance(message, dict):
            if isinstance(message.get("model"), str):
                draft.model = message["model"]
            _count(message.get("usage"), draft)

    def _ended(self, reason: object, draft: Draft) -> None:
        draft.ended(reason, _FINISHED)
        if draft.shaped and draft.finish == "tool_calls":
            draft.finish = "stop"


def _spoken(request: Request) -> Iterator[Turn]:
    return (turn for turn in request.turns if turn.role != "system")


def system_text(request: Request) -> str:
    """What rules the conversation, in one text."""
    return "\n\n".join(clean(turn.text) for turn in request.turns if turn.role == "system")


def _content(turn: Turn) -> dict[str, Any]:
    if turn.role == "tool":
        block = {"type": "tool_result", "tool_use_id": turn.result_of or "", "content": turn.text}
        return {"role": "user", "content": [block]}
    content: list[dict[str, Any]] = [_image(image) for image in turn.images]
    if turn.text:
        content.append({"type": "text", "text": clean(turn.text)})
    for call in turn.calls:
        used = arguments_of(call.arguments)
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": used})
    return {"role": turn.role, "content": content}


def _image(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


def arguments_of(written: str) -> Any:
    """A call's arguments as an object, for those who want them so."""
    try:
        found = orjson.loads(written or "{}")
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise BadRecordError(
            f"expected the arguments of a tool call as JSON, got {written[:100]!r}"
        )
    return found


def alternating(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of the same role as one message."""
    joined: list[dict[str, Any]] = []
    for message in messages:
        if not message["content"]:
            continue
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**joined[-1], "content": [*joined[-1]["content"], *message["content"]]}
        else:
            joined.append(message)
    return joined


def _begins(block: object, place: int, draft: Draft) -> Iterator[str | CallPiece]:
    if not isinstance(block, dict):
        raise malformed(f"expected a block of content, got {str(block)[:200]!r}")
    if block.get("type") == "tool_use" and not draft.shaped:
        yield draft.called(CallPiece(place, str(block.get("id")), str(block.get("name")), ""))
    elif (
        block.get("type") == "text"
        and not draft.shaped
        and (piece := draft.said(block.get("text")))
    ):
        yield piece


def _grows(delta: object, place: int, draft: Draft) -> Iterator[str | CallPiece]:
    kind = delta.get("type") if isinstance(delta, dict) else None
    if not isinstance(delta, dict):
        raise malformed(f"expected a delta, got {str(delta)[:200]!r}")
    if kind == "text_delta" and not draft.shaped and (piece := draft.said(delta.get("text"))):
        yield piece
    elif kind == "input_json_delta" and isinstance(delta.get("partial_json"), str):
        yield draft.called(CallPiece(place, "", "", delta["partial_json"]))


def place_of(index: object) -> int:
    """Where a block stands."""
    return index if type(index) is int and 0 <= index < 1000 else 0


def _count(usage: object, draft: Draft) -> None:
    """Their input leaves out what was kept: ours is all that was read."""
    if not isinstance(usage, dict):
        return
    read, cached = usage.get("input_tokens"), usage.get("cache_read_input_tokens")
    made = usage.get("cache_creation_input_tokens")
    if type(read) is int:
        kept = cached if type(cached) is int else 0
        draft.count(read=read + kept + (made if type(made) is int else 0), cached=cached)
    draft.count(written=usage.get("output_tokens"))


def _said(error: object) -> RetryableError:
    kind = error.get("type") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return RetryableError(
        f"the endpoint said in the stream: {str(message)[:300]}", malformed=kind not in _PASSING
    )
