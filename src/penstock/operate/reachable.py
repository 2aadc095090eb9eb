"""Whether the project's database answers, for whoever asks often."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

import structlog

from penstock.clock import Clock
from penstock.database.connect import connect, translated
from penstock.errors import PenstockError

_LASTS_S: Final = 1.0
"""How long an answer counts: anybody may ask for it."""
_WITHIN_S: Final = 2.0
_AWAY: Final = "the database does not answer"

logger = structlog.get_logger("penstock.api")


class Reachable:
    """Asks on a connection of its own: one that waits for a place in the pool would take a busy
    server for one that is away. ``dsn`` gives the address, which may change while it restarts."""

    def __init__(self, dsn: Callable[[], str], clock: Clock) -> None:
        self._dsn = dsn
        self._clock = clock
        self._asking = asyncio.Lock()
        self._at = -math.inf
        self._problem: str | None = None
        self._suspected = False

    @property
    def doubted(self) -> bool:
        """Whether it was away when it was last asked, or seems to be since."""
        return self._suspected or self._problem is not None

    def suspect(self) -> None:
        """Something could not be done just now."""
        if not self._suspected and self._problem is None:
            self._suspected = True
            self._at = -math.inf

    async def __call__(self) -> str | None:
        """Why it is not; None while it is."""
        async with self._asking:
            if self._clock.monotonic() - self._at >= _LASTS_S:
                self._problem = await self._ask()
                self._suspected = False
                self._at = self._clock.monotonic()
            return self._problem

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                connection = await connect(self._dsn(), application_name="penstock readiness")
                try:
                    with translated():
                        await connection.execute("SELECT 1")
                finally:
                    await connection.close()
        except (PenstockError, TimeoutError) as error:
            if self._problem is None:  # where it is, is for the log, not for whoever asks
                logger.warning("database.away", reason=str(error) or f"over {_WITHIN_S:g} s")
            return _AWAY
        return None
