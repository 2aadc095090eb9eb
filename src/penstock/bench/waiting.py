"""Waiting for something to be seen, without adding much to what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from penstock.errors import FatalError


async def until(
    seen: Callable[[], Awaitable[bool]], *, limit_s: float = 60.0, every_s: float = 0.0005
) -> None:
    """Ask again and again, by default half a millisecond apart."""
    deadline = time.monotonic() + limit_s
    while not await seen():
        if time.monotonic() > deadline:
            raise FatalError(f"expected a change to be visible within {limit_s:.0f} s; it is not")
        await asyncio.sleep(every_s)
