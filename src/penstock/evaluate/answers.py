"""Questions are answered by the real pipeline, one after the other, and each answer is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import BadRecordError, ConfigError, RetryableError
from penstock.evaluate.answer_metrics import Cited, Expected, abstention, measures
from penstock.evaluate.dataset import Query
from penstock.models.base import Usage
from penstock.principals import Principal
from penstock.serving.answer import Answer, Answerer, Citation
from penstock.serving.context import Item
from penstock.serving.items import ContextRow
from penstock.serving.values import plain
from penstock.telemetry import percentiles

MEANS: Final = (
    "exact",
    "f1",
    "holds_answer",
    "citation_precision",
    "citation_recall",
    "citation_holds_answer",
    "grounded",
)
"""The measures that are means over the questions that have them."""
_TELL_EVERY: Final = 25
_IN_A_ROW: Final = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """One question with what its answer is worth, and what it took (None: nobody knows). ``shown``
    is what the details of a result show of the answer; its context is not kept."""

    query: Query
    measures: Mapping[str, float | None]
    abstained: bool
    latency_ms: float
    usage: Usage | None
    cost: float | None
    shown: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As the details of a result show it."""
        rounded = {k: None if v is None else round(v, 6) for k, v in self.measures.items()}
        return {
            **asked(self.query),
            "measures": {**rounded, "latency_ms": self.latency_ms, "cost": self.cost},
            "abstained": self.abstained,
            **self.shown,
        }


@dataclass(frozen=True, slots=True)
class Failed:
    """A question that got no answer, and why."""

    query: Query
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As the details of a result show it: without measures."""
        return {**asked(self.query), "measures": {}, "failed": self.reason}


def asked(query: Query) -> dict[str, Any]:
    """A question and what it expects, as the details of a result show them."""
    return {
        "id": query.id,
        "question": query.text,
        "answerable": query.answerable,
        "answers": list(query.answers),
        "relevant": sorted(key for key, gain in query.gains.items() if gain > 0),
    }


def judgeable(queries: Sequence[Query]) -> list[Query]:
    """The questions that say what they expect."""
    return [
        query
        for query in queries
        if query.answers or query.answerable is not None or any(g > 0 for g in query.gains.values())
    ]


async def answer_all(
    queries: Sequence[Query],
    answerer: Answerer,
    tell: Callable[[str], None],
    *,
    principal: Principal,
    limit: int,
) -> list[Judged | Failed]:
    """Ask one question after the other, as a user would. ``limit``: the passages of a context.

    One that fails does not cost the others their answers. The first one's failure is raised; after
    five in a row the rest is not asked, and what was answered is kept."""
    found: list[Judged | Failed] = []
    failures = 0
    for number, query in enumerate(queries, 1):
        try:
            answer = await answerer.answer(query.text, principal, where=query.where, limit=limit)
        except (RetryableError, BadRecordError, ConfigError) as error:
            failures += 1
            if failures == number:
                raise
            tell(f"question {query.id} failed: {error}")
            found.append(Failed(query, str(error)))
            if failures == _IN_A_ROW:
                rest = queries[number:]
                tell(f"{failures} in a row failed: the other {len(rest):,} are not asked")
                return [*found, *(Failed(query, "not asked") for query in rest)]
        else:
            failures = 0
            found.append(judge(query, answer))
        if number % _TELL_EVERY == 0 or number == len(queries):
            tell(f"answered {number:,} of {len(queries):,} questions")
    return found


def judge(query: Query, answer: Answer) -> Judged:
    """What one answer is worth. Extraction costs nothing; a model says what its answer cost, where
    it is known."""
    relevant = {key for key, gain in query.gains.items() if gain > 0}
    expected = Expected(query.answers, relevant, query.answerable)
    found = measures(
        answer.text,
        [_cited(answer, citation) for citation in answer.citations],
        expected,
        abstained=answer.abstained,
    )
    usage = answer.usage
    cost = usage.cost if usage else 0.0 if answer.generator == "extractive" else None
    return Judged(
        query,
        found,
        answer.abstained,
        answer.timings_ms.get("total", 0.0),
        usage,
        cost,
        {
            "answer": answer.text,
            "score": round(answer.score, 4),
            "citations": [
                {"number": c.number, "key": c.key, "place": c.place, "quote": c.quote}
                for c in answer.citations
            ],
        },
    )


def summary(found: Sequence[Judged | Failed]) -> dict[str, Any]:
    """All figures of some answers; questions that failed are counted, and are in no other."""
    judged = [one for one in found if isinstance(one, Judged)]
    said = [j for j in judged if j.query.answerable is not None]
    told = abstention([(bool(j.query.answerable), j.abstained) for j in said])
    return {
        "questions": len(found),
        "failed": len(found) - len(judged),
        "answerable": sum(j.query.answerable is True for j in judged),
        "unanswerable": sum(j.query.answerable is False for j in judged),
        "abstained": sum(j.abstained for j in judged),
        "answers": {name: _mean([j.measures[name] for j in judged]) for name in MEANS},
        **({"abstention": told} if told else {}),
        "latency_ms": _latency(judged),
        "cost": _cost(judged),
    }


def _latency(judged: Sequence[Judged]) -> dict[str, float | None]:
    found = percentiles([j.latency_ms for j in judged])
    return {"p50": found.p50, "p95": found.p95, "p99": found.p99}


def _cost(judged: Sequence[Judged]) -> dict[str, Any]:
    """Of the questions whose cost is known; tokens of those whose endpoint reported them."""
    known = [j.cost for j in judged if j.cost is not None]
    used = [j.usage for j in judged if j.usage is not None]
    return {
        "per_question": sum(known) / len(known) if known else None,
        "questions_known": len(known),
        "input_tokens": sum(usage.input_tokens or 0 for usage in used),
        "output_tokens": sum(usage.output_tokens or 0 for usage in used),
    }


def _cited(answer: Answer, citation: Citation) -> Cited:
    """The citation with the text of the passage, or the values of the row, that it names."""
    item = next(_named(answer, citation), None)
    return Cited(citation.key, citation.quote, citation.quote if item is None else _text(item))


def _named(answer: Answer, citation: Citation) -> Iterator[Item]:
    for item in answer.context.items:
        if (item.source, item.key) != (citation.source, citation.key):
            continue
        if (
            isinstance(item, ContextRow)
            or citation.start is None
            or item.start <= citation.start < item.end
        ):
            yield item


def _text(item: Item) -> str:
    if isinstance(item, ContextRow):
        facts = ", ".join(f"{name} {plain(value)}" for name, value in item.values.items())
        return f"{item.title}: {facts}"
    return item.text


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None
