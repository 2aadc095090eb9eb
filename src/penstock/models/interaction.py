"""What a question and a passage have in common, as numbers: what the learned order is made of.

Three views: how near each token of the question comes to a token of the passage (whole, and within
windows of a few tokens), which of its words stand in the passage and in one sentence of it, and how
the passage compares with the other candidates. Nothing is learned here, and nothing of it depends
on the collection except through how rare its words are.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import Stemmer
from numpy.typing import NDArray

from penstock.models.base import Candidate, Weighted
from penstock.models.late_interaction import QuestionTokens, head, token_weights
from penstock.models.sentences import Span, sentences

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]

WINDOWS: Final = (4, 8, 16, 32)
"""Tokens that stand for something, side by side."""
_LONGEST: Final = 4000
"""Characters of a passage that are read: more than any chunk of the default size has."""
_WORD: Final = re.compile(r"[^\W_]+")
_ALONE: Final = 250_000
"""A product of matrices with so many multiplications stays in its thread. Larger ones are shared
among threads, which spin while others work: on busy cores that costs ten times what it saves."""
_APART: Final = 3
"""So many words apart, neighbours of the question still count as neighbours."""


class Text(NamedTuple):
    """A text as it is compared: a number for each word's stem, with some that stand for nothing at
    its end; where each sentence begins among them; and how many words it has."""

    stems: Whole
    starts: Whole
    lengths: Whole


class Asked(NamedTuple):
    """A question as it is compared. ``tokens`` and ``weights`` belong together, and so do ``stems``
    and ``told`` (how much each word tells); both weights are together 1."""

    tokens: QuestionTokens
    weights: Floats
    telling: NDArray[np.bool_]
    stems: Whole
    told: Floats
    special: NDArray[np.bool_]
    numbers: NDArray[np.bool_]


_BY_WORDS: Final = (
    "held",
    "held_in_title",
    "held_in_sentence",
    "held_in_two_sentences",
    "held_in_sentence_or_title",
    "often",
    "in_order",
    "rarest_missing",
    "special_missing",
    "numbers_missing",
    "sentence_length",
    "first_stands",
)
NAMES: Final = (
    # how it was found
    "similarity",
    "text_score",
    "fused",
    # token by token
    "near",
    "near_sharp",
    "near_sharpest",
    "near_worst",
    "near_rarest",
    "near_half",
    "near_most",
    *(f"window_{width}" for width in WINDOWS),
    "pairs_in_order",
    "alike",
    # word by word
    *_BY_WORDS,
    "length",
    # beside the others
    "same_title",
)
COMPARED: Final = (
    "similarity",
    "text_score",
    "near",
    "near_sharp",
    "near_sharpest",
    "window_8",
    "window_16",
    "window_32",
    "pairs_in_order",
    "alike",
    "held",
    "held_in_sentence",
    "held_in_two_sentences",
    "in_order",
    "often",
)
"""What is also given as the distance from the best of the others."""
RANKED: Final = ("fused", "near_sharp", "held_in_sentence")
"""What is also given as a place among all candidates."""
COLUMNS: Final = (
    *NAMES,
    *(f"{name}_ahead" for name in COMPARED),
    *(f"{name}_place" for name in RANKED),
    "words",
    "candidates",
)


_COMPARED_ROWS: Final = [NAMES.index(name) for name in COMPARED]


class _Stems(dict[str, int]):
    """A number for the stem of each word, found out on first sight."""

    def __init__(self) -> None:
        super().__init__()
        self._stemmer = Stemmer.Stemmer("english")
        self._lock = threading.Lock()

    def __missing__(self, word: str) -> int:
        with self._lock:  # a stemmer is not safe in threads
            number = hash(self._stemmer.stemWord(word.lower()))
        if len(self) > 200_000:
            self.clear()
        self[word] = number
        return number


_STEMS: Final = _Stems()


class Words(list[int]):
    """The stems of some words."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(_STEMS[word] for word in words)

    def missing(self, held: frozenset[int]) -> float:
        """How many of them are not held."""
        return float(sum(stem not in held for stem in self))


def _stems(text: str) -> list[int]:
    return [_STEMS[word] for word in _WORD.findall(text)]


@lru_cache(maxsize=16_384)
def read(text: str) -> Text:
    """Look at a passage. Some are remembered (a kilobyte each): a text says the same every time."""
    text = text[:_LONGEST]
    stems: list[int] = []
    starts, lengths = [], []
    for span in sentences(text) or [Span(0, len(text))]:
        found = _stems(text[span.start : span.end]) or [0]
        starts.append(len(stems))
        lengths.append(len(found))
        stems.extend(found)
    return Text(np.array(stems + [0] * _APART), np.array(starts), np.array(lengths))


