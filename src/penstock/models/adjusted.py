"""A model's vectors cut short, or stored in fewer bits: the same model under another name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.errors import ConfigError
from penstock.models.base import (
    Candidate,
    Embedded,
    Embedder,
    Priority,
    Vectors,
    Weighted,
    question_vectors,
    token_embedder,
)


class AdjustedEmbedder:
    """The first ``dimensions`` numbers of each vector, at length 1 again (Matryoshka
    representations, Kusupati et al. 2022), and a name that says how vectors are stored: after
    ``#``, as `penstock.stores.base.storage_of` reads it."""

    def __init__(
        self, inner: Embedder, *, dimensions: int | None = None, storage: str = "halfvec"
    ) -> None:
        if dimensions is not None and dimensions > inner.dimensions:
            raise ConfigError(
                f"dimensions: expected at most the {inner.dimensions} that {inner.name} gives, "
                f"got {dimensions}"
            )
        self.inner = inner
        self.dimensions = dimensions or inner.dimensions
        self.max_tokens = inner.max_tokens
        self.name = inner.name
        if self.dimensions != inner.dimensions:
            self.name += f"/{self.dimensions}"
        if storage != "halfvec":
            self.name += f"#{storage}"
        self._tokens = token_embedder(inner)
        self.head = self._tokens.head if self._tokens else ""

    def load(self) -> None:
        """Make a local model ready."""
        load = getattr(self.inner, "load", None)
        if load is not None:
            load()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As the model counts."""
        return self.inner.count_tokens(texts)

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        """As the model does."""
        return self._cut(await self.inner.embed(texts, priority=priority))

    async def embed_tokens(self, texts: Sequence[str], *, priority: Priority = "live") -> Embedded:
        """As the model does, if it gives tokens (see `head`)."""
        assert self._tokens is not None
        made = await self._tokens.embed_tokens(texts, priority=priority)
        return Embedded(self._cut(made.vectors), made.tokens)

    async def match(
        self,
        question: str,
        words: Sequence[Weighted],
        most: float,
        candidates: Sequence[Candidate],
    ) -> Sequence[float]:
        """As the model does."""
        assert self._tokens is not None
        return await self._tokens.match(question, words, most, candidates)

    async def embed_questions(
        self, texts: Sequence[str], *, priority: Priority = "query"
    ) -> Vectors:
        """As the model does."""
        return self._cut(await question_vectors(self.inner, texts, priority=priority))

    async def close(self) -> None:
        """Close the model."""
        await self.inner.close()

    def _cut(self, vectors: Vectors) -> Vectors:
        if self.dimensions == self.inner.dimensions:
            return vectors
        cut = vectors[:, : self.dimensions]
        unit: Vectors = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
        return unit
