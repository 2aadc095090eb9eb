"""What goes wrong, as clients expect to be told: problem details (RFC 9457), and OpenAI's form on
the routes that are OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from penstock.errors import BadRecordError, ConfigError, FatalError, PenstockError, RetryableError

logger = structlog.get_logger("penstock.api")

OPENAI: Final = (
    "/v1/chat/", "/v1/responses", "/v1/embeddings", "/v1/models", "/v1/vector_stores/",
)  # fmt: skip
"""Where OpenAI's clients call."""
_RETRY_S: Final = 1
TITLES: Final = {
    400: "The request cannot be understood",
    401: "A key is needed",
    403: "Not allowed",
    404: "Not found",
    405: "Not that way",
    409: "In conflict",
    413: "Too large",
    414: "The address is too long",
    421: "Not served here",
    422: "The request cannot be done",
    429: "Too many requests",
    431: "The headers are too large",
    500: "A fault of ours",
    502: "A model's endpoint fails",
    503: "Not available now",
    504: "Took too long",
}
_SAID: Final = {
    400: "expected a body of JSON, got something that cannot be read as such",
    404: "expected a route of this API, got a path that it does not have",
    405: "expected another method: this path is there, but not for this one",
}
"""What the framework says in two words."""
_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}


class ProblemError(Exception):
    """Why a request is refused, for whoever sent it."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})


def problem_of(error: Exception) -> ProblemError:
    """How an error is told. What it is about inside stays inside, in the log."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return ProblemError(422, "invalid_request", _sentence(error))
    if isinstance(error, HTTPException):
        code = "not_found" if error.status_code == 404 else "invalid_request"
        detail = _SAID.get(error.status_code, str(error.detail))
        return ProblemError(error.status_code, code, detail, headers=dict(error.headers or {}))
    if isinstance(error, ConfigError | BadRecordError):
        return ProblemError(400, "invalid_request", str(error))
    if isinstance(error, RetryableError) and error.facts.get("budget"):
        wait = str(max(_RETRY_S, round(error.retry_after_s or 0)))
        return ProblemError(429, "insufficient_quota", str(error), headers={"Retry-After": wait})
    if isinstance(error, FatalError) and "status" in error.facts:
        said = "the endpoint of a model refuses what it is asked; the log of the server says why"
        return ProblemError(502, "model_refused", said)
    if isinstance(error, RetryableError):
        wait = str(max(_RETRY_S, round(error.retry_after_s or 0)))
        return ProblemError(503, "unavailable", str(error), headers={"Retry-After": wait})
    return ProblemError(500, "internal", "something failed here; the log of the server says what")


def response_of(path: str, problem: ProblemError) -> Response:
    """The response, in the form of the route."""
    headers = {**problem.headers, "Cache-Control": "no-store"}
    if path.startswith(OPENAI):
        body: dict[str, Any] = {
            "error": {
                "message": problem.detail,
                "type": _OPENAI_TYPES.get(problem.status, "invalid_request_error"),
                "param": None,
                "code": problem.code,
            }
        }
        return JSONResponse(body, problem.status, headers)
    told = body_of(problem)
    return JSONResponse(told, problem.status, headers, media_type="application/problem+json")


def body_of(problem: ProblemError) -> dict[str, Any]:
    """The problem's details."""
    return {
        "type": "about:blank",
        "title": TITLES.get(problem.status, "The request was refused"),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
    }


def install(app: FastAPI) -> None:
    """Every error of a route is told in these forms."""

    async def told(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if problem.status in (500, 502):
            logger.error("api.failed", path=request.url.path, reason=repr(error), exc_info=error)
        return response_of(request.url.path, problem)

    for kind in (ProblemError, PenstockError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, told)


def _sentence(error: RequestValidationError) -> str:
    """The first thing that is wrong, and where."""
    found = error.errors()[0]
    if found["type"] == "json_invalid":
        where, why = found["loc"][-1], (found.get("ctx") or {}).get("error", "it ends there")
        return f"expected a body of JSON, got none at character {where}: {str(why)[:200]}"
    place = ".".join(str(part) for part in found["loc"] if part != "body") or "the body"
    more = len(error.errors()) - 1
    said = str(found["msg"]).removeprefix("Value error, ")
    return f"{place}: {said[:300]}" + (f" (and {more} more)" if more else "")
