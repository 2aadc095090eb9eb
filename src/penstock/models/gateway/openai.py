"""OpenAI's chat completions, as OpenAI, Azure, vLLM, Ollama and many others have them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

from penstock.models.base import Who
from penstock.models.endpoint import error_message, malformed
from penstock.models.gateway.base import CallPiece, Finish, Request, Tool, ToolCall, Turn
from penstock.models.gateway.draft import Draft, not_taken
from penstock.models.gateway.frames import sse

_FINISHED: Final[dict[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refused",
}
_REASONING: Final = re.compile(r"^(?:o\d|gpt-[5-9](?!\S*-chat))")
"""Models that think first: they choose their temperature themselves."""
_SAMPLING: Final = (
    "temperature", "top_p", "stop", "seed", "frequency_penalty", "presence_penalty",
)  # fmt: skip


class OpenAIDialect:
    """Requests and answers of ``/chat/completions``. With ``api_version``, as Azure has them."""

    frames = staticmethod(sse)
    media = "text/event-stream"

    def __init__(self, model: str, *, api_version: str = "", hints: bool = False) -> None:
        self.model = model
        self.path = "/chat/completions" + (f"?api-version={api_version}" if api_version else "")
        self._thinks = _REASONING.match(model.rsplit("/", 1)[-1]) is not None
        self._hints = hints
        self.takes_temperature = not self._thinks
        self.forgone: set[str] = set()
        """What the endpoint has said that it does not know."""

    optional: Final = {
        "stream_options": re.compile("stream_options|include_usage", re.IGNORECASE),
        "response_format": re.compile("response_format|json_schema|structured", re.IGNORECASE),
        "prompt_cache_key": re.compile("prompt_cache_key", re.IGNORECASE),
    }

    def body(self, request: Request, who: Who) -> dict[str, Any]:
        """The request as this API has it."""
        body: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "messages": [_message(turn) for turn in request.turns],
            "max_completion_tokens" if self._thinks else "max_tokens": request.max_tokens,
        }
        if "stream_options" not in self.forgone:
            body["stream_options"] = {"include_usage": True}
        for name in _SAMPLING:
            value = getattr(request, name)
            if value is None or value == ():
                continue
            if self._thinks and name != "seed":
                raise not_taken(self.model, name)
            body[name] = list(value) if name == "stop" else value
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
            body["tool_choice"] = _choice(request.tool_choice)
        if request.shape is not None and "response_format" not in self.forgone:
            body["response_format"] = _form(request)
        if self._hints and "prompt_cache_key" not in self.forgone:
            body["prompt_cache_key"] = _cache_key(request, who)
        return body

    def draft(self, request: Request) -> Draft:
        """What its answer becomes."""
        del request
        return Draft()

    def read(self, event: dict[str, Any], draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of one event, or of a whole answer."""
        if (message := error_message(event)) is not None:
            raise malformed(f"the endpoint said: {message[:300]}")
        if isinstance(event.get("model"), str):
            draft.model = event["model"]
        _count(event.get("usage"), draft)
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        draft.ended(choice.get("finish_reason"), _FINISHED)
        said = choice.get("delta", choice.get("message"))
        if not isinstance(said, dict):
            return
        if piece := draft.said(said.get("content")):
            yield piece
        if piece := draft.said(said.get("refusal")):
            draft.finish = "refused"
            yield piece
        calls = said.get("tool_calls")
        for number, call in enumerate(calls if isinstance(calls, list) else ()):
            yield draft.called(_call(call, number))

    def whole(self, body: object, draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of an answer that does not stream."""
        if not isinstance(body, dict) or not (body.get("choices") or body.get("error")):
            raise malformed(f"expected an answer with choices, got {str(body)[:200]!r}")
        yield from self.read(body, draft)


def _message(turn: Turn) -> dict[str, Any]:
    text = clean(turn.text)
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.result_of or "", "content": text}
    content: Any = text
    if turn.images:
        content = [{"type": "text", "text": text}] if text else []
        for image in turn.images:
            url = image.url or f"data:{image.media_type};base64,{image.data}"
            content.append({"type": "image_url", "image_url": {"url": url}})
    message: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.calls:
        message["content"] = content or None
        message["tool_calls"] = [_called(call) for call in turn.calls]
    return message


def _called(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": function}


def _form(request: Request) -> dict[str, Any]:
    if not request.shape:
        return {"type": "json_object"}
    schema = {"name": "written", "strict": request.strict, "schema": request.shape}
    return {"type": "json_schema", "json_schema": schema}


def _choice(choice: str) -> Any:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _call(call: object, number: int) -> CallPiece:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise malformed(f"expected a tool call with a function, got {str(call)[:200]!r}")
    place, id_ = call.get("index", number), call.get("id")
    name, arguments = function.get("name"), function.get("arguments")
    return CallPiece(
        place if type(place) is int and 0 <= place < 1000 else number,
        id_ if isinstance(id_, str) else "",
        name if isinstance(name, str) else "",
        arguments if isinstance(arguments, str) else "",
    )


def _count(usage: object, draft: Draft) -> None:
    if not isinstance(usage, dict):
        return
    details = usage.get("prompt_tokens_details")
    draft.count(
        read=usage.get("prompt_tokens"),
        written=usage.get("completion_tokens"),
        cached=details.get("cached_tokens") if isinstance(details, dict) else None,
    )


def _cache_key(request: Request, who: Who) -> str:
    """The same for prompts of one tenant that begin alike."""
    begins = next((turn.text for turn in request.turns if turn.role == "system"), "")
    return blake2b(f"{who.tenant}\0{begins}".encode("utf-8", "replace"), digest_size=16).hexdigest()


def clean(text: str) -> str:
    """What can be sent as JSON."""
    return text.encode("utf-8", "replace").decode("utf-8")