def ask(question: str, tokens: QuestionTokens, words: Sequence[Weighted], most: float) -> Asked:
    """Look at a question, once for all candidates."""
    weights = token_weights(tokens, words, most)
    stems, told, special, numbers = [], [], [], []
    for start, end, weight in words:
        word = question[start:end]
        stems.append(_STEMS[word])
        told.append(weight)
        special.append(start > 0 and word[:1].isupper())
        numbers.append(any(sign.isdigit() for sign in word))
    shares = np.array(told, np.float32)
    total = float(shares.sum())
    return Asked(
        tokens,
        weights,
        weights > weights.max(initial=0) * 0.2,
        np.array(stems, np.int64),
        shares / np.float32(total) if total > 0 else shares,
        np.array(special, bool),
        np.array(numbers, bool),
    )


def interaction(question: Asked, candidates: Sequence[Candidate]) -> Floats:
    """A row of `COLUMNS` for each candidate."""
    found = np.array([(c.similarity, c.text_score) for c in candidates], np.float32)
    columns = {"similarity": found[:, 0], "text_score": found[:, 1], "fused": found.sum(axis=1)}
    columns |= _by_tokens(question, [c.tokens for c in candidates])
    columns |= _by_words(question, candidates)
    score = columns["fused"] + 4 * columns["near_sharp"]
    vectors = np.stack([c.vector for c in candidates])
    share = np.exp(16 * (score - score.max()))
    middle = np.einsum("i,ij->j", share / share.sum(), vectors)
    columns["alike"] = np.einsum("ij,j->i", vectors, middle)
    columns["same_title"] = _same_title(score, [c.title for c in candidates])
    rows = np.empty((len(COLUMNS), len(candidates)), np.float32)
    for row, name in zip(rows, NAMES, strict=False):
        row[:] = columns[name]
    behind = len(NAMES) + len(COMPARED)
    rows[len(NAMES) : behind] = _ahead(rows[_COMPARED_ROWS])
    for row, name in zip(rows[behind:], RANKED, strict=False):
        row[:] = np.log1p(np.argsort(np.argsort(-columns[name])))
    rows[-2:] = [[len(question.stems)], [len(candidates)]]
    return rows.T


def _ahead(values: Floats) -> Floats:
    """How far each value of a row is before the best of the others."""
    if values.shape[1] < 2:
        return np.ones_like(values)
    ordered = np.partition(values, -2, axis=1)
    second, first = ordered[:, -2, None], ordered[:, -1, None]
    found: Floats = values - np.where(values == first, second, first)
    return found


