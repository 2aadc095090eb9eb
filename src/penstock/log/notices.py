"""Waking readers: at once within a process, by NOTIFY between processes; never by polling."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from penstock.clock import Clock
from penstock.database.connect import connect, translated
from penstock.errors import PenstockError
from penstock.log.refusals import closed
from penstock.records import LogPosition

CHANNEL = "penstock_log"
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

Partition = tuple[str, int]


class Waiters:
    """Readers that wait for a partition to grow, and the heads that were heard of."""

    def __init__(self) -> None:
        self._waiting: dict[Partition, dict[asyncio.Future[None], LogPosition]] = {}
        self._heads: dict[Partition, LogPosition] = {}
        self._error: PenstockError | None = None

    def knows(self, partition: Partition) -> bool:
        """Has a head been heard of since heads were last forgotten?"""
        return partition in self._heads

    def advance(self, partition: Partition, last: LogPosition) -> None:
        """The partition reaches to ``last``: wake those that wait for less."""
        if last >= self._heads.get(partition, -1):
            self._heads[partition] = last
            for future, after in self._waiting.get(partition, {}).items():
                if after < last and not future.done():
                    future.set_result(None)

    def wake_all(self) -> None:
        """Let everybody look for themselves, and trust no head from before."""
        self._heads.clear()
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def forget(self, topic: str) -> None:
        """The topic is gone or made anew: wake its readers so that they see."""
        for partition in [known for known in self._heads if known[0] == topic]:
            del self._heads[partition]
        for partition, futures in self._waiting.items():
            if partition[0] == topic:
                for future in futures:
                    if not future.done():
                        future.set_result(None)

    def register(self, partition: Partition, after: LogPosition) -> asyncio.Future[None]:
        """A future that is done when there is (or may be) something after ``after``."""
        if self._error is not None:
            raise self._error
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._heads.get(partition, -1) > after:
            future.set_result(None)
        else:
            self._waiting.setdefault(partition, {})[future] = after
        return future

    def unregister(self, partition: Partition, future: asyncio.Future[None]) -> None:
        """Stop waiting."""
        waiting = self._waiting.get(partition)
        if waiting is not None:
            waiting.pop(future, None)
            if not waiting:
                del self._waiting[partition]

    def close(self) -> None:
        """End all waits, now and later, with an error."""
        self._error = closed()
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(self._error)


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
            with suppress(asyncio.CancelledError):
                await self._task

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
