"""OpenAI's newer form of a conversation: ``/v1/responses``, whole and as a stream of events.

The last question is answered from the project. With the tool ``file_search`` the response says what
was searched (and, where ``include`` asks for it, what was found), in the sources that its
``vector_store_ids`` name. Nothing is stored, so ``previous_response_id`` is refused, as are tools
that somebody would have to call: no answer here asks for one.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from penstock.models.base import serving
from penstock.serving.answer import Answer
from penstock.serving.api.access import Asking
from penstock.serving.api.asking import event, named, services
from penstock.serving.api.openai import (
    ANSWERS,
    answered,
    citation_marks,
    freshness,
    no_model,
    store_item,
)
from penstock.serving.api.problems import ProblemError, problem_of
from penstock.serving.api.services import Services
from penstock.serving.api.sessions import no_session
from penstock.serving.api.shapes import ResponsesRequest
from penstock.serving.api.streams import EventStream
from penstock.serving.sessions import NoSessionError
from penstock.stores.base import Filter

router = APIRouter()

_RESULTS: Final = "file_search_call.results"


@router.post("/v1/responses")
async def create(request: Request, body: ResponsesRequest, caller: Asking) -> Response:
    """The answer to the last question, as OpenAI's clients expect a response."""
    has = services(request)
    _refuse(body)
    where = _where(has, body)
    await has.writer.after(body.penstock.after)
    pieces = answered(
        has, body.questions, body.penstock, caller, where, patient=body.service_tier == "flex"
    )
    made = Made(has, body)
    try:
        if body.stream:
            first = await anext(pieces)
            return EventStream(made.events(first, pieces), pieces)
        last = [piece async for piece in pieces][-1]
    except NoSessionError as error:
        raise no_session(error) from error
    assert isinstance(last, Answer)
    return JSONResponse(await made.completed(last), headers=named(last))


def _refuse(body: ResponsesRequest) -> None:
    """What nothing here can do is told, not passed over."""
    if body.model != ANSWERS:
        raise no_model(body.model)
    tools = sorted({tool.type for tool in body.tools} - {"file_search"})
    wrong = {
        "previous_response_id": body.previous_response_id is not None
        and "nothing is stored between responses: send the conversation as `input`",
        "conversation": body.conversation is not None
        and "nothing is stored between responses: send the conversation as `input`",
        "background": body.background and "a response comes at once",
        "prompt": body.prompt is not None and "the project file has the prompt (answers.prompt)",
        "tools": bool(tools)
        and f"only file_search can be used, got {', '.join(tools)[:200]}: answers rest on the "
        "project's own data, and nothing else is called",
        "text.format": body.text is not None
        and body.text.format is not None
        and body.text.format.type != "text"
        and "answers are text with citations",
    }
    for name, reason in wrong.items():
        if reason:
            raise ProblemError(400, "unsupported", f"expected no {name}: {reason}")


def _where(has: Services, body: ResponsesRequest) -> Filter:
    """The sources that the searches name; the project's name, or no search, is all of them."""
    sources: list[str] = []
    metadata: dict[str, Any] = {}
    whole = not body.tools
    for tool in body.tools:
        metadata |= tool.metadata()
        for store in tool.vector_store_ids:
            if store != has.project and store not in has.sources:
                raise ProblemError(
                    404,
                    "not_found",
                    f"expected the project {has.project!r} or one of its sources in "
                    f"vector_store_ids, got {store[:100]!r}",
                )
            whole = whole or store == has.project
            sources.append(store)
        whole = whole or not tool.vector_store_ids
    return Filter(sources=None if whole else sources, metadata=metadata)


@dataclass(slots=True)
class _Events:
    """Events with their numbers."""

    number: int = 0

    def __call__(self, kind: str, **more: Any) -> bytes:
        told = event(kind, {"type": kind, "sequence_number": self.number, **more})
        self.number += 1
        return told


