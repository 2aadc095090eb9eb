"""Answers without a language model: the sentences and row facts that answer the question.

Each sentence, and each row as one statement, is scored by what it has in common with the question:
the cosine of their vectors, the share of the question's words that it holds (weighted by how rare
they are in the evidence), and the rank of the passage that it stands in. All lie between 0 and 1.
Below a threshold the honest answer is that the evidence does not hold one.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import Stemmer

from penstock.models.answerable import Calibration, Read, signs
from penstock.models.base import Embedder
from penstock.models.sentences import Span, is_heading, sentences

_WORD: Final = re.compile(r"[^\W_]+(?:[.,'’-][^\W_]+)*")
_QUANTITY: Final = re.compile(
    r"\b(how (?:many|much|long|old|far|tall|large|big|often|late|early)|when|cost|price|"
    r"what (?:year|date|time|percent\w*|number)|which (?:year|date))\b",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(
    r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand|million|half|"
    r"free|double|twice)\b",
    re.IGNORECASE,
)
_NEGATION: Final = re.compile(r"n['’]t\b|\b(?:not|no|never|without|none|neither)\b", re.IGNORECASE)
_CLAUSE: Final = re.compile(r"[,;]|\band\b|\bor\b", re.IGNORECASE)
_FUNCTION_WORDS: Final = """
a about an and any are as at be been but by can could did do does for from give had has have he her
his how i if in into is it its long many me much my not of on or our she should so tell that the
their them then there these they this to up was we were what when where which while who whom whose
why will with would you your please
"""
_PLAIN: Final = frozenset(_FUNCTION_WORDS.split())

_NUMBER_GIVEN: Final = 0.04
"""A quantity is asked for and there is one."""
_NEGATION_LOST: Final = 0.1
"""What is asked about something that is *not* so is not told by what is."""
_CODE_MISSING: Final = 0.3
_NAME_MISSING_IN_ROW: Final = 0.3
"""A row is about exactly one thing: another's name is another row's."""
_NAME_MISSING: Final = 0.07


class Fact(NamedTuple):
    """A column of a row with its present value; ``searched`` columns say which row it is."""

    name: str
    value: str
    searched: bool = False

    @property
    def words(self) -> str:
        """The column's name as words."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|_+", " ", self.name).strip().lower()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that may hold the answer: a passage (``text``), or a row (``facts``). ``score`` is
    its rank in the context, 0 to 2."""

    title: str
    score: float
    text: str = ""
    facts: tuple[Fact, ...] = ()
    similarity: float = 0.0
    text_score: float = 0.0


class Found(NamedTuple):
    """A part of the answer: a span of a passage's text, or some columns of a row."""

    evidence: int
    text: str
    start: int
    end: int
    columns: tuple[str, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found, best first; ``score`` (0 to 1) says how well the best of it fits. Nothing is
    found when that is below the threshold."""

    found: tuple[Found, ...]
    score: float


@dataclass(frozen=True, slots=True)
class ReadingSettings:
    """What is looked at, and what is enough."""

    threshold: float = 0.38
    """Below this score there is no answer. Calibrated on SQuAD 2: about one in twenty questions
    whose answer is there is refused, and nine in ten from another subject are."""
    passages: int = 4
    """How many of the best passages and rows are read."""
    sentences: int = 48
    """How many sentences are compared at most."""
    most: int = 3
    """How many sentences or rows an answer has at most."""
    near: float = 0.05
    """A further sentence may score so much less than the best."""


class _Unit(NamedTuple):
    evidence: int
    span: Span
    text: str
    words: frozenset[str]


class Scored(NamedTuple):
    """A sentence or row with its score and its cosine with the question."""

    score: float
    unit: _Unit
    similarity: float


class Looked(NamedTuple):
    """What was looked at, the parts of it that may answer, best first, and how much of the question
    each of its words is."""

    evidence: Sequence[Evidence]
    scored: Sequence[Scored]
    weights: Mapping[str, float]


class ExtractiveReader:
    """Finds answers in evidence with the embedder that made the vectors of the knowledge base."""

    name = "extractive"

    def __init__(
        self,
        embedder: Embedder,
        *,
        language: str = "english",
        settings: ReadingSettings | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self._embedder = embedder
        self._settings = settings or ReadingSettings()
        self._calibration = calibration
        self._stemmer = Stemmer.Stemmer(language if language in Stemmer.algorithms() else "porter")
        self._lock = threading.Lock()

    async def read(
        self, question: str, evidence: Sequence[Evidence], *, restricted: bool = False
    ) -> Reading:
        """What of the evidence (best first) answers the question. ``restricted``: only some
        documents were asked, so that how well they fit says less."""
        looked = await self.look(question, evidence)
        if looked is None:
            return Reading((), 0.0)
        evidence, scored, _ = looked
        best, first = scored[0].score, scored[0].unit
        if evidence[first.evidence].facts:
            if best < self._settings.threshold:
                return Reading((), best)
            return Reading(await self._row_answer(question, evidence, scored), best)
        enough = self._settings.threshold
        if self._calibration is not None:
            read = best_passage(question, evidence, restricted=restricted)
            best, enough = self._calibration.probability(signs(read)), self._calibration.enough
        if best < enough:
            return Reading((), best)
        return Reading(self._sentence_answer(evidence, scored), best)

    async def look(self, question: str, evidence: Sequence[Evidence]) -> Looked | None:
        """Everything that may answer with its score, best first; None: there is nothing."""
        evidence = evidence[: self._settings.passages]
        units = self._units(evidence)
        asked = Counter(self.stems(question))
        weights = _weights(asked, units)
        units = sorted(units, key=lambda unit: -_covered(unit.words, weights))
        units = units[: self._settings.sentences]
        if not units:
            return None
        vectors = await self._embedder.embed(
            [question, *(unit.text for unit in units)], priority="query"
        )
        similarities = (vectors[1:] @ vectors[0]).tolist()
        scored = sorted(
            (
                Scored(
                    self._score(question, unit, near, evidence[unit.evidence], weights), unit, near
                )
                for unit, near in zip(units, similarities, strict=True)
            ),
            key=lambda one: -one.score,
        )
        return Looked(evidence, scored, weights)

    def _units(self, evidence: Sequence[Evidence]) -> list[_Unit]:
        units = []
        for number, item in enumerate(evidence):
            if item.facts:
                text = statement(item)
                units.append(_Unit(number, Span(0, 0), text, frozenset(self.stems(text))))
                continue
            for span in sentences(item.text):
                if not is_heading(item.text, span):
                    text = item.text[span.start : span.end]
                    units.append(_Unit(number, span, text, frozenset(self.stems(text))))
        return units

    def _score(
        self,
        question: str,
        unit: _Unit,
        similarity: float,
        item: Evidence,
        weights: Mapping[str, float],
    ) -> float:
        """0 to 1. What the title of a document says need not be said again by its sentences."""
        held = _covered(unit.words, weights)
        score = (max(0.0, similarity) + held + item.score) / 4
        if _QUANTITY.search(question) and _NUMBER.search(unit.text):
            score += _NUMBER_GIVEN
        if _NEGATION.search(question) and not _NEGATION.search(unit.text):
            score -= _NEGATION_LOST
        known = f"{item.title} {item.text or unit.text}".lower()
        codes, names = _names(question)
        score -= _CODE_MISSING * _missing(codes, known)
        score -= (_NAME_MISSING_IN_ROW if item.facts else _NAME_MISSING) * _missing(names, known)
        return max(0.0, min(1.0, score))

    def _sentence_answer(
        self, evidence: Sequence[Evidence], scored: Sequence[Scored]
    ) -> tuple[Found, ...]:
        """The best sentence, and others that are nearly as good and say something else."""
        least = scored[0].score - self._settings.near
        chosen: list[tuple[float, _Unit]] = []
        for score, unit, _ in scored:
            if len(chosen) == self._settings.most or score < least:
                break
            if evidence[unit.evidence].facts or any(_same(unit, other) for _, other in chosen):
                continue
            chosen.append((score, unit))
        return tuple(
            Found(unit.evidence, unit.text, unit.span.start, unit.span.end, (), score)
            for score, unit in chosen
        )

    async def _row_answer(
        self,
        question: str,
        evidence: Sequence[Evidence],
        scored: Sequence[Scored],
    ) -> tuple[Found, ...]:
        """The best row with the columns that were asked for, and others that fit as well."""
        best, first, _ = scored[0]
        columns = await self._columns(question, evidence[first.evidence])
        found = []
        for score, unit, _ in scored:
            item = evidence[unit.evidence]
            if not item.facts or score < best - self._settings.near:
                continue
            if [f.name for f in item.facts] != [f.name for f in evidence[first.evidence].facts]:
                continue
            text = shown(item, columns)
            found.append(Found(unit.evidence, text, 0, 0, columns, score))
        return tuple(found[: self._settings.most])

    async def _columns(self, question: str, row: Evidence) -> tuple[str, ...]:
        """For each clause of the question, the column that is most like it or is named by it.
        Columns whose value the question names say which row is meant, not what is asked of it."""
        asked = question.lower()
        open_facts = [f for f in row.facts if f.value and f.value.lower() not in asked]
        clauses = [part.strip() for part in _CLAUSE.split(question) if len(part.split()) > 1]
        clauses = clauses[:6] or [question]
        if not open_facts:
            return ()
        vectors = await self._embedder.embed(
            [
                *clauses,
                *(fact.words for fact in open_facts),
                *(f"{fact.words} {fact.value}"[:400] for fact in open_facts),
            ],
            priority="query",
        )
        clause_vectors, rest = vectors[: len(clauses)], vectors[len(clauses) :]
        likeness = clause_vectors @ rest.T
        likeness = likeness[:, : len(open_facts)] + likeness[:, len(open_facts) :]
        for i, clause in enumerate(clauses):
            said = set(self.stems(clause))
            for k, fact in enumerate(open_facts):
                likeness[i, k] += 0.5 * bool(said & set(self.stems(fact.words)))
        best = likeness.argmax(axis=1).tolist()
        chosen = {place for i, place in enumerate(best) if likeness[i, place] >= 0.45}
        return tuple(fact.name for i, fact in enumerate(open_facts) if i in chosen)

    def stems(self, text: str) -> list[str]:
        """The words of a text that tell something, in their plainest form."""
        words = [word.lower() for word in _WORD.findall(text)]
        words = [part for word in words for part in re.split(r"['’-]", word)]
        with self._lock:  # a stemmer is not safe in threads
            return [str(s) for s in self._stemmer.stemWords([w for w in words if w not in _PLAIN])]


def best_passage(question: str, evidence: Sequence[Evidence], *, restricted: bool) -> Read:
    """What is known of the best passage; where there is one."""
    item = next(item for item in evidence if not item.facts)
    return Read(question, item.title, item.text, item.similarity, item.text_score, restricted)


def statement(row: Evidence) -> str:
    """A row as one sentence."""
    return f"{row.title}: " + ", ".join(f"{f.words} {f.value}" for f in row.facts if f.value)


def shown(row: Evidence, columns: Sequence[str]) -> str:
    """A row as an answer shows it: what it is, then the columns asked for (none: all)."""
    title = row.title.lower()
    named = [f for f in row.facts if f.searched and f.name not in columns]
    named = [f for f in named if f.value and len(f.value) <= 40 and f.value.lower() not in title]
    label = row.title + (f" ({', '.join(f'{f.words} {f.value}' for f in named)})" if named else "")
    facts = [f for f in row.facts if (f.name in columns if columns else not f.searched)]
    values = ", ".join(f"{f.words} {f.value}" for f in facts if f.value)
    return f"{label}: {values}" if values else label


def _weights(asked: Counter[str], units: Sequence[_Unit]) -> Mapping[str, float]:
    """How much of the question each of its words is; together 1."""
    holding = Counter(word for unit in units for word in unit.words)
    rarity = {
        word: count * math.log1p((len(units) - holding[word] + 0.5) / (holding[word] + 0.5))
        for word, count in asked.items()
    }
    total = sum(rarity.values())
    return {word: value / total for word, value in rarity.items()} if total else {}


def _covered(words: frozenset[str], weights: Mapping[str, float]) -> float:
    return sum(weight for word, weight in weights.items() if word in words)


def _names(question: str) -> tuple[list[str], list[str]]:
    """Words that mean one thing: codes (PS204), and names or numbers (Lisbon, 1973)."""
    codes, names = [], []
    for match in _WORD.finditer(question):
        word = match[0]
        digits = any(sign.isdigit() for sign in word)
        if digits and any(sign.isalpha() for sign in word):
            codes.append(word.lower())
        elif digits or (match.start() > 0 and word[0].isupper() and word.lower() not in _PLAIN):
            names.append(word.lower())
    return codes, names


def _missing(words: Sequence[str], text: str) -> float:
    """The share of the words that a text does not hold."""
    return sum(word not in text for word in words) / len(words) if words else 0.0


def _same(unit: _Unit, other: _Unit) -> bool:
    """Whether two sentences say the same in nearly the same words."""
    common = len(unit.words & other.words)
    return common > 0.8 * max(1, min(len(unit.words), len(other.words)))
