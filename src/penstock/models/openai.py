"""Embedders behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import orjson

from penstock.errors import RetryableError
from penstock.models.base import Role
from penstock.models.endpoint import Endpoint, embeddings_endpoint, error_message, malformed
from penstock.models.remote import NO_CARE, Answered, Care, RemoteEmbedder, Shape, marked

OPENAI: Final = "https://api.openai.com/v1"


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
