"""The routes by which applications say what was answered, and people what they think of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from penstock.serving.api.access import Asking
from penstock.serving.api.problems import ProblemError
from penstock.serving.api.services import Services
from penstock.serving.api.shapes import Strict, Text
from penstock.serving.ledger.feedback import (
    MOST_TEXT,
    Feedback,
    Interaction,
    NotKeptError,
    Scale,
    UnknownEntryError,
    Voices,
)
from penstock.stores.ledger import OtherBodyError

router = APIRouter()

Id = Annotated[str, Field(min_length=1, max_length=100)]
Long = Annotated[str, Field(max_length=MOST_TEXT)]
Once = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


class FeedbackRequest(Strict):
    """What somebody says of an answer. ``rating``: -1, 0 or 1; with the scale ``stars`` 1 to 5."""

    answer: Id
    rating: int | None = None
    scale: Scale = "thumbs"
    comment: Long | None = None
    correction: Long | None = None


class InteractionRequest(Strict):
    """A question that the application answered by itself, from a context that it was given."""

    question: Text
    answer: Long
    context: Id | None = None
    session: Id | None = None
    generator: Annotated[str, Field(max_length=200)] | None = None
    rating: int | None = None
    scale: Scale = "thumbs"
    comment: Long | None = None
    correction: Long | None = None


@router.post("/v1/feedback")
async def feedback(
    request: Request, body: FeedbackRequest, caller: Asking, once: Once = None
) -> Response:
    """Keep a rating, comment or correction. With an ``Idempotency-Key`` it counts once."""
    said = Feedback(body.answer, body.rating, body.scale, body.comment, body.correction)
    try:
        name = await _voices(request).rate(said, caller.principal, once=once)
    except (NotKeptError, UnknownEntryError, OtherBodyError) as error:
        raise _problem(error) from error
    return JSONResponse({"id": name, "answer": body.answer})


@router.post("/v1/interactions")
async def interaction(
    request: Request, body: InteractionRequest, caller: Asking, once: Once = None
) -> Response:
    """Keep what an application answered, perhaps with what was said of it at once. With an
    ``Idempotency-Key`` it counts once."""
    voices, who = _voices(request), caller.principal
    said = Interaction(body.question, body.answer, body.context, body.session, body.generator)
    rated = body.rating is not None or bool(body.comment or body.correction)
    if rated:  # what cannot be rated is refused before anything is kept
        Feedback("", body.rating, body.scale, body.comment, body.correction)
    try:
        name = await voices.tell(said, who, once=once)
        told: dict[str, str] = {"id": name}
        if rated:
            rating = Feedback(name, body.rating, body.scale, body.comment, body.correction)
            told["feedback"] = await voices.rate(rating, who, once=once)
    except (NotKeptError, UnknownEntryError, OtherBodyError) as error:
        raise _problem(error) from error
    return JSONResponse(told)


def _voices(request: Request) -> Voices:
    services: Services = request.app.state.services
    return services.voices


def _problem(error: NotKeptError | UnknownEntryError | OtherBodyError) -> ProblemError:
    if isinstance(error, UnknownEntryError):
        return ProblemError(404, "not_found", str(error))
    code = "not_kept" if isinstance(error, NotKeptError) else "idempotency_conflict"
    return ProblemError(409, code, str(error))
