"""Penstock's own routes: contexts, searches, answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from penstock.serving.answer import Answer
from penstock.serving.api.access import Asking, Tabling
from penstock.serving.api.problems import ProblemError, problem_of
from penstock.serving.api.services import Services
from penstock.serving.api.sessions import no_session
from penstock.serving.api.shapes import AnswerRequest, ContextRequest
from penstock.serving.api.streams import EventStream
from penstock.serving.context import Asking as Options
from penstock.serving.context import Context
from penstock.serving.documents import shown
from penstock.serving.profiles import SeveralProfilesError, nobody
from penstock.serving.sessions import NoSessionError
from penstock.serving.tables import MOST_ROWS, NoTableError

router = APIRouter()


class Json(Response):
    """JSON, written once and quickly."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As orjson writes it; whole numbers of more than 64 bits it does not."""
        try:
            return orjson.dumps(content)
        except TypeError:
            text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode()


def services(request: Request) -> Services:
    """What this application works with."""
    found: Services = request.app.state.services
    return found


@router.post("/v1/context")
async def context(request: Request, body: ContextRequest, caller: Asking) -> Response:
    """What a model should be told about a question: passages and rows of one moment, with the age
    of each source."""
    found = await _context(request, body, caller)
    if not body.pin:
        return Json(found.to_dict())
    asking = _asked(services(request), body)
    name = await services(request).voices.pin(found, asking, caller.principal)
    return Json({"id": name, **found.to_dict()})


@router.post("/v1/search")
async def search(request: Request, body: ContextRequest, caller: Asking) -> Response:
    """Passages and rows in one list, best first."""
    found = await _context(request, body, caller)
    said = found.to_dict()
    by_place = {
        **{id(item): part for item, part in zip(found.passages, said["passages"], strict=True)},
        **{id(item): part for item, part in zip(found.rows, said["rows"], strict=True)},
    }
    results = [
        {"kind": "row" if "values" in by_place[id(item)] else "passage", **by_place[id(item)]}
        for item in found.items
    ]
    return Json({"taken_at": said["taken_at"], "sources": said["sources"], "results": results})


@router.get("/v1/documents/{source}/{key:path}")
async def document(request: Request, source: str, key: str, caller: Asking) -> Response:
    """A whole document, or the text of a searched row."""
    found = await services(request).documents.read(source, key, caller.principal)
    if found is None:
        raise ProblemError(
            404,
            "not_found",
            f"expected a document that this key may see, found none called {key[:200]!r} in "
            f"{source[:100]!r}",
        )
    return Json(shown(found))


@router.get("/v1/profiles/{kind}")
async def segment(
    request: Request,
    kind: str,
    caller: Asking,
    segment: Annotated[str, Query(min_length=1, max_length=40)],
    after: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Who is in a segment: ids in order, and since when."""
    found = await services(request).profiles.segment(
        kind, segment, caller.principal, after=after, limit=limit
    )
    if found is None:
        raise ProblemError(
            404,
            "not_found",
            f"expected a segment that this key may see, found none called {segment!r} of the kind "
            f"{kind[:100]!r}",
        )
    return Json(found)


@router.get("/v1/profiles/{kind}/{who:path}")
async def profile(request: Request, kind: str, who: str, caller: Asking) -> Response:
    """What is known of somebody: traits with the record and time of each, records, and the age."""
    try:
        found = await services(request).profiles.read(kind, who, caller.principal)
    except SeveralProfilesError as error:
        raise ProblemError(409, "ambiguous", str(error)) from error
    if found is None:
        raise ProblemError(404, "not_found", nobody(kind, who))
    return Json(found.to_dict())


@router.get("/v1/tables/{source}/{table}")
async def table(
    request: Request,
    source: str,
    table: str,
    caller: Tabling,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> Response:
    """Rows of a live table: those that have the values that are asked for."""
    asked = [pair for pair in request.query_params.multi_items() if pair[0] != "limit"]
    if len(dict(asked)) < len(asked):
        raise ProblemError(400, "invalid_request", "expected each column once, got one twice")
    try:
        found = await services(request).tables.read(
            source, table, dict(asked), limit, caller.principal
        )
    except NoTableError as error:
        raise ProblemError(404, "not_found", str(error)) from error
    return Json(found)


@router.post("/v1/answer")
async def answer(request: Request, body: AnswerRequest, caller: Asking) -> Response:
    """An answer with citations, or an honest "not in here". With ``stream``: server-sent events
    ``text`` as it comes, and ``answer`` at the end."""
    has = services(request)
    await has.writer.after(body.after)
    options: Options = {
        "where": body.where.filter(),
        "limit": has.passages,
        "profile": None if body.profile is None else has.profiles.about(body.profile),
    }
    who, answerer = caller.principal, has.answerer()
    pieces = (
        answerer.stream(body.question, who, **options)
        if body.session is None
        else has.sessions.stream(answerer, body.session, body.question, who, **options)
    )
    try:
        if body.stream:
            first = await anext(pieces)  # what cannot be asked at all is told by the status
            return EventStream(_events(first, pieces), pieces)
        last = [piece async for piece in pieces][-1]
    except NoSessionError as error:
        raise no_session(error) from error
    assert isinstance(last, Answer)
    return Json(last.to_dict(), headers=named(last))


async def _context(request: Request, body: ContextRequest, caller: Asking) -> Context:
    has = services(request)
    await has.writer.after(body.after)
    return await has.contexts().context(body.question, caller.principal, **_asked(has, body))


def _asked(has: Services, body: ContextRequest) -> Options:
    return {
        "where": body.where.filter(),
        "limit": body.limit,
        "mode": body.mode,
        "profile": None if body.profile is None else has.profiles.about(body.profile),
    }


def named(answer: Answer) -> dict[str, str]:
    """The header with the answer's id."""
    return {} if answer.id is None else {"Penstock-Answer": answer.id}


async def _events(first: str | Answer, rest: AsyncIterator[str | Answer]) -> AsyncIterator[bytes]:
    try:
        yield _event(first)
        async for piece in rest:
            yield _event(piece)
    except Exception as error:  # noqa: BLE001 - the status is sent: whatever it is, it is told in the stream
        problem = problem_of(error)
        yield event("error", {"code": problem.code, "detail": problem.detail})


def _event(piece: str | Answer) -> bytes:
    if isinstance(piece, Answer):
        return event("answer", piece.to_dict())
    return event("text", {"text": piece})


def event(name: str | None, data: Any) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(data) + b"\n\n"
