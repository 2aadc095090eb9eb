"""Hearing of appends by other processes: LISTEN on a connection of its own, never polling."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from penstock.clock import Clock
from penstock.database.connect import connect, translated
from penstock.errors import PenstockError
from penstock.records import LogPosition

CHANNEL = "penstock_log"
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class Listener:
    """One connection that listens for appends of other processes; it is opened when first needed
    and opened again, with growing pauses, whenever it is lost."""

    def __init__(
        self,
        dsn: str,
        clock: Clock,
        *,
        on_connected: Callable[[], None],
        on_notice: Callable[[str, int, LogPosition], None],
    ) -> None:
        self._dsn = dsn
        self._clock = clock
        self._on_connected = on_connected
        self._on_notice = on_notice
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        self.connected = False

    def start(self) -> None:
        """Begin to listen, unless that was done."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="listen for appends")

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            # Not awaited itself: the caller's own cancellation would look like the task's.
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        failures = 0
        while True:
            before = self.connections
            # Why it failed is told to readers by their own reads; here it is only tried again.
            with suppress(PenstockError):
                await self._listen()
            failures = 0 if self.connections > before else failures + 1
            pause = min(_FIRST_PAUSE_S * 2 ** min(failures, 10), _LONGEST_PAUSE_S)
            await self._clock.sleep(pause * random.uniform(0.5, 1))

    async def _listen(self) -> None:
        connection = await connect(self._dsn, application_name="penstock log")
        try:
            with translated():
                await connection.execute(f"LISTEN {CHANNEL}")
                # What was appended before is seen by looking, what comes later is told.
                self.connections += 1
                self.connected = True
                self._on_connected()
                async for notice in connection.notifies():
                    topic, partition, last = notice.payload.rsplit(":", 2)
                    self._on_notice(topic, int(partition), LogPosition(int(last)))
        finally:
            self.connected = False
            await connection.close()
