"""The HTTP endpoint of ``penstock run``: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from fastapi import FastAPI, Response

from penstock.errors import ConfigError
from penstock.serving.api.metrics import CONTENT_TYPE, render
from penstock.telemetry import Meters


@contextlib.asynccontextmanager
async def serve(
    meters: Meters, *, host: str, port: int, problems: Callable[[], list[str]]
) -> AsyncIterator[str]:
    """Serve while the block runs; yields the address. ``problems`` says why it is not ready."""
    api = FastAPI(title="Penstock", openapi_url=None, docs_url=None, redoc_url=None)

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/readyz")
    async def readyz(response: Response) -> dict[str, object]:
        found = problems()
        response.status_code = 503 if found else 200
        return {"ready": not found, "problems": found}

    @api.get("/metrics")
    async def metrics() -> Response:
        return Response(render(meters), media_type=CONTENT_TYPE)

    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"expected {host}:{port} to be free for health and metrics, got: {error}; stop what "
            "uses it, or set server.port (0 picks a free one)"
        ) from error
    config = uvicorn.Config(api, log_level="critical", access_log=False, lifespan="off")

    class Server(uvicorn.Server):
        """Leaves signals to the program around it."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
