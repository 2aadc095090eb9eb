"""Lanes of threads: order, turns, errors, cancellation."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from penstock.errors import BadRecordError, FatalError
from penstock.models.lanes import Lane, Lanes


async def test_results_are_in_order() -> None:
    """Each text has its result in its place, however many threads there are."""
    lane = Lane("test", str.upper, threads=3)
    texts = [f"text {i}" for i in range(100)]
    try:
        assert await lane.map(texts) == [text.upper() for text in texts]
    finally:
        lane.close()


async def test_jobs_take_turns() -> None:
    """A short job that comes later ends before a long one that came first."""
    held = threading.Event()
    done: list[str] = []

    def work(text: str) -> str:
        held.wait(10)
        done.append(text)
        return text

    lane = Lane("test", work, threads=1)
    try:
        long = asyncio.ensure_future(lane.map(["long"] * 100))
        await asyncio.sleep(0)
        short = asyncio.ensure_future(lane.map(["short"]))
        await asyncio.sleep(0)
        held.set()
        await short
        await long
    finally:
        lane.close()
    assert done.index("short") <= 16


async def test_nobody_waits_for_a_load() -> None:
    """While every thread of a load is stuck in a text, questions and live changes are answered."""
    held, stuck = threading.Event(), threading.Semaphore(0)

    def work(text: str) -> str:
        if text == "load":
            stuck.release()
            held.wait(10)
        return text

    lanes = Lanes(work, threads=2)
    load = asyncio.ensure_future(lanes.map(["load"] * 50, "bulk"))
    try:
        for _ in range(2):
            assert await asyncio.to_thread(stuck.acquire, timeout=10)
        async with asyncio.timeout(5):
            assert await lanes.map(["question"], "query") == ["question"]
            assert await lanes.map(["change"] * 3, "live") == ["change"] * 3
        assert not load.done()
        held.set()
        assert len(await load) == 50
    finally:
        held.set()
        await asyncio.to_thread(lanes.close)


async def test_an_error_reaches_its_caller_only() -> None:
    """One job fails with what its text raised; the thread lives on."""

    def work(text: str) -> str:
        if text == "bad":
            raise BadRecordError("as told")
        if text == "worse":
            raise ZeroDivisionError
        return text

    lane = Lane("test", work, threads=1)
    try:
        jobs = [lane.map(["good", text]) for text in ("bad", "worse", "fine")]
        bad, worse, fine = await asyncio.gather(*jobs, return_exceptions=True)
    finally:
        lane.close()
    assert isinstance(bad, BadRecordError)
    assert isinstance(worse, FatalError)
    assert isinstance(worse.__cause__, ZeroDivisionError)
    assert fine == ["good", "fine"]


async def test_a_cancelled_job_is_dropped() -> None:
    """Texts of a cancelled call are not worked on any more."""
    begun, held = threading.Event(), threading.Event()
    done: list[str] = []

    def work(text: str) -> str:
        begun.set()
        held.wait(10)
        done.append(text)
        return text

    lane = Lane("test", work, threads=1)
    try:
        task = asyncio.ensure_future(lane.map(["dropped"] * 1000))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        held.set()
        await lane.map(["next"])
    finally:
        lane.close()
    assert done == ["dropped", "next"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux")
async def test_bulk_threads_are_nice() -> None:
    """The niceness is the thread's, not the process's."""
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def niceness(_: str) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    lane = Lane("test", niceness, threads=1, nice=19)
    try:
        assert await lane.map(["x"]) == [19]
    finally:
        lane.close()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
