"""How far a project is: what is in step, how fresh it is, what has stopped."""

from __future__ import annotations

import asyncio
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from penstock.errors import FatalError, UnavailableError
from penstock.principals import Principal
from penstock.records import Microseconds
from penstock.settings import DocumentSourceSettings, RowSourceSettings, Settings
from penstock.telemetry import Meters, PipelineMeter, SourceMeter, percentiles

if TYPE_CHECKING:
    from penstock.project import Project


async def caught_up(project: Project, *, limit_s: float) -> None:
    """Return when everything that the sources had committed by now can be queried.

    Raises what a source or pipeline of this process failed with, once the others are in step.
    """
    target = project.clock.now()
    deadline = time.monotonic() + limit_s
    while True:
        known = await ages(project)
        behind = [
            name
            for name in project.settings.sources
            if (reached := known.get(name)) is None or reached < target
        ]
        if not behind:
            behind = await _in_doubt(project)
        failed = failures(project.meters)
        if not set(behind) - failed.keys():
            for error in failed.values():
                raise error
            return
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"expected all sources to be in step within {limit_s:.0f} s, but "
                f"{', '.join(behind)} is not: look at `penstock status`"
            )
        await asyncio.sleep(0.02)


async def _in_doubt(project: Project) -> list[str]:
    """Sources of which tables that the project still names wait to be read again."""
    named = {
        name: [chosen.stream(table) for table in chosen.tables]
        for name, chosen in project.settings.sources.items()
        if isinstance(chosen, RowSourceSettings) and chosen.rereadable
    }
    return [
        table.source
        for table in await project.store.live_tables()
        if table.reread
        and any(fnmatchcase(table.stream, name) for name in named.get(table.source, ()))
    ]


async def ages(project: Project) -> dict[str, Microseconds | None]:
    """Per source, the time up to which everything is included (None while it loads)."""
    async with project.snapshots.snapshot(Principal(tenant=project.settings.tenant)) as snapshot:
        return {age.source: None if age.loading else age.as_of for age in await snapshot.ages()}


def failures(meters: Meters) -> dict[str, FatalError]:
    """What has stopped for good in this process, by source."""
    failed = {
        meter.topic.removesuffix(".bulk"): f"{meter.name} on {meter.topic}: {meter.last_error}"
        for meter in meters.pipelines.values()
        if meter.state == "failed"
    } | {
        meter.name: f"source {meter.name} stopped: {meter.last_error}"
        for meter in meters.sources.values()
        if meter.state == "failed"
    }
    return {name: FatalError(sentence, source=name) for name, sentence in failed.items()}


def problems(meters: Meters) -> list[str]:
    """Why this process is not ready, if it is not."""
    found: list[SourceMeter | PipelineMeter] = [
        *meters.sources.values(),
        *meters.pipelines.values(),
    ]
    wrong = [f"{m.name} is {m.state}: {m.last_error}" for m in found if m.state != "running"]
    return wrong or ([] if found else ["nothing runs yet"])


def freshness(settings: Settings, meters: Meters) -> dict[str, Any]:
    """Milliseconds from commit to visible, for rows and for documents."""
    kinds = {"rows": "tables", "documents": "knowledge"}
    documents = {
        name
        for name, chosen in settings.sources.items()
        if isinstance(chosen, DocumentSourceSettings)
    }
    found: dict[str, Any] = {}
    for kind, pipeline in kinds.items():
        samples = [
            sample
            for meter in meters.pipelines.values()
            if meter.name == pipeline and (kind == "rows" or meter.topic in documents)
            for sample in meter.freshness.samples()
        ]
        found[kind] = percentiles(samples).to_dict()
    return found


def embedding_counts(meters: Meters) -> tuple[int, int]:
    """Chunks whose vector was computed, and those whose vector was there."""
    counted = meters.pipelines.values()
    return sum(m.embedded for m in counted), sum(m.reused for m in counted)
