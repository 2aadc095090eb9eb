"""The first loop: from a source into the log. Append, then acknowledge; never the other way.

    source ── read ──► short queue ── append (durable) ──► acknowledge

Two tasks share a queue that holds little: while one append is on its way to disk, the source may
read ahead a bit, and what arrives meanwhile is appended in one step. A slow log therefore slows the
source (G12), and a quick one adds no waiting. Changes, the source's state and its time are one step
in the log (L3), so after any crash the source resumes exactly after what the log holds (G2).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import structlog

from penstock.boundaries import Boundary, reach
from penstock.clock import Clock
from penstock.errors import FatalError, FencedError, RetryableError
from penstock.log.base import Log, Producer
from penstock.records import Op
from penstock.runtimes.base import Backoff, bulk_topic, ended, heed_cancellation
from penstock.sources.base import CopyingSource, Source, SourceBatch
from penstock.subjects import Screen, unscreened
from penstock.telemetry import SourceMeter
from penstock.tracing import span

logger = structlog.get_logger("penstock.ingest")


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """Bounds of the read-ahead: how many changes may wait, and how many one append takes."""

    waiting_changes: int = 20_000
    append_changes: int = 10_000


class _Waiting:
    """Batches that were read and not yet appended; ``put`` waits while there are too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._batches: deque[SourceBatch] = deque()
        self._changes = 0
        self._changed = asyncio.Condition()
        self._ended = False

    async def put(self, batch: SourceBatch) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._changes < self._limit)
            self._batches.append(batch)
            self._changes += len(batch.changes)
            self._changed.notify_all()

    async def end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def take(self, most: int) -> list[SourceBatch]:
        """Batches of one lane, in order, up to about ``most`` changes; empty when all is over."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._batches) or self._ended)
            taken: list[SourceBatch] = []
            changes = 0
            while self._batches and (not taken or changes + len(self._batches[0].changes) <= most):
                # Bulk batches are large already, and a step of theirs should stay short.
                if taken and (self._batches[0].lane, taken[0].lane) != ("live", "live"):
                    break
                taken.append(self._batches.popleft())
                changes += len(taken[-1].changes)
            self._changes -= changes
            self._changed.notify_all()
            return taken


async def ingest(
    source: Source,
    log: Log,
    *,
    clock: Clock,
    meter: SourceMeter,
    settings: IngestSettings = IngestSettings(),
    screen: Screen = unscreened,
) -> None:
    """Carry a source into the topics of its name until cancelled. Of changes that ``screen``
    suppresses only their place comes into the log (G9).

    Retries what can be retried, with growing pauses; raises `FatalError` when a person must act.
    """
    backoff = Backoff(clock)
    try:
        while True:
            before = meter.changes
            try:
                producer = await log.open_producer(source.name)
                meter.state = "running"
                await _carry(source, producer, meter, settings, screen)
            except FencedError:
                raise  # another process goes on with it: nothing has failed
            except RetryableError as error:
                meter.state, meter.last_error = "waiting", str(error)
                meter.errors += 1
                if meter.changes > before:
                    backoff.reset()
                logger.warning("source.waiting", source=source.name, reason=str(error))
                await backoff.wait(error.retry_after_s)
            except FatalError as error:
                meter.state, meter.last_error = "failed", str(error)
                logger.error("source.failed", source=source.name, reason=str(error))  # noqa: TRY400 - a sentence, no traceback
                raise
    finally:
        if meter.state != "failed":
            meter.state = "stopped"
        await source.close()


async def _carry(
    source: Source,
    producer: Producer,
    meter: SourceMeter,
    settings: IngestSettings,
    screen: Screen,
) -> None:
    """One life of the source: until an error or cancellation."""
    waiting = _Waiting(settings.waiting_changes)

    async def read() -> None:
        batches = source.read(producer.state)
        try:
            async for batch in batches:
                heed_cancellation()
                reach(Boundary.RECEIVE, "before")
                await waiting.put(batch)
                reach(Boundary.RECEIVE, "after")
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()
            await waiting.end()

    reading = asyncio.create_task(read(), name=f"read {source.name}")
    try:
        while batches := await waiting.take(settings.append_changes):
            heed_cancellation()
            await _append(source, producer, batches, meter, screen)
        await reading  # raises what ended it
    finally:
        reading.cancel()
        await ended([reading])


async def _append(
    source: Source,
    producer: Producer,
    batches: Sequence[SourceBatch],
    meter: SourceMeter,
    screen: Screen,
) -> None:
    """One step: durable first, acknowledged after."""
    changes = screen([change for batch in batches for change in batch.changes])
    state: dict[str, str | None] = {}
    for batch in batches:
        state.update(batch.state)
    times = [batch.as_of for batch in batches if batch.as_of is not None]
    lane = batches[0].lane
    topic = source.name if lane == "live" else bulk_topic(source.name)
    copied = bool(changes) and Op.READ in {changes[0].op, changes[-1].op}
    boundary = Boundary.CHUNK if copied else Boundary.APPEND
    reach(boundary, "before")
    with span("penstock.capture", source=source.name, topic=topic, changes=len(changes)):
        await producer.append(topic, changes, state=state, as_of=max(times) if times else None)
    reach(boundary, "after")
    reach(Boundary.ACKNOWLEDGE, "before")
    await source.acknowledge(state)
    reach(Boundary.ACKNOWLEDGE, "after")
    meter.changes += len(changes)
    if isinstance(source, CopyingSource):
        meter.copies = [copy._asdict() for copy in source.copies()]
    if changes:
        meter.position = changes[-1].position
    meter.last_error = None
