"""The conformance suite of sources: what `penstock.sources.base` promises, as tests.

Derive from `SourceSuite` in a test module and write the fixture ``system``: a fresh system of the
kind that the source reads, together with a script of writes to it (see `SourceSystem`).

    class TestMySource(SourceSuite):
        @pytest.fixture
        async def system(self):
            ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias, runtime_checkable

from penstock.records import UNCHANGED, Change, Key, Op, Position, Row, Schema
from penstock.sources.base import Lane, Source, SourceBatch

DEADLINE_S = 20.0
RESUMES = 12
"""From how many of a run's states reading is resumed; they are spread over the run."""

RowName: TypeAlias = tuple[str, Key]
"""Stream and key."""


class SourceSystem(Protocol):
    """A real system with its source."""

    def source(self) -> Source:
        """A new source, as after a restart of our process; earlier ones are closed by the suite."""

    async def write(self, number: int) -> None:
        """Make write ``number`` of a script (0, 1, 2, ... in order): creates, updates and at least
        one delete among any ten, each leaving contents that never were before."""

    async def contents(self) -> Mapping[RowName, Hashable]:
        """What the system holds now."""

    def image(self, schema: Schema, row: Row) -> Hashable:
        """What ``contents`` says of a row that came as this."""


@runtime_checkable
class PartitionedSystem(Protocol):
    """A system without one order for all: positions increase within each of its partitions."""

    def partition(self, change: Change) -> Hashable:
        """The partition that a change came in."""


class Replica:
    """What a reader of the source knows, with the promises about order checked on the way."""

    def __init__(self, system: SourceSystem) -> None:
        self._system = system
        self._rows: dict[RowName, Row] = {}
        self._schemas: dict[RowName, Schema] = {}
        self._newest: dict[RowName, Position] = {}
        self._seen: dict[tuple[Lane, RowName], Position] = {}
        self.last: dict[tuple[Lane, Hashable], Position] = {}
        self.state: dict[str, str] = {}
        self.operations: list[Op] = []

    def add(self, batch: SourceBatch) -> None:
        """Take what a batch brings: changes, and the state after them."""
        for change in batch.changes:
            self._check_order(batch.lane, change)
            self._apply(change)
            self.operations.append(change.op)
        for name, value in batch.state.items():
            if value is None:
                self.state.pop(name, None)
            else:
                self.state[name] = value

    def contents(self) -> dict[RowName, Hashable]:
        """What this reader believes that the system holds."""
        return {
            name: self._system.image(self._schemas[name], row) for name, row in self._rows.items()
        }

    def _check_order(self, lane: Lane, change: Change) -> None:
        partition = (
            self._system.partition(change) if isinstance(self._system, PartitionedSystem) else None
        )
        last = self.last.get((lane, partition))
        assert last is None or last < change.position, (
            f"positions of one lane must increase: {change.position} came after {last}"
        )
        self.last[lane, partition] = change.position
        name = (change.schema.stream, change.key)
        seen = self._seen.get((lane, name))
        assert seen is None or seen < change.position, (
            f"positions of {name} must increase: {change.position} came after {seen}"
        )
        self._seen[lane, name] = change.position

    def _apply(self, change: Change) -> None:
        stream, position = change.schema.stream, change.position
        if change.op is Op.TRUNCATE:
            for name in [name for name in self._rows if name[0] == stream]:
                if self._newest[name] < position:
                    del self._rows[name]
            return
        name = (stream, change.key)
        if self._newest.get(name, Position("")) > position:
            return  # the other lane brought something newer already
        old_row = self._rows.get(name)
        if change.old_key is not None:
            old_row = self._rows.pop((stream, change.old_key), None)
        self._newest[name] = position
        if change.after is None:
            self._rows.pop(name, None)
            return
        row = change.after
        if any(value is UNCHANGED for value in row):
            assert old_row is not None, f"{name} has unchanged values of a row that never came"
            row = tuple(
                old if value is UNCHANGED else value
                for old, value in zip(old_row, row, strict=True)
            )
        self._rows[name], self._schemas[name] = row, change.schema


@asynccontextmanager
async def reading(
    source: Source, state: Mapping[str, str]
) -> AsyncIterator[AsyncIterator[SourceBatch]]:
    """Batches from a state; within the deadline, and with everything closed at the end."""
    batches = source.read(state)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield batches
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()
        await source.close()


async def follow(
    source: Source, replica: Replica, until: Callable[[], bool], *, acknowledge: bool = False
) -> list[SourceBatch]:
    """Read from where the replica stands until it is so; returns the batches."""
    taken: list[SourceBatch] = []
    if until():
        await source.close()
        return taken
    async with reading(source, dict(replica.state)) as batches:
        async for batch in batches:
            replica.add(batch)
            taken.append(batch)
            if acknowledge:
                await source.acknowledge(batch.state)
            if until():
                break
    return taken


async def write(system: SourceSystem, first: int, last: int) -> None:
    """Make the script's writes ``first`` to ``last - 1``."""
    for number in range(first, last):
        await system.write(number)


