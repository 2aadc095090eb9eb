"""Dead letters: look at them, try them again, throw them away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock import wiring
from penstock.errors import BadRecordError, ConfigError
from penstock.pipelines.base import Pipeline, Tools
from penstock.records import (
    DOCUMENT_COLUMNS,
    DOCUMENTS,
    UNREADABLE,
    Change,
    Op,
    document_schema,
)
from penstock.sources.base import ComparableDocuments, RecordKeepingSource

if TYPE_CHECKING:
    from penstock.project import Project
    from penstock.stores.postgres.dead_letters import BuriedLetter


async def listed(project: Project, *, limit: int = 50) -> list[dict[str, Any]]:
    """The newest dead letters, a line each."""
    return [_line(buried) for buried in await project.store.dead_letters(limit=limit)]


async def shown(project: Project, number: int) -> dict[str, Any]:
    """One dead letter with the change that it holds."""
    found = await project.store.dead_letters([number])
    if not found:
        raise ConfigError(_none([number]))
    change = found[0].letter.change
    after = None
    if change.after is not None:
        after = {n: str(v) for n, v in zip(change.schema.names, change.after, strict=True)}
    return {
        **_line(found[0]),
        "op": change.op.name.lower(),
        "stream": change.schema.stream,
        "position": change.position,
        "topic": found[0].letter.topic,
        "log_position": found[0].letter.log_position,
        "after": after,
    }


async def drop(project: Project, numbers: Sequence[int] | None) -> dict[str, int]:
    """Throw some away, or all."""
    dropped = await project.store.drop_letters(numbers)
    if numbers and not dropped:
        raise ConfigError(_none(numbers))
    return {"dropped": dropped}


async def retry(project: Project, numbers: Sequence[int] | None) -> dict[str, int]:
    """Process some again, or all, oldest first; those that succeed are no dead letters any more.

    A document is read from its folder once more, a record that could not be read is decoded once
    more. The position stays that of the letter, so what has come since is never overwritten. Safe
    beside a running project.
    """
    found = await project.store.dead_letters(numbers)
    if numbers and not found:
        raise ConfigError(_none(numbers))
    counts = {"processed": 0, "failed again": 0}
    for buried in reversed(found):
        done = await _retry_one(project, buried)
        counts["processed" if done else "failed again"] += 1
    return counts


async def _retry_one(project: Project, buried: BuriedLetter) -> bool:
    letter = buried.letter
    pipeline = _pipeline(project, letter.pipeline, letter.change.schema.source)
    changes = await _again(project, letter.change)
    outcome = await pipeline.compute(changes, Tools(project.embedder(), project.store, "live"))
    if outcome.rejected:
        return False
    store = wiring.publishing(project.settings, project.store)
    try:
        async with project.store.transaction() as transaction:
            for effect in outcome.effects:
                await store.within(transaction).apply(effect)
            await transaction.drop_letters([buried.id])
    except BadRecordError:
        return False
    finally:
        await store.close()
    return True


async def _again(project: Project, change: Change) -> Sequence[Change]:
    """What the letter's change would be now: a document, and a record, are read again."""
    stream = change.schema.stream
    if (stream != DOCUMENTS or change.op is Op.DELETE) and stream != UNREADABLE:
        return [change]
    source = project.source(change.schema.source)
    try:
        if stream == UNREADABLE and isinstance(source, RecordKeepingSource):
            return await source.read_again(change)
        if stream == UNREADABLE or not isinstance(source, ComparableDocuments):
            return [change]
        row = await source.reread(str(change.key[0]))
    finally:
        await source.close()
    if row is None:
        return [change._replace(after=None, op=Op.DELETE)]
    schema = document_schema(change.schema.source, listed=len(row) > len(DOCUMENT_COLUMNS))
    return [change._replace(schema=schema, after=row)]


def _pipeline(project: Project, name: str, source: str) -> Pipeline:
    for course in wiring.courses(project.settings):
        if (course.pipeline.name, course.source) == (name, source):
            return course.pipeline
    raise ConfigError(
        f"expected the source {source!r} of a dead letter to be in the project file, it is not: "
        "put it back, or drop the letter"
    )


def _line(buried: BuriedLetter) -> dict[str, Any]:
    letter = buried.letter
    return {
        "id": buried.id,
        "buried_at": _moment(buried.buried_at),
        "pipeline": letter.pipeline,
        "source": letter.change.schema.source,
        "key": "/".join(str(part) for part in letter.change.key),
        "attempts": buried.attempts,
        "reason": letter.reason,
    }


def _moment(microseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")


def _none(numbers: Sequence[int]) -> str:
    wanted = ", ".join(map(str, numbers))
    return (
        f"expected a dead letter with the number {wanted}, found none: "
        "see `penstock dead-letters list`"
    )
