"""``penstock eval retrieval``: a dataset, loaded into a database of its own and measured."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from penstock import wiring
from penstock.bench.world import scratch_folder
from penstock.config import parse_settings
from penstock.evaluate.dataset import TITLE, CorpusDocument, expect_field, read_dataset
from penstock.evaluate.metrics import hit, summary
from penstock.evaluate.retrieval import (
    RERANKED,
    SOURCE,
    Rankings,
    abstention,
    judge_answers,
    load_corpus,
    rank,
    time_contexts,
)
from penstock.pipelines.base import Tools
from penstock.project import Project, open_project
from penstock.records import Change
from penstock.stores.postgres.merging import merge_postings
from penstock.stores.postgres.vector_index import maintain


async def evaluate_dataset(
    dataset: Path,
    *,
    queries: int | None = None,
    embedder: str = "minilm",
    filter_field: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure a dataset in the BEIR layout; progress goes to standard error unless ``quiet``.

    ``filter_field`` names what questions and documents share: a question is then asked of those
    documents only. Without it that is done by title, where questions have one.
    """
    data = read_dataset(dataset, queries=queries, filter_field=filter_field or TITLE)
    if filter_field is not None:
        expect_field(data, filter_field)
    tell = _silent if quiet else _tell
    async with loaded(data.documents, tell, embedder=embedder) as project:
        snapshots, model = project.snapshots, project.embedder()
        rankings = await rank(data, snapshots, model, tell, reranker=project.reranker())
        builder = project.contexts()
        latency = await time_contexts(data.queries, builder, project.clock)
        tell("answering a sample of the questions")
        answers = await judge_answers(data.queries, project.answerer())
        return {
            **{mode: summary(ranked) for mode, ranked in rankings.items()},
            **_filtered(filter_field, rankings),
            "latency_ms": latency,
            "chunks": await _count(project, b"SELECT count(*) FROM penstock.chunks"),
            "documents": await _count(project, b"SELECT count(*) FROM penstock.documents"),
            **({"answers": answers} if answers else {}),
            **({"abstention": told} if (told := abstention(data.queries, answers)) else {}),
        }


@asynccontextmanager
async def loaded(
    documents: Sequence[CorpusDocument], tell: Callable[[str], None], *, embedder: str = "minilm"
) -> AsyncIterator[Project]:
    """A project of its own that holds these documents; gone afterwards."""
    with scratch_folder() as folder:
        (folder / "documents").mkdir()
        text = (
            f"project: evaluation\ndata: {folder}/data\nserver: {{port: 0}}\n"
            f"knowledge: {{embedder: {embedder}}}\n"
            f"sources:\n  {SOURCE}: {{type: files, path: {folder}/documents}}\n"
        )
        settings = parse_settings(text, file=folder / "penstock.yaml", environment={})
        async with open_project(settings=settings) as project:
            await load_corpus(documents, _loader(project), tell)
            await _settle(project)
            yield project


def _filtered(field: str | None, rankings: Rankings) -> dict[str, Any]:
    if field is None:
        return {}
    best = rankings.get(RERANKED, rankings["hybrid"])
    found = [hit(ranking, gains, at=5) for ranking, gains in best]
    return {"filter": {"field": field, "hit@5": round(sum(found) / max(1, len(found)), 4)}}


def _loader(project: Project) -> Callable[[Sequence[Change]], Any]:
    pipeline = wiring.courses(project.settings)[0].pipeline
    tools = Tools(project.embedder(), project.store, "bulk")

    async def load(changes: Sequence[Change]) -> None:
        outcome = await pipeline.compute(changes, tools)
        async with project.store.transaction() as transaction:
            for effect in outcome.effects:
                await transaction.apply(effect)

    return load


async def _settle(project: Project) -> None:
    """What else happens behind the writers: posting lists merged, the vector index built."""
    async with project.pool.connection() as connection:
        after = ""
        for _ in range(1000):
            merged = await merge_postings(connection, after=after)
            if merged.idle:
                break
            after = merged.after
        await maintain(connection)
        await connection.execute("ANALYZE")


async def _count(project: Project, statement: bytes) -> int:
    async with project.pool.connection() as connection:
        cursor = await connection.execute(statement)
        [(number,)] = await cursor.fetchall()
        return int(number)


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def _silent(text: str) -> None:
    del text
