"""The routes that OpenAI's clients call: chat completions, embeddings, models, vector stores.

A conversation is answered from the context of its last question. Citations come as annotations
(``url_citation`` with an address ``penstock://source/key``), and all that is Penstock's (citations
with places and versions, the age of each source, whether it abstained) in the field ``penstock``,
which their clients keep.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from penstock.models.base import serving
from penstock.serving.answer import Answer
from penstock.serving.api.access import Asking, Caller, Embedding
from penstock.serving.api.asking import event, named, services
from penstock.serving.api.problems import ProblemError, problem_of
from penstock.serving.api.services import Services
from penstock.serving.api.sessions import no_session
from penstock.serving.api.shapes import (
    ChatRequest,
    EmbeddingsRequest,
    OwnFields,
    StoreSearchRequest,
)
from penstock.serving.api.streams import EventStream
from penstock.serving.api.tools import led
from penstock.serving.context import Asking as Options
from penstock.serving.context import Item
from penstock.serving.mcp import address
from penstock.serving.sessions import NoSessionError
from penstock.serving.values import iso
from penstock.stores.base import Filter, Passage

router = APIRouter()

ANSWERS: Final = "penstock"
"""The model whose completions are answers from the project."""
_DONE: Final = b"data: [DONE]\n\n"


# --------------------------------------------------------------------------- models


@router.get("/v1/models")
async def models(request: Request, caller: Asking) -> Response:  # noqa: ARG001 - whoever may ask
    """What can be named as a model."""
    listed = [_model(name) for name in await _models(services(request))]
    return JSONResponse({"object": "list", "data": listed})


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str, caller: Asking) -> Response:  # noqa: ARG001
    """One of them."""
    if model not in await _models(services(request)):
        raise no_model(model)
    return JSONResponse(_model(model))


async def _models(has: Services) -> list[str]:
    return [ANSWERS, (await serving(has.embedder(), fresh=False)).name]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "penstock"}


def no_model(name: str) -> ProblemError:
    """For a model that is none of ours."""
    return ProblemError(
        404, "model_not_found", f"expected a model that /v1/models lists, got {name[:100]!r}"
    )


# --------------------------------------------------------------------------- embeddings


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingsRequest, caller: Embedding) -> Response:  # noqa: ARG001
    """Vectors of texts, by the model that the knowledge base is searched with."""
    embedder = await serving(services(request).embedder(), fresh=False)
    if body.model not in {ANSWERS, embedder.name}:
        raise no_model(body.model)
    if body.dimensions not in {None, embedder.dimensions}:
        raise ProblemError(
            400,
            "invalid_request",
            f"expected no dimensions or {embedder.dimensions}, which this model has, got "
            f"{body.dimensions}",
        )
    vectors = await embedder.embed(body.texts, priority="query")
    tokens = sum(embedder.count_tokens(body.texts))
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(row, body.encoding_format)}
        for index, row in enumerate(np.asarray(vectors, np.float32))
    ]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "model": embedder.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _vector(row: Any, form: str) -> Any:
    if form == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return row.tolist()


# --------------------------------------------------------------------------- chat completions


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatRequest, caller: Asking) -> Response:
    """The answer to the last question of a conversation."""
    has = services(request)
    if body.model != ANSWERS:
        raise no_model(body.model)
    await has.writer.after(body.penstock.after)
    if body.led:
        return await led(has, body, caller, Completion(has, body).head)
    said = [message.text for message in body.messages if message.role == "user"]
    pieces = answered(has, said, body.penstock, caller, patient=body.patient)
    made = Completion(has, body)
    try:
        if body.stream:
            first = await anext(pieces)
            return EventStream(made.stream(first, pieces), pieces)
        last = [piece async for piece in pieces][-1]
    except NoSessionError as error:
        raise no_session(error) from error
    assert isinstance(last, Answer)
    return JSONResponse(await made.whole(last), headers=named(last))


def answered(
    has: Services,
    said: Sequence[str],
    own: OwnFields,
    caller: Caller,
    where: Filter | None = None,
    *,
    patient: bool = False,
) -> AsyncIterator[str | Answer]:
    """The last thing that the user said, after what came before: of the session that is named, or
    else of the messages. What the assistant said in them is not believed."""
    *before, question = said or [""]
    who, answerer = caller.principal, has.answerer()
    if patient:
        answerer = answerer.patient()
    options: Options = {
        "where": where or Filter(),
        "limit": has.passages,
        "profile": None if own.profile is None else has.profiles.about(own.profile),
    }
    if own.session is not None:
        return has.sessions.stream(answerer, own.session, question, who, **options)
    return has.sessions.alone(answerer, before, question, who, **options)


class Completion:
    """One chat completion."""

    def __init__(self, has: Services, body: ChatRequest) -> None:
        self._has = has
        self._body = body
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": has.clock.now() // 1_000_000,
            "model": body.model,
        }

    async def whole(self, answer: Answer) -> dict[str, Any]:
        """As one body."""
        message = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "annotations": citation_marks(answer),
        }
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {
            **self.head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": await self._usage(answer),
            "penstock": freshness(answer),
        }

    async def stream(
        self, first: str | Answer, rest: AsyncIterator[str | Answer]
    ) -> AsyncIterator[bytes]:
        """As server-sent events."""
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            async for piece in _chained(first, rest):
                if isinstance(piece, str):
                    yield self._chunk({"content": piece})
                    continue
                last = {"annotations": citation_marks(piece)}
                yield self._chunk(last, finish="stop", penstock=freshness(piece))
                options = self._body.stream_options
                if options is not None and options.include_usage:
                    usage = await self._usage(piece)
                    yield event(None, {**self._chunk_head(), "choices": [], "usage": usage})
        except Exception as error:  # noqa: BLE001 - the status is sent: whatever it is, it is told in the stream
            problem = problem_of(error)
            told = {"message": problem.detail, "type": "server_error", "code": problem.code}
            yield event(None, {"error": told})
            return
        yield _DONE

    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return event(None, {**self._chunk_head(), "choices": [choice], **more})

    async def _usage(self, answer: Answer) -> dict[str, int]:
        """Tokens as the knowledge base's model counts them: of the messages, and of the answer."""
        embedder = await serving(self._has.embedder(), fresh=False)
        said = [message.text for message in self._body.messages]
        *asked, written = embedder.count_tokens([*said, answer.text])
        return {
            "prompt_tokens": sum(asked),
            "completion_tokens": written,
            "total_tokens": sum(asked) + written,
        }


