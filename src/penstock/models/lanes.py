"""Threads for work on texts, in lanes that do not wait for each other.

Each priority has threads of its own; those of bulk work are nice, so the operating system gives the
processor to a question or a change that just happened within a fraction of a millisecond. Within a
lane jobs take turns, a few texts at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from penstock.errors import FatalError, PenstockError
from penstock.models.base import Priority

T = TypeVar("T")
_SLICE = 8
_NICE = 10


class _Job(Generic[T]):
    """Texts of one call, handed out in slices; the caller waits for ``future``."""

    def __init__(self, texts: Sequence[str], work: Callable[[str], T], slice_: int) -> None:
        self.texts = texts
        self.work = work
        self.results: list[T | None] = [None] * len(texts)
        self.slice = slice_
        self.taken = 0
        self.done = 0
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[T]] = self.loop.create_future()

    @property
    def over(self) -> bool:
        """Nothing is left to hand out, or nobody waits any more."""
        return self.taken >= len(self.texts) or self.future.done()

    def finish(self, error: BaseException | None) -> None:
        """Tell the caller, in the loop's own thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, error)
        except RuntimeError:
            return  # the loop has ended: nobody waits

    def _settle(self, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.results)  # type: ignore[arg-type]  # all are filled


class Lane(Generic[T]):
    """Some threads that apply one function to texts."""

    def __init__(self, name: str, work: Callable[[str], T], *, threads: int, nice: int = 0) -> None:
        self._work = work
        self._nice = nice
        self._jobs: deque[_Job[T]] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"penstock-{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def map(self, texts: Sequence[str], work: Callable[[str], T] | None = None) -> list[T]:
        """The function (or another, ``work``) applied to each text, in order. Cancelling it drops
        what was not begun."""
        share = -(-len(texts) // len(self._threads))
        job: _Job[T] = _Job(texts, work or self._work, max(1, min(_SLICE, share)))
        with self._ready:
            if self._closed:
                raise FatalError("expected an open embedder, got one that was closed")
            self._jobs.append(job)
            self._ready.notify(min(len(self._threads), len(texts)))
        return await job.future

    def close(self) -> None:
        """End the threads; who still waits gets an error. Returns when the last one has ended."""
        with self._ready:
            self._closed = True
            left = list(self._jobs)
            self._jobs.clear()
            self._ready.notify_all()
        for job in left:
            job.finish(FatalError("the embedder was closed while texts were waiting"))
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        _be_nice(self._nice)
        while (taken := self._take()) is not None:
            job, start, end = taken
            try:
                for number in range(start, end):
                    if job.future.done():
                        break
                    job.results[number] = job.work(job.texts[number])
            except PenstockError as error:
                job.finish(error)
            except BaseException as error:  # noqa: BLE001  # this is the loop; the caller hears it
                failed = FatalError(f"the model failed on a text: {error}")
                failed.__cause__ = error
                job.finish(failed)
            else:
                self._count(job, end - start)

    def _take(self) -> tuple[_Job[T], int, int] | None:
        """The next slice, in turn among the jobs; None when the lane is closed."""
        with self._ready:
            while True:
                while self._jobs and self._jobs[0].over:
                    self._jobs.popleft()
                if self._jobs:
                    break
                if self._closed:
                    return None
                self._ready.wait()
            job = self._jobs[0]
            start = job.taken
            job.taken = end = min(len(job.texts), start + job.slice)
            self._jobs.rotate(-1)
            return job, start, end

    def _count(self, job: _Job[T], texts: int) -> None:
        with self._ready:
            job.done += texts
            complete = job.done == len(job.texts)
        if complete:
            job.finish(None)


class Lanes(Generic[T]):
    """A lane for each priority."""

    def __init__(self, work: Callable[[str], T], *, threads: int) -> None:
        self._lanes: Mapping[Priority, Lane[T]] = {
            "query": Lane("query", work, threads=1),
            "live": Lane("live", work, threads=threads),
            "bulk": Lane("bulk", work, threads=threads, nice=_NICE),
        }

    async def map(
        self, texts: Sequence[str], priority: Priority, work: Callable[[str], T] | None = None
    ) -> list[T]:
        """The function (or another, ``work``) applied to each text, in order."""
        return await self._lanes[priority].map(texts, work)

    def close(self) -> None:
        """End all threads."""
        for lane in self._lanes.values():
            lane.close()


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _be_nice(nice: int) -> None:
    """Lower the priority of this thread, where threads have one of their own."""
    if not nice or sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):  # forbidden in some containers: then it is as others are
        current = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(current, nice))
