"""``penstock eval retrieval`` and ``eval answers``: over a dataset, loaded into a database of its
own, or over questions about the documents of a project."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock import wiring
from penstock.bench.world import scratch_folder
from penstock.config import parse_settings, read_settings
from penstock.errors import ConfigError
from penstock.evaluate.answers import answer_all, asked, judgeable
from penstock.evaluate.answers import summary as answers_summary
from penstock.evaluate.dataset import (
    TITLE,
    CorpusDocument,
    Dataset,
    Query,
    expect_field,
    fingerprint,
    read_dataset,
    sampled,
)
from penstock.evaluate.metrics import hit, measures, summary
from penstock.evaluate.questions import read_questions
from penstock.evaluate.retrieval import (
    RERANKED,
    SOURCE,
    Rankings,
    abstention,
    judge_answers,
    load_corpus,
    rank,
    time_contexts,
    with_judgements,
)
from penstock.pipelines.base import Tools
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.records import Change
from penstock.settings import Settings
from penstock.settings.models import ExtractiveSettings, GatewaySettings
from penstock.stores.postgres.merging import merge_postings
from penstock.stores.postgres.vector_index import maintain

_FIRST = 5
"""So many of the documents that were found are kept in the details."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured. Either ``dataset``, with the ``embedder`` or with models and settings
    ``like`` those of a project file; or ``questions`` about the documents of the project in
    ``project``, asked by ``principal``. ``sample``: so many questions by chance."""

    dataset: Path | None = None
    questions: Path | None = None
    project: Path | None = None
    principal: Principal = field(default_factory=Principal)
    like: Path | None = None
    embedder: str = "minilm"
    queries: int | None = None
    filter_field: str | None = None
    sample: int | None = None
    seed: int = 1
    details: bool = False
    quiet: bool = False

    def read(self) -> Dataset:
        """The documents, if they are of a dataset, and the questions."""
        if self.questions is not None:
            return Dataset([], read_questions(self.questions)[: self.queries])
        if self.dataset is None:
            raise ConfigError("expected a dataset or a file of questions, got neither")
        data = read_dataset(
            self.dataset, queries=self.queries, filter_field=self.filter_field or TITLE
        )
        if self.filter_field is not None:
            expect_field(data, self.filter_field)
        return data

    def opened(self, data: Dataset) -> AbstractAsyncContextManager[Project]:
        """The project that is asked."""
        if self.questions is not None:
            return open_project(self.project or "penstock.yaml")
        return loaded(data.documents, self.tell, embedder=self.embedder, like=self.like)

    def tell(self, text: str) -> None:
        """Progress, on standard error."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    def say_left_out(self, queries: Sequence[Query], kept: Sequence[Query]) -> None:
        """Of questions of one's own: that some do not say what they expect."""
        if self.questions is not None and len(kept) < len(queries):
            self.tell(
                f"note: {len(queries) - len(kept)} of {len(queries)} questions do not say what "
                "they expect, and are left out"
            )

    def about(self, kind: str, data: Dataset, queries: Sequence[Query], project: Project) -> Any:
        """What a result is of: what results must have in common to be compared."""
        named = self.questions or self.dataset
        settings = project.settings
        return {
            "kind": kind,
            "dataset": "" if named is None else named.resolve().name,
            "documents": fingerprint(data.documents) if data.documents else None,
            "questions": fingerprint(queries),
            "seed": self.seed if self.sample is not None else None,
            "settings": {
                "knowledge": settings.knowledge.model_dump(
                    mode="json", exclude_defaults=True, exclude={"stores"}
                ),
                "answers": settings.answers.model_dump(mode="json", exclude_defaults=True),
            },
        }


