"""A fake of a paid endpoint over real HTTP, with scripted faults: embeddings as OpenAI, Cohere and
Bedrock have them (signatures are checked), and OpenAI's chat.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

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
    raw: bytes = b""

    @property
    def texts(self) -> list[str]:
        """What is to be embedded, whichever shape the request has."""
        found = self.body.get("input", self.body.get("texts", self.body.get("inputText", [])))
        return found if isinstance(found, list) else [found]


class FakeOpenAI:
    """Serves ``/v1/embeddings`` and ``/v1/chat/completions`` on a free port of this machine.

        async with FakeOpenAI() as endpoint:
            endpoint.script(status(429, retry_after="0.1"))
            embedder = OpenAIEmbedder(base_url=endpoint.base_url, ...)

    Each scripted reply is used once, in order; then requests are answered well. ``reacts`` is asked
    before: what it replies is what is said, again and again. ``weights`` are the model's: with
    others, every vector is another. ``requests`` holds all that came.
    """

    def __init__(self, *, dimensions: int = 32, answer: str = "It is so [1].") -> None:
        self.dimensions = dimensions
        self.answer = answer
        self.weights = ""
        self.reacts: Callable[[Request], Reply | None] | None = None
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
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, as some tests want, or this server is closing
        finally:
            self._connections.discard(task)
            writer.close()

    def _reply(self, request: Request) -> Reply:
        reaction = None if self.reacts is None else self.reacts(request)
        if reaction is not None:
            return reaction
        if self._script:
            scripted = self._script.popleft()
            return scripted if isinstance(scripted, Reply) else scripted(request.body)
        return self.good(request)

    def good(self, request: Request) -> Reply:
        """The right answer."""
        if request.path.endswith("/embeddings"):
            return embeddings(request.body, self.dimensions, weights=self.weights)
        if request.path.endswith("/embed"):
            return cohere(request, self.dimensions, self.weights)
        if request.path.endswith("/invoke"):
            return bedrock(request, self.dimensions, self.weights)
        if request.path.endswith("/chat/completions"):
            return chat(self.answer)
        return status(404)


class ThreadedEndpoint:
    """The fake in a thread of its own, for tests that wait for processes.

    with ThreadedEndpoint() as endpoint:
        endpoint.fake.reacts = ...
    """

    def __init__(self, *, dimensions: int = 32) -> None:
        self.fake = FakeOpenAI(dimensions=dimensions)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def base_url(self) -> str:
        return self.fake.base_url

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.fake.__aenter__(), self._loop).result()
        return self

    def __exit__(self, *error: object) -> None:
        closing = self.fake.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(closing, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split(" ")[1], headers, orjson.loads(body or b"{}"), body)


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


def direction(text: str, dimensions: int, weights: str = "") -> list[float]:
    """The fake's vector of a text: equal texts, equal vectors; its length is not 1."""
    seed = int.from_bytes(blake2b((weights + text).encode(), digest_size=8).digest(), "little")
    vector: list[float] = np.random.default_rng(seed).standard_normal(dimensions).tolist()
    return vector


def embeddings(
    body: Mapping[str, Any],
    dimensions: int,
    *,
    change: Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]]] = list,
    model: str | None = None,
    weights: str = "",
) -> Reply:
    """A good answer, or one that ``change`` spoils."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": i, "embedding": direction(text, dimensions, weights)}
        for i, text in enumerate(texts)
    ]
    answer = {"object": "list", "data": change(data), "model": model or body["model"]}
    return Reply(pieces=[orjson.dumps(answer)])


def cohere(request: Request, dimensions: int, weights: str = "") -> Reply:
    """Cohere's answer to a request of its shape; anything else is refused as Cohere does."""
    body = request.body
    if body.get("input_type") not in ("search_document", "search_query") or not request.texts:
        return Reply(400, pieces=[b'{"message": "invalid request: input_type must be given"}'])
    if len(request.texts) > 96:
        return Reply(400, pieces=[b'{"message": "invalid request: at most 96 texts"}'])
    if request.path.endswith("/embed") and body.get("embedding_types") != ["float"]:
        return Reply(400, pieces=[b'{"message": "invalid request: embedding_types"}'])
    found = [direction(text, dimensions, weights) for text in request.texts]
    plain = request.path.endswith("/invoke")
    answer: dict[str, Any] = {"embeddings": found if plain else {"float": found}}
    if not plain:
        answer["meta"] = {"billed_units": {"input_tokens": sum(map(len, request.texts)) // 4 + 1}}
    return Reply(pieces=[orjson.dumps(answer)])


def bedrock(request: Request, dimensions: int, weights: str = "") -> Reply:
    """Bedrock's answer; the model's name says the shape. What is not signed is refused."""
    if not is_signed(request):
        return Reply(403, pieces=[b'{"message": "The request signature does not match"}'])
    if "cohere." in request.path:
        return cohere(request, dimensions, weights)
    if request.body.keys() - {"inputText", "dimensions", "normalize"}:
        return Reply(400, pieces=[b'{"message": "extraneous key is not permitted"}'])
    (text,) = request.texts
    answer = {"embedding": direction(text, dimensions, weights), "inputTextTokenCount": len(text)}
    return Reply(pieces=[orjson.dumps(answer)])


AMAZON = ("AKIDEXAMPLE", "canary/secret+0123456789")
"""The access key and the secret with which the fake of Bedrock expects requests to be signed."""


def is_signed(request: Request, keys: tuple[str, str] = AMAZON) -> bool:
    """Whether a request has the Signature Version 4 of these keys, over all that it must cover."""
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/bedrock/aws4_request, "
        r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
        request.headers.get("authorization", ""),
    )
    if found is None or found[1] != keys[0] or not {"host", "x-amz-date"} <= {*found[4].split(";")}:
        return False
    canonical = "\n".join(
        [
            "POST",
            quote(request.path, safe="/-_.~"),
            "",
            *(f"{name}:{request.headers.get(name, '')}" for name in found[4].split(";")),
            "",
            found[4],
            sha256(request.raw).hexdigest(),
        ]
    )
    scope = f"{found[2]}/{found[3]}/bedrock/aws4_request"
    digest = sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{digest}"
    key = f"AWS4{keys[1]}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), found[5])


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
