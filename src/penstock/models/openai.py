"""Embedders and generators behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import orjson

from penstock.errors import RetryableError
from penstock.models.base import Message, Role
from penstock.models.endpoint import Endpoint, embeddings_endpoint, error_message, malformed
from penstock.models.remote import NO_CARE, Answered, Care, RemoteEmbedder, Shape, attempts, marked

OPENAI: Final = "https://api.openai.com/v1"
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_MAX_LINE_BYTES = 1024 * 1024


class OpenAIService:
    """An OpenAI-compatible ``/embeddings``. ``dimensions`` is sent where the model can shorten its
    vectors; ``roles`` are parameters for documents and for questions (``input_type`` and such)."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        *,
        dimensions: int | None = None,
        roles: Mapping[Role, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        self._endpoint = endpoint
        self._fixed: dict[str, Any] = {"model": model, "encoding_format": "float"}
        if dimensions is not None:
            self._fixed["dimensions"] = dimensions
        self._roles = roles

    @property
    def url(self) -> str:
        return self._endpoint.url

    async def ask(self, texts: Sequence[str], role: Role) -> Answered:
        body = {**self._fixed, **self._roles.get(role, {}), "input": list(texts)}
        answer = await self._endpoint.post("/embeddings", body)
        if (message := error_message(answer)) is not None:
            said = self._endpoint.excerpt(message)
            raise RetryableError(f"{self._endpoint.url} said: {said}", malformed=True)
        found = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(found, list):
            came = self._endpoint.excerpt(orjson.dumps(answer))
            raise malformed(f"expected a list of embeddings, got {came!r}")
        model, usage = answer.get("model"), answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        return Answered(
            _in_order(found, len(texts)),
            model if isinstance(model, str) else None,
            tokens if type(tokens) is int else None,
        )

    async def close(self) -> None:
        await self._endpoint.close()


class OpenAIEmbedder(RemoteEmbedder):
    """Vectors from an OpenAI-compatible ``/embeddings``."""

    def __init__(
        self,
        *,
        model: str,
        dimensions: int,
        api_key: str,
        base_url: str = OPENAI,
        max_tokens: int = 8000,
        batch_size: int = 128,
        concurrency: int = 4,
        timeout_s: float = 60.0,
        gives: int | None = None,
        prefixes: Mapping[Role, str] = MappingProxyType({}),
        roles: Mapping[Role, Mapping[str, str]] = MappingProxyType({}),
        send_dimensions: bool | None = None,
        care: Care = NO_CARE,
    ) -> None:
        endpoint = embeddings_endpoint(base_url, api_key, timeout_s, concurrency)
        self._endpoint = endpoint
        shape = Shape(
            f"openai/{model}/{dimensions}{marked(prefixes)}",
            dimensions,
            max_tokens,
            batch_size,
            concurrency,
            gives=gives,
            prefixes=prefixes,
        )
        if send_dimensions is None:
            send_dimensions = model.startswith("text-embedding-3")
        service = OpenAIService(
            endpoint, model, dimensions=dimensions if send_dimensions else None, roles=roles
        )
        super().__init__(service, shape, care=care)


class OpenAIGenerator:
    """Text from an OpenAI-compatible ``/chat/completions``, streamed.

    A request that fails before the first piece is tried again a few times; after it, an error is
    raised rather than a truncated answer passed off as whole.
    """

    def __init__(
        self,
        *,
        model: str,
        api_key: str,
        base_url: str = OPENAI,
        temperature: float = 0.0,
        max_tokens: int = 800,
        timeout_s: float = 120.0,
    ) -> None:
        self.name = f"openai/{model}"
        self._request = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self._endpoint = Endpoint(
            base_url, api_key, timeout_s=timeout_s, connections=64, max_bytes=_MAX_ANSWER_BYTES
        )

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        body = {
            **self._request,
            "stream": True,
            "messages": [{"role": m.role, "content": _text(m.content)} for m in messages],
        }
        begun = False
        async for attempt in attempts():
            try:
                async for piece in self._pieces(body):
                    begun = True
                    yield piece
                return
            except RetryableError:
                if begun:
                    raise
                with attempt:
                    raise

    async def close(self) -> None:
        await self._endpoint.close()

    async def _pieces(self, body: object) -> AsyncIterator[str]:
        async with self._endpoint.stream("/chat/completions", body) as answer:
            if "json" in answer.headers.get("content-type", ""):
                yield self._whole(await answer.whole())
                return
            finished = False
            async for line in lines(answer.parts()):
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                piece, ended = self._piece(data)
                finished = finished or ended
                if piece:
                    yield piece
            if not finished:
                raise RetryableError("the stream of the answer broke off before its end")

    def _piece(self, data: bytes) -> tuple[str, bool]:
        """The text of one event, and whether the answer ends with it."""
        choice = self._choice(data)
        delta = choice.get("delta")
        content = delta.get("content") if isinstance(delta, dict) else None
        return content if isinstance(content, str) else "", choice.get("finish_reason") is not None

    def _whole(self, content: bytes) -> str:
        """The text of an endpoint that does not stream."""
        message = self._choice(content).get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            came = self._endpoint.excerpt(content)
            raise RetryableError(f"expected a message with content, got {came!r}")
        return text

    def _choice(self, data: bytes) -> dict[str, Any]:
        """The first choice; an event without one (usage, for example) is as good as empty."""
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            came = self._endpoint.excerpt(data)
            raise RetryableError(f"expected JSON in the stream, got {came!r}") from error
        if (message := error_message(event)) is not None:
            raise RetryableError(f"{self._endpoint.url} said: {self._endpoint.excerpt(message)}")
        choices = event.get("choices") if isinstance(event, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        return first if isinstance(first, dict) else {}


async def lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of a stream, however it is cut into pieces."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MAX_LINE_BYTES:
            said = f"expected lines of at most {_MAX_LINE_BYTES} bytes in the stream"
            raise RetryableError(said, malformed=True)
    if rest:
        yield rest


def _in_order(found: Sequence[object], wanted: int) -> list[object]:
    """Embeddings by their index, which must name each text once."""
    if len(found) != wanted:
        raise malformed(f"expected {wanted} embeddings, got {len(found)}")
    placed: dict[int, object] = {}
    for entry in found:
        if not isinstance(entry, dict) or type(entry.get("index")) is not int:
            raise malformed("expected an index beside each embedding, got one without")
        placed[entry["index"]] = entry.get("embedding")
    if placed.keys() != set(range(wanted)):
        raise malformed(f"expected the indexes 0 to {wanted - 1}, got {sorted(placed)[:20]}")
    return [placed[index] for index in range(wanted)]


def _text(content: str) -> str:
    return content.encode("utf-8", "replace").decode("utf-8")
