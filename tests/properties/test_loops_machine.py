"""Both loops, stopped and broken in any order: resuming from anywhere equals never stopping.

A source whose ledger is a list, a log and a store that stay when everything else dies, and faults
where a commit can be cut: an append or a transaction that fails before it happened or after, a
process that is gone between any two turns of the loop, another that takes over too early, a
pipeline that is moved back. After all of it the store is what the list comes to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from penstock.errors import BadRecordError, UnavailableError
from penstock.log.base import Producer
from penstock.log.memory import MemoryLog
from penstock.models.constant import ConstantEmbedder
from penstock.pipelines.base import Outcome, Tools
from penstock.records import BEGINNING, Batch, Change, LogPosition, Microseconds, Op, Position
from penstock.runtimes.ingest import ingest
from penstock.runtimes.process import Assignment, Processor, ProcessSettings
from penstock.sources.base import SourceBatch, State, StateChange
from penstock.stores.base import ApplyRows
from penstock.stores.memory import MemoryStore, MemoryTransaction
from penstock.telemetry import PipelineMeter, SourceMeter
from penstock.testing.clock import ManualClock
from penstock.testing.scripted import ITEMS, item

Moment = Literal["before", "after"]
EMBEDDER = ConstantEmbedder()


@dataclass
class Durable:
    """What is left when a process dies, and the faults that wait for it."""

    clock: ManualClock
    log: MemoryLog
    store: MemoryStore
    ledger: list[Change] = field(default_factory=list)
    acknowledged: int = 0
    append_faults: list[Moment] = field(default_factory=list)
    apply_faults: list[Moment] = field(default_factory=list)

    def stored_state(self) -> int:
        """How much of the ledger the log says that it holds."""
        _, state = self.log._producers.get("scripted", (0, {}))
        return int(state.get("at", "0"))


class LedgerSource:
    """Gives the ledger's changes after the state, a few at a time, and waits for more."""

    name = "scripted"

    def __init__(self, world: Durable, process: Process) -> None:
        self._world = world
        self._process = process

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        at = int(state.get("at", "0"))
        # The system has forgotten what was acknowledged: resuming before that would be a loss.
        assert at >= self._world.acknowledged, "acknowledged before it was durable"
        while True:
            await self._process.more.wait()
            self._process.more.clear()
            while at < len(self._world.ledger):
                some = self._world.ledger[at : at + 3]
                at += len(some)
                yield SourceBatch(some, {"at": str(at)}, as_of=Microseconds(at))

    async def acknowledge(self, state: StateChange) -> None:
        self._process.check_alive()
        durable = self._world.stored_state()
        assert int(state["at"] or 0) <= durable, "acknowledged before it was durable"
        self._world.acknowledged = max(self._world.acknowledged, int(state["at"] or 0))

    async def close(self) -> None:
        return


class Process:
    """One life: everything that it touches is refused once it is dead, as if it were not there."""

    def __init__(self, world: Durable) -> None:
        self.world = world
        self.dead = False
        self.more = asyncio.Event()
        self.more.set()
        self.meter = PipelineMeter("rows", "scripted")
        pipeline = Picky()
        store: Any = FaultyStore(self)
        log: Any = FaultyLog(self)
        processor = Processor(
            Assignment(pipeline, "scripted", "scripted", 0),
            log,
            store,
            Tools(EMBEDDER, store),
            clock=world.clock,
            meter=self.meter,
            settings=ProcessSettings(batch=4, slice=3),
        )
        source = LedgerSource(world, self)
        self.tasks = [
            asyncio.create_task(
                ingest(source, log, clock=world.clock, meter=SourceMeter("scripted"))
            ),
            asyncio.create_task(processor.run()),
        ]

    def check_alive(self) -> None:
        if self.dead:
            raise UnavailableError("this process is dead")

    async def die(self) -> None:
        """As by kill -9: nothing that it still does has an effect."""
        self.dead = True
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def check_running(self) -> None:
        for task in self.tasks:
            if task.done():
                task.result()
                raise AssertionError("a loop has ended")


