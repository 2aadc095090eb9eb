"""Chat completions in conversations that the caller leads: with tools, rules, parameters, pictures
or a form of its own. The model's calls of tools go to the caller, who has them done.

What the model says is answered as it comes; marks of passages that there are not are removed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from fastapi.responses import JSONResponse, Response

from penstock.models.base import Author, Usage
from penstock.models.gateway.base import CallPiece, Image, Request, Tool, ToolCall, Turn
from penstock.serving.answer import Answer, Citation
from penstock.serving.api.access import Caller
from penstock.serving.api.asking import event, named
from penstock.serving.api.problems import ProblemError, problem_of
from penstock.serving.api.services import Services
from penstock.serving.api.shapes import ChatMessage, ChatRequest
from penstock.serving.api.streams import EventStream
from penstock.serving.completions import NoQuestionError, question_of
from penstock.serving.mcp import address

_DONE: Final = b"data: [DONE]\n\n"
_FINISHED: Final = {"refused": "content_filter"}
_DATA: Final = re.compile(r"data:(image/[a-z0-9.+-]{1,40});base64,([A-Za-z0-9+/=\s]+)\Z")
_NUMBERS: Final = (
    "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty",
)  # fmt: skip
_TOLD: Final = (
    "id", "citations", "abstained", "score", "age_ms", "taken_at", "sources", "generator", "author",
)  # fmt: skip


async def led(has: Services, body: ChatRequest, caller: Caller, head: dict[str, Any]) -> Response:
    """The completion, or the calls that the model wants done first."""
    completions = has.completions()
    if completions is None:
        raise ProblemError(
            400,
            "unsupported",
            "expected no tools, pictures or response_format: this project answers without a "
            "language model; set answers.generator in its file, or leave them out",
        )
    said = asked(body)
    try:
        question_of(said)
    except NoQuestionError as error:
        raise ProblemError(400, "invalid_request", str(error)) from error
    about = body.penstock.profile
    pieces = completions.stream(
        said,
        caller.principal,
        limit=has.passages,
        profile=None if about is None else has.profiles.about(about),
    )
    made = _Made(head, body)
    if not body.stream:
        found = [piece async for piece in pieces][-1]
        assert isinstance(found, Answer)
        return JSONResponse(made.whole(found), headers=named(found))
    first = await anext(pieces)  # what cannot be asked at all is told by the status
    return EventStream(made.stream(first, pieces), pieces)


def asked(body: ChatRequest) -> Request:
    """What the caller sends, as a model is asked."""
    form = body.response_format
    shape, strict = None, True
    if form is not None and form.type != "text":
        given = form.json_schema
        shape = {} if given is None else given.schema_
        strict = given is not None and bool(given.strict)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    functions = [tool.function for tool in body.tools or ()]
    return Request(
        tuple(_turn(message) for message in body.messages),
        tuple(Tool(f.name, f.description, f.parameters) for f in functions),
        _choice(body),
        shape=shape,
        strict=strict,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=stop,
        priority="bulk" if body.patient else "query",
        **{name: getattr(body, name) for name in _NUMBERS},
    )


def _turn(message: ChatMessage) -> Turn:
    if message.role in ("tool", "function"):
        return Turn("tool", message.text, result_of=message.tool_call_id or "")
    if message.role == "assistant":
        calls = tuple(
            ToolCall(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls or ()
        )
        return Turn("assistant", message.text, calls=calls)
    if message.role in ("system", "developer"):
        return Turn("system", message.text)
    return Turn("user", message.text, tuple(_image(url) for url in message.images))


def _image(url: str) -> Image:
    found = _DATA.match(url)
    if found is not None:
        return Image(found[1], "".join(found[2].split()))
    if url.startswith(("https://", "http://")):
        return Image("", url=url)
    raise ProblemError(
        400,
        "invalid_request",
        "expected the address of an image or its bytes (data:image/png;base64,...), got "
        f"{url[:60]!r}",
    )


def _choice(body: ChatRequest) -> str:
    choice = body.tool_choice
    name = choice if isinstance(choice, str) else choice.function.name
    known = {tool.function.name for tool in body.tools or ()}
    if not isinstance(choice, str) and name not in known:
        raise ProblemError(
            400, "invalid_request", f"expected tool_choice to name a tool that is given, got {name}"
        )
    return name


class _Made:
    """One completion in OpenAI's form."""

    def __init__(self, head: dict[str, Any], body: ChatRequest) -> None:
        self._head = head
        self._body = body

    def whole(self, found: Answer) -> dict[str, Any]:
        """As one body."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": found.text or None,
            "refusal": None,
            "annotations": _annotations(found.text, found.citations),
        }
        if found.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function",
                 "function": {"name": call.name, "arguments": call.arguments}}
                for call in found.calls
            ]  # fmt: skip
        choice = {"index": 0, "message": message, "finish_reason": _finish(found), "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(found.usage),
            "penstock": _told(found),
        }

    async def stream(
        self, first: str | CallPiece | Answer, rest: AsyncGenerator[str | CallPiece | Answer]
    ) -> AsyncGenerator[bytes]:
        """As server-sent events. Marks stand as the model wrote them; the citations at the end
        belong to the text in which they are numbered anew, which comes with them."""
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            piece: str | CallPiece | Answer | None = first
            async with aclosing(rest):
                while piece is not None:
                    for chunk in self._chunks(piece):
                        yield chunk
                    piece = await anext(rest, None)
        except Exception as error:  # noqa: BLE001 - the status is sent: whatever it is, it is told in the stream
            problem = problem_of(error)
            told = {"message": problem.detail, "type": "server_error", "code": problem.code}
            yield event(None, {"error": told})
            return
        yield _DONE

    def _chunks(self, piece: str | CallPiece | Answer) -> list[bytes]:
        if isinstance(piece, str):
            return [self._chunk({"content": piece})]
        if isinstance(piece, CallPiece):
            function = {"arguments": piece.arguments} | ({"name": piece.name} if piece.name else {})
            call: dict[str, Any] = {"index": piece.place, "function": function}
            if piece.id:
                call |= {"id": piece.id, "type": "function"}
            return [self._chunk({"tool_calls": [call]})]
        marks = {"annotations": _annotations(piece.text, piece.citations)}
        last = [self._chunk(marks, piece, penstock={**_told(piece), "text": piece.text})]
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            usage = _usage(piece.usage)
            last.append(event(None, {**self._chunk_head(), "choices": [], "usage": usage}))
        return last

    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"}

    def _chunk(self, delta: dict[str, Any], found: Answer | None = None, **more: Any) -> bytes:
        finish = None if found is None else _finish(found)
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return event(None, {**self._chunk_head(), "choices": [choice], **more})


def _told(found: Answer) -> dict[str, Any]:
    """What their form has no place for."""
    shown = found.to_dict()
    author = found.author or Author()
    return {
        **{name: shown[name] for name in _TOLD},
        "model": author.model,
        "cost": None if found.usage is None else found.usage.cost,
    }


def _finish(found: Answer) -> str:
    finish = "stop" if found.author is None else found.author.finish
    return _FINISHED.get(finish, finish)


def _annotations(text: str, citations: tuple[Citation, ...]) -> list[dict[str, Any]]:
    marks = []
    for citation in citations:
        mark = f"[{citation.number}]"
        start = text.find(mark)
        cited_at = {
            "url": address(citation.source, citation.key),
            "title": citation.title,
            "start_index": start,
            "end_index": start + len(mark),
        }
        marks.append({"type": "url_citation", "url_citation": cited_at})
    return marks


def _usage(used: Usage | None) -> dict[str, Any]:
    used = used or Usage()
    read, written = used.input_tokens or 0, used.output_tokens or 0
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens or 0},
    }
