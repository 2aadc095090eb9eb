"""Fits the regression that says whether evidence holds an answer (`penstock.models.answerable`).

    uv run python tools/train_abstention.py FOLDER [--questions N]

FOLDER is in the BEIR layout, with questions that can all be answered. Each is asked as it is, and
again made unanswerable: a name or number exchanged, a word turned into its opposite or replaced, a
denial put in. Both go through the real pipeline, store, ranking and reader. A fifth of the
documents is kept apart with its questions: they give the threshold (so many of the answerable may
be refused) and the figure that is printed. Deterministic. The one that is shipped was fitted on
``squadshifts-new_wiki``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.evaluate.dataset import Query, read_dataset
from penstock.evaluate.run import loaded
from penstock.models.answerable import FITTED, SIGNS, signs
from penstock.models.extractive import ExtractiveReader, summary
from penstock.principals import Principal
from penstock.project import Project
from penstock.serving.answer import evidence_of
from penstock.stores.postgres.lexical import analyse

REFUSED = 0.08
"""So many of the answerable questions kept apart may be refused."""
_OPPOSITES = (
    "first last|before after|largest smallest|most least|increase decrease|increased decreased|"
    "north south|east west|northern southern|eastern western|highest lowest|more fewer|"
    "earliest latest|oldest newest|best worst|major minor|high low|large small|new old|male female|"
    "won lost|began ended|start end|early late|public private|accepted rejected|rich poor|"
    "common rare|allowed forbidden|possible impossible|important unimportant"
)
OPPOSITE = {
    word: other
    for pair in _OPPOSITES.split("|")
    for word, other in (pair.split(), reversed(pair.split()))
}
_AUXILIARY = re.compile(r"\b(is|are|was|were|does|do|did|can|could|has|have|had|will|would)\b")
_WORD = re.compile(r"[^\W_]+")


class Spoiler:
    """Makes questions unanswerable that look as if they were not."""

    def __init__(self, questions: Sequence[str], seed: int = 7) -> None:
        self._chance = random.Random(seed)
        words = [match for text in questions for match in _WORD.finditer(text)]
        self._names = sorted({m[0] for m in words if m.start() and m[0][0].isupper()})
        self._telling = sorted({m[0] for m in words if _is_telling(m)})

    def spoil(self, question: str) -> str | None:
        """The question in one of the ways that it allows; None if it allows none."""
        ways = [self._name, self._number, self._opposite, self._denial, self._word]
        self._chance.shuffle(ways)
        words = list(_WORD.finditer(question))
        found = (way(question, words) for way in ways)
        return next((spoilt for spoilt in found if spoilt and spoilt != question), None)

    def _put(self, question: str, where: Sequence[re.Match[str]], by: Sequence[str]) -> str | None:
        if not where or not by:
            return None
        match = self._chance.choice(where)
        return question[: match.start()] + self._chance.choice(by) + question[match.end() :]

    def _name(self, question: str, words: Sequence[re.Match[str]]) -> str | None:
        names = [m for m in words if m.start() and m[0][0].isupper()]
        return self._put(question, names, self._names)

    def _number(self, question: str, words: Sequence[re.Match[str]]) -> str | None:
        numbers = [m for m in words if m[0].isdigit() and len(m[0]) < 9]
        moved = [str(abs(int(m[0]) + by)) for m in numbers[:1] for by in (-7, -3, -1, 1, 2, 5, 10)]
        return self._put(question, numbers[:1], moved)

    def _opposite(self, question: str, words: Sequence[re.Match[str]]) -> str | None:
        found = [m for m in words if m[0].lower() in OPPOSITE][:1]
        return self._put(question, found, [OPPOSITE[m[0].lower()] for m in found])

    def _denial(self, question: str, words: Sequence[re.Match[str]]) -> str | None:
        del words
        match = _AUXILIARY.search(question)
        if match is None or re.search(r"n['’]t\b|\bnot\b", question):
            return None
        short = match[0] in ("did", "does", "do")
        said = "n't" if short else self._chance.choice([" not", " never"])
        return question[: match.end()] + said + question[match.end() :]

    def _word(self, question: str, words: Sequence[re.Match[str]]) -> str | None:
        return self._put(question, [m for m in words if _is_telling(m)], self._telling)


def _is_telling(match: re.Match[str]) -> bool:
    word = match[0]
    return match.start() > 0 and len(word) > 4 and word.islower() and bool(analyse(word))


async def read(project: Project, questions: Sequence[str]) -> NDArray[np.float64]:
    """The signs of each question; zeros where nothing was found."""
    builder, reader = project.contexts(), ExtractiveReader(project.embedder())
    rows = []
    for number, question in enumerate(questions, 1):
        looked = await reader.look(
            question, evidence_of(await builder.context(question, Principal()))
        )
        if looked is None:
            rows.append([0.0] * len(SIGNS))
        else:
            rows.append(signs(summary(question, looked, reader.stems)))
        if number % 200 == 0:
            sys.stderr.write(f"read {number} of {len(questions)} questions\n")
    return np.array(rows)


def fit(values: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Weights and constant of the regression, by Newton's method with a small ridge."""
    mean, spread = values.mean(axis=0), values.std(axis=0) + 1e-6
    design = np.c_[(values - mean) / spread, np.ones(len(values))]
    weights = np.zeros(design.shape[1])
    ridge = np.diag([*[1e-3] * len(mean), 0.0])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (chance - right) / len(right) + ridge @ weights
        bend = (design.T * (chance * (1 - chance))) @ design / len(right) + ridge
        weights -= np.linalg.solve(bend, slope)
    plain = weights[:-1] / spread
    return plain, float(weights[-1] - plain @ mean)


async def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=1500)
    options = parser.parse_args()
    data = read_dataset(options.folder)
    chosen = random.Random(3).sample(list(data.queries), min(options.questions, len(data.queries)))
    spoiler = Spoiler([query.text for query in data.queries])
    asked = [(query, query.text, True) for query in chosen]
    asked += [(query, text, False) for query in chosen if (text := spoiler.spoil(query.text))]
    async with loaded(data.documents, lambda text: print(text, file=sys.stderr)) as project:
        values = await read(project, [text for _, text, _ in asked])
    right = np.array([answerable for _, _, answerable in asked])
    apart = np.array([_is_kept_apart(query) for query, _, _ in asked])
    weights, constant = fit(values[~apart], right[~apart])
    chances = 1 / (1 + np.exp(-(values @ weights + constant)))
    enough = float(np.quantile(chances[apart & right], REFUSED))
    caught = float((chances[apart & ~right] < enough).mean())
    print(f"kept apart: {REFUSED:.0%} of the answerable refused, {caught:.1%} of the others")
    named = {name: round(float(w), 4) for name, w in zip(SIGNS, weights, strict=True)}
    fitted = {"enough": round(enough, 4), "constant": round(constant, 4), "weights": named}
    FITTED.write_bytes(orjson.dumps(fitted, option=orjson.OPT_INDENT_2) + b"\n")


def _is_kept_apart(query: Query) -> bool:
    document = min(query.gains, default=query.id)
    return crc32(document.encode()) % 5 == 0


if __name__ == "__main__":
    asyncio.run(main())
