"""Processes of our own program that live as long as this one, and are started again if they die."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

import structlog

from penstock.clock import SystemClock
from penstock.runtimes.base import Backoff

STOP_S: Final = 20.0
_LONG_S: Final = 30.0

logger = structlog.get_logger("penstock.workers")


class Children:
    """``count`` processes that run a command of ours. They end with this one, however it ends:
    their standard input is ours to close, and the system closes it for a process that is killed."""

    def __init__(
        self,
        count: int,
        arguments: Sequence[str],
        *,
        descriptors: Sequence[int] = (),
        stop_s: float = STOP_S,
    ) -> None:
        """``descriptors`` are open in them, too; ``stop_s`` is how long their end may take."""
        self._count = count
        self._arguments = arguments
        self._descriptors = descriptors
        self._stop_s = stop_s
        self._processes: set[asyncio.subprocess.Process] = set()
        self._ending = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    def end(self) -> None:
        """Tell them to end, and go on; leaving the block waits until they have."""
        self._ending.set()
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.terminate()

    async def _keep(self) -> None:
        clock = SystemClock()
        backoff = Backoff(clock)
        while not self._ending.is_set():
            began = clock.monotonic()
            code = await self._run_once()
            if self._ending.is_set():
                return
            logger.warning("worker.ended", code=code)
            if clock.monotonic() - began > _LONG_S:
                backoff.reset()
            await backoff.wait()

    async def _run_once(self) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "penstock.cli", *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=self._descriptors,
            # Ctrl-C is for this process, which then ends its children in order.
            start_new_session=True,
        )
        self._processes.add(process)
        try:
            return await process.wait()
        finally:
            self._processes.discard(process)
            if process.returncode is None:
                await _end(process, self._stop_s)


async def _end(process: asyncio.subprocess.Process, stop_s: float) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), stop_s)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def parent_gone() -> None:
    """Return when the process that started this one has closed our standard input, or died."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
