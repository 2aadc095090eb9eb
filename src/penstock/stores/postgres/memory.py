"""What one snapshot may use of the memory of its process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.stores.base import ChunkVectors
from penstock.stores.postgres.candidates import Lists, Model
from penstock.stores.postgres.resident import Content, Near, Resident

_OBJECTS: Final = 300
"""Bytes that the objects around a kept text take."""


@dataclass(frozen=True, slots=True)
class Memory:
    """``resident`` is None where nothing is kept; ``taken`` are the vectors that were in memory
    before the snapshot was opened."""

    resident: Resident | None = None
    taken: Near | None = None

    @property
    def lists(self) -> Lists | None:
        """The posting lists that are kept."""
        return None if self.resident is None else self.resident.lists

    def near(self, model: Model) -> Near | None:
        """The vectors of this model."""
        if self.resident is None:
            return None
        self.resident.wanted(model.id, model.dimensions)
        return self.taken if self.taken is not None and self.taken.model == model.id else None

    def texts(self, chunks: Sequence[int]) -> Mapping[int, Content]:
        """The texts of those chunks that are kept."""
        if self.resident is None:
            return {}
        found = ((chunk, self.resident.texts.get(chunk)) for chunk in chunks)
        return {chunk: content for chunk, content in found if content is not None}

    def keep_text(self, chunk: int, hash_: bytes, heading: str, text: str) -> None:
        """What a chunk of this hash says."""
        if self.resident is not None:
            size = len(heading) + len(text) + _OBJECTS
            self.resident.texts.put(chunk, Content(hash_, heading, text), size)

    def vectors(
        self, chunk: int, hash_: bytes | None, model: Model, name: str, head: str
    ) -> ChunkVectors | None:
        """Of a chunk that was seen in the snapshot, with this hash; ``name`` is the model's."""
        near = self.taken
        if self.resident is None or near is None or near.model != model.id or hash_ is None:
            return None
        vector = near.index.vector(chunk)
        tokens = self.resident.tokens.get((name, head, hash_))
        return None if vector is None or tokens is None else ChunkVectors(vector, tokens)

    def keep_tokens(self, model: str, head: str, hash_: bytes, tokens: bytes) -> None:
        """The vectors of tokens of a text."""
        if self.resident is not None:
            self.resident.tokens.put((model, head, hash_), tokens, len(tokens) + _OBJECTS)

    def forget(self) -> None:
        """The database is not the one that memory is of."""
        if self.resident is not None:
            self.resident.forget()
