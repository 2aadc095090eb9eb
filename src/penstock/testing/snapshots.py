"""A snapshot store that says what a test tells it to."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from penstock.models.base import Priority
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.stores.base import (
    ChunkVectors,
    Filter,
    Hit,
    LiveRow,
    Passage,
    Rarities,
    Rarity,
    SourceAge,
    Vectors,
)


def passage(chunk: int, text: str, **other: Any) -> Passage:
    """A passage of the document ``docs/CHUNK.md`` unless told otherwise."""
    values: dict[str, Any] = {
        "chunk": chunk,
        "document": chunk,
        "source": "docs",
        "key": f"docs/{chunk}.md",
        "title": "",
        "heading": "",
        "text": text,
        "start": 0,
        "end": len(text),
        "version": Position("1"),
        "committed_at": Microseconds(1),
        "metadata": {},
        "stream": None,
        "row_key": None,
    }
    return Passage(**{**values, **other})


class ScriptedSnapshots:
    """Both the store and its only snapshot. ``events`` records what was done in which order,
    ``asked`` what candidates were asked for: whether with a vector, and which text."""

    vector: Vectors = np.full(4, 0.5, np.float32)

    def __init__(
        self,
        *,
        passages: Sequence[Passage] = (),
        hits: Sequence[Hit] | None = None,
        rows: Sequence[LiveRow] = (),
        ages: Sequence[SourceAge] = (),
        vectors: Mapping[int, ChunkVectors] = MappingProxyType({}),
    ) -> None:
        self._passages = {p.chunk: p for p in passages}
        self._hits = list(hits or [Hit(p.chunk, 0.5, 0.5) for p in passages])
        self._rows = list(rows)
        self._ages = list(ages)
        self._vectors = vectors
        self.events: list[str] = []
        self.asked: list[tuple[bool, str | None]] = []

    @asynccontextmanager
    async def snapshot(self, principal: Principal) -> AsyncIterator[ScriptedSnapshots]:
        """Open it; whose it is goes into ``events``."""
        self.events.append(f"open {principal.tenant} {','.join(principal.names)}")
        yield self
        self.events.append("close")

    async def candidates(
        self,
        vector: Vectors | None,
        text: str | None,
        *,
        limit: int,
        where: Filter,
        model: str | None = None,
    ) -> list[Hit]:
        del where, model
        self.events.append("candidates")
        self.asked.append((vector is not None, text))
        return self._hits[:limit]

    async def rarities(self, text: str) -> Rarities:
        self.events.append("rarities")
        return Rarities([Rarity(m.start(), m.end(), 1.0) for m in re.finditer(r"\w+", text)], 2.0)

    async def vectors(
        self, chunks: Sequence[int], *, model: str, head: str
    ) -> Mapping[int, ChunkVectors]:
        self.events.append(f"vectors {model} {head}")
        return {chunk: self._vectors[chunk] for chunk in chunks if chunk in self._vectors}

    async def fields(self) -> Sequence[str]:
        return sorted({name for p in self._passages.values() for name in p.metadata})

    async def around(
        self, chunks: Sequence[int], neighbours: int
    ) -> Mapping[int, Sequence[tuple[str, int, int]]]:
        self.events.append(f"around {neighbours}")
        known = sorted(self._passages.values(), key=lambda p: (p.document, p.start))
        found = {}
        for chunk in chunks:
            same = [p for p in known if p.document == self._passages[chunk].document]
            own = next(i for i, p in enumerate(same) if p.chunk == chunk)
            near = same[max(0, own - neighbours) : own + neighbours + 1]
            found[chunk] = [(p.text, p.start, p.end) for p in near]
        return found

    async def passages(self, chunks: Sequence[int]) -> list[Passage]:
        self.events.append("passages")
        return [self._passages[chunk] for chunk in chunks if chunk in self._passages]

    async def rows(self, wanted: Sequence[Passage]) -> list[LiveRow]:
        self.events.append("rows")
        keys = {(p.source, p.stream, tuple(p.row_key or ())) for p in wanted}
        return [row for row in self._rows if (row.source, row.table, tuple(row.key)) in keys]

    async def ages(self) -> list[SourceAge]:
        self.events.append("ages")
        return self._ages


class WordEmbedder:
    """Vectors of words: texts that share words are near. Records its calls in ``events``."""

    name = "words"
    dimensions = 256
    max_tokens = 256

    def __init__(self, events: list[str] | None = None) -> None:
        self.events = events if events is not None else []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        self.events.append(f"embed {priority}")
        matrix = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(matrix, texts, strict=True):
            for word in text.lower().replace("?", " ").replace(".", " ").split():
                row[sum(word.encode()) % self.dimensions] += 1
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        found: Vectors = matrix / np.maximum(lengths, 1e-9)
        return found

    async def close(self) -> None:
        self.events.append("closed")
