"""Vectors in memory, and which of them are nearest to a question. Pure: no database, no clock.

Three looks, each at fewer vectors and more closely: the signs of all (each number against its
mean, counted as equal bits), one byte a number for a tenth of them, and for the best of those the
numbers as the database stores them. So what is returned has the similarity that PostgreSQL would
work out, and all of it costs less than walking a graph of the vectors does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.stores.base import Vectors

Ids = NDArray[np.int64]
Halves = NDArray[np.float16]
T = TypeVar("T", bound=np.generic)

_SHARE: Final = 12
"""One in so many is compared by bytes: of random words in random texts, where nothing stands out,
96 of the 100 nearest are among them, and nearly all of texts that say something."""
_FEWEST: Final = 1000
"""At least so many are."""
_CLOSER: Final = 2
"""So many times what is wanted is compared with the numbers themselves."""
_LEVELS: Final = 127
_SLACK: Final = 256


def stored_bytes(dimensions: int) -> int:
    """What one vector takes in memory."""
    return 3 * dimensions + _words(dimensions) * 8 + 16


def _words(dimensions: int) -> int:
    return -(-dimensions // 64)


class Nearby:
    """Vectors by the number of their chunk."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._mean = np.zeros(dimensions, np.float32)
        self._places: dict[int, int] = {}
        self._ids: Ids = np.empty(0, np.int64)
        self._halves: Halves = np.empty((0, dimensions), np.float16)
        self._bytes = np.empty((0, dimensions), np.int8)
        self._scales = np.empty(0, np.float32)
        self._lengths = np.empty(0, np.float32)
        self._signs = np.empty((_words(dimensions), 0), np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, chunk: int) -> bool:
        return chunk in self._places

    @property
    def ids(self) -> Ids:
        """All chunks, in the order in which they came."""
        return self._ids[: self._count]

    def add(self, chunks: Sequence[int], halves: Halves) -> None:
        """Take in vectors; a chunk that is here already stays as it is."""
        fresh = [row for row, chunk in enumerate(chunks) if chunk not in self._places]
        if not fresh:
            return
        taken = halves[fresh]
        rows = taken.astype(np.float32)
        if not self._count:  # signs are told apart from here on
            self._mean = rows.mean(axis=0)
        first, end = self._count, self._count + len(fresh)
        self._room(end)
        where = slice(first, end)
        scales = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-12)) / np.float32(_LEVELS)
        self._ids[where] = [chunks[row] for row in fresh]
        self._halves[where] = taken
        self._bytes[where] = np.rint(rows / scales[:, None])
        self._scales[where] = scales
        self._lengths[where] = np.maximum(np.linalg.norm(rows, axis=1), np.float32(1e-12))
        self._signs[:, where] = self._bits(rows)
        self._places.update((chunks[row], first + n) for n, row in enumerate(fresh))
        self._count = end

    def only(self, alive: Ids) -> Nearby:
        """The same, of these chunks only; this one stays as it is."""
        kept = np.flatnonzero(np.isin(self.ids, alive))
        other = Nearby(self._dimensions)
        other._mean = self._mean
        other._ids = self._ids[kept]
        other._halves = self._halves[kept]
        other._bytes = self._bytes[kept]
        other._scales = self._scales[kept]
        other._lengths = self._lengths[kept]
        other._signs = np.ascontiguousarray(self._signs[:, kept])
        other._count = len(kept)
        other._places = {chunk: place for place, chunk in enumerate(other._ids.tolist())}
        return other

    def nearest(self, question: Vectors, limit: int) -> list[tuple[int, float]]:
        """The chunks with the greatest cosine, best first, with it."""
        asked = self._asked(question)
        signs = self._bits(asked[None, :])
        apart = np.zeros(self._count, np.uint16)
        for own, other in zip(self._signs[:, : self._count], signs, strict=True):
            apart += np.bitwise_count(own ^ other)
        found = _least(apart, max(_FEWEST, self._count // _SHARE))
        # Not by BLAS, whose threads would spin while others work.
        near = np.einsum("ij,j->i", self._bytes[found].astype(np.float32), asked)
        near *= self._scales[found] / self._lengths[found]
        found = found[_least(-near, _CLOSER * limit)]
        found.sort()
        exact = self._cosines(asked, found)
        best = np.argsort(-exact, kind="stable")[:limit]
        return list(zip(self._ids[found[best]].tolist(), exact[best].tolist(), strict=True))

    def similarities(self, question: Vectors, chunks: Sequence[int]) -> list[float]:
        """The cosines of these chunks; 0 for one that is not here."""
        places = [self._places.get(chunk, -1) for chunk in chunks]
        if not places:
            return []
        found = np.asarray(places)
        exact = self._cosines(self._asked(question), np.maximum(found, 0))
        similar: list[float] = np.where(found < 0, 0.0, exact).tolist()
        return similar

    def vector(self, chunk: int) -> Vectors | None:
        """The vector as it is stored; None where it is not here."""
        place = self._places.get(chunk)
        if place is None:
            return None
        found: Vectors = self._halves[place].astype(np.float32)
        return found

    def _asked(self, question: Vectors) -> Vectors:
        """The question's vector with length 1, rounded as PostgreSQL rounds it first."""
        halves: Vectors = question.reshape(-1).astype(np.float16).astype(np.float32)
        return halves / max(float(np.linalg.norm(halves)), 1e-12)

    def _cosines(self, asked: Vectors, places: NDArray[np.intp]) -> NDArray[np.float64]:
        found = np.einsum("ij,j->i", self._halves[places].astype(np.float32), asked)
        cosines: NDArray[np.float64] = np.clip(found / self._lengths[places], -1.0, 1.0).astype(
            np.float64
        )
        return cosines

    def _bits(self, rows: Vectors) -> NDArray[np.uint64]:
        """The signs, 64 to a number; the numbers of one vector below each other."""
        packed = np.packbits(rows > self._mean, axis=1)
        room = np.zeros((len(rows), 8 * _words(self._dimensions)), np.uint8)
        room[:, : packed.shape[1]] = packed
        return np.ascontiguousarray(room.view(np.uint64).T)

    def _room(self, count: int) -> None:
        """Room for so many, and for some more."""
        if count <= len(self._ids):
            return
        size = count + max(_SLACK, count // 8)
        self._ids = _grown(self._ids, size)
        self._halves = _grown(self._halves, size)
        self._bytes = _grown(self._bytes, size)
        self._scales = _grown(self._scales, size)
        self._lengths = _grown(self._lengths, size)
        signs = np.empty((len(self._signs), size), np.uint64)
        signs[:, : self._signs.shape[1]] = self._signs
        self._signs = signs


def _grown(array: NDArray[T], size: int) -> NDArray[T]:
    larger = np.empty((size, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _least(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """The places of the smallest values, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, count)[:count]
