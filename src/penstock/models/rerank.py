"""Rerankers behind an endpoint: a cross-encoder reads question and passage together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from penstock.errors import RetryableError
from penstock.models.endpoint import Endpoint, error_message

_MAX_BYTES: Final = 4 * 1024 * 1024
_LONGEST: Final = 4000
"""Characters of a passage that are sent: more than any chunk of the default size has."""


class RerankEndpoint:
    """A ``/rerank`` as Cohere made it, and Jina, Voyage and vLLM serve it: question and texts in, a
    score for each text out. Every answer is checked: each text once, and numbers."""

    def __init__(self, *, model: str, base_url: str, api_key: str, timeout_s: float) -> None:
        self.name = f"rerank/{model}"
        self._model = model
        self._endpoint = Endpoint(
            base_url, api_key, timeout_s=timeout_s, connections=8, max_bytes=_MAX_BYTES
        )

    async def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers, 0 to 1, in the order given."""
        answer = await self._endpoint.post(
            "/rerank",
            {
                "model": self._model,
                "query": question,
                "documents": [text[:_LONGEST] or " " for text in texts],
                "top_n": len(texts),
            },
        )
        if (message := error_message(answer)) is not None:
            raise RetryableError(f"{self._endpoint.url} said: {self._endpoint.excerpt(message)}")
        return _in_order(answer, len(texts))

    async def close(self) -> None:
        """Release connections."""
        await self._endpoint.close()


def _in_order(answer: Any, count: int) -> list[float]:
    """The scores by the place of their text; from the model's own scale to 0 to 1 if need be."""
    found = answer.get("results") or answer.get("data") if isinstance(answer, dict) else answer
    scores: dict[int, float] = {}
    listed = found if isinstance(found, list) else []
    for one in listed:
        if isinstance(one, dict):
            place, score = one.get("index"), one.get("relevance_score", one.get("score"))
            if isinstance(place, int) and isinstance(score, int | float) and math.isfinite(score):
                scores[place] = float(score)
    if sorted(scores) != list(range(count)) or len(listed) != count:
        raise RetryableError(
            f"expected one score for each of {count} texts, got {len(scores)}: is base_url that of "
            "an API with /rerank, and is the model a reranker?"
        )
    values = [scores[place] for place in range(count)]
    if min(values, default=0.0) < 0 or max(values, default=0.0) > 1:
        values = [1 / (1 + math.exp(-max(-50.0, min(50.0, value)))) for value in values]
    return values
