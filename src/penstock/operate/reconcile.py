"""``penstock reconcile``: what was lost or added behind our back in the stores, found and repaired.

Chunks that are not whole (no vector, wrong words) are taken away, and their documents are made
again from the log: exactly the way by which they came. Second stores are compared with the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from penstock import wiring
from penstock.operate.replay import replay
from penstock.stores.postgres import reconcile as knowledge
from penstock.stores.second.comparing import SecondStoreReport, compare

if TYPE_CHECKING:
    from penstock.project import Project


@dataclass
class ReconcileReport:
    """What was found, and what is left after a repair (None: nothing was repaired)."""

    chunks: int = 0
    found: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] | None = None
    named: list[str] = field(default_factory=list)
    dead_postings: int = 0
    seconds: float = 0.0
    stores: list[SecondStoreReport] = field(default_factory=list)
    advice: str = ""

    @property
    def wrong(self) -> int:
        """What is wrong and not repaired."""
        inside = sum((self.found if self.left is None else self.left).values())
        return inside + sum(s.differences for s in self.stores if not s.repaired)

    def to_dict(self) -> dict[str, Any]:
        """As ``penstock reconcile --json`` prints it."""
        return {"wrong": self.wrong, **asdict(self)}


async def reconcile(
    project: Project, *, repair: bool = False, progress: Callable[[str], None] = lambda _: None
) -> ReconcileReport:
    """Look at everything; with ``repair``, put it right and look again. Repairing the knowledge
    base needs the project for itself: `penstock run` is stopped meanwhile."""
    began = monotonic()
    tenant = project.settings.tenant
    faults = await knowledge.find_faults(project.pool, tenant=tenant, progress=progress)
    report = ReconcileReport(
        faults.chunks, faults.counts(), None, faults.named(), faults.dead_postings
    )
    if repair and faults.total:
        await _repair(project, faults, progress)
        left = await knowledge.find_faults(project.pool, tenant=tenant, progress=progress)
        report.left = left.counts()
        if left.broken_documents:
            report.named = left.named()
            report.advice = (
                "the log no longer holds these documents: save a file again, or run "
                "`penstock resync SOURCE` for rows"
            )
    for follower in wiring.followers(project.settings, project.pool):
        progress(f"second store {follower.name}")
        try:
            report.stores.append(await compare(project.pool, follower, repair=repair))
        finally:
            await follower.close()
    report.seconds = round(monotonic() - began, 3)
    return report


async def _repair(
    project: Project, faults: knowledge.KnowledgeFaults, progress: Callable[[str], None]
) -> None:
    tenant = project.settings.tenant
    await knowledge.take_away(project.pool, faults, tenant=tenant)
    again = await knowledge.find_faults(project.pool, tenant=tenant)
    if not again.broken_documents:
        return
    progress("making documents again from the log")
    topics = {
        topic
        for course in wiring.courses(project.settings)
        if course.pipeline.name == "knowledge"
        and course.source in knowledge.sources_of(again.broken_documents)
        for topic in course.topics
    }
    for topic in sorted(topics):
        await replay(project, "knowledge", topic=topic, position=0)
    async with project.running():
        await project.caught_up()
