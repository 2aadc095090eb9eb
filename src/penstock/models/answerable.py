"""Whether evidence holds an answer at all: a probability, from what the best passage lacks.

Boosted trees over some signs: how the passage was found, which of the question's names, numbers and
other words it lacks, and whether passage and question deny or reverse what the other says. How well
a passage fits differs from collection to collection; what it lacks means the same everywhere, so
most of the signs are of that kind. Fitted by ``tools/train_abstention.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from penstock.models.interaction import Words
from penstock.models.sentences import sentences
from penstock.models.trees import Trees

FITTED: Final = Path(__file__).parent / "graphs" / "answerable.npz"
SIGNS: Final = (
    "similarity",
    "text_score",
    "names",
    "names_missing",
    "names_missing_in_sentence",
    "numbers",
    "numbers_missing",
    "numbers_missing_in_sentence",
    "denied_by_question",
    "denied_by_sentence",
    "denial",
    "extreme_missing",
    "extreme_missing_in_sentence",
    "reversed",
    "missing",
    "missing_in_sentence",
    "words",
)
UNKNOWN: Final = -1.0
_DENIAL: Final = re.compile(
    r"n['’]t\b|\b(?:not|no|never|without|none|neither|nor|cannot|unable|lacks?)\b", re.IGNORECASE
)
_EXTREME: Final = re.compile(
    r"\b(?:first|last|only|most|least|best|worst|before|after|\w{3,}est)\b", re.IGNORECASE
)
_WORD: Final = re.compile(r"[^\W_]+")
_TELLING: Final = 4
"""Shorter words seldom tell anything."""
_OPPOSITES: Final = """
first last, before after, largest smallest, most least, increase decrease, increased decreased,
north south, east west, northern southern, eastern western, highest lowest, more fewer, more less,
earliest latest, oldest newest, best worst, major minor, high low, large small, new old,
male female, won lost, began ended, start end, early late, public private, accepted rejected,
rich poor,
common rare, allowed forbidden, possible impossible, important unimportant
"""
_PAIRS: Final = [pair.split() for pair in _OPPOSITES.split(",")]


class Read(NamedTuple):
    """A question and the best passage for it, with the scores that found the passage. Where only
    some documents were asked, these scores are not looked at: the question need not say what it is
    about, since the filter does."""

    question: str
    title: str
    text: str
    similarity: float
    text_score: float
    restricted: bool = False


def signs(read: Read) -> list[float]:
    """The values of `SIGNS`. The sentence is the one that has most of the question's words."""
    asked = _WORD.findall(read.question)
    telling = Words([word for word in asked if len(word) >= _TELLING])
    names = Words([word for word in asked[1:] if word[0].isupper()])
    numbers = Words([word for word in asked if any(sign.isdigit() for sign in word)])
    extremes = Words(_EXTREME.findall(read.question))
    spans = sentences(read.text)
    said = [read.text[span.start : span.end] for span in spans] or [read.text]
    held = [frozenset(Words(_WORD.findall(text))) for text in said]
    passage = frozenset(Words(_WORD.findall(read.title))).union(*held)
    best = max(range(len(said)), key=lambda number: len(held[number].intersection(telling)))
    sentence = held[best]
    asks, says = bool(_DENIAL.search(read.question)), bool(_DENIAL.search(said[best]))
    return [
        UNKNOWN if read.restricted else read.similarity,
        UNKNOWN if read.restricted else read.text_score,
        float(len(names)),
        names.missing(passage),
        names.missing(sentence),
        float(len(numbers)),
        numbers.missing(passage),
        numbers.missing(sentence),
        float(asks and not says),
        float(says and not asks),
        float(asks),
        extremes.missing(passage),
        extremes.missing(sentence),
        float(_reversed(asked, passage)),
        telling.missing(passage) / max(1, len(telling)),
        telling.missing(sentence) / max(1, len(telling)),
        float(min(len(asked), 30)),
    ]


def _reversed(asked: Sequence[str], passage: frozenset[int]) -> bool:
    """Whether the passage says the opposite of a word of the question, and not the word."""
    words = {word.lower() for word in asked}
    return any(
        word in words and Words([word]).missing(passage) and not Words([opposite]).missing(passage)
        for one, other in _PAIRS
        for word, opposite in ((one, other), (other, one))
    )


class Calibration:
    """The fitted trees. ``enough`` is the probability from which an answer is given."""

    def __init__(self, file: Path = FITTED) -> None:
        with np.load(file) as stored:
            self._trees = Trees(stored, SIGNS, file.name)
            self.enough = float(stored["enough"])

    def probability(self, values: Sequence[float]) -> float:
        """That the evidence holds an answer."""
        return logistic(float(self._trees.sums(np.array([values], np.float32))[0]))


def logistic(value: float) -> float:
    """From a sum to a probability."""
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))
