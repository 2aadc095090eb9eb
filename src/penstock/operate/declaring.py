"""Bringing kinds of profiles to what the project file says now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from penstock import wiring
from penstock.operate.segments import segments_of
from penstock.pipelines.profiles import NAME
from penstock.stores.postgres.profiles.rereading import KindRereading, keep_only

if TYPE_CHECKING:
    from penstock.project import Project

logger = structlog.get_logger("penstock.profiles")


async def declare_profiles(project: Project) -> None:
    """Make the kinds of profiles known; where the rules of one have changed, read its rows anew.
    Only by the one run of a project, before anything of it runs."""
    settings = project.settings
    kinds = wiring.profile_rules(settings)
    topics = {source for rules in kinds.values() for source, _ in rules.tables}
    for kind in await keep_only(project.pool, settings.tenant, kinds, NAME, topics):
        logger.info("profiles.taken_away", kind=kind)
    for kind, rules in kinds.items():
        allow, deny = wiring.profile_readers(settings, kind)
        rereading = KindRereading(project.pool, settings.tenant, kind, rules, NAME)
        count = await rereading.run(allow=allow, deny=deny)
        if count:
            logger.info("profiles.reread", kind=kind, rows=count)
    for segments in segments_of(project):
        await segments.declare()
