"""Embedders behind Cohere's ``/v2/embed``, or an endpoint with its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from penstock.models.base import Role
from penstock.models.endpoint import Endpoint, embeddings_endpoint, malformed
from penstock.models.remote import NO_CARE, Answered, Care, RemoteEmbedder, Shape

COHERE: Final = "https://api.cohere.com/v2"
INPUT_TYPES: Final[dict[Role, str]] = {"document": "search_document", "question": "search_query"}
MOST_TEXTS: Final = 96


class CohereService:
    """Texts with an ``input_type``; embeddings in the order of the texts."""

    def __init__(self, endpoint: Endpoint, model: str, *, dimensions: int | None) -> None:
        self._endpoint = endpoint
        self._fixed: dict[str, Any] = {
            "model": model,
            "embedding_types": ["float"],
            "truncate": "END",
        }
        if dimensions is not None:
            self._fixed["output_dimension"] = dimensions

    @property
    def url(self) -> str:
        return self._endpoint.url

    async def ask(self, texts: Sequence[str], role: Role) -> Answered:
        body = {**self._fixed, "texts": list(texts), "input_type": INPUT_TYPES[role]}
        answer = await self._endpoint.post("/embed", body)
        return read_embeddings(answer, self._endpoint)

    async def close(self) -> None:
        await self._endpoint.close()


def read_embeddings(answer: object, endpoint: Endpoint) -> Answered:
    """Embeddings by type (``{"float": [...]}``), or a plain list of them."""
    found = answer.get("embeddings") if isinstance(answer, dict) else None
    if isinstance(found, dict):
        found = found.get("float")
    if not isinstance(answer, dict) or not isinstance(found, list):
        came = endpoint.excerpt(orjson.dumps(answer))
        raise malformed(f"expected embeddings by type, got {came!r}")
    tokens: Any = answer.get("meta")
    for name in ("billed_units", "input_tokens"):
        tokens = tokens.get(name) if isinstance(tokens, dict) else None
    return Answered(found, None, int(tokens) if isinstance(tokens, int | float) else None)


class CohereEmbedder(RemoteEmbedder):
    """Vectors from Cohere."""

    def __init__(
        self,
        *,
        model: str,
        dimensions: int,
        api_key: str,
        base_url: str = COHERE,
        max_tokens: int = 500,
        batch_size: int = MOST_TEXTS,
        concurrency: int = 4,
        timeout_s: float = 60.0,
        gives: int | None = None,
        send_dimensions: bool = False,
        care: Care = NO_CARE,
    ) -> None:
        endpoint = embeddings_endpoint(base_url, api_key, timeout_s, concurrency)
        shape = Shape(
            f"cohere/{model}/{dimensions}",
            dimensions,
            max_tokens,
            min(batch_size, MOST_TEXTS),
            concurrency,
            gives=gives,
        )
        service = CohereService(endpoint, model, dimensions=dimensions if send_dimensions else None)
        super().__init__(service, shape, care=care)
