"""Move a pipeline back, so that it processes part of the log again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.database.project_lock import hold_project_alone
from penstock.errors import ConfigError
from penstock.records import LogPosition, Microseconds

if TYPE_CHECKING:
    from penstock.project import Project

_PLACES = """
SELECT c.topic, c.partition, c.position, p.first, p.last
FROM penstock.consumers c JOIN penstock.log_partitions p USING (topic, partition)
WHERE c.consumer = %s AND (%s::text IS NULL OR c.topic = %s)
ORDER BY c.topic, c.partition
"""
_MOVE = """
UPDATE penstock.consumers SET position = %s, moved_at = clock_timestamp()
WHERE consumer = %s AND topic = %s AND partition = %s
"""


async def replay(
    project: Project,
    pipeline: str,
    *,
    topic: str | None = None,
    position: int | None = None,
    time: int | None = None,
    skip: bool = False,
) -> list[dict[str, Any]]:
    """Set the consumer's positions; only while the project does not run. Ahead of where it stands a
    pipeline goes only with ``skip``: what lies between is never processed. (From a time on, a
    partition that is behind that time has nothing to repeat, and stays.)"""
    moved = []
    async with (
        hold_project_alone(project.dsn, project.settings.project),
        project.pool.connection() as connection,
        connection.transaction(),
    ):
        cursor = await connection.execute(_PLACES, [pipeline, topic, topic])
        places = await cursor.fetchall()
        if not places:
            raise ConfigError(
                f"expected a pipeline (tables, knowledge or profiles) that has read "
                f"{topic or 'a topic'!r}, got {pipeline!r}: see `penstock status`"
            )
        for found_topic, partition, stood, first, last in places:
            if time is not None:
                to = int(await project.log.seek(found_topic, partition, Microseconds(time)))
            else:
                to = int(position or 0)
            oldest = int(first) - 1
            if to < oldest and position != 0:
                raise ConfigError(
                    f"expected a position of at least {oldest} on {found_topic!r}: what was "
                    f"before is no longer in the log, got {to}"
                )
            to = min(max(to, oldest), int(last))
            if to > stood and not skip:
                if time is None:
                    raise _would_skip(pipeline, found_topic, partition, stood, to)
                to = stood
            await connection.execute(_MOVE, [LogPosition(to), pipeline, found_topic, partition])
            moved.append(
                {
                    "pipeline": pipeline,
                    "topic": found_topic,
                    "partition": partition,
                    "from": stood,
                    "to": to,
                    "end": last,
                }
            )
    return moved


def _would_skip(pipeline: str, topic: str, partition: int, stood: int, to: int) -> ConfigError:
    return ConfigError(
        f"expected a position of at most {stood} for pipeline {pipeline!r}, which is where it is "
        f"in partition {partition} of {topic!r}, got {to}: what lies between would never be "
        "processed; give an earlier position, or --skip if that is what you want",
        pipeline=pipeline,
        topic=topic,
        partition=partition,
    )