class FaultyLog:
    """The log as one process sees it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._log = process.world.log

    async def open_producer(self, name: str) -> FaultyProducer:
        self._process.check_alive()
        return FaultyProducer(self._process, await self._log.open_producer(name))

    async def read(self, *place: Any, **limits: Any) -> Batch | None:
        self._process.check_alive()
        await asyncio.sleep(0)
        return await self._log.read(*place, **limits)

    async def wait(self, topic: str, partition: int, after: LogPosition) -> None:
        self._process.check_alive()
        await self._log.wait(topic, partition, after)


class FaultyProducer:
    def __init__(self, process: Process, producer: Producer) -> None:
        self.name = producer.name
        self.state = producer.state
        self._process = process
        self._producer = producer

    async def append(self, topic: str, changes: Sequence[Change], **more: Any) -> None:
        faults = self._process.world.append_faults
        fault = faults.pop(0) if faults else None
        await asyncio.sleep(0)
        self._process.check_alive()
        if fault == "before":
            raise UnavailableError("cut off before the append")
        await self._producer.append(topic, changes, **more)
        if fault == "after":
            raise UnavailableError("cut off after the append")


class FaultyStore:
    """The store as one process sees it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._store = process.world.store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        faults = self._process.world.apply_faults
        fault = faults.pop(0) if faults else None
        self._process.check_alive()
        async with self._store.transaction() as transaction:
            yield transaction
            await asyncio.sleep(0)
            self._process.check_alive()
            if fault == "before":
                raise UnavailableError("cut off before the commit")
        if fault == "after":
            raise UnavailableError("cut off after the commit")


@dataclass(frozen=True)
class Picky:
    """Passes rows on; a batch with the value ``bad`` cannot be computed."""

    name: str = "rows"
    topics: tuple[str, ...] = ("scripted",)
    streams: frozenset[str] | None = None

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:
        await asyncio.sleep(0)
        if any(is_bad(change) for change in changes):
            raise BadRecordError("this value is bad")
        return Outcome((ApplyRows(changes),))


def is_bad(change: Change) -> bool:
    return change.after is not None and change.after[1] == "bad"


def comes_to(ledger: Sequence[Change]) -> dict[str, str]:
    """What the good changes of a list come to, one after the other."""
    rows: dict[str, str] = {}
    for change in ledger:
        if change.op is Op.TRUNCATE:
            rows.clear()
        elif is_bad(change):
            continue
        else:
            for key in {change.key, change.old_key or change.key}:
                rows.pop(str(key[0]), None)
            if change.after is not None:
                rows[str(change.key[0])] = str(change.after[1])
    return rows


KEYS = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.sampled_from(["1", "2", "bad"])),
    st.tuples(st.just("delete"), KEYS, st.just("")),
    st.tuples(st.just("move"), KEYS, KEYS),
    st.tuples(st.just("truncate"), st.just("a"), st.just("")),
)


class LoopsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        clock = ManualClock()
        self.world = Durable(clock, MemoryLog(clock), MemoryStore())
        self.process: Process | None = None
        self.moved_back = False
        self.run(self.world.log.create_topic("scripted"))

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(steps=st.lists(STEPS, min_size=1, max_size=6))
    def source_changes(self, steps: list[tuple[str, str, str]]) -> None:
        ledger = self.world.ledger
        for kind, key, value in steps:
            number = len(ledger) + 1
            if kind == "truncate":
                position = Position(f"{number:016d}")
                ledger.append(Change(ITEMS, Op.TRUNCATE, (), position, Microseconds(0)))
            elif kind == "move":
                if value != key and key in comes_to(ledger):
                    ledger.append(item(number, value, f"from {key}")._replace(old_key=(key,)))
            else:
                ledger.append(item(number, key, value if kind == "put" else None))
        if self.process is not None:
            self.process.more.set()

    @rule(moment=st.sampled_from(["before", "after"]))
    def an_append_will_fail(self, moment: Moment) -> None:
        self.world.append_faults.append(moment)

    @rule(moment=st.sampled_from(["before", "after"]))
    def a_transaction_will_fail(self, moment: Moment) -> None:
        self.world.apply_faults.append(moment)

    @rule(turns=st.integers(0, 40))
    def run_for_a_while(self, turns: int) -> None:
        self.run(self._turns(turns))

    @rule(turns=st.integers(0, 12))
    def die_and_start_again(self, turns: int) -> None:
        async def work() -> None:
            if self.process is not None:
                await self.process.die()
            self.process = Process(self.world)

        self.run(work())
        self.run(self._turns(turns))

    @rule(place=st.floats(0, 1))
    def die_and_move_back(self, place: float) -> None:
        """As `penstock replay` does: some of the log is processed once more."""

        async def work() -> None:
            if self.process is not None:
                await self.process.die()
                self.process = None
            async with self.world.store.transaction() as transaction:
                positions = transaction._state.positions
                stood = positions.get(("rows", "scripted", 0))
                if stood is not None:
                    positions["rows", "scripted", 0] = LogPosition(int(stood * place))
                    self.moved_back = True

        self.run(work())

    @rule(turns=st.integers(0, 40))
    def another_process_takes_over(self, turns: int) -> None:
        """The one before is not told; it must not do harm until it notices."""
        if self.process is None:
            return
        before = self.process

        async def work() -> None:
            self.process = Process(self.world)
            await self._some(turns)
            await before.die()

        self.run(work())

    async def _some(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self.world.clock.advance(20)

    async def _turns(self, turns: int) -> None:
        if self.process is None:
            self.process = Process(self.world)
        await self._some(turns)
        await self._revive()

    async def _revive(self) -> None:
        """A loop that was fenced by another's life is started again, as a supervisor would."""
        if self.process is not None and any(task.done() for task in self.process.tasks):
            for task in self.process.tasks:
                error = task.done() and not task.cancelled() and task.exception()
                assert not isinstance(error, AssertionError), error
            await self.process.die()
            self.process = Process(self.world)

    async def _settle(self) -> None:
        self.world.append_faults.clear()
        self.world.apply_faults.clear()
        if self.process is not None:
            await self.process.die()
        self.process = Process(self.world)
        for _ in range(4000):
            await self._some(1)
            self.process.check_running()
            (info,) = await self.world.log.describe("scripted")
            at = await self.world.store.position("rows", "scripted", 0)
            if self.world.stored_state() == len(self.world.ledger) and at == info.last:
                break
        else:
            raise AssertionError("it does not come to rest")
        await self.process.die()
        self.process = None

    @rule()
    def all_is_as_if_nothing_had_happened(self) -> None:
        self.run(self._settle())
        world = self.world
        logged: list[Change] = []
        at = BEGINNING
        while batch := self.run(world.log.read("scripted", 0, at)):
            logged.extend(batch.changes)
            at = batch.last
        assert logged == world.ledger  # G1, G2: in order, each once
        rows = world.store.rows("scripted", "public.items")
        found = {str(key[0]): row.values["v"] for key, row in rows.items()}
        assert found == comes_to(world.ledger)  # G2, G4
        bad = [change for change in world.ledger if is_bad(change)]
        buried = [letter.change for letter in world.store.letters]
        if self.moved_back:
            assert set(buried) == set(bad)
        else:
            assert buried == bad  # G13: each once

    def teardown(self) -> None:
        try:
            self.all_is_as_if_nothing_had_happened()
        finally:
            self.runner.close()


@pytest.mark.timeout(240)  # it takes seconds; making a failure small takes longer
def test_g1_g2_g4_g13_resuming_from_anywhere_equals_never_stopping() -> None:
    """Whatever is cut, the log is the ledger, and the store is what the ledger comes to."""
    run_state_machine_as_test(
        LoopsMachine,
        settings=settings(
            max_examples=150,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
