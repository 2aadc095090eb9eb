"""Cutting what is too long, finer and finer: lines, sentences, clauses, words, characters. Pure.

Every function returns the starts of the pieces that a span falls into, the first being the span's
own start. All work in one pass: no input makes a regular expression try again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np

from penstock.pipelines.knowledge.structure import Kind, Strength

_SHORTEST: Final = 24
"""Shorter pieces are not worth the work: they stay with what follows them."""

_LONGEST: Final = 48
"""The longest piece, in characters, when there is nothing better than characters to go by."""

_MARKS: Final = 32
"""So many marks in a row are taken for part of one letter, no more."""

# The end of a sentence: its mark, closing quotes, space, and then nothing that goes on in small
# letters; or a mark of scripts that write no space after it.
_SENTENCE: Final = re.compile(
    r"""[.!?…][\"'”’)\]]{0,3}\s++(?![a-z])|[。！？｡][」』”’）]{0,3}\s*+"""
)
_CLAUSE: Final = re.compile(r"[,;:—–][\"'”’)\]]{0,3}\s++|[、，；：]\s*+")
_SPACE: Final = re.compile(r"\s++")

Cut = Callable[[str, int, int], list[int]]


class Step(NamedTuple):
    """One degree of fineness: how to cut, and how strong the boundaries are that it makes."""

    cut: Cut
    strength: Strength


def _after(pattern: re.Pattern[str]) -> Cut:
    """Cuts after each match."""

    def cut(text: str, start: int, end: int) -> list[int]:
        cuts = [start]
        for match in pattern.finditer(text, start, end):
            at = match.end()
            if at - cuts[-1] >= _SHORTEST and at < end:
                cuts.append(at)
        return cuts

    return cut


def words(text: str, start: int, end: int) -> list[int]:
    """Cuts between words: after about every fourth, chosen by what stands before it."""
    cuts = [start]
    for match in _SPACE.finditer(text, start, end):
        at = match.end()
        length = at - cuts[-1]
        if length >= _SHORTEST and at < end:
            last = text[max(start, at - 6) : at].encode("utf-8", "replace")
            if length > _LONGEST or crc32(last) % 4 == 0:
                cuts.append(at)
    return cuts


def characters(text: str, start: int, end: int) -> list[int]:
    """Cuts where the characters themselves say so: after about every 24th, at most 48 apart.

    Whether there is a cut depends on the four characters before it, so text that is put in moves
    only the cuts beside it. No mark is parted from its letter.
    """
    codes = np.frombuffer(text[start:end].encode("utf-32-le", "surrogatepass"), "<u4")
    mixed = codes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    window = mixed.copy()
    for back, turn in ((1, 3), (2, 7), (3, 13)):
        window[back:] ^= mixed[:-back] << np.uint64(turn) if len(mixed) > back else np.uint64(0)
    anchors = np.flatnonzero((window >> np.uint64(40)) % np.uint64(24) == 0) + 1
    cuts = [0]
    for anchor in [*anchors.tolist(), len(codes)]:
        while anchor - cuts[-1] > _LONGEST:
            cuts.append(_whole(text, start, cuts[-1] + _LONGEST, len(codes)))
        if anchor - cuts[-1] >= 4 and anchor < len(codes):
            cuts.append(_whole(text, start, anchor, len(codes)))
    return [start + cut for cut in cuts if cut < len(codes)]


def single(_text: str, start: int, end: int) -> list[int]:
    """Cuts everywhere: for models that need several tokens for one character."""
    return list(range(start, end))


def _whole(text: str, start: int, cut: int, length: int) -> int:
    """The next place at or behind ``cut`` that parts no mark, joiner or modifier from its base."""
    limit = min(length, cut + _MARKS)
    while cut < limit and _belongs_to_previous(text[start + cut], text[start + cut - 1]):
        cut += 1
    return cut


def _belongs_to_previous(character: str, previous: str) -> bool:
    if character < "\u0300":
        return False
    return (
        unicodedata.combining(character) > 0
        or unicodedata.category(character) in {"Mn", "Mc", "Me", "Sk"}
        or "\u200d" in {character, previous}
    )


_LINES: Final = Step(_after(re.compile(r"\n\s*+")), Strength.LINE)
_SENTENCES: Final = Step(_after(_SENTENCE), Strength.SENTENCE)
_FINEST: Final = (
    Step(_after(_CLAUSE), Strength.WORD),
    Step(words, Strength.WORD),
    Step(characters, Strength.WORD),
    Step(single, Strength.WORD),
)

STEPS: Final[dict[Kind, tuple[Step, ...]]] = {
    "paragraph": (_SENTENCES, _LINES, *_FINEST),
    "item": (_SENTENCES, _LINES, *_FINEST),
    "table": (_LINES, *_FINEST),
    "code": (Step(_after(re.compile(r"\n\s*\n")), Strength.SENTENCE), _LINES, *_FINEST),
}
