"""Where events go: a file, an endpoint, a topic. One at a time, and never in anybody's way: what
cannot be sent waits, and of what waits for too long only what matters stays."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import structlog

from penstock.clock import Clock
from penstock.debezium.messages import Message
from penstock.errors import BadRecordError, PenstockError, UnavailableError
from penstock.outbound import post
from penstock.runtimes.base import Backoff

Event = Mapping[str, Any]

LAST_S: Final = 3.0
"""How long the end of a process waits until its last events are sent."""
_MOST_AT_ONCE: Final = 100

logger = structlog.get_logger("penstock.lineage")


class Destination(Protocol):
    """What takes events, in order."""

    async def send(self, events: Sequence[Event]) -> int:
        """Returns how many were taken, from the first on; raises `PenstockError` when none was."""

    async def close(self) -> None:
        """Release what is held."""


class FileDestination:
    """One line for each event. Several processes may write to one file: a line is written at once,
    at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, events: Sequence[Event]) -> int:
        await asyncio.to_thread(self._write, b"".join(orjson.dumps(e) + b"\n" for e in events))
        return len(events)

    def _write(self, lines: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(lines)
        except OSError as error:
            raise UnavailableError(
                f"expected to write to {str(self._path)!r}, but {error}"
            ) from error

    async def close(self) -> None:
        pass


class HttpDestination:
    """An endpoint, through the guard of all that goes out (`penstock.outbound`)."""

    def __init__(self, url: str, headers: Mapping[str, str], *, private: bool) -> None:
        self._url = url
        self._headers = headers
        self._private = private

    async def send(self, events: Sequence[Event]) -> int:
        await post(self._url, orjson.dumps(events[0]), headers=self._headers, private=self._private)
        return 1

    async def close(self) -> None:
        pass


class Messages(Protocol):
    """What publishes messages (`penstock.stores.kafka.KafkaDestination`)."""

    async def send(self, messages: Sequence[Message]) -> None:
        """All of them, in order."""

    async def close(self) -> None:
        """Release what is held."""


class TopicDestination:
    """A topic of Kafka; events of one job stay in order."""

    def __init__(self, messages: Messages, topic: str) -> None:
        self._messages = messages
        self._topic = topic

    async def send(self, events: Sequence[Event]) -> int:
        await self._messages.send(
            [
                Message(self._topic, str(event["job"]["name"]).encode(), orjson.dumps(event))
                for event in events
            ]
        )
        return len(events)

    async def close(self) -> None:
        await self._messages.close()


class Sender:
    """Sends what is said, in order, as the destination takes it. At most ``most`` events wait: the
    oldest RUNNING ones go first (a later one says more), and then the oldest of all."""

    def __init__(self, destination: Destination, clock: Clock, *, most: int) -> None:
        self._destination = destination
        self._backoff = Backoff(clock, first_s=0.5, most_s=30.0)
        self._most = most
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None
        self._away = False
        self.sent = 0
        self.dropped = 0

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="lineage sender")

    def say(self, event: Event) -> None:
        """Send this when it can be; returns at once."""
        self._waiting.append(event)
        self._empty.clear()
        if len(self._waiting) > self._most:
            self._drop()
        self._wake.set()

    def _drop(self) -> None:
        less = next((e for e in self._waiting if e["eventType"] == "RUNNING"), self._waiting[0])
        self._waiting.remove(less)
        self.dropped += 1

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if not self._waiting:
                self._empty.set()
                await self._wake.wait()
                continue
            events = [self._waiting[i] for i in range(min(_MOST_AT_ONCE, len(self._waiting)))]
            taken = await self._try(events)
            if taken is None:
                await self._backoff.wait()
                continue
            for event in events[:taken]:
                if self._waiting and self._waiting[0] is event:  # else it was dropped meanwhile
                    self._waiting.popleft()

    async def _try(self, events: Sequence[Event]) -> int | None:
        """How many are done with; None: come back with them."""
        try:
            taken = await self._destination.send(events)
        except BadRecordError as error:
            logger.warning("lineage.refused", reason=str(error), job=events[0]["job"]["name"])
            self.dropped += 1
            return 1
        except PenstockError as error:
            if not self._away:
                logger.warning("lineage.waiting", reason=str(error))
            self._away = True
            return None
        if self._away:
            logger.info("lineage.resumed", waiting=len(self._waiting), dropped=self.dropped)
        self._away = False
        self._backoff.reset()
        self.sent += taken
        return taken

    async def close(self) -> None:
        """Send what is left, for a moment at most."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(LAST_S):
                await self._empty.wait()
        except TimeoutError:
            logger.warning("lineage.lost", events=len(self._waiting))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._destination.close()
