"""How good an answer is. Pure: an answer is what it says, what it cites and whether it abstains.

Exact match and F1 compare with the answers that are expected, after SQuAD's normalisation: small
letters, no ASCII punctuation, no articles. A question that cannot be answered expects silence.

Citations are compared with the documents that are expected; where a question names none, with its
answers: a passage that holds one is right.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.models.sentences import is_heading, sentences

ENOUGH: Final = 0.8
"""Of the words of a statement that tell something, so many must stand in one cited passage."""
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_MARK: Final = re.compile(r"\s?\[\d+\]")
_WORD: Final = re.compile(r"[^\W_]+(?:[.,][^\W_]+)*")
_LITTLE: Final = """
a an and are as at be been but by can for from had has have in is it its may of on or so that the
their there these they this those to was were which will with would you your
"""
_FUNCTION_WORDS: Final = frozenset(_LITTLE.split())


@dataclass(frozen=True, slots=True)
class Cited:
    """A citation: of which document, the text that is quoted and the passage that it stands in."""

    key: str
    quote: str
    passage: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What a question expects. ``answerable`` is None where nobody says."""

    answers: tuple[str, ...] = ()
    documents: Collection[str] = ()
    answerable: bool | None = None


def normalised(text: str) -> str:
    """As SQuAD compares texts."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def without_marks(text: str) -> str:
    """An answer's text without the numbers of its citations."""
    return _MARK.sub("", text).strip()


def exact(said: str, expected: Sequence[str]) -> float:
    """1 if it says just one of the answers. Nothing is said by the empty text."""
    return float(any(normalised(said) == normalised(text) for text in expected))


def f1(said: str, expected: Sequence[str]) -> float:
    """Words in common with the answer that is nearest: the harmonic mean of the share of what was
    said and the share of what was expected."""
    return max((_f1(normalised(said).split(), normalised(t).split()) for t in expected), default=0)


def _f1(said: Sequence[str], expected: Sequence[str]) -> float:
    if not said or not expected:
        return float(said == expected)
    common = (Counter(said) & Counter(expected)).total()
    return 2 * common / (len(said) + len(expected))


def holds(text: str, expected: Sequence[str]) -> bool:
    """Whether one of the answers stands in a text, as whole words."""
    within = f" {normalised(text)} "
    return any(f" {plain} " in within for plain in map(normalised, expected) if plain)


def citation_precision(citations: Sequence[Cited], expected: Expected) -> float | None:
    """The share of the citations that are right; None if nothing is cited or nobody says what is
    right."""
    if not citations or not (expected.documents or expected.answers):
        return None
    right = [
        citation.key in expected.documents
        if expected.documents
        else holds(citation.passage, expected.answers)
        for citation in citations
    ]
    return sum(right) / len(right)


def citation_recall(citations: Sequence[Cited], expected: Expected) -> float | None:
    """The share of the expected documents that are cited; where none is named, whether a cited
    passage holds an answer. None if nobody says what is right."""
    if expected.documents:
        documents = set(expected.documents)
        return len(documents & {citation.key for citation in citations}) / len(documents)
    if expected.answers:
        return float(any(holds(citation.passage, expected.answers) for citation in citations))
    return None


def groundedness(said: str, passages: Sequence[str]) -> float | None:
    """The share of the answer's statements that stand in a cited passage; None if it states
    nothing. A statement stands there if one passage holds four fifths of its words (those that tell
    something) and all of its numbers. That compares words: a paraphrase may be judged too hard, a
    contradiction in the same words too mildly."""
    texts = [frozenset(_words(passage)) for passage in passages]
    judged = [
        any(_stands(words, text) for text in texts)
        for span in sentences(said)
        if not is_heading(said, span) and (words := _words(said[span.start : span.end]))
    ]
    return sum(judged) / len(judged) if judged else None


def _stands(words: Collection[str], passage: frozenset[str]) -> bool:
    if any(word not in passage for word in words if any(sign.isdecimal() for sign in word)):
        return False
    return sum(word in passage for word in words) >= ENOUGH * len(words)


def _words(text: str) -> list[str]:
    """The words that tell something; all of them where none does."""
    found = [match[0].lower() for match in _WORD.finditer(text)]
    return [word for word in found if word not in _FUNCTION_WORDS] or found


def measures(
    text: str, citations: Sequence[Cited], expected: Expected, *, abstained: bool
) -> dict[str, float | None]:
    """All measures of one answer, by name; None where a question does not say what is right."""
    said = "" if abstained else without_marks(text)
    gold = ("",) if expected.answerable is False else expected.answers
    expects_answer = expected.answerable is not False
    return {
        "exact": exact(said, gold) if gold else None,
        "f1": f1(said, gold) if gold else None,
        "holds_answer": float(holds(said, gold)) if expects_answer and gold else None,
        "citation_precision": citation_precision(citations, expected) if expects_answer else None,
        "citation_recall": citation_recall(citations, expected) if expects_answer else None,
        "citation_holds_answer": (
            float(any(holds(c.quote, gold) for c in citations)) if expects_answer and gold else None
        ),
        "grounded": (
            None if abstained else groundedness(said, [citation.passage for citation in citations])
        ),
        "abstained": None if expected.answerable is None else float(abstained),
    }


def abstention(rows: Sequence[tuple[bool, bool]]) -> dict[str, float] | None:
    """How well it is told which questions have no answer, from (answerable, abstained) of each:
    F1, precision and recall of abstaining, and the share of the answerable that are refused. None
    where there are no questions of one kind."""
    refused = sum(abstained for answerable, abstained in rows if answerable)
    answerables = sum(answerable for answerable, _ in rows)
    right = sum(abstained for answerable, abstained in rows if not answerable)
    without = len(rows) - answerables
    if not answerables or not without:
        return None
    return {
        "f1": round(2 * right / (right + refused + without), 4),
        "precision": round(right / (right + refused), 4) if right + refused else 0.0,
        "recall": round(right / without, 4),
        "answerable_refused": round(refused / answerables, 4),
    }
