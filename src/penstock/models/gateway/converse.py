"""Amazon Bedrock's Converse: one form for the models of many makers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import orjson

from penstock.models.base import Who
from penstock.models.endpoint import malformed
from penstock.models.gateway.anthropic import (
    WRITTEN,
    alternating,
    arguments_of,
    place_of,
    system_text,
)
from penstock.models.gateway.base import CallPiece, Finish, Image, Request, Turn
from penstock.models.gateway.draft import Draft, no_penalties, not_taken
from penstock.models.gateway.frames import amazon
from penstock.models.gateway.openai import clean
from penstock.models.remote import estimate

_FINISHED: Final[dict[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "refused",
    "content_filtered": "refused",
}
_KEEPING: Final = re.compile(r"anthropic\.|amazon\.nova")
_WORTH_KEEPING: Final = 1_024
_ANY: Final = {"type": "object"}
_FORMATS: Final = {f"image/{name}": name for name in ("png", "jpeg", "gif", "webp")}


class ConverseDialect:
    """Requests and answers of ``/model/ID/converse-stream``."""

    frames = staticmethod(amazon)
    media = "application/vnd.amazon.eventstream"
    takes_temperature = True

    def __init__(self, model: str) -> None:
        self.model = model
        self.path = f"/model/{quote(model, safe='')}/converse-stream"
        self.forgone: set[str] = set()

    optional: Final = {
        "shape": re.compile("toolConfig|toolChoice|tool use", re.IGNORECASE),
        "cachePoint": re.compile("cachePoint|caching", re.IGNORECASE),
    }

    def body(self, request: Request, who: Who) -> dict[str, Any]:
        """The request as this API has it."""
        del who
        no_penalties(self.model, request)
        settings: dict[str, Any] = {
            "maxTokens": request.max_tokens,
            "temperature": request.temperature,
            "topP": request.top_p,
            "stopSequences": list(request.stop) or None,
        }
        spoken = [self._content(turn) for turn in request.turns if turn.role != "system"]
        body: dict[str, Any] = {
            "messages": alternating(spoken),
            "inferenceConfig": {k: v for k, v in settings.items() if v is not None},
        }
        if system := system_text(request):
            body["system"] = [{"text": system}]
            keeps = "cachePoint" not in self.forgone and _KEEPING.search(self.model)
            if keeps and estimate(system) >= _WORTH_KEEPING:
                body["system"].append({"cachePoint": {"type": "default"}})
        if (tools := self._tools(request)) is not None:
            body["toolConfig"] = tools
        return body

    def draft(self, request: Request) -> Draft:
        """What its answer becomes."""
        shaped = request.shape is not None and not request.tools
        return Draft(shaped=shaped and "shape" not in self.forgone)

    def read(self, event: dict[str, Any], draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of one event."""
        for kind, said in event.items():
            if not isinstance(said, dict):
                raise malformed(f"expected an object in {kind}, got {str(said)[:200]!r}")
            place = place_of(said.get("contentBlockIndex"))
            if kind == "contentBlockStart":
                yield from _begins(said.get("start"), place, draft)
            elif kind == "contentBlockDelta":
                yield from _grows(said.get("delta"), place, draft)
            elif kind == "messageStop":
                self._ended(said.get("stopReason"), draft)
            elif kind == "metadata":
                _count(said.get("usage"), draft)

    def whole(self, body: object, draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of an answer that does not stream."""
        output = body.get("output") if isinstance(body, dict) else None
        message = output.get("message") if isinstance(output, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(body, dict) or not isinstance(content, list):
            raise malformed(f"expected a message with content, got {str(body)[:200]!r}")
        self._ended(body.get("stopReason"), draft)
        _count(body.get("usage"), draft)
        for place, block in enumerate(content):
            yield from _block(block, place, draft)

    def _tools(self, request: Request) -> dict[str, Any] | None:
        if request.tools:
            if request.shape is not None:
                raise not_taken(self.model, "tools beside a shape", "ask for one of them")
            if request.tool_choice == "none":
                raise not_taken(self.model, "tool_choice none", "send no tools")
            kinds = {"auto": "auto", "required": "any"}
            kind = kinds.get(request.tool_choice)
            choice: dict[str, Any] = {kind: {}} if kind else {"tool": {"name": request.tool_choice}}
            return {
                "tools": [_tool(t.name, t.description, dict(t.parameters)) for t in request.tools],
                "toolChoice": choice,
            }
        if request.shape is None or "shape" in self.forgone:
            return None
        tool = _tool(WRITTEN, "The whole answer.", dict(request.shape) or _ANY)
        return {"tools": [tool], "toolChoice": {"tool": {"name": WRITTEN}}}

    def _content(self, turn: Turn) -> dict[str, Any]:
        if turn.role == "tool":
            result = {"toolUseId": turn.result_of or "", "content": [{"text": turn.text or " "}]}
            return {"role": "user", "content": [{"toolResult": result}]}
        content = [self._image(image) for image in turn.images]
        if turn.text:
            content.append({"text": clean(turn.text)})
        for call in turn.calls:
            used = arguments_of(call.arguments)
            content.append({"toolUse": {"toolUseId": call.id, "name": call.name, "input": used}})
        return {"role": turn.role, "content": content}

    def _image(self, image: Image) -> dict[str, Any]:
        if image.url:
            raise not_taken(self.model, "address of an image", "send its bytes")
        if image.media_type not in _FORMATS:
            raise not_taken(self.model, f"image of the type {image.media_type}", "send a PNG")
        return {"image": {"format": _FORMATS[image.media_type], "source": {"bytes": image.data}}}

    def _ended(self, reason: object, draft: Draft) -> None:
        draft.ended(reason, _FINISHED)
        if draft.shaped and draft.finish == "tool_calls":
            draft.finish = "stop"


def _tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    spec = {"name": name, "description": description or name, "inputSchema": {"json": parameters}}
    return {"toolSpec": spec}


def _begins(start: object, place: int, draft: Draft) -> Iterator[str | CallPiece]:
    used = start.get("toolUse") if isinstance(start, dict) else None
    if isinstance(used, dict) and not draft.shaped:
        yield draft.called(CallPiece(place, str(used.get("toolUseId")), str(used.get("name")), ""))


def _grows(delta: object, place: int, draft: Draft) -> Iterator[str | CallPiece]:
    if not isinstance(delta, dict):
        raise malformed(f"expected a delta, got {str(delta)[:200]!r}")
    used = delta.get("toolUse")
    if isinstance(used, dict) and isinstance(used.get("input"), str):
        yield draft.called(CallPiece(place, "", "", used["input"]))
    elif not draft.shaped and (piece := draft.said(delta.get("text"))):
        yield piece


def _block(block: object, place: int, draft: Draft) -> Iterator[str | CallPiece]:
    if not isinstance(block, dict):
        raise malformed(f"expected a block of content, got {str(block)[:200]!r}")
    used = block.get("toolUse")
    if isinstance(used, dict):
        yield from _begins({"toolUse": used}, place, draft)
        arguments = orjson.dumps(used.get("input") or {}).decode()
        yield draft.called(CallPiece(place, "", "", arguments))
    elif not draft.shaped and (piece := draft.said(block.get("text"))):
        yield piece


def _count(usage: object, draft: Draft) -> None:
    """Their input leaves out what was kept: ours is all that was read."""
    if not isinstance(usage, dict):
        return
    read, cached = usage.get("inputTokens"), usage.get("cacheReadInputTokens")
    made = usage.get("cacheWriteInputTokens")
    if type(read) is int:
        kept = cached if type(cached) is int else 0
        draft.count(read=read + kept + (made if type(made) is int else 0), cached=cached)
    draft.count(written=usage.get("outputTokens"))
