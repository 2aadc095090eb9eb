"""How well questions find their documents, how quickly, and how honest the answers are."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import orjson

from penstock.clock import Clock
from penstock.evaluate.dataset import CorpusDocument, Query
from penstock.evaluate.metrics import Gains, best_per_document
from penstock.models.base import Embedder, question_vectors, serving
from penstock.principals import Principal
from penstock.records import Change, Microseconds, Op, Position, document_schema
from penstock.serving.answer import Answer, Answerer
from penstock.serving.context import ContextBuilder
from penstock.serving.reranking import Ranked, Reranker
from penstock.serving.retrieval import Mode, again, fuse
from penstock.stores.base import Snapshot, SnapshotStore
from penstock.telemetry import percentiles

SOURCE: Final = "corpus"
MODES: Final[tuple[Mode, ...]] = ("vector", "text", "hybrid")
RERANKED: Final = "reranked"
NOBODY: Final = Principal()
"""Nobody in particular, who may see what everybody may."""
CANDIDATES: Final = 50
TIMED: Final = 300
"""Questions that are timed one by one on the full path, embedding included."""
ANSWERED: Final = 400
"""Questions that are answered, of each kind (answerable, not answerable)."""
_BATCH: Final = 256

Rankings: TypeAlias = dict[str, list[tuple[list[str], Gains]]]
"""By mode: for each question the documents, best first, and the judgements."""
Load = Callable[[Sequence[Change]], Awaitable[None]]
"""Brings changes of documents through the pipeline into the store."""


async def load_corpus(
    documents: Sequence[CorpusDocument], load: Load, tell: Callable[[str], None]
) -> None:
    """Load a corpus as the documents of one source, whose keys are the ids of the corpus."""
    for start in range(0, len(documents), _BATCH):
        batch = documents[start : start + _BATCH]
        await load([_change(start + i, document) for i, document in enumerate(batch)])
        tell(f"loaded {start + len(batch):,} of {len(documents):,} documents")


def _change(number: int, document: CorpusDocument) -> Change:
    text = document.text
    metadata = orjson.dumps(dict(document.metadata)).decode()
    row = (
        document.id,
        document.title,
        "text/plain",
        text,
        "",
        str(len(text)),
        None,
        metadata,
        None,
    )
    return Change(
        document_schema(SOURCE),
        Op.READ,
        (document.id,),
        Position(f"{number:016x}"),
        Microseconds(1),
        after=row,
    )


def with_judgements(queries: Sequence[Query]) -> list[Query]:
    """The questions of which it is known which documents they should find."""
    return [query for query in queries if any(g > 0 for g in query.gains.values())]


async def rank(
    queries: Sequence[Query],
    snapshots: SnapshotStore,
    embedder: Embedder,
    tell: Callable[[str], None],
    *,
    reranker: Reranker | None = None,
    principal: Principal = NOBODY,
) -> Rankings:
    """All judged questions by vector, by words and by both, and in the order that the reranker
    makes of that."""
    embedder = await serving(embedder)
    judged = with_judgements(queries)
    modes = (*MODES, RERANKED) if reranker is not None else MODES
    rankings: Rankings = {mode: [] for mode in modes}
    async with snapshots.snapshot(principal) as snapshot:
        keys = _Keys(snapshot)
        for start in range(0, len(judged), _BATCH):
            batch = judged[start : start + _BATCH]
            texts = [query.text for query in batch]
            vectors = await question_vectors(embedder, texts, priority="bulk")
            for query, vector in zip(batch, vectors, strict=True):
                hits = await snapshot.candidates(
                    vector,
                    query.text,
                    limit=CANDIDATES,
                    where=query.where,
                    model=embedder.name,
                )
                names = await keys.of([hit.chunk for hit in hits])
                orders: dict[str, Ranked] = {mode: fuse(hits, mode) for mode in MODES}
                if reranker is not None:
                    found = await again(orders["hybrid"], reranker, query.text, snapshot)
                    orders[RERANKED] = found[0]
                for mode, order in orders.items():
                    ranked = [(names[hit.chunk], score) for hit, score in order]
                    rankings[mode].append((best_per_document(ranked), query.gains))
            tell(f"asked {start + len(batch):,} of {len(judged):,} questions")
    return rankings


class _Keys:
    """The documents of chunks, each looked up once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._known: dict[int, str] = {}

    async def of(self, chunks: Sequence[int]) -> dict[int, str]:
        missing = [chunk for chunk in chunks if chunk not in self._known]
        for passage in await self._snapshot.passages(missing):
            self._known[passage.chunk] = passage.key
        return {chunk: self._known[chunk] for chunk in chunks}


