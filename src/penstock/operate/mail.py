"""Documents that are pushed to another process than the one that carries their source.

A process that serves the API alone reads them, puts them where this one is told of them, and waits
for the answer (`penstock.wiring.pushing.MailedInlet`). Here they are given to the source in the
order in which they came, as if they had been pushed here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from penstock import wiring
from penstock.clock import Clock
from penstock.database.connect import connect, translated
from penstock.errors import PenstockError
from penstock.operate.status import is_running
from penstock.runtimes.base import Backoff
from penstock.sources.push import Parcel
from penstock.stores.postgres.pushes import CHANNEL, PostgresPushes
from penstock.stores.pushes import Mail
from penstock.wiring.pushing import SourceInlet

if TYPE_CHECKING:
    from penstock.project import Project

_LOOK_S: Final = 1.0
"""How often it is looked, beside being told."""
_MOST_AT_ONCE: Final = 100

logger = structlog.get_logger("penstock.mail")


class Mailroom:
    """Gives sources of this process what others were sent for them."""

    def __init__(
        self, dsn: str, pushes: PostgresPushes, inlets: Sequence[SourceInlet], clock: Clock
    ) -> None:
        self._dsn = dsn
        self._pushes = pushes
        self._inlets = {inlet.source.name: inlet for inlet in inlets}
        self._clock = clock
        self._delivering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """For ever; what cannot be reached is waited for."""
        backoff = Backoff(self._clock)
        try:
            while True:
                try:
                    await self._follow(backoff)
                except PenstockError as error:
                    logger.warning("mail.waiting", reason=str(error))
                    await backoff.wait()
        finally:
            for task in self._delivering:
                task.cancel()
            await asyncio.gather(*self._delivering, return_exceptions=True)

    async def _follow(self, backoff: Backoff) -> None:
        connection = await connect(self._dsn, application_name="penstock mail")
        try:
            with translated():
                await connection.execute(f"LISTEN {CHANNEL}")
            backoff.reset()
            while True:
                while await self._take():
                    pass
                with translated():
                    async for _ in connection.notifies(timeout=_LOOK_S, stop_after=1):
                        pass
        finally:
            await connection.close()

    async def _take(self) -> bool:
        """Whether there may be more."""
        reading = [name for name, inlet in self._inlets.items() if inlet.source.reading]
        if not reading:
            return False
        taken = await self._pushes.take(reading, _MOST_AT_ONCE)
        for mail in taken:
            task = asyncio.create_task(self._deliver(mail), name=f"mail {mail.id}")
            self._delivering.add(task)
            task.add_done_callback(self._delivering.discard)
        return len(taken) == _MOST_AT_ONCE

    async def _deliver(self, mail: Mail) -> None:
        """Tasks begin in order, and come to the inbox before they first wait."""
        answer = await self._inlets[mail.source].put(Parcel.from_bytes(mail.parcel), once=mail.once)
        try:
            await self._pushes.settle(mail.id, answer)
        except PenstockError as error:  # the sender sends it again, and its id tells
            logger.warning("mail.unanswered", source=mail.source, reason=str(error))


def mailroom(project: Project) -> Mailroom | None:
    """That of a process that carries sources to push to."""
    inlets = [inlet for inlet in project.inlets.values() if isinstance(inlet, SourceInlet)]
    if not inlets:
        return None
    pushes = wiring.pushes(project.settings, project.pool)
    return Mailroom(project.dsn, pushes, inlets, project.clock)


@contextlib.asynccontextmanager
async def mailing(project: Project) -> AsyncIterator[None]:
    """Take pushes for the process that runs, while the block runs."""

    async def carried() -> bool:
        return await is_running(project)

    async with wiring.mailed_inlets(
        project.settings, project.pool, project.clock, carried
    ) as inlets:
        project.inlets.update(inlets)
        try:
            yield
        finally:
            for name in inlets:
                project.inlets.pop(name, None)
