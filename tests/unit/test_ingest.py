"""The first loop: append, then acknowledge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from penstock.errors import FatalError, FencedError, SourceError, UnavailableError
from penstock.log.memory import MemoryLog
from penstock.records import BEGINNING, Change, Microseconds
from penstock.runtimes.ingest import IngestSettings, ingest
from penstock.sources.base import SourceBatch
from penstock.telemetry import SourceMeter
from penstock.testing.clock import ManualClock
from penstock.testing.scripted import ScriptedSource, item, script


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Let others run until something is so."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0)


@asynccontextmanager
async def ingesting(
    source: ScriptedSource, log: MemoryLog, clock: ManualClock, **settings: int
) -> AsyncIterator[tuple[SourceMeter, asyncio.Task[None]]]:
    await log.create_topic(source.name)
    await log.create_topic(f"{source.name}.bulk")
    meter = SourceMeter(source.name)
    task = asyncio.create_task(
        ingest(source, log, clock=clock, meter=meter, settings=IngestSettings(**settings))
    )
    try:
        yield meter, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def values(log: MemoryLog, topic: str = "scripted") -> list[tuple[object, ...] | None]:
    batch = await log.read(topic, 0, BEGINNING, max_changes=10_000)
    found: list[tuple[object, ...] | None] = []
    while batch is not None:
        found += [change.after for change in batch.changes]
        batch = await log.read(topic, 0, batch.last)
    return found


async def test_changes_arrive_in_order_and_are_acknowledged() -> None:
    """What a source gives is in the log, in order, and then acknowledged."""
    source = ScriptedSource(script([item(1, "a", "1")], [item(2, "b", "2"), item(3, "a", "3")]))
    log = MemoryLog(ManualClock())
    async with ingesting(source, log, ManualClock()) as (meter, _):
        await until(lambda: meter.changes == 3)
        assert await values(log) == [("a", "1"), ("b", "2"), ("a", "3")]
        assert source.acknowledged[-1] == {"at": "2"}
        assert (await log.open_producer("scripted")).state == {"at": "2"}


class RefusingLog(MemoryLog):
    """A log whose appends wait for permission, or fail."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.open = asyncio.Event()
        self.errors: list[Exception] = []

    async def open_producer(self, name: str) -> GuardedProducer:  # type: ignore[override]
        return GuardedProducer(self, await super().open_producer(name))


class GuardedProducer:
    def __init__(self, log: RefusingLog, inner: object) -> None:
        self._log = log
        self._inner = inner
        self.name = "scripted"
        self.state: Mapping[str, str] = inner.state  # type: ignore[attr-defined]

    async def append(
        self,
        topic: str,
        changes: Sequence[Change],
        *,
        state: Mapping[str, str | None] | None = None,
        as_of: Microseconds | None = None,
    ) -> None:
        await self._log.open.wait()
        if self._log.errors:
            raise self._log.errors.pop(0)
        await self._inner.append(topic, changes, state=state, as_of=as_of)  # type: ignore[attr-defined]


async def test_g2_nothing_is_acknowledged_before_the_log_is_durable() -> None:
    """While an append is under way, the source has heard of nothing."""
    source = ScriptedSource(script([item(1, "a", "1")]))
    log = RefusingLog(ManualClock())
    async with ingesting(source, log, ManualClock()) as (meter, _):
        await until(lambda: source.given == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert source.acknowledged == []
        log.open.set()
        await until(lambda: meter.changes == 1)
        assert source.acknowledged == [{"at": "1"}]


async def test_g2_a_failed_append_is_read_again_from_the_stored_state() -> None:
    """After an error of the log, the source resumes from what the log holds: no loss, no double."""
    batches = script([item(1, "a", "1")], [item(2, "a", "2")], [item(3, "a", "3")])
    source = ScriptedSource(batches)
    clock = ManualClock()
    log = RefusingLog(clock)
    log.errors = [UnavailableError("the log is away")]
    log.open.set()
    async with ingesting(source, log, clock) as (meter, _):
        await until(lambda: clock.sleeping > 0)
        assert meter.state == "waiting"
        clock.advance(60)
        await until(lambda: meter.changes == 3)
        assert await values(log) == [("a", "1"), ("a", "2"), ("a", "3")]


async def test_a_source_that_goes_away_is_read_again() -> None:
    """`UnavailableError` means: pause, then go on with the last durable state."""
    first, second = script([item(1, "a", "1")], [item(2, "a", "2")])
    source = ScriptedSource([first, UnavailableError("gone"), second])
    clock = ManualClock()
    log = MemoryLog(clock)
    async with ingesting(source, log, clock) as (meter, _):
        await until(lambda: clock.sleeping > 0)
        assert meter.last_error == "gone"
        clock.advance(60)
        await until(lambda: meter.changes == 2)
        assert await values(log) == [("a", "1"), ("a", "2")]


async def test_a_fatal_error_stops_the_source_and_closes_it() -> None:
    """What a person must mend ends the loop, after what came before it was appended."""
    source = ScriptedSource([*script([item(1, "a", "1")]), SourceError("the slot is lost")])
    log = MemoryLog(ManualClock())
    async with ingesting(source, log, ManualClock()) as (meter, task):
        with pytest.raises(FatalError, match="slot is lost"):
            await task
        assert await values(log) == [("a", "1")]
        assert meter.state == "failed"
        assert source.closed


async def test_a_fenced_producer_stops() -> None:
    """When another process has taken over, this one ends instead of fighting."""
    source = ScriptedSource(script([item(1, "a", "1")]))
    log = RefusingLog(ManualClock())
    log.errors = [FencedError("opened elsewhere")]
    log.open.set()
    async with ingesting(source, log, ManualClock()) as (_, task):
        with pytest.raises(FencedError):
            await task


async def test_g12_a_slow_log_slows_the_source() -> None:
    """With the log standing still, only so much is read ahead."""
    source = ScriptedSource(script(*[[item(i, "a", str(i))] for i in range(1, 101)]))
    log = RefusingLog(ManualClock())
    async with ingesting(source, log, ManualClock(), waiting_changes=10, append_changes=5) as (
        meter,
        _,
    ):
        for _ in range(500):
            await asyncio.sleep(0)
        assert source.given <= 5 + 10 + 1  # in the append, in the queue, in the hand
        log.open.set()
        await until(lambda: meter.changes == 100)
        assert len(await values(log)) == 100


async def test_lanes_have_their_topics() -> None:
    """The bulk lane goes to the topic NAME.bulk, the live lane to NAME."""
    bulk = SourceBatch([item(1, "a", "1")], {"at": "1"}, lane="bulk")
    live = SourceBatch([item(2, "b", "2")], {"at": "2"}, lane="live")
    source = ScriptedSource([bulk, live])
    log = MemoryLog(ManualClock())
    async with ingesting(source, log, ManualClock()) as (meter, _):
        await until(lambda: meter.changes == 2)
        assert await values(log, "scripted.bulk") == [("a", "1")]
        assert await values(log, "scripted") == [("b", "2")]


async def test_what_waits_is_appended_in_one_step() -> None:
    """Batches that gather during an append go together: the busier, the larger the steps."""
    source = ScriptedSource(script(*[[item(i, "a", str(i))] for i in range(1, 41)]))
    log = RefusingLog(ManualClock())
    async with ingesting(source, log, ManualClock()) as (meter, _):
        await until(lambda: source.given == 40)
        log.open.set()
        await until(lambda: meter.changes == 40)
        assert len(source.acknowledged) < 10
