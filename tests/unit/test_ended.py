"""Cleaning up after an error does not swallow the wish to stop."""

from __future__ import annotations

import asyncio

import pytest

from penstock.errors import UnavailableError
from penstock.runtimes.base import ended


async def test_a_cancellation_while_tasks_end_goes_on_after_they_ended() -> None:
    """What is waited for is not torn, and whoever waits is cancelled all the same, although
    an error was on its way."""
    finish = asyncio.Event()
    finished: list[str] = []

    async def commit() -> None:
        await finish.wait()
        finished.append("commit")

    async def loop() -> None:
        committing = asyncio.create_task(commit())
        try:
            try:
                raise UnavailableError("gone")
            finally:
                await ended([committing])
        except UnavailableError:
            finished.append("tried again")

    looping = asyncio.create_task(loop())
    await asyncio.sleep(0)
    looping.cancel()
    await asyncio.sleep(0)
    assert not looping.done()
    finish.set()
    with pytest.raises(asyncio.CancelledError):
        await looping
    assert finished == ["commit"]


async def test_errors_of_what_ended_are_not_raised() -> None:
    """They were told where they belong, or nobody asked for the result any more."""

    async def fail() -> None:
        raise UnavailableError("gone")

    failed = asyncio.create_task(fail())
    stopped = asyncio.create_task(asyncio.Event().wait())
    stopped.cancel()
    await ended([failed, stopped])
    assert failed.done()
    assert stopped.cancelled()
