"""A fake of a paid endpoint: OpenAI's embeddings and chat over real HTTP, with scripted faults."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """What one request gets. ``pieces`` are sent ``pause_s`` apart; with ``reset`` the connection
    breaks off after them, in the middle of the body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    pieces: Sequence[bytes] = ()
    pause_s: float = 0.0
    reset: bool = False


Script = Callable[[dict[str, Any]], Reply]
"""From the request's body to what is replied."""


@dataclass(frozen=True)
class Request:
    """A request that came, as the endpoint saw it."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class FakeOpenAI:
    """Serves ``/v1/embeddings`` and ``/v1/chat/completions`` on a free port of this machine.

        async with FakeOpenAI() as endpoint:
            endpoint.script(status(429, retry_after="0.1"))
            embedder = OpenAIEmbedder(base_url=endpoint.base_url, ...)

    Each scripted reply is used once, in order; then requests are answered well. ``requests`` holds
    all that came.
    """

    def __init__(self, *, dimensions: int = 32, answer: str = "It is so [1].") -> None:
        self.dimensions = dimensions
        self.answer = answer
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._script: deque[Script | Reply] = deque()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self.base_url = ""

    def script(self, *replies: Script | Reply) -> None:
        """What the next requests get instead of a good answer."""
        self._script.extend(replies)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    reply = self._reply(request)
                    await _write(writer, reply)
                finally:
                    self._at_once -= 1
                if reply.reset:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, as some tests want
        finally:
            self._connections.discard(task)
            writer.close()

    def _reply(self, request: Request) -> Reply:
        if self._script:
            scripted = self._script.popleft()
            return scripted if isinstance(scripted, Reply) else scripted(request.body)
        if request.path.endswith("/embeddings"):
            return embeddings(request.body, self.dimensions)
        if request.path.endswith("/chat/completions"):
            return chat(self.answer)
        return status(404)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split(" ")[1], headers, orjson.loads(body or b"{}"))


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> None:
    head = [f"HTTP/1.1 {reply.status} -", *(f"{k}: {v}" for k, v in reply.headers.items())]
    writer.write("\r\n".join([*head, "transfer-encoding: chunked", "", ""]).encode("latin-1"))
    for piece in reply.pieces:
        if reply.pause_s:
            await asyncio.sleep(reply.pause_s)
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
    if not reply.reset:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


# --------------------------------------------------------------------------- good answers


def direction(text: str, dimensions: int) -> list[float]:
    """The fake's vector of a text: equal texts, equal vectors; its length is not 1."""
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
    vector: list[float] = np.random.default_rng(seed).standard_normal(dimensions).tolist()
    return vector


def embeddings(
    body: Mapping[str, Any],
    dimensions: int,
    *,
    change: Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]]] = list,
    model: str | None = None,
) -> Reply:
    """A good answer, or one that ``change`` spoils."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": i, "embedding": direction(text, dimensions)}
        for i, text in enumerate(texts)
    ]
    answer = {"object": "list", "data": change(data), "model": model or body["model"]}
    return Reply(pieces=[orjson.dumps(answer)])


def chat(answer: str) -> Reply:
    """An answer streamed word by word, as OpenAI does."""
    words = [word + " " for word in answer.split(" ")]
    words[-1] = words[-1][:-1]
    events = [event({"choices": [{"index": 0, "delta": {"content": word}}]}) for word in words]
    end = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return stream(*events, end, b"data: [DONE]\n\n")


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def stream(*pieces: bytes, pause_s: float = 0.0, reset: bool = False) -> Reply:
    """A stream of events, or of what is not quite that."""
    headers = {"content-type": "text/event-stream"}
    return Reply(headers=headers, pieces=pieces, pause_s=pause_s, reset=reset)


# --------------------------------------------------------------------------- faults


def status(code: int, message: str = "as scripted", *, retry_after: str | None = None) -> Reply:
    """An error with a message, and with ``Retry-After`` if given."""
    headers = JSON if retry_after is None else {**JSON, "retry-after": retry_after}
    return Reply(code, headers, [orjson.dumps({"error": {"message": message}})])


def html() -> Reply:
    """The page of a proxy, with a good status."""
    return Reply(headers={"content-type": "text/html"}, pieces=[b"<html>Welcome!</html>"])


def redirect(to: str) -> Reply:
    """A redirect to another host."""
    return Reply(307, {"location": to, "content-type": "text/plain"})


def slow(seconds: float) -> Reply:
    """Nothing for a long time."""
    return Reply(pieces=[b"{}"], pause_s=seconds)


def reset() -> Reply:
    """The connection breaks in the middle of the body."""
    return Reply(pieces=[b'{"data": ['], reset=True)
