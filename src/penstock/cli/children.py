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
    their standard input is ours to close, and the system closes it for a process that is killed.
    ``shared`` are files of ours that they get, under the same numbers."""

    def __init__(self, count: int, arguments: Sequence[str], *, shared: Sequence[int] = ()) -> None:
        self._count = count
        self._arguments = arguments
        self._shared = shared
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self) -> None:
        clock = SystemClock()
        backoff = Backoff(clock)
        while True:
            began = clock.monotonic()
            code = await self._run_once()
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
            # Ctrl-C is for this process, which then ends its children in order.
            start_new_session=True,
            pass_fds=tuple(self._shared),
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), STOP_S)
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
