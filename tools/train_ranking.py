"""Fits the learned order of candidates (`penstock.models.ranking`).

    uv run --with lightgbm==4.7.0 python tools/train_ranking.py FOLDER [--questions N]

FOLDER is in the BEIR layout. Its documents go through the real pipeline into a store of their own,
its questions through the real search: the trees are fitted on the candidates, tokens and rarities
that a question meets in production, and computed by the code that computes them there. They begin
from the plain score and learn what it gets wrong. A fifth of the questions, all those of some
documents' titles, is kept apart and printed first; what is shipped is then fitted on all. The
shipped one saw ``squadshifts-new_wiki`` alone, so figures of other sets are about texts and
questions that it has not seen. Deterministic but for the threads of the store.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from penstock.evaluate.dataset import Query, read_dataset
from penstock.evaluate.retrieval import CANDIDATES
from penstock.evaluate.run import loaded
from penstock.models.base import Candidate, Weighted, question_vectors, serving, token_embedder
from penstock.models.interaction import COLUMNS, ask, interaction
from penstock.models.minilm import MiniLMEmbedder
from penstock.models.ranking import FITTED, plain
from penstock.principals import Principal
from penstock.project import Project
from penstock.serving.retrieval import fuse
from penstock.stores.base import Passage, Snapshot

DEPTH = 30
STEEP = 32.0
"""Differences of plain scores, as the fitting sees them."""
TREES = 500
SETTINGS = {
    "objective": "lambdarank",
    "num_leaves": 7,
    "learning_rate": 0.05,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "lambdarank_truncation_level": 12,
    "lambda_l2": 20,
    "num_threads": 1,
    "deterministic": True,
    "verbose": -1,
}

_MINILM = MiniLMEmbedder()


class Asked(NamedTuple):
    """A question's candidates: their features, which are right, and the title of a right one."""

    features: NDArray[np.float32]
    right: NDArray[np.bool_]
    title: str
    question: str = ""
    answerable: bool | None = None
    passages: Sequence[Passage] = ()


async def ask_all(
    project: Project, queries: Sequence[Query], titles: dict[str, str]
) -> list[Asked]:
    """What the reranker is given for each question."""
    model = token_embedder(await serving(project.embedder()))
    assert model is not None
    found = []
    async with project.snapshots.snapshot(Principal()) as snapshot:
        for number, query in enumerate(queries, 1):
            found.append(await _asked(query, snapshot, model, titles))
            if number % 500 == 0:
                sys.stderr.write(f"asked {number} of {len(queries)} questions\n")
    return found


async def _asked(query: Query, snapshot: Snapshot, model: Any, titles: dict[str, str]) -> Asked:
    [vector] = await question_vectors(model, [query.text])
    hits = await snapshot.candidates(
        vector, query.text, limit=CANDIDATES, where=query.where, model=model.name
    )
    best = [hit for hit, _ in fuse(hits)[:DEPTH]]
    stored = await snapshot.vectors([h.chunk for h in best], model=model.name, head=model.head)
    passages = {p.chunk: p for p in await snapshot.passages([h.chunk for h in best])}
    rarities = await snapshot.rarities(query.text)
    tokens = await _MINILM.question_tokens(query.text)
    question = ask(query.text, tokens, [Weighted(*w) for w in rarities.words], rarities.most)
    features = interaction(
        question,
        [
            Candidate(
                hit.similarity,
                hit.text_score,
                passages[hit.chunk].title,
                passages[hit.chunk].text,
                stored[hit.chunk].vector,
                stored[hit.chunk].tokens,
            )
            for hit in best
        ],
    )
    right = np.array([query.gains.get(passages[hit.chunk].key, 0) > 0 for hit in best])
    relevant = min((key for key, gain in query.gains.items() if gain > 0), default="")
    found = [passages[hit.chunk] for hit in best]
    return Asked(features, right, titles.get(relevant, ""), query.text, query.answerable, found)


