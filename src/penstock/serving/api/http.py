"""How HTTP is read: what cannot be read is told as every other problem is."""

from __future__ import annotations

from typing import Any, Final

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from penstock.serving.api.problems import ProblemError, body_of

MOST_HEAD: Final = 1_000_000
"""Bytes of a request's address and headers that are read before it is refused without being looked
at. What is over `penstock.serving.api.guard.MOST_HEAD` is refused in any case."""


class Http(H11Protocol):
    """Answers what is no HTTP with a problem, on every path: which one was meant is not known."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the parser's two words
        """Told once; then the connection is closed."""
        problem = ProblemError(
            400,
            "no_http",
            "expected a request of HTTP/1.1 with a head of at most "
            f"{MOST_HEAD:,} bytes, got something else",
        )
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        events: list[Any] = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=orjson.dumps(body_of(problem))),
            h11.EndOfMessage(),
        ]
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
