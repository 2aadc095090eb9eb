"""The API as one application: its routes, who may call them, and how it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from penstock.serving.api import asking, openai, problems, responses, sessions, voices, writing
from penstock.serving.api.access import OPEN, Doorkeeper, policies
from penstock.serving.api.attending import Attended, Reachability, readiness
from penstock.serving.api.guard import Application, Guard
from penstock.serving.api.limits import Limits
from penstock.serving.api.mcp import with_mcp
from penstock.serving.api.metrics import CONTENT_TYPE, render
from penstock.serving.api.schema import document
from penstock.serving.api.services import Services
from penstock.serving.api.tokens import Tokens
from penstock.telemetry import Meters

MAX_BODY = 4_000_000
"""Bytes of a request."""


def build(
    meters: Meters,
    problems_now: Callable[[], list[str]],
    services: Services | None = None,
    *,
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
    most_bytes: int = MAX_BODY,
    limits: Limits | None = None,
    tokens: Tokens | None = None,
    limit_s: float = 120.0,
    drain_s: float = 20.0,
    reachable: Reachability | None = None,
) -> Application:
    """Health and metrics, and with ``services`` all the rest. ``reachable`` says why what it
    answers from is not."""
    app = FastAPI(title="Penstock", openapi_url=None, docs_url=None, redoc_url=None)
    served: Application = app
    if services is not None:
        doorkeeper = Doorkeeper(services.keys, services.clock, services.tenant, limits, tokens)
        app.state.services = services
        app.state.doorkeeper = doorkeeper
        for router in (
            asking.router,
            writing.router,
            openai.router,
            responses.router,
            voices.router,
            sessions.router,
        ):
            app.include_router(router)
        served = with_mcp(app, services, doorkeeper)
    attended = Attended(served, limit_s=limit_s, drain_s=drain_s, reachable=reachable)
    _health(app, meters, readiness(problems_now, reachable, lambda: attended.draining))
    _schema(app, services.version if services is not None else "")
    problems.install(app)
    policies(app)
    return Guard(attended, hosts=hosts, origins=origins, most_bytes=most_bytes)


def _schema(app: FastAPI, version: str) -> None:
    made: dict[str, Any] = {}

    @app.get("/openapi.json", dependencies=[OPEN])
    async def openapi() -> Response:
        if not made:
            made.update(document(app, version))
        return JSONResponse(made)


def _health(app: FastAPI, meters: Meters, problems_now: Callable[[], Awaitable[list[str]]]) -> None:
    @app.get("/healthz", dependencies=[OPEN])
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", dependencies=[OPEN])
    async def readyz(response: Response) -> dict[str, object]:
        found = await problems_now()
        response.status_code = 503 if found else 200
        return {"ready": not found, "problems": found}

    @app.get("/metrics", dependencies=[OPEN])
    async def metrics() -> Response:
        return Response(render(meters), media_type=CONTENT_TYPE)
