"""The HTTP server of ``penstock run`` and ``penstock serve``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import uvicorn

from penstock.errors import ConfigError
from penstock.serving.api.attending import attended
from penstock.serving.api.guard import Application, Receive, Scope, Send

_CUT_S: Final = 3
"""Seconds after which connections that are still open at the end are cut."""


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


class Tls(NamedTuple):
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


def _load(config: uvicorn.Config, tls: Tls | None) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        if tls is None:
            raise
        raise ConfigError(
            f"expected a certificate in {str(tls.certificate)!r} and its key in {str(tls.key)!r}, "
            f"both as PEM, but {error}: correct server.tls"
        ) from error


def listening(host: str, port: int) -> socket.socket:
    """A socket on which whoever is told the address may connect at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only of a socket that says that it is TCP does asyncio turn Nagle's algorithm off, which would
    # hold the body of an answer back for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"expected {host}:{port} to be free for the API, got: {error}; stop what "
            "uses it, or set server.port (0 picks a free one)"
        ) from error
    return listener


@contextlib.asynccontextmanager
async def serve(
    api: Application,
    *,
    host: str,
    port: int,
    mounted: Mapping[str, Application] | None = None,
    tls: Tls | None = None,
    listener: socket.socket | None = None,
) -> AsyncIterator[str]:
    """Serve an application while the block runs; yields the address. ``mounted`` are others by the
    path at and below which they answer; ``listener``, where clients come in, if somebody has opened
    it already: it is closed here."""
    listener = listener or listening(host, port)
    served = _Mounted(api, mounted or {})
    config = uvicorn.Config(
        served,
        log_level="critical",
        access_log=False,
        lifespan="auto",
        server_header=False,
        timeout_graceful_shutdown=_CUT_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    try:
        _load(config, tls)
    except ConfigError:
        listener.close()
        raise

    class Server(uvicorn.Server):
        """Leaves signals to the program around it."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield f"{'https' if tls else 'http'}://{host}:{listener.getsockname()[1]}"
    finally:
        looked_after = attended(api)
        if looked_after is not None:
            await looked_after.drain()
        server.should_exit = True
        await task
        listener.close()
