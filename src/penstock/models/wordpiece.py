"""Tokens of texts, counted quickly: the chunker asks for every sentence.

Counting plain ASCII text needs no tokenizer: BERT splits it into runs of letters and digits and
single marks, so the count is a sum over words, and words repeat. Everything else, and every word
seen for the first time, goes through the tokenizer itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS: Final = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
_UNUSUAL: Final = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\[(?:PAD|UNK|CLS|SEP|MASK)\]")
_REMEMBERED = 200_000
_READ_CHARACTERS = 16_384
"""Of a text only so much is looked at: it holds the first 254 tokens of anything but a wasteland of
blanks, and a text of megabytes does not occupy a core."""

Tokens = NDArray[np.int64]


class WordPiece:
    """The tokenizer of a BERT model, from its ``tokenizer.json``."""

    def __init__(self, path: Path, *, max_tokens: int) -> None:
        # Texts are spread over our own threads; the library's would fight with them, and warn
        # after a fork. It reads this name when it is first used.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._max_tokens = max_tokens
        self._counts = _WordCounts(self._tokenizer)
        self._first, self._last = self._tokenizer.encode("").ids

    def encode(self, text: str) -> Tokens:
        """The tokens that the model reads, special ones included, as a batch of one."""
        found = self._encode([text[:_READ_CHARACTERS]])[0]
        return np.array([[self._first, *found[: self._max_tokens], self._last]], dtype=np.int64)

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `encode` stands in the text; the special ones stand nowhere."""
        cut = text[:_READ_CHARACTERS]
        try:
            found = self._tokenizer.encode(cut, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            found = self._tokenizer.encode(_without_surrogates(cut), add_special_tokens=False)
        return [(0, 0), *found.offsets[: self._max_tokens], (0, 0)]

    def vocabulary(self) -> list[str]:
        """All tokens, by number."""
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        return sorted(known, key=known.__getitem__)

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, special ones not counted."""
        counts = self._counts
        if len(counts) > _REMEMBERED:
            counts.clear()
        found: list[int] = []
        others: list[int] = []
        for number, text in enumerate(texts):
            if text.isascii() and not _UNUSUAL.search(text):
                found.append(sum(map(counts.__getitem__, _WORDS.findall(text.lower()))))
            else:
                found.append(0)
                others.append(number)
        if others:
            encoded = self._encode([texts[number] for number in others])
            for number, tokens in zip(others, encoded, strict=True):
                found[number] = len(tokens)
        return found

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            whole = [_without_surrogates(text) for text in texts]
            encoded = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        return [one.ids for one in encoded]


class _WordCounts(dict[str, int]):
    """Tokens per word, found out on first sight."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> int:
        count = len(self._tokenizer.encode(word, add_special_tokens=False))
        if len(word) <= 32:
            self[word] = count
        return count


def _without_surrogates(text: str) -> str:
    """Pairs become their character, lone halves the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
