"""The routes of conversations: begun, looked at, ended. Another principal's is not there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from penstock.serving.api.access import Asking
from penstock.serving.api.problems import ProblemError
from penstock.serving.api.services import Services
from penstock.serving.api.shapes import Strict
from penstock.serving.forms import MOST_TEXT
from penstock.serving.sessions import NoFormError, NoSessionError, Sessions
from penstock.serving.values import iso

router = APIRouter()


@router.post("/v1/sessions")
async def begin(request: Request, caller: Asking) -> Response:
    """A new conversation of the caller's; its id goes into the field ``session`` of questions."""
    return JSONResponse({"id": await _sessions(request).begin(caller.principal)})


@router.get("/v1/sessions/{session}")
async def look(request: Request, session: str, caller: Asking) -> Response:
    """What was asked in it: as it came, as it stood for itself, and the id of the answer."""
    try:
        turns = await _sessions(request).turns(session, caller.principal)
    except NoSessionError as error:
        raise no_session(error) from error
    shown: list[dict[str, Any]] = [
        {"said": turn.said, "asked": turn.asked, "answer": turn.answer, "at": iso(turn.at)}
        for turn in turns
    ]
    return JSONResponse({"id": session, "turns": shown})


class FormRequest(Strict):
    """What was said to the question that the form asked; without it, the first is asked."""

    text: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)] | None = None


@router.post("/v1/sessions/{session}/forms/{form}")
async def fill(
    request: Request, session: str, form: str, body: FormRequest, caller: Asking
) -> Response:
    """Fill in a form of the project: its values so far, what is missing, what to ask next."""
    try:
        filling = await _sessions(request).fill(session, form, caller.principal, body.text)
    except (NoSessionError, NoFormError) as error:
        raise no_session(error) from error
    return JSONResponse(
        {
            "form": form,
            "done": filling.done,
            "values": dict(filling.values),
            "missing": list(filling.missing),
            "slot": filling.slot,
            "ask": filling.ask,
            "problem": filling.problem,
        }
    )


@router.delete("/v1/sessions/{session}")
async def end(request: Request, session: str, caller: Asking) -> Response:
    """Forget it."""
    try:
        await _sessions(request).end(session, caller.principal)
    except NoSessionError as error:
        raise no_session(error) from error
    return JSONResponse({"id": session, "ended": True})


def no_session(error: NoSessionError | NoFormError) -> ProblemError:
    """How it is told."""
    return ProblemError(404, "not_found", str(error))


def _sessions(request: Request) -> Sessions:
    services: Services = request.app.state.services
    return services.sessions