class Made:
    """One response."""

    def __init__(self, has: Services, body: ResponsesRequest) -> None:
        self._has = has
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._message = f"msg_{uuid.uuid4().hex}"
        self._search = f"fs_{uuid.uuid4().hex}"
        self._created = has.clock.now() // 1_000_000

    # ------------------------------------------------------------ its parts

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [tool.shown() for tool in body.tools],
            "top_p": None,
            "truncation": "disabled",
            "usage": None,
            **more,
        }

    def _searched(self, answer: Answer | None) -> dict[str, Any]:
        results = None
        if answer is not None and _RESULTS in (self._body.include or ()):
            results = [_result(item) for item in map(store_item, answer.context.items)]
        return {
            "id": self._search,
            "type": "file_search_call",
            "status": "in_progress" if answer is None else "completed",
            "queries": self._body.questions[-1:],
            "results": results,
        }

    def _said(self, answer: Answer | None) -> dict[str, Any]:
        content = [] if answer is None else [self._part(answer)]
        status = "in_progress" if answer is None else "completed"
        return {
            "id": self._message,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part(self, answer: Answer | None) -> dict[str, Any]:
        text = "" if answer is None else answer.text
        marks = [] if answer is None else self._annotations(answer)
        return {"type": "output_text", "text": text, "annotations": marks, "logprobs": []}

    def _annotations(self, answer: Answer) -> list[dict[str, Any]]:
        """Where a statement comes from: an address for each mark, and, for those who searched, the
        file."""
        found: list[dict[str, Any]] = []
        for mark in citation_marks(answer):
            cited = mark["url_citation"]
            found.append({"type": "url_citation", **cited})
            if self._body.tools:
                file = cited["url"].removeprefix("penstock://")
                found.append(
                    {
                        "type": "file_citation",
                        "file_id": file,
                        "filename": file.partition("/")[2],
                        "index": cited["start_index"],
                    }
                )
        return found

    async def completed(self, answer: Answer) -> dict[str, Any]:
        """As one body."""
        searched = [self._searched(answer)] if self._body.tools else []
        return self._response(
            "completed",
            output=[*searched, self._said(answer)],
            usage=await self._usage(answer),
            penstock=freshness(answer),
        )

    async def _usage(self, answer: Answer) -> dict[str, Any]:
        embedder = await serving(self._has.embedder(), fresh=False)
        *asked, written = embedder.count_tokens([*self._body.texts, answer.text])
        return {
            "input_tokens": sum(asked),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sum(asked) + written,
        }

    # ------------------------------------------------------------ as events

    async def events(
        self, first: str | Answer, rest: AsyncIterator[str | Answer]
    ) -> AsyncIterator[bytes]:
        """As server-sent events, in the order that OpenAI's clients know."""
        tell = _Events()
        try:
            for told in self._begun(tell):
                yield told
            piece: str | Answer | None = first
            while piece is not None:
                if isinstance(piece, str):
                    yield tell("response.output_text.delta", **self._place(), delta=piece,
                               logprobs=[])  # fmt: skip
                else:
                    for told in self._ended(tell, piece):
                        yield told
                    yield tell("response.completed", response=await self.completed(piece))
                piece = await anext(rest, None)
        except Exception as error:  # noqa: BLE001 - the status is sent: whatever it is, it is told in the stream
            problem = problem_of(error)
            told_error = {"code": "server_error", "message": problem.detail}
            failed = self._response("failed", error=told_error)
            yield tell("response.failed", response=failed)

    def _index(self) -> int:
        return 1 if self._body.tools else 0

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message, "output_index": self._index(), "content_index": 0}

    def _begun(self, tell: _Events) -> Sequence[bytes]:
        said = self._response("in_progress")
        told = [
            tell("response.created", response=said),
            tell("response.in_progress", response=said),
        ]
        if self._body.tools:
            place = {"item_id": self._search, "output_index": 0}
            told += [
                tell("response.output_item.added", output_index=0, item=self._searched(None)),
                tell("response.file_search_call.in_progress", **place),
                tell("response.file_search_call.searching", **place),
            ]
        index = self._index()
        return [
            *told,
            tell("response.output_item.added", output_index=index, item=self._said(None)),
            tell("response.content_part.added", **self._place(), part=self._part(None)),
        ]

    def _ended(self, tell: _Events, answer: Answer) -> Sequence[bytes]:
        told = [
            tell("response.output_text.annotation.added", **self._place(), annotation_index=index,
                 annotation=mark)
            for index, mark in enumerate(self._annotations(answer))
        ]  # fmt: skip
        told += [
            tell("response.output_text.done", **self._place(), text=answer.text, logprobs=[]),
            tell("response.content_part.done", **self._place(), part=self._part(answer)),
        ]
        if self._body.tools:
            found = self._searched(answer)
            place = {"item_id": self._search, "output_index": 0}
            told += [
                tell("response.file_search_call.completed", **place),
                tell("response.output_item.done", output_index=0, item=found),
            ]
        index = self._index()
        said = self._said(answer)
        return [*told, tell("response.output_item.done", output_index=index, item=said)]


def _result(item: dict[str, Any]) -> dict[str, Any]:
    """A found item as a result of a file search."""
    [content] = item["content"]
    kept = ("file_id", "filename", "score", "attributes")
    return {**{name: item[name] for name in kept}, "text": content["text"]}
