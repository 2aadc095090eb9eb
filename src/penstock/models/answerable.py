"""Whether evidence holds an answer at all: a probability, from what reading it came to.

A logistic regression over some signs: how well passage and sentence fit, which of the question's
names, numbers and rare words they lack, whether one of them denies what the other affirms. It is
fitted by ``tools/train_abstention.py`` on questions of one corpus and on the same questions made
unanswerable (a name or number exchanged, a word turned into its opposite, a denial put in).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

FITTED: Final = Path(__file__).parent / "graphs" / "answerable.json"
SIGNS: Final = (
    "passage",
    "ahead",
    "similarity",
    "text_score",
    "sentence",
    "sentence_similarity",
    "sentence_held",
    "held",
    "rarest_missing",
    "rarest_missing_in_sentence",
    "names",
    "names_missing",
    "names_missing_in_sentence",
    "numbers",
    "numbers_missing",
    "numbers_missing_in_sentence",
    "denied_by_question",
    "denied_by_sentence",
    "extreme_missing",
    "words",
)
_DENIAL: Final = re.compile(
    r"n['’]t\b|\b(?:not|no|never|without|none|neither|nor|cannot|unable|lacks?)\b", re.IGNORECASE
)
_EXTREME: Final = re.compile(
    r"\b(?:first|last|only|most|least|best|worst|before|after|\w{3,}est)\b", re.IGNORECASE
)
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Read:
    """What reading came to. ``passage`` and ``sentence`` are their scores, ``ahead`` is how far the
    best passage is before the second; ``weights`` say how much of the question each of its stems
    is, ``passage_stems`` and ``sentence_stems`` which are held."""

    question: str
    passage_text: str
    sentence_text: str
    passage: float
    ahead: float
    similarity: float
    text_score: float
    sentence: float
    sentence_similarity: float
    weights: Mapping[str, float]
    passage_stems: frozenset[str]
    sentence_stems: frozenset[str]


def signs(read: Read) -> list[float]:
    """The values of `SIGNS`."""
    passage, sentence = _words(read.passage_text), _words(read.sentence_text)
    names, numbers = _special(read.question)
    asks, says = bool(_DENIAL.search(read.question)), bool(_DENIAL.search(read.sentence_text))
    extremes = {found.lower() for found in _EXTREME.findall(read.question)}
    return [
        read.passage,
        min(read.ahead, 1.0),
        read.similarity,
        read.text_score,
        read.sentence,
        read.sentence_similarity,
        _held(read.weights, read.sentence_stems),
        _held(read.weights, read.passage_stems),
        _rarest(read.weights, read.passage_stems),
        _rarest(read.weights, read.sentence_stems),
        float(bool(names)),
        _missing(names, passage),
        _missing(names, sentence),
        float(bool(numbers)),
        _missing(numbers, passage),
        _missing(numbers, sentence),
        float(asks and not says),
        float(says and not asks),
        _missing(sorted(extremes), passage),
        min(len(read.weights), 12) / 12,
    ]


class Calibration:
    """The fitted regression. ``enough`` is the probability from which an answer is given."""

    def __init__(self, file: Path = FITTED) -> None:
        fitted = orjson.loads(file.read_bytes())
        self.enough: float = fitted["enough"]
        self._constant: float = fitted["constant"]
        self._weights: list[float] = [fitted["weights"][name] for name in SIGNS]

    def probability(self, values: Sequence[float]) -> float:
        """That the evidence holds an answer."""
        return logistic(
            self._constant + sum(w * v for w, v in zip(self._weights, values, strict=True))
        )


def logistic(value: float) -> float:
    """From a sum of signs to a probability."""
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))


def _words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(text))


def _special(question: str) -> tuple[list[str], list[str]]:
    """Names (capital letters inside of the question) and numbers."""
    found = list(_WORD.finditer(question))
    names = [m[0].lower() for m in found if m.start() > 0 and m[0][0].isupper()]
    return names, [m[0].lower() for m in found if any(sign.isdigit() for sign in m[0])]


def _missing(wanted: Sequence[str], words: frozenset[str]) -> float:
    return sum(word not in words for word in wanted) / len(wanted) if wanted else 0.0


def _held(weights: Mapping[str, float], stems: frozenset[str]) -> float:
    return sum(weight for stem, weight in weights.items() if stem in stems)


def _rarest(weights: Mapping[str, float], stems: frozenset[str]) -> float:
    return max((weight for stem, weight in weights.items() if stem not in stems), default=0.0)