def fit(lists: Sequence[Asked]) -> Any:
    """Trees that put the right ones first."""
    import lightgbm

    features = np.concatenate([one.features for one in lists])
    data = lightgbm.Dataset(
        features,
        np.concatenate([one.right for one in lists]).astype(int),
        group=[len(one.right) for one in lists],
        init_score=STEEP * plain(features),
        feature_name=list(COLUMNS),
    )
    return lightgbm.train(SETTINGS, data, TREES)


def first_right(lists: Sequence[Asked], model: Any = None) -> float:
    """How often a right one comes first; without a model by the plain score."""
    hits = 0
    for one in lists:
        scores = STEEP * plain(one.features)
        if model is not None:
            scores = scores + model.predict(one.features)
        hits += bool(one.right[int(scores.argmax())])
    return hits / max(1, len(lists))


def level(model: Any, lists: Sequence[Asked]) -> float:
    """What the trees add to the plain score of the best of a list, on average."""
    added = []
    for one in lists:
        moved = model.predict(one.features) / STEEP
        added.append(moved[int((plain(one.features) + moved).argmax())])
    return float(np.mean(added))


def save(model: Any, level: float, file: Path = FITTED) -> None:
    """Write the trees as `penstock.models.ranking.Ranking` reads them."""
    with file.open("wb") as opened:
        np.savez_compressed(
            opened,
            names=np.array(COLUMNS),
            level=np.array(level, np.float32),
            **nodes_of(model, STEEP),
        )


def nodes_of(model: Any, scale: float) -> dict[str, NDArray[Any]]:
    """The trees as `penstock.models.trees.Trees` reads them; what they add is divided by scale."""
    nodes: list[tuple[int, float, int, int, float]] = []
    roots, depths = [], []
    for tree in model.dump_model()["tree_info"]:
        roots.append(len(nodes))
        depths.append(_walk(tree["tree_structure"], nodes))
    columns, limits, first, second, values = zip(*nodes, strict=True)
    return {
        "columns": np.array(columns, np.uint8),
        "limits": np.array(limits, np.float32),
        "children": np.array([first, second], np.uint16).T,
        "values": (np.array(values) / scale).astype(np.float32),
        "roots": np.array(roots, np.uint16),
        "depth": np.array(max(depths)),
    }


def _walk(node: dict[str, Any], nodes: list[tuple[int, float, int, int, float]]) -> int:
    """Put a node and all below it behind the others; how many steps lead to its deepest leaf."""
    place = len(nodes)
    if "split_feature" not in node:
        nodes.append((0, 0.0, place, place, node["leaf_value"]))
        return 0
    nodes.append((0, 0.0, 0, 0, 0.0))
    first = len(nodes)
    left = _walk(node["left_child"], nodes)
    second = len(nodes)
    right = _walk(node["right_child"], nodes)
    nodes[place] = (node["split_feature"], node["threshold"], first, second, 0.0)
    return 1 + max(left, right)


async def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=None)
    options = parser.parse_args()
    data = read_dataset(options.folder, queries=options.questions)
    titles = {document.id: document.title for document in data.documents}
    queries = [query for query in data.queries if any(g > 0 for g in query.gains.values())]
    async with loaded(data.documents, lambda text: print(text, file=sys.stderr)) as project:
        asked = await ask_all(project, queries, titles)
    lists = [one for one in asked if one.right.any()]
    apart = [one for one in lists if crc32(one.title.encode()) % 5 == 0]
    if len(apart) in (0, len(lists)):
        raise SystemExit("expected questions about documents of many titles: a fifth is kept apart")
    model = fit([one for one in lists if crc32(one.title.encode()) % 5])
    print(f"kept apart, {len(apart)} questions: {first_right(apart):.4f} by the plain score, "
          f"{first_right(apart, model):.4f} with trees")  # fmt: skip
    model = fit(lists)
    save(model, level(model, lists))


if __name__ == "__main__":
    asyncio.run(main())
