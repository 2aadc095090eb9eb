"""What the loops share: names of topics, and pauses between attempts."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import structlog

from penstock.clock import Clock
from penstock.errors import RetryableError

T = TypeVar("T")

logger = structlog.get_logger("penstock.runtime")


def bulk_topic(source: str) -> str:
    """The topic of a source's first load, which live changes overtake."""
    return f"{source}.bulk"


_SAID_EVERY_S: Final = 10.0


def heed_cancellation() -> None:
    """End here if this task was cancelled and something below it swallowed that, as a pool that
    had a connection in the same moment does, and ``asyncio.wait_for`` before Python 3.12. Loops
    that run for ever ask this each time round: whoever stops them would wait for ever.

    Raises `asyncio.CancelledError`.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Backoff:
    """Pauses that double up to a limit, with jitter so that many do not return at once."""

    def __init__(self, clock: Clock, *, first_s: float = 0.1, most_s: float = 10.0) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def reset(self) -> None:
        """Something went well: begin with short pauses again."""
        self._next_s = self._first_s

    def pause_s(self, asked_s: float | None = None) -> float:
        """How long the next pause is; ``asked_s`` is what the other side asked for and is kept when
        it is longer."""
        pause = self._next_s * (0.5 + random.random() / 2)
        self._next_s = min(self._next_s * 2, self._most_s)
        return max(pause, asked_s or 0.0)

    async def wait(self, asked_s: float | None = None) -> None:
        """Pause, as `pause_s` says."""
        await self.sleep(self.pause_s(asked_s))

    async def sleep(self, pause_s: float) -> None:
        """Pause for so long."""
        heed_cancellation()
        await self._clock.sleep(pause_s)


async def patiently(
    work: Callable[[], Awaitable[T]], *, limit_s: float, clock: Clock, what: str
) -> T:
    """Do this, again and again while something cannot be reached, for so long at most. Says so at
    once and then every ten seconds."""
    backoff = Backoff(clock, most_s=2.0)
    until = clock.monotonic() + limit_s
    said_at = -math.inf
    while True:
        try:
            return await work()
        except RetryableError as error:
            left = until - clock.monotonic()
            if left <= 0:
                raise
            if clock.monotonic() - said_at >= _SAID_EVERY_S:
                said_at = clock.monotonic()
                said = "ever" if left == math.inf else f"{left:.0f} s"
                logger.warning("start.waiting", what=what, limit=said, reason=str(error))
        await backoff.wait()


async def ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait until tasks have ended, however they end. A cancellation that comes meanwhile is kept
    until they have, and then goes on: were it swallowed, the loop that is cleaning up after an
    error would take the error for all there was, and try again for ever."""
    interrupted: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            interrupted = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asked for, so that nobody is warned of it
    if interrupted is not None:
        raise interrupted
