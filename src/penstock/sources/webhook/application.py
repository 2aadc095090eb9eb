"""A webhook source behind HTTP: an ASGI application, which any server can mount."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from penstock.sources.webhook.source import Answer, WebhookSource

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_TITLES: Final = {
    401: "Not signed",
    404: "No such stream",
    405: "Not a delivery",
    408: "Too slow",
    413: "Too large",
    422: "Not readable",
    429: "Too many at once",
    503: "Not now",
}
_OURS: Final = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})
_MOST_READ: Final = 64
_BODY_S: Final = 30.0


class WebhookApplication:
    """``POST /`` or ``POST /STREAM`` is a delivery; problems are told as RFC 9457 describes."""

    def __init__(self, source: WebhookSource) -> None:
        self._source = source
        self._reading = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        await _answer(send, await self._handle(scope, path.strip("/"), receive))

    async def _handle(self, scope: Message, stream: str, receive: Receive) -> Answer:
        if scope["method"] != "POST":
            return Answer(405, f"expected POST, got {scope['method']}")
        headers: dict[str, str] = {}
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1").lower()
            if name in _OURS and name in headers:
                return Answer(401, f"expected one header {name}, got several")
            headers[name] = value.decode("latin-1")
        if self._reading >= _MOST_READ:  # bodies are held before it is known who sent them
            return Answer(429, "expected fewer deliveries at once", 1)
        self._reading += 1
        try:
            async with asyncio.timeout(_BODY_S):
                body = await _body(headers, receive, self._source.max_bytes)
        except TimeoutError:
            return Answer(408, f"expected the whole body within {_BODY_S:g} s")
        finally:
            self._reading -= 1
        if body is None:
            limit = self._source.max_bytes
            return Answer(413, f"expected a body of at most {limit:,} bytes, got more: split it")
        return await self._source.deliver(stream, headers, body)


async def _body(headers: dict[str, str], receive: Receive, most: int) -> bytes | None:
    """The whole body; None as soon as it is too large."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:18]) > most:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""  # nobody waits for the answer, and nothing is signed by this
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(send: Send, answer: Answer) -> None:
    headers: list[tuple[bytes, bytes]] = []
    body = b""
    if answer.sentence:
        problem = {
            "type": "about:blank",
            "title": _TITLES.get(answer.status, ""),
            "status": answer.status,
            "detail": answer.sentence,
        }
        body = json.dumps(problem).encode()
        headers.append((b"content-type", b"application/problem+json"))
    if answer.retry_after_s is not None:
        headers.append((b"retry-after", str(answer.retry_after_s).encode()))
    if answer.status == 405:
        headers.append((b"allow", b"POST"))
    if answer.status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
