"""The HTTP server of ``penstock run`` and ``penstock serve``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Mapping

import uvicorn

from penstock.errors import ConfigError
from penstock.serving.api.guard import Application, Receive, Scope, Send


class _Mounted:
    """The API, with other applications at their paths. A router's own mounts would answer the path
    itself with a redirection, which those who push do not follow."""

    def __init__(self, api: Application, mounted: Mapping[str, Application]) -> None:
        self._api = api
        self._mounted = mounted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = str(scope["path"])
            for place, application in self._mounted.items():
                if path == place or path.startswith(f"{place}/"):
                    below = {**scope, "root_path": f"{scope.get('root_path', '')}{place}"}
                    await application(below, receive, send)
                    return
        await self._api(scope, receive, send)


@contextlib.asynccontextmanager
async def serve(
    api: Application,
    *,
    host: str,
    port: int,
    mounted: Mapping[str, Application] | None = None,
) -> AsyncIterator[str]:
    """Serve an application while the block runs; yields the address. ``mounted`` are others by the
    path at and below which they answer."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)  # whoever is told the address may connect at once
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"expected {host}:{port} to be free for the API, got: {error}; stop what "
            "uses it, or set server.port (0 picks a free one)"
        ) from error
    served = _Mounted(api, mounted or {})
    config = uvicorn.Config(served, log_level="critical", access_log=False, lifespan="auto")

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
