"""Two models on the same questions: what each finds, how much of it is the same, which is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from penstock.errors import ConfigError, RetryableError
from penstock.models.base import Embedder, question_vectors
from penstock.principals import Principal
from penstock.serving.retrieval import retrieve

if TYPE_CHECKING:
    from penstock.project import Project

K: Final = 10
_MOST: Final = 500
_HEADINGS: Final = """
SELECT DISTINCT heading FROM (
    SELECT c.heading FROM penstock.chunks c WHERE c.tenant = %s AND c.heading <> ''
    ORDER BY md5(c.hash::text) LIMIT 1000) sampled
ORDER BY heading LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, with the keys of the documents that answer it where they are known."""

    text: str
    relevant: frozenset[str] = frozenset()


def read_questions(path: Path) -> list[Question]:
    """A file of questions: one a line, or JSON lines ``{"question": ..., "relevant": [keys]}``."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a readable file of questions at {str(path)!r}, got: {error}"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            found.append(Question(line.strip()))
            continue
        try:
            entry = orjson.loads(line)
            found.append(
                Question(str(entry["question"]), frozenset(map(str, entry.get("relevant") or ())))
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(
                f'{path}, line {number}: expected {{"question": ..., "relevant": [...]}}, got '
                f"{line[:80]!r}"
            ) from error
    return found[:_MOST]


async def stand_ins(project: Project, most: int = 100) -> list[Question]:
    """Headings of the documents, for want of questions: they say what people look for, roughly."""
    async with project.pool.connection() as connection:
        cursor = await connection.execute(_HEADINGS, [project.settings.tenant, most])
        return [Question(heading.rsplit(" > ", 1)[-1]) for (heading,) in await cursor.fetchall()]


async def compare(
    project: Project, questions: Sequence[Question], before: Embedder | None, after: Embedder
) -> dict[str, Any]:
    """The share of the ten best passages that both find, and how often a right document is among
    the first 1, 5 and 10."""
    found: dict[str, list[tuple[list[int], list[str]]]] = {}
    for name, embedder in (("before", before), ("after", after)):
        if embedder is not None and questions:
            found[name] = await _found(project, questions, embedder)
    result: dict[str, Any] = {"questions": len(questions)}
    if len(found) == 2:
        shares = [
            len({*one[0]} & {*other[0]}) / max(1, len(one[0]))
            for one, other in zip(found["before"], found["after"], strict=True)
            if one[0]
        ]
        result["overlap@10"] = _mean(shares)
    judged = [place for place, question in enumerate(questions) if question.relevant]
    if judged:
        result["judged"] = len(judged)
        for name, ranked in found.items():
            result[name] = _hits([(ranked[p][1], questions[p].relevant) for p in judged])
    return result


def _hits(ranked: Sequence[tuple[list[str], frozenset[str]]]) -> Mapping[str, float | None]:
    return {
        f"hit@{k}": _mean([float(bool({*keys[:k]} & relevant)) for keys, relevant in ranked])
        for k in (1, 5, 10)
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


async def _found(
    project: Project, questions: Sequence[Question], embedder: Embedder
) -> list[tuple[list[int], list[str]]]:
    """For each question the best chunks, and their documents without repetition."""
    vectors = await question_vectors(embedder, [q.text for q in questions], priority="bulk")
    found = []
    async with project.snapshots.snapshot(Principal(tenant=project.settings.tenant)) as snapshot:
        for question, vector in zip(questions, vectors, strict=True):
            retrieved = await retrieve(
                snapshot, question.text, vector, model=embedder.name, limit=K, mode="vector"
            )
            passages = retrieved.passages
            keys = list(dict.fromkeys(passage.key for passage in passages))
            found.append(([passage.chunk for passage in passages[:K]], keys[:K]))
    return found


async def before_and_after(
    project: Project, questions: Sequence[Question], after: Embedder
) -> dict[str, Any]:
    """Compare with the model that is searched now, if this process can use it."""
    try:
        before: Embedder | None = await project.embedder().serving()
    except RetryableError:
        before = None
    return await compare(project, questions, before, after)
