"""How many tokens texts have, remembered: an edited document is counted only where it is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from penstock.models.base import Embedder

_REMEMBERED: Final = 10_000
"""Enough for the documents of an hour; a hundred thousand took twenty megabytes, slowly."""


class TokenCounts:
    """A memory of counts. It changes no result, so it is left behind when it is pickled."""

    def __init__(self) -> None:
        # Two generations: when the young one is full it becomes the old one, and what is asked for
        # again moves back. Texts are known by their hash: a wrong count would cost a cut tail once
        # in 2**60 texts.
        self._young: dict[tuple[str, int, int], int] = {}
        self._old: dict[tuple[str, int, int], int] = {}

    def __reduce__(self) -> tuple[type[TokenCounts], tuple[()]]:
        return TokenCounts, ()

    def counting(self, embedder: Embedder) -> Callable[[Sequence[str]], list[int]]:
        """Counts for one model."""

        def count(texts: Sequence[str]) -> list[int]:
            name = embedder.name
            young, old = self._young, self._old
            keys = [(name, hash(text), len(text)) for text in texts]
            missing = {}
            for key, text in zip(keys, texts, strict=True):
                if key not in young:
                    if key in old:
                        young[key] = old[key]
                    else:
                        missing[key] = text
            if missing:
                young.update(
                    zip(missing, embedder.count_tokens(list(missing.values())), strict=True)
                )
            counts = [young[key] for key in keys]
            if len(young) > _REMEMBERED:
                self._old, self._young = young, {}
            return counts

        return count
