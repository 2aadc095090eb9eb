"""What lies outside the project's database: topics that were published to, and a log in Kafka.

Those who were published to are told: each record of the subject is deleted there, too, as a
deletion at its source would be. Where a topic is compacted, that takes its earlier messages away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from penstock import wiring
from penstock.errors import BadRecordError, FatalError, RetryableError
from penstock.log.embedded import EmbeddedLog
from penstock.pipelines.publish import PublishPipeline
from penstock.records import Change, Microseconds, Op, Position
from penstock.stores.postgres.erasing.rows import key_parts
from penstock.stores.postgres.live_tables import LiveTable, all_tables
from penstock.subjects import Subject

if TYPE_CHECKING:
    from penstock.project import Project

PUBLISHED: Final = (
    "what was published of them was followed by {deletions} deletions in {destination}: its topics "
    "forget the earlier messages where they are compacted, and by their retention elsewhere"
)
NOT_TOLD: Final = (
    "{destination} could not be told of {deletions} deletions ({reason}): what was published of "
    "them is still in its topics"
)
IN_KAFKA: Final = (
    "the log is in Kafka: its records cannot be redacted in place. They are suppressed when they "
    "are read, and go with the retention of their topics (`log.keep`), or with `--trim-log`"
)
TRIMMED: Final = (
    "{records} records, all that was processed, were removed from the log in Kafka: nobody can "
    "read them, and brokers delete a file once its segment is full or as old as `segment.ms`"
)
NOT_IN_KAFKA: Final = (
    "expected --trim-log with a log in Kafka, this project's is in its database: there they are "
    "taken out in place"
)


async def tell_published(project: Project, subject: Subject) -> tuple[list[str], list[str]]:
    """Publish that the subject's records are deleted; returns what was said, and what is left to
    the operator. Done again, it says the same again."""
    pipelines = [
        course.pipeline
        for course in wiring.courses(project.settings)
        if isinstance(course.pipeline, PublishPipeline)
    ]
    if not pipelines:
        return [], []
    async with project.pool.connection() as connection:
        tables = await all_tables(connection)
    now = Microseconds(time.time_ns() // 1000)
    told, failed = [], []
    store = wiring.publishing(project.settings, project.store)
    try:
        for pipeline in pipelines:
            changes = [
                change
                for table in tables
                if table.source in pipeline.topics
                for change in _deletions(table, subject, now)
            ]
            outcome = pipeline.publish(changes)
            said = {
                "destination": pipeline.destination,
                "deletions": len(changes) - len(outcome.rejected),
            }
            try:
                async with store.transaction() as transaction:
                    for effect in outcome.effects:
                        await transaction.apply(effect)
            except (RetryableError, FatalError, BadRecordError) as error:
                failed.append(NOT_TOLD.format(**said, reason=error))
                continue
            if outcome.effects:
                told.append(PUBLISHED.format(**said))
    finally:
        await store.close()
    return told, failed


def _deletions(table: LiveTable, subject: Subject, now: Microseconds) -> Iterator[Change]:
    """Where keys are too long to be kept, nobody knows them any more."""
    schema = table.schema
    for name in subject.of(table.source, table.stream):
        parts = key_parts(name, len(schema.key_indexes))
        if parts is not None:
            yield Change(schema, Op.DELETE, tuple(parts), Position(""), now)


async def in_kafka(project: Project, *, trims: bool) -> list[str]:
    """What is left to the operator of a log that cannot be redacted; ``trims``: what was processed
    is removed from it."""
    if isinstance(project.log, EmbeddedLog):
        return []
    if not trims:
        return [IN_KAFKA]
    now = project.clock.now()
    topics = {info.topic for info in await project.log.describe()}
    removed = [await project.log.trim(topic, before=now) for topic in sorted(topics)]
    return [TRIMMED.format(records=sum(removed))]
