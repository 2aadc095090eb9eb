"""Embedders and generators behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any, Final

import numpy as np
import orjson
import stamina

from penstock.errors import BadRecordError, FatalError, RetryableError
from penstock.models.base import Message, Priority, Vectors
from penstock.models.endpoint import Endpoint, error_message

OPENAI: Final = "https://api.openai.com/v1"
_BYTES_PER_TOKEN = 3
_MAX_BATCH_TOKENS = 100_000
_MAX_EMBEDDINGS_BYTES = 256 * 1024 * 1024
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_MAX_LINE_BYTES = 1024 * 1024
_SHORT_WAIT_S = 2.0


class OpenAIEmbedder:
    """Vectors from an OpenAI-compatible ``/embeddings``.

    Every answer is checked: as many vectors as texts, each assigned by its index, of the expected
    dimension, finite and not zero, all from one model. ``concurrency`` requests may be under way
    for loads and as many for live changes; a question never waits for them and is tried again a
    few times at once. ``dimensions`` is sent where the model can shorten its vectors.
    """

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
    ) -> None:
        self.name = f"openai/{model}/{dimensions}"
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self._model = model
        self._batch_size = batch_size
        self._endpoint = Endpoint(
            base_url,
            api_key,
            timeout_s=timeout_s,
            connections=2 * concurrency + 4,
            max_bytes=_MAX_EMBEDDINGS_BYTES,
        )
        self._turns = {p: asyncio.Semaphore(concurrency) for p in ("live", "bulk")}
        self._answered_by: str | None = None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate on the high side: the tokenizer is the endpoint's."""
        return [_estimate(text) for text in texts]

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        if not len(texts):
            return np.empty((0, self.dimensions), np.float32)
        batches = self._batches([self._sendable(text) for text in texts])
        tasks = [asyncio.ensure_future(self._in_turn(batch, priority)) for batch in batches]
        try:
            return np.concatenate(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def close(self) -> None:
        await self._endpoint.close()

    def _sendable(self, text: str) -> str:
        """The endpoint refuses what is empty or too long, and JSON what is no text."""
        whole = text.encode("utf-8", "replace")[: self.max_tokens * _BYTES_PER_TOKEN]
        return whole.decode("utf-8", "ignore").replace("\0", "") or " "

    def _batches(self, texts: Sequence[str]) -> list[list[str]]:
        batches: list[list[str]] = []
        tokens = 0
        for text in texts:
            tokens += _estimate(text)
            if not batches or len(batches[-1]) >= self._batch_size or tokens > _MAX_BATCH_TOKENS:
                batches.append([])
                tokens = _estimate(text)
            batches[-1].append(text)
        return batches

    async def _in_turn(self, texts: list[str], priority: Priority) -> Vectors:
        if priority == "query":
            async for attempt in _attempts():
                with attempt:
                    return await self._request(texts)
            raise AssertionError("unreachable")  # the attempts end with a value or an error
        async with self._turns[priority]:
            return await self._request(texts)

    async def _request(self, texts: list[str]) -> Vectors:
        body: dict[str, Any] = {"model": self._model, "input": texts, "encoding_format": "float"}
        if self._model.startswith("text-embedding-3"):
            body["dimensions"] = self.dimensions
        answer = await self._endpoint.post("/embeddings", body)
        if (message := error_message(answer)) is not None:
            raise RetryableError(f"{self._endpoint.url} said: {self._endpoint.excerpt(message)}")
        found = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(found, list):
            came = self._endpoint.excerpt(orjson.dumps(answer))
            raise RetryableError(f"expected a list of embeddings, got {came!r}")
        self._check_model(answer.get("model"))
        return self._checked(_in_order(found, len(texts)))

    def _check_model(self, name: object) -> None:
        """Vectors of two models must not be mixed under one name."""
        if not isinstance(name, str):
            return
        if self._answered_by is None:
            self._answered_by = name
        elif name != self._answered_by:
            raise FatalError(
                f"expected vectors of the model {self._answered_by!r}, got some of {name!r}: its "
                "vectors do not compare with those stored; name one model in knowledge.embedder"
            )

    def _checked(self, embeddings: Sequence[object]) -> Vectors:
        try:
            vectors = np.array(embeddings, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise RetryableError("expected embeddings of numbers, all of one length") from error
        if vectors.ndim != 2:
            raise RetryableError("expected a list of numbers as each embedding, got something else")
        if vectors.shape[1] != self.dimensions:
            raise FatalError(
                f"expected vectors of {self.dimensions} dimensions, got {vectors.shape[1]}: "
                "set knowledge.embedder.dimensions to what the model gives"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # looked at in the next line
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise BadRecordError("expected a vector of finite length, got NaN, infinity or zeros")
        unit: Vectors = (vectors / lengths).astype(np.float32)
        return unit


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
        async for attempt in _attempts():
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
            async for line in _lines(answer.parts()):
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


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of a stream, however it is cut into pieces."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MAX_LINE_BYTES:
            raise RetryableError(f"expected lines of at most {_MAX_LINE_BYTES} bytes in the stream")
    if rest:
        yield rest


def _attempts() -> AsyncIterable[stamina.Attempt]:
    """A person waits: a few tries within seconds."""
    return stamina.retry_context(
        on=_soon, attempts=3, timeout=15.0, wait_initial=0.1, wait_max=1.0, wait_jitter=0.1
    )


def _soon(error: Exception) -> bool | float:
    """Whether to try again at once: yes, unless we were asked to wait for long."""
    if not isinstance(error, RetryableError):
        return False
    if error.retry_after_s is None:
        return True
    return error.retry_after_s if error.retry_after_s <= _SHORT_WAIT_S else False


def _in_order(found: Sequence[object], wanted: int) -> list[object]:
    """Embeddings by their index, which must name each text once."""
    if len(found) != wanted:
        raise RetryableError(f"expected {wanted} embeddings, got {len(found)}")
    placed: dict[int, object] = {}
    for entry in found:
        if not isinstance(entry, dict) or type(entry.get("index")) is not int:
            raise RetryableError("expected an index beside each embedding, got one without")
        placed[entry["index"]] = entry.get("embedding")
    if placed.keys() != set(range(wanted)):
        raise RetryableError(f"expected the indexes 0 to {wanted - 1}, got {sorted(placed)[:20]}")
    return [placed[index] for index in range(wanted)]


def _estimate(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // _BYTES_PER_TOKEN)


def _text(content: str) -> str:
    return content.encode("utf-8", "replace").decode("utf-8")
