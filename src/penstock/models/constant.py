"""An embedder that takes constant time: for measuring the engine and for tests, not for search."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from penstock.models.base import Priority, Vectors

_VECTORS = 4096
_SEED = 20_260_101


class ConstantEmbedder:
    """Picks one of 4,096 fixed random directions by the hash of the text.

    Equal texts have equal vectors; there is no meaning in them. ``embedded`` counts the texts, so
    that tests and benches can say how much a change embedded.
    """

    name = "constant-4096"
    max_tokens = 254

    def __init__(self, dimensions: int = 384) -> None:
        self.dimensions = dimensions
        self.embedded = 0
        table = np.random.default_rng(_SEED).standard_normal((_VECTORS, dimensions), np.float32)
        self._table = table / np.linalg.norm(table, axis=1, keepdims=True)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """About four characters each, as English words have."""
        return [len(text) // 4 + 1 if text else 0 for text in texts]

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        del priority
        self.embedded += len(texts)
        chosen = [
            blake2b(text.encode("utf-8", "surrogatepass"), digest_size=2).digest() for text in texts
        ]
        numbers = np.frombuffer(b"".join(chosen), dtype="<u2").astype(np.intp)
        found: Vectors = self._table[numbers % _VECTORS]
        return found

    async def close(self) -> None:
        """Nothing is held."""