async def time_contexts(
    queries: Sequence[Query],
    builder: ContextBuilder,
    clock: Clock,
    *,
    principal: Principal = NOBODY,
) -> dict[str, float | None]:
    """Milliseconds from a question to its assembled context, embedding included."""
    sample = _sample(queries, TIMED + 20)
    times = []
    for query in sample:
        began = clock.monotonic()
        await builder.context(query.text, principal, where=query.where)
        times.append((clock.monotonic() - began) * 1000)
    found = percentiles(times[20:] or times)
    return {"p50": found.p50, "p95": found.p95, "p99": found.p99}


async def judge_answers(
    queries: Sequence[Query], answerer: Answerer, *, principal: Principal = NOBODY
) -> dict[str, Any]:
    """How often the cited text contains an answer, and how often it rightly answers or abstains."""
    with_answer = _sample([q for q in queries if q.answerable and q.answers], ANSWERED)
    without = _sample([q for q in queries if q.answerable is False], ANSWERED)
    report: dict[str, Any] = {}
    if with_answer:
        answers = [await _ask(query, answerer, principal) for query in with_answer]
        given = [not answer.abstained for answer in answers]
        right = [
            _contains(answer, query) for query, answer in zip(with_answer, answers, strict=True)
        ]
        report |= {
            "answerable_questions": len(with_answer),
            "answered_when_answerable": _share(given),
            "cited_text_contains_answer": _share(right),
            "contains_answer_when_answered": _share(
                [ok for ok, was_given in zip(right, given, strict=True) if was_given]
            ),
        }
    if without:
        answers = [await _ask(query, answerer, principal) for query in without]
        report |= {
            "unanswerable_questions": len(without),
            "abstained_when_unanswerable": _share([answer.abstained for answer in answers]),
        }
    return report


def abstention(queries: Sequence[Query], answers: Mapping[str, Any]) -> dict[str, float] | None:
    """How well it is told which questions have no answer: F1 of abstaining, and the share of
    answerable questions that are refused. The shares of the sample stand for all questions; None
    where there are no questions of one kind."""
    if not {"answered_when_answerable", "abstained_when_unanswerable"} <= answers.keys():
        return None
    refused = 1 - float(answers["answered_when_answerable"])
    told = float(answers["abstained_when_unanswerable"])
    with_answer = sum(bool(query.answerable and query.answers) for query in queries)
    without = sum(query.answerable is False for query in queries)
    right, wrong, missed = told * without, refused * with_answer, (1 - told) * without
    f1 = 2 * right / (2 * right + wrong + missed)
    return {"f1": round(f1, 4), "answerable_refused": round(refused, 4)}


async def _ask(query: Query, answerer: Answerer, principal: Principal) -> Answer:
    return await answerer.answer(query.text, principal, where=query.where)


def _contains(answer: Answer, query: Query) -> bool:
    cited = _plain(" ".join(citation.quote for citation in answer.citations))
    return any(_plain(text) in cited for text in query.answers if _plain(text).strip())


def _plain(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def _sample(queries: Sequence[Query], most: int) -> list[Query]:
    """A fixed random choice, so that two runs ask the same."""
    if len(queries) <= most:
        return list(queries)
    return random.Random(1).sample(list(queries), most)
