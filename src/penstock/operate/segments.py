"""Segments of profiles for a person who looks, and bringing them to what is known now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from penstock import wiring
from penstock.database.connect import translated
from penstock.errors import ConfigError
from penstock.stores.details import SegmentEvent, SegmentMember
from penstock.stores.postgres.profiles.segments import Segments, events_of, members_of

if TYPE_CHECKING:
    from penstock.project import Project


def segments_of(project: Project) -> list[Segments]:
    """The segments of each kind of profile."""
    settings = project.settings
    return [
        Segments(
            project.pool,
            settings.tenant,
            kind,
            wiring.details_of(settings, kind),
            project.clock,
        )
        for kind in settings.profiles
    ]


async def look_at_segments(segments: Sequence[Segments]) -> None:
    """Bring memberships to what is known now."""
    for one in segments:
        await one.step()


async def segment_members(
    project: Project, kind: str | None, name: str, *, after: str = "", limit: int = 100
) -> list[SegmentMember]:
    """Who is in a segment, behind an id."""
    chosen = _kind(project, kind, name)
    async with _connected(project) as connection:
        tenant = project.settings.tenant
        found = await members_of(connection, tenant, chosen, name, after=after, limit=limit)
    return found or []


async def segment_events(
    project: Project, kind: str | None, name: str, *, after: str = "", limit: int = 100
) -> list[SegmentEvent]:
    """Who entered and left a segment, behind a number."""
    if after and not after.isdecimal():
        raise ConfigError(f"expected the number of an event after which to begin, got {after!r}")
    chosen = _kind(project, kind, name)
    async with _connected(project) as connection:
        tenant, number = project.settings.tenant, int(after or 0)
        return await events_of(connection, tenant, chosen, name, after=number, limit=limit)


def _kind(project: Project, kind: str | None, name: str) -> str:
    """The kind that has the segment."""
    kinds = project.settings.profiles
    having = [k for k, said in kinds.items() if name in said.segments and kind in (None, k)]
    if len(having) != 1:
        known = sorted({segment for said in kinds.values() for segment in said.segments})
        raise ConfigError(
            f"expected one of the segments {', '.join(known) or '(there are none)'}"
            f"{' and --kind' if having else ''}, got {name!r}"
        )
    return having[0]


@asynccontextmanager
async def _connected(project: Project) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    with translated():
        async with project.pool.connection() as connection:
            yield connection
