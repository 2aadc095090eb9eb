"""The vectors of the texts that were embedded just now, so that none is computed twice.

A vector is stored only when its batch commits. Until then another batch that holds the same text
(a boilerplate paragraph, a document in both lanes) would not find it: here it does (G5).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.models.base import (
    Candidate,
    Embedded,
    Embedder,
    Priority,
    TokenEmbedder,
    Vectors,
    Weighted,
    question_vectors,
    serving,
    token_embedder,
)

_Found = tuple[NDArray[np.float32], bytes]

_RANK = {"query": 0, "live": 1, "bulk": 2}


class RecentVectors:
    """An embedder that remembers the last ``most`` texts of another, and computes a text that
    several callers want at once only once. Questions are passed on: their model has a cache. The
    vectors of tokens come along where the model gives them."""

    def __init__(self, inner: Embedder, most: int = 8192) -> None:
        self._inner = inner
        self._tokens: TokenEmbedder | None = token_embedder(inner)
        self.head = self._tokens.head if self._tokens else ""
        self._most = most
        self._about: RecentVectors | None = None
        self._known: OrderedDict[str, _Found] = OrderedDict()
        self._coming: dict[str, tuple[int, asyncio.Future[dict[str, _Found]]]] = {}
        self.name = inner.name
        self.dimensions = inner.dimensions
        self.max_tokens = inner.max_tokens

    async def serving(self, *, fresh: bool = True) -> Embedder:
        """The same about the model that is searched now."""
        inner = await serving(self._inner, fresh=fresh)
        if inner is self._inner:
            return self
        if self._about is None or self._about.name != inner.name:
            self._about = RecentVectors(inner, self._most)
        return self._about

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As the model counts."""
        return self._inner.count_tokens(texts)

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        """As the model does; nobody waits for work of a lower priority."""
        if priority == "query":
            return await self._inner.embed(texts, priority=priority)
        return (await self.embed_tokens(texts, priority=priority)).vectors

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

    async def embed_tokens(self, texts: Sequence[str], *, priority: Priority = "live") -> Embedded:
        """As the model does; of a model that gives none, the tokens are empty."""
        rank = _RANK[priority]
        waited: dict[str, asyncio.Future[dict[str, _Found]]] = {}
        found: dict[str, _Found] = {}
        missing: list[str] = []
        for text in dict.fromkeys(texts):
            if (known := self._known.get(text)) is not None:
                found[text] = known
            elif (coming := self._coming.get(text)) is not None and coming[0] <= rank:
                waited[text] = coming[1]
            else:
                missing.append(text)
        if missing:
            made = await self._compute(missing, rank, priority)
            if len(missing) == len(texts):
                return made
            found.update(_by_text(missing, made))
        lost: list[str] = []
        for text, future in waited.items():
            await asyncio.wait([future])
            if future.cancelled() or future.exception() is not None:
                lost.append(text)  # the other caller failed: that is no reason to fail here
            else:
                found[text] = future.result()[text]
        if lost:
            found.update(_by_text(lost, await self._compute(lost, rank, priority)))
        vectors: Vectors = np.empty((len(texts), self.dimensions), np.float32)
        for place, text in enumerate(texts):
            vectors[place] = found[text][0]
        return Embedded(vectors, [found[text][1] for text in texts])

    async def embed_questions(
        self, texts: Sequence[str], *, priority: Priority = "query"
    ) -> Vectors:
        """As the model does."""
        return await question_vectors(self._inner, texts, priority=priority)

    async def _compute(self, texts: list[str], rank: int, priority: Priority) -> Embedded:
        """The vectors of distinct texts that nobody computes; who wants one of them meanwhile waits
        for all of them."""
        future: asyncio.Future[dict[str, _Found]] = asyncio.get_running_loop().create_future()
        coming = self._coming
        coming.update(dict.fromkeys(texts, (rank, future)))
        try:
            if self._tokens is None:
                vectors = await self._inner.embed(texts, priority=priority)
                made = Embedded(vectors, [b""] * len(texts))
            else:
                made = await self._tokens.embed_tokens(texts, priority=priority)
            found = _by_text(texts, made)
        except BaseException:
            future.cancel()
            raise
        finally:
            for text in texts:  # one of a higher priority may have come in its place
                if (there := coming.get(text)) is not None and there[1] is future:
                    del coming[text]
        future.set_result(found)
        self._known.update(found)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return made

    async def close(self) -> None:
        """Forget; the model itself is closed by who opened it."""
        self._known.clear()


def _by_text(texts: Sequence[str], made: Embedded) -> dict[str, _Found]:
    return dict(zip(texts, zip(made.vectors, made.tokens, strict=True), strict=True))
