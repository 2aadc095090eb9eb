"""A cancellation of the caller goes on, also while it waits for something that it has cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from penstock.clock import SystemClock
from penstock.log.notices import Listener
from penstock.runtimes.embedded import _stop


async def lingering(end: asyncio.Event) -> None:
    """Takes its time to end when it is cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        await end.wait()


async def stop_a_task(task: asyncio.Task[None]) -> None:
    await _stop([task])


async def close_a_listener(task: asyncio.Task[None]) -> None:
    listener = Listener("", SystemClock(), on_connected=lambda: None, on_notice=lambda *_: None)
    listener._task = task
    await listener.close()


@pytest.mark.parametrize("stopping", [stop_a_task, close_a_listener])
async def test_a_cancellation_while_something_is_stopped_is_not_swallowed(
    stopping: Callable[[asyncio.Task[None]], Awaitable[None]],
) -> None:
    """Else the caller would go on as if nobody had told it to end."""
    end = asyncio.Event()
    task = asyncio.create_task(lingering(end))
    await asyncio.sleep(0)
    went_on = False

    async def caller() -> None:
        nonlocal went_on
        await stopping(task)
        went_on = True

    calling = asyncio.create_task(caller())
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.sleep(0)
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert not went_on
    await asyncio.wait([task])
