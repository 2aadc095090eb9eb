"""Repair a source's part of the stores by comparison: only rows that differ are carried again.

First everything that the log holds is processed, so that both sides can be compared; then each
difference goes through the log like any change, at a position later than all before, and is
processed. Whoever is stopped on the way begins again; what was repaired stays so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from penstock import wiring
from penstock.database.project_lock import hold_project_lock
from penstock.errors import ConfigError
from penstock.operate.erasing import finish_pending, suppression
from penstock.operate.running import Running
from penstock.runtimes.process import Processor
from penstock.settings import RowSourceSettings
from penstock.sources.base import RepairableSource, RepairStep
from penstock.stores.postgres.repair import PostgresLiveSide
from penstock.subjects import Screen
from penstock.wiring.courses import searched_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.project import Project

logger = structlog.get_logger("penstock.resync")


@dataclass
class RepairedTable:
    """What was found of one table: ``equal`` of ``compared`` rows needed nothing."""

    stream: str
    compared: int = 0
    expected: int = 0
    upserts: int = 0
    deletes: int = 0
    done: bool = False
    note: str = ""


@dataclass
class Resynced:
    """What a repair did. ``slot`` says why the way was begun anew; "" when it was whole."""

    source: str
    slot: str = ""
    tables: list[RepairedTable] = field(default_factory=list)
    embedded: int = 0
    reused: int = 0
    seconds: float = 0.0

    @property
    def differences(self) -> int:
        """Rows that were put right."""
        return sum(table.upserts + table.deletes for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """As ``penstock resync --json`` prints it."""
        return {**asdict(self), "differences": self.differences}


async def resync(
    project: Project,
    name: str,
    *,
    tables: Sequence[str] = (),
    on_step: Callable[[Resynced], None] = lambda _: None,
) -> Resynced:
    """Repair one source; only while the project does not run."""
    chosen = project.settings.sources.get(name)
    if chosen is None:
        raise ConfigError(
            f"expected the name of a source ({', '.join(project.settings.sources)}), got {name!r}"
        )
    source = wiring.source(project.settings, name, project.clock)
    if not isinstance(source, RepairableSource) or not isinstance(chosen, RowSourceSettings):
        await source.close()
        raise ConfigError(
            f"expected a source that can be compared row by row, got {name!r} of type "
            f"{chosen.type!r}: a folder is compared by itself when the project runs"
        )
    searched = {stream: row.used for stream, row in searched_rows(chosen).items()}
    live = PostgresLiveSide(project.pool, name, searched, tenant=project.settings.tenant)
    began = time.monotonic()
    result = Resynced(name)
    await finish_pending(project)
    screen = (await suppression(project)).screen
    async with await hold_project_lock(project.dsn, project.settings.project):
        running = Running(project)
        await running.create_topics()
        await _process(project, running, name, screen)
        producer = await project.log.open_producer(name)
        streams = [chosen.stream(table) for table in tables] or None
        try:
            async with aclosing(source.repair(producer.state, streams, live)) as steps:
                async for step in steps:
                    batch = step.batch
                    if batch.changes or batch.state or batch.as_of is not None:
                        await producer.append(
                            name, screen(batch.changes), state=batch.state, as_of=batch.as_of
                        )
                    _count(result, step)
                    on_step(result)
        finally:
            await source.close()
        before = project.embedding_counts()
        await _process(project, running, name, screen)
        after = project.embedding_counts()
        await live.compared([table.stream for table in result.tables if table.done])
    project.meters.sources.pop(name, None)  # what it failed with is mended
    result.embedded, result.reused = after[0] - before[0], after[1] - before[1]
    result.seconds = round(time.monotonic() - began, 3)
    logger.info("source.resynced", **result.to_dict())
    return result


def _count(result: Resynced, step: RepairStep) -> None:
    if not step.stream:
        result.slot = step.note or result.slot
        return
    if not result.tables or result.tables[-1].stream != step.stream:
        result.tables.append(RepairedTable(step.stream))
    table = result.tables[-1]
    table.compared, table.expected = step.compared, step.expected
    table.upserts, table.deletes, table.done = step.upserts, step.deletes, step.done
    table.note = step.note or table.note


async def _process(project: Project, running: Running, source: str, screen: Screen) -> None:
    """Everything that the log holds of this source, through all of its pipelines."""
    for course in wiring.courses(project.settings):
        if course.source != source:
            continue
        for topic in course.topics:
            for partition in range(project.settings.log.partitions):
                work = running.work(course, topic, partition)
                processor = Processor(
                    work.assignment,
                    project.log,
                    project.store,
                    work.tools,
                    clock=project.clock,
                    meter=project.meters.pipeline(course.pipeline.name, topic),
                    settings=work.settings,
                    screen=screen,
                )
                while await processor.step():
                    pass