class SourceSuite:
    """Behaviours of any source; the fixture ``system`` is the author's."""

    async def test_g2_what_exists_and_what_changes_without_gap_or_overlap(
        self, system: SourceSystem
    ) -> None:
        """All that exists comes first, then all that changes, while others are writing."""
        await write(system, 0, 20)
        replica = Replica(system)
        writer = asyncio.create_task(write(system, 20, 60))
        await follow(system.source(), replica, lambda: len(replica.contents()) > 0)
        await writer
        expected = await system.contents()
        await follow(system.source(), replica, lambda: replica.contents() == expected)

    async def test_g2_writers_during_the_first_load(self, system: SourceSystem) -> None:
        """One uninterrupted reader sees every write that happens beside it, once."""
        await write(system, 0, 20)
        replica = Replica(system)
        done = asyncio.Event()
        expected: dict[RowName, Hashable] = {}

        async def writing() -> None:
            await write(system, 20, 80)
            expected.update(await system.contents())
            done.set()

        writer = asyncio.create_task(writing())
        await follow(
            system.source(), replica, lambda: done.is_set() and replica.contents() == expected
        )
        await writer

    async def test_g2_resuming_from_any_state_equals_never_stopping(
        self, system: SourceSystem
    ) -> None:
        """Wherever a reader was stopped, the one that resumes there comes to the same end."""
        await write(system, 0, 10)
        whole = Replica(system)
        first = await system.contents()
        batches = await follow(system.source(), whole, lambda: whole.contents() == first)
        for start in (10, 20, 30):
            await write(system, start, start + 10)
            expected = await system.contents()
            batches += await follow(
                system.source(),
                whole,
                lambda e=expected: whole.contents() == e,  # type: ignore[misc]
            )
        step = max(1, len(batches) // RESUMES)
        for stop in range(0, len(batches), step):
            replica = Replica(system)
            for batch in batches[:stop]:
                replica.add(batch)
            await follow(system.source(), replica, lambda r=replica: r.contents() == expected)  # type: ignore[misc]

    async def test_g2_acknowledging_loses_nothing(self, system: SourceSystem) -> None:
        """A reader that is started anew for every batch, and acknowledges each, misses nothing."""
        await write(system, 0, 10)
        replica = Replica(system)
        for start in range(10, 30, 5):
            await write(system, start, start + 5)
            expected = await system.contents()
            lives = 0
            while replica.contents() != expected:
                taken: list[SourceBatch] = []
                source = system.source()
                async with reading(source, dict(replica.state)) as batches:
                    async for batch in batches:
                        replica.add(batch)
                        taken.append(batch)
                        await source.acknowledge(batch.state)
                        if batch.changes or replica.contents() == expected:
                            break
                lives += 1
                assert lives < 50, "reading came to no end"

    async def test_g2_what_was_not_acknowledged_comes_again(self, system: SourceSystem) -> None:
        """What a reader took and lost, unacknowledged, is given to the next one."""
        await write(system, 0, 10)
        replica = Replica(system)
        expected = await system.contents()
        await follow(
            system.source(), replica, lambda: replica.contents() == expected, acknowledge=True
        )
        await write(system, 10, 20)
        after = await system.contents()
        lost = Replica(system)
        lost.state = dict(replica.state)
        await follow(system.source(), lost, lambda: bool(lost.operations))
        await follow(system.source(), replica, lambda: replica.contents() == after)

    async def test_g4_deletes_are_changes(self, system: SourceSystem) -> None:
        """What is deleted at the source is deleted by a change."""
        await write(system, 0, 10)
        replica = Replica(system)
        before = await system.contents()
        await follow(system.source(), replica, lambda: replica.contents() == before)
        seen = len(replica.operations)
        await write(system, 10, 20)
        expected = await system.contents()
        await follow(system.source(), replica, lambda: replica.contents() == expected)
        assert Op.DELETE in replica.operations[seen:]

    async def test_g1_positions_increase(self, system: SourceSystem) -> None:
        """Positions increase from change to change, across restarts (the replica checks it)."""
        await write(system, 0, 10)
        replica = Replica(system)
        for start in (10, 20, 30):
            expected = await system.contents()
            await follow(system.source(), replica, lambda e=expected: replica.contents() == e)  # type: ignore[misc]
            await write(system, start, start + 10)
        assert replica.last

    async def test_g6_time_passes_while_nothing_changes(self, system: SourceSystem) -> None:
        """An idle source says again and again until when everything is included."""
        await write(system, 0, 3)
        source = system.source()
        times: list[int] = []
        async with reading(source, {}) as batches:
            async for batch in batches:
                await source.acknowledge(batch.state)
                if batch.as_of is not None:
                    times.append(batch.as_of)
                if len(times) >= 3:
                    break
        assert times == sorted(times)
        assert len(set(times)) == len(times)

    async def test_close_may_come_at_any_time(self, system: SourceSystem) -> None:
        """Closing is safe before reading, while it waits, after it, and more than once."""
        unused = system.source()
        await unused.close()
        await unused.close()
        await write(system, 0, 3)
        source = system.source()
        async with reading(source, {}) as batches:
            await anext(batches)
            await source.close()
        await source.close()
