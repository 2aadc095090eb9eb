"""How a project is doing: one report, stored by who runs it, read by whoever asks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from psycopg.rows import dict_row

from penstock.database.project_lock import is_project_locked
from penstock.errors import PenstockError
from penstock.principals import Principal
from penstock.serving.values import iso
from penstock.sources.base import PARKED, Health, WatchedSource
from penstock.telemetry import Meters

if TYPE_CHECKING:
    from penstock.project import Project

_POSITIONS = """
SELECT c.consumer, c.topic, c.partition, c.position, c.source, c.source_position, c.as_of,
       greatest(p.last - c.position, 0) AS lag
FROM penstock.consumers c
LEFT JOIN penstock.log_partitions p USING (topic, partition)
ORDER BY c.consumer, c.topic, c.partition
"""
_COUNTS = """
SELECT (SELECT count(*) FROM penstock.documents WHERE deleted_at IS NULL AND stream IS NULL)
           AS documents,
       (SELECT count(*) FROM penstock.chunks) AS chunks,
       (SELECT count(*) FROM penstock.vectors) AS vectors,
       (SELECT count(*) FROM penstock.dead_letters) AS dead_letters,
       pg_database_size(current_database()) AS database_bytes
"""
_REPORTS = """
SELECT report FROM penstock.run_reports
WHERE updated_at > clock_timestamp() - %s * interval '1 second' ORDER BY updated_at DESC
"""
_STORE_REPORT = """
WITH old AS (
    DELETE FROM penstock.run_reports WHERE updated_at < clock_timestamp() - interval '1 hour'
)
INSERT INTO penstock.run_reports (instance, report) VALUES (%s, %s)
ON CONFLICT (instance) DO UPDATE SET report = excluded.report, updated_at = clock_timestamp()
"""
_STATES = ["failed", "waiting", "starting", "running", "stopped"]
_PARKED = """
SELECT substr(name, length(p.prefix) + 1), value
FROM penstock.producer_state, (VALUES (%s::text, %s::text)) p (producer, prefix)
WHERE producer_state.producer = p.producer AND starts_with(name, p.prefix)
ORDER BY 1
"""
REPORT_FRESH_S = 30.0
"""A report that is older was left by a process that is gone."""


def meters_report(meters: Meters) -> dict[str, Any]:
    """What one process counted, as JSON."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "sources": [
            {
                "source": meter.name,
                "state": meter.state,
                "changes": meter.changes,
                "errors": meter.errors,
                "last_error": meter.last_error,
                "position": meter.position,
                "copies": meter.copies,
                "health": meter.health,
                "health_message": meter.health_message,
                "parked": meter.parked,
            }
            for meter in meters.sources.values()
        ],
        "pipelines": [
            {
                "pipeline": meter.name,
                "topic": meter.topic,
                "state": meter.state,
                "changes": meter.changes,
                "errors": meter.errors,
                "last_error": meter.last_error,
                "embedded": meter.embedded,
                "reused": meter.reused,
                "dead_letters": meter.dead_letters,
                "freshness_ms": meter.freshness.percentiles().to_dict(),
                "waiting": [
                    {"partition": partition, **asdict(waiting)}
                    for partition, waiting in sorted(meter.waiting.items())
                ],
            }
            for meter in meters.pipelines.values()
        ],
    }


async def store_report(project: Project) -> None:
    """Leave this process's report where `status` finds it."""
    ends = {(info.topic, info.partition): info.last for info in await project.log.describe()}
    for meter in project.meters.pipelines.values():
        end = sum(last for (topic, _), last in ends.items() if topic == meter.topic)
        if project.settings.log.partitions == 1:  # a meter holds the place of one partition only
            meter.lag = max(0, end - meter.position)
    models = await usable_models(project)
    report = orjson.dumps({**meters_report(project.meters), "models": models}).decode()
    async with project.pool.connection() as connection:
        await connection.execute(_STORE_REPORT, [project.worker, report])


async def usable_models(project: Project) -> list[str]:
    """Those of the stored models that this process can use: before another one is taken into use,
    every running process must have said so."""
    wanted = [model.name for model in await project.models().models() if model.role != "unused"]
    embedder = project.embedder()
    found = [name for name in wanted if await asyncio.to_thread(embedder.known, name) is not None]
    return sorted({*found, embedder.name})


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several workers reported, as one; the newest report comes first."""
    sources: dict[str, dict[str, Any]] = {}
    pipelines: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        for source in report["sources"]:
            known = sources.get(source["source"])
            if known is None or (known["state"], source["state"]) == ("stopped", "running"):
                sources[source["source"]] = dict(source)
        for pipeline in report["pipelines"]:
            name = (pipeline["pipeline"], pipeline["topic"])
            pipelines[name] = _together(pipelines.get(name), pipeline)
    return {
        "sources": list(sources.values()),
        "pipelines": list(pipelines.values()),
        "workers": [f"pid {report['pid']} on {report['host']}" for report in reports],
    }


def _together(one: dict[str, Any] | None, other: Mapping[str, Any]) -> dict[str, Any]:
    """Two workers' parts of one pipeline on one topic: sums, and the state that needs a look."""
    if one is None:
        return dict(other)
    counted = ("changes", "errors", "embedded", "reused", "dead_letters")
    worse = min(one, other, key=lambda part: _STATES.index(part["state"]))
    samples = max(one, other, key=lambda part: part["freshness_ms"]["samples"])
    return {
        **one,
        **{name: one[name] + other[name] for name in counted},
        "state": worse["state"],
        "last_error": worse["last_error"],
        "freshness_ms": samples["freshness_ms"],
        "waiting": [*one.get("waiting", ()), *other.get("waiting", ())],
    }


