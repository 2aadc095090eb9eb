"""Readers of this process that wait for a partition to grow."""

from __future__ import annotations

import asyncio

from penstock.errors import PenstockError
from penstock.log.refusals import closed
from penstock.records import LogPosition

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
