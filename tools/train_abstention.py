"""Fits the trees that say whether evidence holds an answer (`penstock.models.answerable`).

    uv run --with lightgbm==4.7.0 python tools/train_abstention.py FOLDER... [--questions N]

Each FOLDER is in the BEIR layout; questions whose ``metadata.answerable`` is false have no answer.
All go through the real pipeline, store, search and ranking; what is looked at is the best passage.
Questions with an answer are asked again of everything but the documents with their right title:
what comes first then answers something else. Deterministic but for the threads of the store.

The threshold comes from the first folder's questions, each judged by trees that have not seen its
document (five parts, by title): ``REFUSED`` of those with an answer may be refused. How many that
are in the other folders, judged in the same way, is printed. The shipped ones were fitted on
``squad2-dev`` (1,200 questions of each kind), ``policyqa-dev`` (1,200) and ``squadshifts-new_wiki``
(2,600).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from train_ranking import Asked, ask_all, nodes_of

from penstock.evaluate.dataset import read_dataset
from penstock.evaluate.run import loaded
from penstock.models.answerable import FITTED, SIGNS, UNKNOWN, Read, signs
from penstock.models.ranking import ranking

REFUSED = 0.065
WEIGHTS = {"y": 1.0, "n": 1.0, "e": 0.6}
"""What a question counts: to see that there is no answer in other documents is easier than what the
others are for."""
OTHER_FOLDERS = 0.5
RESTRICTED = {"y": 0.6, "n": 1.0, "e": 0.0}
"""The same where only some documents are asked: each question is learned from in both forms."""
PARTS = 5
TREES = 200
SETTINGS = {
    "objective": "binary",
    "num_leaves": 4,
    "learning_rate": 0.05,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10,
    "num_threads": 1,
    "deterministic": True,
    "verbose": -1,
}


class Signs(NamedTuple):
    """Of one folder: the signs of each question, the title of the best passage, and what it is
    (y: has an answer, n: has none, e: asked elsewhere)."""

    values: NDArray[np.float32]
    titles: Sequence[str]
    kinds: NDArray[np.str_]

    def restricted(self) -> NDArray[np.float32]:
        """The signs, had only some documents been asked."""
        values = self.values.copy()
        values[:, [SIGNS.index("similarity"), SIGNS.index("text_score")]] = UNKNOWN
        return values


def read_all(asked: Sequence[Asked], *, filtered: bool) -> Signs:
    """The signs of questions, and of the same asked elsewhere."""
    rows: list[list[float]] = []
    kinds: list[str] = []
    titles: list[str] = []
    for one in asked:
        order = np.argsort(-ranking().judge(one.features), kind="stable").tolist()
        title = one.passages[order[0]].title
        found = [(order[0], "n" if one.answerable is False else "y")]
        other = (place for place in order if one.passages[place].title != one.title)
        if one.title and not filtered and (place := next(other, None)) is not None:
            found.append((place, "e"))
        for place, kind in found:
            passage, features = one.passages[place], one.features[place]
            named = f"{passage.title} {passage.heading}".strip()
            read = Read(one.question, named, passage.text, float(features[0]), float(features[1]))
            rows.append(signs(read))
            kinds.append(kind)
            titles.append(title)
    return Signs(np.array(rows, np.float32), titles, np.array(kinds))


def fit(sets: Sequence[Signs], chosen: Sequence[NDArray[np.bool_]]) -> Any:
    """Trees for the chosen questions."""
    import lightgbm

    values, right, weights = [], [], []
    for number, (one, some) in enumerate(zip(sets, chosen, strict=True)):
        kinds = one.kinds[some]
        for form, counts in ((one.values, WEIGHTS), (one.restricted(), RESTRICTED)):
            values.append(form[some])
            right.append(kinds == "y")
            weights.append(
                np.array([counts[kind] for kind in kinds]) * (OTHER_FOLDERS if number else 1.0)
            )
    data = lightgbm.Dataset(
        np.concatenate(values),
        np.concatenate(right).astype(int),
        weight=np.concatenate(weights),
        feature_name=list(SIGNS),
    )
    return lightgbm.train(SETTINGS, data, TREES)


def conclude(sets: Sequence[Signs], file: Path = FITTED) -> None:
    """Judge each question by trees that have not seen its document; print, fit on all and write."""
    parts = [np.array([crc32(title.encode()) % PARTS for title in one.titles]) for one in sets]
    chances = [np.zeros((2, len(one.titles))) for one in sets]
    if len({crc32(title.encode()) % PARTS for one in sets for title in one.titles}) < PARTS:
        raise SystemExit("expected questions about documents of many titles: they are put in parts")
    for number in range(PARTS):
        model = fit(sets, [part != number for part in parts])
        for one, part, chance in zip(sets, parts, chances, strict=True):
            for form, values in enumerate((one.values, one.restricted())):
                chance[form, part == number] = model.predict(values[part == number])
    enough = float(np.quantile(chances[0][0, sets[0].kinds == "y"], REFUSED))
    for number, (one, chance) in enumerate(zip(sets, chances, strict=True), 1):
        for form, name in enumerate(("all documents asked", "only some")):
            told = {
                kind: float((chance[form, one.kinds == kind] < enough).mean())
                for kind in "yne"
                if (one.kinds == kind).any()
            }
            shares = ", ".join(f"{kind} {share:.1%}" for kind, share in told.items())
            f1 = 2 * told["n"] / (1 + told["n"] + told["y"]) if "n" in told else float("nan")
            print(f"folder {number}, {name}: refused of {shares}; F1 {f1:.3f}")
    model = fit(sets, [np.ones(len(one.titles), bool) for one in sets])
    with file.open("wb") as opened:
        np.savez_compressed(
            opened, names=np.array(SIGNS), enough=np.array(enough), **nodes_of(model, 1.0)
        )


async def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--questions", type=int, default=1200, help="of each kind and folder")
    options = parser.parse_args()
    sets = []
    for folder in options.folders:
        data = read_dataset(folder)
        kinds = [[q for q in data.queries if (q.answerable is False) == no] for no in (False, True)]
        chosen = [q for k in kinds for q in Random(5).sample(k, min(options.questions, len(k)))]
        filtered = any(query.where.title for query in chosen)
        async with loaded(data.documents, lambda text: print(text, file=sys.stderr)) as project:
            asked = await ask_all(project, chosen, {d.id: d.title for d in data.documents})
        sets.append(read_all(asked, filtered=filtered))
    conclude(sets)


if __name__ == "__main__":
    asyncio.run(main())
