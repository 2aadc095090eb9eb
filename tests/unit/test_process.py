"""The second loop: results and position in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from penstock.errors import BadRecordError, FatalError, FencedError, UnavailableError
from penstock.log.memory import MemoryLog
from penstock.models.constant import ConstantEmbedder
from penstock.pipelines.base import Outcome, Rejected, Tools
from penstock.records import Change, LogPosition, Op
from penstock.runtimes.process import Assignment, Processor, ProcessSettings
from penstock.stores.base import ApplyRows, DeadLetter, Effect, Move, Store
from penstock.telemetry import PipelineMeter
from penstock.testing.clock import ManualClock
from penstock.testing.scripted import item


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0)


@dataclass
class RecordingStore:
    """Rows, dead letters and positions in memory; transactions are all or nothing."""

    rows: dict[str, object] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    at: dict[tuple[str, str, int], LogPosition] = field(default_factory=dict)
    commits: list[int] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    refuses: str | None = None
    gate: asyncio.Event | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[RecordingTransaction]:
        transaction = RecordingTransaction(self)
        yield transaction
        if self.gate is not None:
            await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.rows.update(transaction.rows)
        self.letters += transaction.letters
        for step in transaction.moves:
            self.at[step.consumer, step.topic, step.partition] = step.to
        self.commits.append(len(transaction.rows))

    async def position(self, consumer: str, topic: str, partition: int) -> LogPosition:
        return self.at.setdefault((consumer, topic, partition), LogPosition(0))


class RecordingTransaction:
    def __init__(self, store: RecordingStore) -> None:
        self._store = store
        self.rows: dict[str, object] = {}
        self.letters: list[DeadLetter] = []
        self.moves: list[Move] = []

    async def apply(self, effect: Effect) -> None:
        assert isinstance(effect, ApplyRows)
        for change in effect.changes:
            value = None if change.after is None else change.after[1]
            if value is not None and value == self._store.refuses:
                raise BadRecordError("the store refuses this value")
            if value == "needs k1" and "k1" not in {**self._store.rows, **self.rows}:
                raise BadRecordError("the row that this change completes is not there")
            self.rows[str(change.key[0])] = value

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        self.letters += letters

    async def move(self, step: Move) -> None:
        stored = self._store.at.get((step.consumer, step.topic, step.partition), LogPosition(0))
        if stored != step.expected:
            raise FencedError("another process has moved this consumer")
        self.moves.append(step)


@dataclass(frozen=True)
class Rows:
    """A pipeline that passes rows on, and rejects the value ``bad``."""

    name: str = "rows"
    topics: tuple[str, ...] = ("t",)
    streams: frozenset[str] | None = None
    fails: bool = False

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:
        if any(change.after is not None and change.after[1] == "explodes" for change in changes):
            raise BadRecordError("cannot compute this")
        bad = [c for c in changes if c.after is not None and c.after[1] == "bad"]
        good = [c for c in changes if c not in bad]
        return Outcome((ApplyRows(good),), [Rejected(c, "is bad") for c in bad])


class Scene:
    """A log, a store and a processor between them."""

    def __init__(self, **settings: int) -> None:
        self.clock = ManualClock()
        self.log = MemoryLog(self.clock)
        self.store = RecordingStore()
        self.meter = PipelineMeter("rows", "t")
        self.processor = self.another(**settings)

    def another(self, **settings: int) -> Processor:
        store: Store = self.store  # type: ignore[assignment]
        return Processor(
            Assignment(Rows(), "scripted", "t", 0),
            self.log,
            store,
            Tools(ConstantEmbedder(), store),
            clock=self.clock,
            meter=self.meter,
            settings=ProcessSettings(**settings),
        )

    async def append(self, *changes: Change) -> None:
        await self.log.create_topic("t")
        producer = await self.log.open_producer("scripted")
        await producer.append("t", changes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        await self.log.create_topic("t")
        task = asyncio.create_task(self.processor.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def position(self) -> int:
        return self.store.at.get(("rows", "t", 0), LogPosition(0))


async def test_changes_reach_the_store_and_the_position_follows() -> None:
    """What is appended is applied, and the position says so."""
    scene = Scene()
    async with scene.running():
        await scene.append(item(1, "a", "1"), item(2, "b", "2"))
        await until(lambda: scene.position == 2)
        assert scene.store.rows == {"a": "1", "b": "2"}
        await scene.append(item(3, "a", None))
        await until(lambda: scene.position == 3)
        assert scene.store.rows == {"a": None, "b": "2"}


async def test_g2_a_failed_commit_is_repeated_whole() -> None:
    """Results and position fail together; after the pause both happen."""
    scene = Scene()
    scene.store.errors = [UnavailableError("the database is away")]
    await scene.append(item(1, "a", "1"))
    async with scene.running():
        await until(lambda: scene.clock.sleeping > 0)
        assert scene.store.rows == {}
        assert scene.position == 0
        assert scene.meter.state == "waiting"
        scene.clock.advance(60)
        await until(lambda: scene.position == 1)
        assert scene.store.rows == {"a": "1"}
        assert scene.meter.errors == 1


async def test_g2_a_second_process_is_refused() -> None:
    """The move is compare-and-set: who comes with an old position is fenced."""
    scene = Scene()
    await scene.append(item(1, "a", "1"))
    async with scene.running() as task:
        await until(lambda: scene.position == 1)
        scene.store.at["rows", "t", 0] = LogPosition(7)
        await scene.append(item(2, "a", "2"))
        with pytest.raises(FencedError):
            await task


class Deaf(MemoryLog):
    """Who waits here and is cancelled hears nothing, as at a pool that had a connection then."""

    waits = 0
    deaf = 0

    async def wait(self, topic: str, partition: int, after: LogPosition) -> None:
        self.waits += 1
        try:
            await super().wait(topic, partition, after)
        except asyncio.CancelledError:
            self.deaf += 1


async def test_a_swallowed_cancellation_still_ends_the_loop() -> None:
    """Else a worker that lost its share waits for it for ever, and others for the worker."""
    scene = Scene()
    scene.log = log = Deaf(scene.clock)
    scene.processor = scene.another()
    await scene.append(item(1, "a", "1"))
    async with scene.running() as task:
        await until(lambda: log.waits == 1)
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([task])
        assert task.cancelled()
        assert log.deaf == 1


async def test_g2_what_was_begun_is_finished_when_stopped() -> None:
    """Cancelled in the middle of a commit, the loop lets it end."""
    scene = Scene()
    scene.store.gate = asyncio.Event()
    await scene.append(item(1, "a", "1"))
    async with scene.running() as task:
        for _ in range(50):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        scene.store.gate.set()
        await asyncio.gather(task, return_exceptions=True)
        assert scene.position == 1
        assert scene.store.rows == {"a": "1"}


async def test_g13_a_rejected_record_is_put_aside_in_the_same_commit() -> None:
    """The bad one waits with its reason; the others are applied."""
    scene = Scene()
    await scene.append(item(1, "a", "1"), item(2, "b", "bad"), item(3, "c", "3"))
    assert await scene.processor.step()
    assert scene.store.rows == {"a": "1", "c": "3"}
    assert [(letter.change.key, letter.reason) for letter in scene.store.letters] == [
        (("b",), "is bad")
    ]
    assert scene.position == 3


@pytest.mark.parametrize("value", ["refused", "explodes"])
async def test_g13_a_record_that_fails_is_found_among_many(value: str) -> None:
    """Whether the store refuses it or the computation breaks: halving finds it, the rest go on."""
    scene = Scene()
    scene.store.refuses = "refused"
    changes = [item(i, f"k{i}", str(i)) for i in range(1, 41)]
    changes[12] = item(13, "k13", value)
    changes[29] = item(30, "k30", value)
    await scene.append(*changes)
    assert await scene.processor.step()
    assert {letter.change.key[0] for letter in scene.store.letters} == {"k13", "k30"}
    assert len(scene.store.rows) == 38
    assert scene.position == 40


async def test_g13_a_change_that_needs_an_earlier_one_is_not_put_aside() -> None:
    """While a bad record is looked for, later changes are tried on top of the earlier good ones."""
    scene = Scene()
    scene.store.refuses = "refused"
    changes = [item(i, f"k{i}", str(i)) for i in range(1, 11)]
    changes[4] = item(5, "k5", "refused")
    changes[8] = item(9, "k9", "needs k1")
    await scene.append(*changes)
    assert await scene.processor.step()
    assert {letter.change.key[0] for letter in scene.store.letters} == {"k5"}
    assert scene.store.rows["k9"] == "needs k1"


async def test_g13_too_many_bad_records_stop_the_pipeline() -> None:
    """Beyond the limit within an hour, the cause is not a bad record: stop, lose nothing."""
    scene = Scene(dead_letter_limit=2)
    await scene.append(*[item(i, f"k{i}", "bad") for i in range(1, 4)])
    with pytest.raises(FatalError, match="at most 2 records per hour"):
        await scene.processor.step()
    assert scene.position == 0
    assert scene.store.letters == []


async def test_g13_the_limit_forgets_after_an_hour() -> None:
    """Two an hour, every hour, is no reason to stop."""
    scene = Scene(dead_letter_limit=2)
    for hour in range(3):
        await scene.append(item(2 * hour + 1, "x", "bad"), item(2 * hour + 2, "y", "bad"))
        assert await scene.processor.step()
        scene.clock.advance(3601)
    assert len(scene.store.letters) == 6


async def test_a_large_append_is_committed_in_slices() -> None:
    """Each slice is a commit; only the last one moves the position."""
    scene = Scene(slice=10)
    await scene.append(*[item(i, f"k{i}", str(i)) for i in range(1, 26)])
    assert await scene.processor.step()
    assert scene.store.commits == [10, 10, 5]
    assert scene.position == 25


async def test_g1_a_slice_does_not_end_within_a_transaction() -> None:
    """Its rows may have traded keys; only one that is many times as large is cut."""
    scene = Scene(slice=10)
    changes = [item(i, f"k{i}", str(i)) for i in range(1, 101)]
    transactions = ["a"] * 8 + ["b"] * 7 + ["c"] * 5 + ["d"] * 80
    await scene.append(
        *(c._replace(transaction=t) for c, t in zip(changes, transactions, strict=True))
    )
    assert await scene.processor.step()
    assert scene.store.commits == [15, 10, 10, 10, 10, 10, 35]
    assert scene.position == 100


async def test_time_alone_moves_the_position() -> None:
    """A heartbeat has no changes and still says up to when all is in."""
    scene = Scene()
    await scene.log.create_topic("t")
    producer = await scene.log.open_producer("scripted")
    await producer.append("t", [], as_of=scene.clock.now())
    assert await scene.processor.step()
    assert scene.position == 1
    assert not await scene.processor.step()


async def test_freshness_is_measured_from_the_source_commit() -> None:
    """From the change's commit time to our commit; what existed before is not counted."""
    scene = Scene()
    now = scene.clock.now()
    read = item(1, "a", "1", at=now - 9_000_000)._replace(op=Op.READ)
    await scene.append(read, item(2, "b", "2", at=now - 5_000))
    assert await scene.processor.step()
    assert scene.meter.freshness.samples() == [5.0]
