"""Watching the way from the sources: what their systems keep for us, before it fills or is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from penstock.errors import PenstockError
from penstock.sources.base import Health, Source, WatchedSource
from penstock.telemetry import Meters, SourceMeter

logger = structlog.get_logger("penstock.health")

EVERY_S = 5.0
"""So that what is lost is named within 10 s, also while nothing is read."""


class HealthWatch:
    """Looks at each source that can be watched; `look` is a chore. Says what has changed, once."""

    def __init__(
        self,
        sources: Callable[[], Sequence[Source]],
        meters: Meters,
        parked: Callable[[str], Awaitable[dict[str, str]]],
    ) -> None:
        """``sources`` gives those that this process reads now, ``parked`` the streams of one that
        are left out, with the reasons."""
        self._sources = sources
        self._meters = meters
        self._parked = parked
        self._said: dict[str, tuple[str, str]] = {}

    async def look(self) -> None:
        """Ask each source, note it in its meter, and log when it became better or worse."""
        for source in self._sources():
            name = source.name
            if not isinstance(source, WatchedSource):
                continue
            self._meters.source(name).parked = await self._parked(name)
            try:
                health = await source.health()
            except PenstockError:
                continue  # the loop that reads it says so
            if health is not None:
                self._note(self._meters.source(name), health)

    def _note(self, meter: SourceMeter, health: Health) -> None:
        meter.retained_bytes, meter.retained_budget_bytes = (
            health.retained_bytes,
            health.budget_bytes,
        )
        meter.health, meter.health_message = health.level, health.message
        before, _ = self._said.get(meter.name, ("ok", ""))
        if health.level == before:
            return
        self._said[meter.name] = (health.level, health.message)
        say = {"ok": logger.info, "warning": logger.warning, "error": logger.error}[health.level]
        say(
            "source.health",
            source=meter.name,
            level=health.level,
            reason=health.message,
            mend=health.mend,
            retained_bytes=health.retained_bytes,
        )
