"""Late interaction: how well a text matches each word of a question, from the vectors of tokens.

A model computes a vector for every token on its way to the one of the text. Compared with a
question token by token (Khattab and Zaharia, "ColBERT", 2020), they tell two passages of one
subject apart where the vectors of the whole texts cannot. Kept are the tokens that stand for
something, turned onto the directions in which tokens differ most, at four bits a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.models.base import Weighted

Floats = NDArray[np.float32]

HEAD: Final = Path(__file__).parent / "graphs" / "late-interaction.npz"
PLAIN: Final = 0.05
"""What a word weighs that the text index leaves out, as a share of the rarest word's weight."""
RANGE: Final = 2.7
"""Four bits reach so many standard deviations of a number."""
_LEVELS: Final = 8
_ROWS: Final = 7
"""So few rows at a time are multiplied in the calling thread (below 2**18 products). More of them
OpenBLAS gives to threads of its own, which wait by spinning, one product of the process at a time:
that cost a load more processor time than the model did."""


class QuestionTokens(NamedTuple):
    """A question's tokens: vectors of length 1, and where each stands in the question (start and
    end; both 0 for the marks that the model adds)."""

    vectors: Floats
    places: Sequence[tuple[int, int]]


class Head:
    """What turns the last layer's tokens into what is stored. ``name`` stands beside every stored
    vector: vectors of different heads are never compared."""

    def __init__(self, file: Path = HEAD) -> None:
        with np.load(file) as stored:
            self.name = str(stored["name"])
            self._middle: Floats = stored["middle"].astype(np.float32)
            self._matrix: Floats = stored["matrix"].astype(np.float32)
            self._kept = np.unpackbits(stored["kept"]).astype(bool)
        self.dimensions: int = self._matrix.shape[1]
        self._step = RANGE / float(np.sqrt(self.dimensions)) / _LEVELS

    def project(self, hidden: Floats) -> Floats:
        """Tokens of the last layer, one per row, as vectors of length 1."""
        even = unit(hidden) - self._middle
        turned = np.empty((len(even), self.dimensions), np.float32)
        for start in range(0, len(even), _ROWS):
            rows = slice(start, start + _ROWS)
            np.matmul(even[rows], self._matrix, out=turned[rows])
        return unit(turned)

    def pack(self, hidden: Floats, tokens: NDArray[np.int64]) -> bytes:
        """The tokens of a text that stand for something, as they are stored."""
        kept = self._kept[tokens]
        if not kept.any():
            kept[:] = True
        levels = np.floor(self.project(hidden[kept]) / np.float32(self._step))
        codes = (np.clip(levels, -_LEVELS, _LEVELS - 1) + _LEVELS).astype(np.uint8)
        packed: NDArray[np.uint8] = codes[:, 0::2] << 4 | codes[:, 1::2]
        return packed.tobytes()

    def unpack(self, stored: bytes) -> Floats:
        """The vectors of stored tokens; their lengths are about 1."""
        codes = np.frombuffer(stored, np.uint8).reshape(-1, self.dimensions // 2)
        pairs = np.stack([codes >> 4, codes & 15], axis=-1).reshape(-1, self.dimensions)
        return (pairs.astype(np.float32) - (_LEVELS - 0.5)) * np.float32(self._step)


@cache
def head() -> Head:
    """The head that is shipped."""
    return Head()


def unit(vectors: Floats) -> Floats:
    """The rows at length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    shortened: Floats = vectors / np.maximum(lengths, np.float32(1e-9))
    return shortened


def token_weights(question: QuestionTokens, words: Sequence[Weighted], most: float) -> Floats:
    """What each token of a question weighs, together 1: as much as the word that it is part of,
    and a little where no word was weighed. ``most`` is the weight of a word that nothing holds."""
    weights = np.zeros(len(question.places), np.float32)
    pending = iter(sorted(words))
    word = next(pending, None)
    for number, (start, end) in enumerate(question.places):
        if end <= start:
            continue
        while word is not None and word.end <= start:
            word = next(pending, None)
        inside = word is not None and word.start < end
        weights[number] = (word.weight if word is not None and inside else 0.0) + PLAIN * most
    total = float(weights.sum())
    return weights / np.float32(total) if total > 0 else weights


def save_head(file: Path, name: str, middle: Floats, matrix: Floats, kept: NDArray[Any]) -> None:
    """Write a head as `Head` reads it."""
    with file.open("wb") as opened:
        np.savez_compressed(
            opened,
            name=np.array(name),
            middle=middle.astype(np.float16),
            matrix=matrix.astype(np.float16),
            kept=np.packbits(kept),
        )