async def evaluate_dataset(
    dataset: Path,
    *,
    queries: int | None = None,
    embedder: str = "minilm",
    filter_field: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure retrieval on a dataset in the BEIR layout; progress goes to standard error unless
    ``quiet``.

    ``filter_field`` names what questions and documents share: a question is then asked of those
    documents only. Without it that is done by title, where questions have one.
    """
    return await evaluate_retrieval(
        Asked(dataset, embedder=embedder, queries=queries, filter_field=filter_field, quiet=quiet)
    )


async def evaluate_retrieval(wanted: Asked) -> dict[str, Any]:
    """How well questions find their documents."""
    data = wanted.read()
    queries = sampled(data.queries, wanted.sample, wanted.seed)
    judged = with_judgements(queries)
    if not judged:
        raise ConfigError(
            "expected at least one question that names the documents it should find, got none: "
            "give 'relevant' (in a dataset: qrels/*.tsv)"
        )
    wanted.say_left_out(queries, judged)
    async with wanted.opened(data) as project:
        principal = replace(wanted.principal, tenant=project.settings.tenant)
        missing = await _check(wanted, project, data.queries, principal)
        rankings = await rank(
            judged,
            project.snapshots,
            project.embedder(),
            wanted.tell,
            reranker=project.reranker(),
            principal=principal,
        )
        builder = project.contexts()
        latency = await time_contexts(queries, builder, project.clock, principal=principal)
        answers: dict[str, Any] = {}
        if isinstance(project.settings.answers.generator, ExtractiveSettings):
            wanted.tell("answering a sample of the questions")
            answers = await judge_answers(queries, project.answerer().unkept(), principal=principal)
        else:  # a model's answers cost: they are only had where they were asked for
            wanted.tell("note: answers are not measured here: see `penstock eval answers`")
        return {
            **{mode: summary(ranked) for mode, ranked in rankings.items()},
            **_filtered(wanted.filter_field, rankings),
            "latency_ms": latency,
            "chunks": await _count(project, b"SELECT count(*) FROM penstock.chunks"),
            "documents": await _count(project, b"SELECT count(*) FROM penstock.documents"),
            **({"answers": answers} if answers else {}),
            **({"abstention": told} if (told := abstention(queries, answers)) else {}),
            **missing,
            "about": wanted.about("retrieval", data, judged, project),
            **({"details": _details(judged, rankings)} if wanted.details else {}),
        }


async def evaluate_answers(wanted: Asked) -> dict[str, Any]:
    """How good the answers to questions are, what they cite, and what they take."""
    data = wanted.read()
    queries = sampled(kept := judgeable(data.queries), wanted.sample, wanted.seed)
    if not queries:
        raise ConfigError(
            "expected at least one question that says what it expects, got none: give 'answers', "
            "'answerable' or the documents that answer it"
        )
    wanted.say_left_out(data.queries, kept)
    async with wanted.opened(data) as project:
        principal = replace(wanted.principal, tenant=project.settings.tenant)
        missing = await _check(wanted, project, data.queries, principal)
        limit, generator = project.settings.answers.passages, project.settings.answers.generator
        # The first question also loads the model: that is not what a question takes.
        await project.contexts().context(queries[0].text, principal, where=queries[0].where)
        wanted.tell(f"answering {len(queries):,} questions by {generator.type}")
        found = await answer_all(
            queries,
            project.answerer().unkept(),
            wanted.tell,
            principal=principal,
            limit=limit,
        )
        return {
            **answers_summary(found),
            "generator": _generator(project.settings),
            **missing,
            "about": wanted.about("answers", data, queries, project),
            **({"details": [one.to_dict() for one in found]} if wanted.details else {}),
        }


def _generator(settings: Settings) -> str:
    chosen = settings.answers.generator
    if isinstance(chosen, ExtractiveSettings):
        return chosen.type
    if isinstance(chosen, GatewaySettings):
        return " -> ".join(settings.generators[name].model for name in chosen.chain)
    makers = {"anthropic": "anthropic", "converse": "bedrock"}
    return f"{makers.get(chosen.type, 'openai')}/{chosen.model}"


def _details(judged: Sequence[Query], rankings: Rankings) -> list[dict[str, Any]]:
    """Per question all measures and the first documents, by mode."""
    return [
        {
            **asked(query),
            "measures": {
                f"{mode} {name}": round(value, 6)
                for mode, ranked in rankings.items()
                for name, value in measures(*ranked[place]).items()
            },
            "found": {mode: ranked[place][0][:_FIRST] for mode, ranked in rankings.items()},
        }
        for place, query in enumerate(judged)
    ]


async def _check(
    wanted: Asked, project: Project, queries: Sequence[Query], principal: Principal
) -> dict[str, Any]:
    """Of questions about a project: that their filters are by fields that there are, and which of
    the documents that they expect are not there."""
    if wanted.questions is None:
        return {}
    async with project.snapshots.snapshot(principal) as snapshot:
        known = [
            TITLE,
            *(await snapshot.fields() if any(q.where.metadata for q in queries) else ()),
        ]
    for query in queries:
        for name in query.where.metadata:
            if name not in known:
                raise ConfigError(
                    f"{wanted.questions}, question {query.id}: expected 'where' to name a field of "
                    f"the documents, got {name!r}: they have source, path, {', '.join(known)}"
                )
    expected = sorted({key for query in queries for key in query.gains})
    async with project.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT DISTINCT key FROM penstock.documents WHERE tenant = %s AND key = ANY(%s)",
            [principal.tenant, expected],
        )
        there = {key for (key,) in await cursor.fetchall()}
    missing = [key for key in expected if key not in there]
    if missing:
        wanted.tell(
            f"note: {len(missing)} of the {len(expected)} expected documents are not in the "
            f"knowledge base, for example {missing[0]!r}"
        )
    return {"missing_documents": missing} if missing else {}


@asynccontextmanager
async def loaded(
    documents: Sequence[CorpusDocument],
    tell: Callable[[str], None],
    *,
    embedder: str = "minilm",
    like: Path | None = None,
) -> AsyncIterator[Project]:
    """A project of its own that holds these documents; gone afterwards. ``like``: with the models,
    knowledge and answers of this project file."""
    with scratch_folder() as folder:
        (folder / "documents").mkdir()
        text = (
            f"project: evaluation\ndata: {folder}/data\nserver: {{port: 0}}\n"
            f"knowledge: {{embedder: {embedder}}}\n"
            f"sources:\n  {SOURCE}: {{type: files, path: {folder}/documents}}\n"
        )
        settings = parse_settings(text, file=folder / "penstock.yaml", environment={})
        if like is not None:
            settings = _alike(settings, read_settings(like))
        async with open_project(settings=settings) as project:
            await load_corpus(documents, _loader(project), tell)
            await _settle(project)
            yield project


def _alike(settings: Settings, other: Settings) -> Settings:
    """With what decides how is found and answered. A second store would be the other project's own
    place: it is not written to."""
    knowledge = other.knowledge.model_copy(update={"stores": {}, "search": "postgres"})
    return settings.model_copy(
        update={
            "models": other.models,
            "knowledge": knowledge,
            "answers": other.answers,
            "folder": other.folder,
        }
    )


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