async def status(project: Project) -> dict[str, Any]:
    """Positions, ages and counts from the stores, and what the running process reports."""
    async with project.pool.connection() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        positions = await (await cursor.execute(_POSITIONS)).fetchall()
        counts = await (await cursor.execute(_COUNTS)).fetchone()
        stored = await (await cursor.execute(_REPORTS, [REPORT_FRESH_S])).fetchall()
        running = await is_project_locked(connection, project.settings.project)
    report = merged([row["report"] for row in stored]) if running else {}
    now = project.clock.now()
    async with project.snapshots.snapshot(Principal(tenant=project.settings.tenant)) as snapshot:
        ages = {age.source: age for age in await snapshot.ages()}
    sources = []
    for name, settings in project.settings.sources.items():
        live: dict[str, Any] = next(
            (s for s in report.get("sources", []) if s["source"] == name), {}
        )
        known = ages.get(name)
        sources.append(
            {
                "source": name,
                "type": settings.type,
                "state": live.get("state", "not running"),
                "changes": live.get("changes"),
                "position": known.position if known else None,
                "age_ms": (now - known.as_of) / 1000 if known and known.as_of else None,
                "loading": known.loading if known else True,
                "copies": live.get("copies", []),
                **await _health(project, name),
                "parked": await parked_streams(project, name),
                "last_error": live.get("last_error"),
            }
        )
    pipelines = []
    for place in positions:
        live = next(
            (
                p
                for p in report.get("pipelines", [])
                if (p["pipeline"], p["topic"]) == (place["consumer"], place["topic"])
            ),
            {},
        )
        pipelines.append(
            {
                "pipeline": place["consumer"],
                "topic": place["topic"],
                "partition": place["partition"],
                "position": place["position"],
                "lag": place["lag"],
                "state": live.get("state", "not running"),
                "changes": live.get("changes"),
                "embedded": live.get("embedded"),
                "reused": live.get("reused"),
                "freshness_ms": live.get("freshness_ms"),
                "last_error": live.get("last_error"),
                "waiting": waiting_texts(live, place["partition"]),
            }
        )
    return {
        "project": project.settings.project,
        "running": running,
        "workers": report.get("workers", []),
        "sources": sources,
        "pipelines": pipelines,
        **(counts or {}),
    }


def waiting_texts(live: Mapping[str, Any], partition: int) -> dict[str, Any] | None:
    """The texts of a partition that wait for an endpoint: how many, since when, why, and when they
    are tried again."""
    for waiting in live.get("waiting", ()):
        if waiting["partition"] == partition:
            return {
                "texts": waiting["texts"],
                "since": iso(waiting["since"]),
                "tries": waiting["tries"],
                "next_try": iso(waiting["next_try"]),
                "reason": waiting["reason"],
            }
    return None


async def is_running(project: Project) -> bool:
    """Does a process carry this project's changes at the moment?"""
    if project.meters.sources:
        return True
    async with project.pool.connection() as connection:
        return await is_project_locked(connection, project.settings.project)


async def _health(project: Project, name: str) -> dict[str, Any]:
    """How the way from a source stands, asked now; unknown when it cannot say."""
    source = project.source(name)
    health: Health | None = None
    try:
        if isinstance(source, WatchedSource):
            health = await source.health()
    except PenstockError as error:
        return {
            "retained_wal_bytes": None,
            "health": {"level": "warning", "message": str(error), "mend": ""},
        }
    finally:
        await source.close()
    return {
        "retained_wal_bytes": None if health is None else health.retained_bytes,
        "health": None
        if health is None
        else {
            "level": health.level,
            "message": health.message,
            "mend": health.mend,
            "budget_bytes": health.budget_bytes,
            **health.facts,
        },
    }


async def parked_streams(project: Project, name: str) -> dict[str, str]:
    """Tables of a source that are left out until somebody mends them, with the reason."""
    async with project.pool.connection() as connection:
        cursor = await connection.execute(_PARKED, [name, PARKED])
        return dict(await cursor.fetchall())