async def _chained(
    first: str | Answer, rest: AsyncIterator[str | Answer]
) -> AsyncIterator[str | Answer]:
    yield first
    async for piece in rest:
        yield piece


def citation_marks(answer: Answer) -> list[dict[str, Any]]:
    """The marks of an answer's text, each with what it cites."""
    by_number = {str(citation.number): citation for citation in answer.citations}
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": address(by_number[mark[1]].source, by_number[mark[1]].key),
                "title": by_number[mark[1]].title,
                "start_index": mark.start(),
                "end_index": mark.end(),
            },
        }
        for mark in re.finditer(r"\[(\d+)\]", answer.text)
        if mark[1] in by_number
    ]


def freshness(answer: Answer) -> dict[str, Any]:
    """What their form has no place for."""
    shown = answer.to_dict()
    return {name: shown[name] for name in (
        "id", "citations", "abstained", "score", "age_ms", "taken_at", "sources", "generator",
        "author",
    )}  # fmt: skip


# --------------------------------------------------------------------------- vector stores


@router.post("/v1/vector_stores/{store}/search")
async def search(
    request: Request, store: str, body: StoreSearchRequest, caller: Asking
) -> Response:
    """Passages of the project (its name as the store) or of one source."""
    has = services(request)
    if store != has.project and store not in has.sources:
        raise ProblemError(
            404,
            "not_found",
            f"expected the project {has.project!r} or one of its sources, got {store[:100]!r}",
        )
    found = await _found(has, store, body, caller)
    least = body.ranking_options.score_threshold if body.ranking_options else 0.0
    data = [item for item in found if item["score"] >= least]
    return JSONResponse(
        {
            "object": "vector_store.search_results.page",
            "search_query": [body.text],
            "data": data,
            "has_more": False,
            "next_page": None,
        }
    )


async def _found(
    has: Services, store: str, body: StoreSearchRequest, caller: Caller
) -> Sequence[dict[str, Any]]:
    where = Filter(sources=None if store == has.project else [store], metadata=body.metadata())
    context = await has.contexts().context(
        body.text, caller.principal, where=where, limit=body.max_num_results
    )
    return [store_item(item) for item in context.items]


def store_item(item: Item) -> dict[str, Any]:
    """A passage or row as vector stores show what they find."""
    passage = isinstance(item, Passage)
    text = (
        item.text
        if isinstance(item, Passage)
        else "\n".join(f"{name}: {value}" for name, value in item.values.items())
    )
    attributes = {
        "source": item.source,
        "title": item.title,
        "kind": "passage" if passage else "row",
        "committed_at": iso(item.committed_at),
    }
    return {
        "file_id": f"{item.source}/{item.key}",
        "filename": item.key,
        "score": item.score,
        "attributes": attributes,
        "content": [{"type": "text", "text": text}],
    }