def _by_tokens(question: Asked, texts: Sequence[bytes]) -> dict[str, Floats]:
    """How near each token of the question comes to one of each text."""
    width = head().dimensions // 2
    lengths = np.array([len(text) // width for text in texts])
    longest = int(lengths.max())
    near = np.zeros((len(texts), len(question.weights), longest), np.float32)
    stored = head().unpack(b"".join(texts))
    step = max(1, _ALONE // max(1, question.tokens.vectors.size))
    pieces = [
        stored[at : at + step] @ question.tokens.vectors.T for at in range(0, len(stored), step)
    ]
    near.transpose(0, 2, 1)[np.arange(longest) < lengths[:, None]] = np.concatenate(pieces)
    np.clip(near, 0, 1, out=near)
    best = near.max(axis=2).T
    weights, telling = question.weights, question.telling
    told = best[telling] if telling.any() else best
    columns = {
        "near": weights @ best,
        "near_sharp": weights @ best**3,
        "near_sharpest": weights @ best**8,
        "near_worst": told.min(axis=0),
        "near_rarest": best[int(weights.argmax())],
        "near_half": weights @ (best > 0.5),
        "near_most": weights @ (best > 0.75),
        "length": np.log1p(lengths).astype(np.float32) / 6,
    }
    sharp = near * near * near  # several times as quick as the power
    columns["pairs_in_order"] = _pairs(sharp, weights, telling)
    reach = 1
    for width in WINDOWS:
        while reach < width:  # the best within `reach` tokens, from each one on
            if reach < longest:
                sharp[:, :, :-reach] = np.maximum(sharp[:, :, :-reach], sharp[:, :, reach:])
            reach *= 2
        columns[f"window_{width}"] = (weights @ sharp).max(axis=1)
    return columns


def _pairs(sharp: Floats, weights: Floats, telling: NDArray[np.bool_]) -> Floats:
    """Neighbours in the question that are neighbours in the text, in the same order."""
    places = np.flatnonzero(telling)
    if len(places) < 2 or sharp.shape[2] < 2:
        return np.zeros(len(sharp), np.float32)
    first, second = places[:-1], places[1:]
    both = (sharp[:, first, :-1] * sharp[:, second, 1:]).max(axis=2)
    share = weights[first] + weights[second]
    found: Floats = np.sqrt(both) @ (share / share.sum())
    return found


def _by_words(question: Asked, candidates: Sequence[Candidate]) -> dict[str, Floats]:
    """Which of the question's words stand in each text, and in its sentences."""
    told = question.told
    if not len(told):
        nothing = np.zeros(len(candidates), np.float32)
        return dict.fromkeys(_BY_WORDS, nothing)
    texts = [read(c.text) for c in candidates]
    first_words = _begins([len(text.stems) for text in texts])
    first_sentences = _begins([len(text.starts) for text in texts])
    starts = np.concatenate(
        [text.starts + first for text, first in zip(texts, first_words, strict=True)]
    )
    equal = question.stems[:, None] == np.concatenate([text.stems for text in texts])
    by_sentence = np.logical_or.reduceat(equal, starts, axis=1)
    held = np.logical_or.reduceat(by_sentence, first_sentences, axis=1)
    titles = {c.title: _title(c.title) for c in candidates}
    said = {
        title: (question.stems[:, None] == stems).any(axis=1) for title, stems in titles.items()
    }
    in_title = np.stack([said[c.title] for c in candidates], axis=1)
    counts = np.add.reduceat(equal, first_words, axis=1, dtype=np.float32)
    missing = ~(held | in_title)
    return {
        "held": told @ held,
        "held_in_title": told @ in_title,
        "often": told @ (counts / (counts + np.float32(1.5))),
        "in_order": _in_order(told, equal, first_words),
        "rarest_missing": (told[:, None] * missing).max(axis=0),
        "special_missing": told @ (missing & question.special[:, None]),
        "numbers_missing": told @ (missing & question.numbers[:, None]),
        **_by_sentences(told, by_sentence, in_title, texts, first_sentences),
    }


def _by_sentences(
    told: Floats,
    by_sentence: NDArray[np.bool_],
    in_title: NDArray[np.bool_],
    texts: Sequence[Text],
    firsts: Whole,
) -> dict[str, Floats]:
    """How much of the question the best sentence of each text holds, and which that is."""
    counts = [len(text.starts) for text in texts]
    of_text = np.repeat(np.arange(len(texts)), counts)
    sums = told @ by_sentence
    two = sums.copy()
    if len(two) > 1:
        together = told @ (by_sentence[:, :-1] | by_sentence[:, 1:])
        two[:-1] = np.where(of_text[:-1] == of_text[1:], together, two[:-1])
    with_title = told @ (by_sentence | in_title[:, of_text])
    best = [int(sums[a : a + n].argmax()) for a, n in zip(firsts, counts, strict=True)]
    lengths = [int(text.lengths[place]) for text, place in zip(texts, best, strict=True)]
    return {
        "held_in_sentence": np.maximum.reduceat(sums, firsts),
        "held_in_two_sentences": np.maximum.reduceat(two, firsts),
        "held_in_sentence_or_title": np.maximum.reduceat(with_title, firsts),
        "sentence_length": np.minimum(np.array(lengths, np.float32) / 60, 1),
        "first_stands": np.array(best, np.float32) / np.array(counts, np.float32),
    }


def _in_order(told: Floats, equal: NDArray[np.bool_], firsts: Whole) -> Floats:
    """Neighbours among the question's words that are close together in a text, in that order."""
    if len(told) < 2:
        return np.zeros(len(firsts), np.float32)
    after = np.zeros((len(told) - 1, equal.shape[1]), bool)
    for apart in range(1, _APART + 1):
        after[:, :-apart] |= equal[1:, apart:]
    pairs = np.logical_or.reduceat(equal[:-1] & after, firsts, axis=1)
    share = told[:-1] + told[1:]
    found: Floats = (share / share.sum()) @ pairs
    return found


def _begins(lengths: Sequence[int]) -> Whole:
    """Where each begins of some that stand behind one another."""
    return np.cumsum([0, *lengths[:-1]])


@lru_cache(maxsize=4096)
def _title(title: str) -> Whole:
    return np.array(_stems(title), np.int64)


def _same_title(score: Floats, titles: Sequence[str]) -> Floats:
    """How good the best of the other candidates of the same document is."""
    found = np.zeros(len(titles), np.float32)
    for title in set(titles):
        places = [i for i, other in enumerate(titles) if other == title]
        if len(places) > 1:
            best = sorted((float(score[i]) for i in places), reverse=True)
            for i in places:
                found[i] = best[1] if float(score[i]) == best[0] else best[0]
    top = float(score.max())
    return np.where(found > 0, found - top, -1).astype(np.float32)
