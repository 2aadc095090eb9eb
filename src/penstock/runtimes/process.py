"""The second loop: from the log through a pipeline to the stores, results and position as one.

    log ── read ──► compute (may call a model) ──► one transaction: effects, dead letters, position

While one transaction is on its way to disk the next batch is computed, so a model and the database
work at the same time; commits stay in order. The position moves by compare-and-set in the same
transaction as the results (G2): after any crash, the stored position says exactly what was done,
and a second process that runs the same pipeline is refused. Batches grow by themselves: what
arrives during a commit is the next batch. An append that is larger than a pipeline's ``slice`` is
done in slices: each but the last commits results without moving; repeating those costs little.

A record that cannot be processed is found by halving, put aside with its reason in the same
transaction, and the rest go on (G13); too many of them stop the pipeline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import structlog

from penstock.boundaries import Boundary, reach
from penstock.clock import Clock
from penstock.errors import (
    BadRecordError,
    FatalError,
    FencedError,
    PenstockError,
    RetryableError,
)
from penstock.log.base import Log
from penstock.pipelines.base import Outcome, Pipeline, Rejected, Tools
from penstock.records import Batch, Change, LogPosition, Microseconds, Op, Position
from penstock.runtimes.base import Backoff, ended, heed_cancellation
from penstock.runtimes.moves import Awaited, parts
from penstock.stores.base import DeadLetter, Move, Store
from penstock.subjects import ERASED, Screen, unscreened
from penstock.telemetry import PipelineMeter
from penstock.tracing import span

logger = structlog.get_logger("penstock.process")

_STRETCH = 4
_LOOK_S = 0.05
"""How often it is looked whether another partition has done what this one needs."""

FRESHNESS_SAMPLES = 64
"""How many changes of one batch are timed at most."""


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How many changes are read, and committed, at a time; how many steps are computed while one
    is committed; how many records may be put aside an hour."""

    batch: int = 5000
    slice: int = 5000
    ahead: int = 1
    dead_letter_limit: int = 1000


@dataclass(frozen=True, slots=True)
class Assignment:
    """One of ``partitions`` of a topic, processed by one pipeline for one source."""

    pipeline: Pipeline
    source: str
    topic: str
    partition: int
    partitions: int = 1


@dataclass(frozen=True, slots=True)
class _Step:
    """What one commit does: some changes and, if they end a batch, the move past it (or, before
    something that waits, to where it was). ``after`` is what another partition must have done."""

    changes: Sequence[Change]
    move: Move | None
    after: Awaited | None = None


def _slice_end(changes: Sequence[Change], start: int, size: int) -> int | None:
    """Where the slice that begins at ``start`` ends; None for the last one. A transaction stays
    whole (its rows may have traded keys) unless it is several times as large as a slice."""
    end = start + size
    while end < len(changes) and end < start + _STRETCH * size:
        before, after = changes[end - 1].transaction, changes[end].transaction
        if before is None or before != after:
            return end
        end += 1
    return None if end >= len(changes) else start + size


def _passed(changes: Sequence[Change]) -> Position | None:
    """The last position of the stream in there. What was copied, swept or repaired speaks of
    another moment than its place in the log."""
    for change in reversed(changes):
        if change.op in {Op.CREATE, Op.UPDATE} or change.transaction is not None:
            return change.position
    return None


class _UndoError(PenstockError):
    """Leaves a transaction that was only a trial."""


class Processor:
    """Runs one pipeline on one partition. ``run`` until cancelled, or `step` by step in tests."""

    def __init__(
        self,
        assignment: Assignment,
        log: Log,
        store: Store,
        tools: Tools,
        *,
        clock: Clock,
        meter: PipelineMeter,
        settings: ProcessSettings = ProcessSettings(),
        screen: Screen = unscreened,
    ) -> None:
        self._assignment = assignment
        self._screen = screen
        self._log = log
        self._store = store
        self._tools = tools
        self._clock = clock
        self._meter = meter
        self._settings = settings
        self._buried: deque[float] = deque()

    async def run(self) -> None:
        """Process for ever; pause and repeat after `RetryableError`, stop with `FatalError`."""
        backoff = Backoff(self._clock)
        meter = self._meter
        try:
            while True:
                before = meter.position
                try:
                    meter.state = "running"
                    await self._follow()
                except RetryableError as error:
                    meter.state, meter.last_error = "waiting", str(error)
                    meter.errors += 1
                    if meter.position != before:
                        backoff.reset()
                    logger.warning("pipeline.waiting", **self._names(), reason=str(error))
                    pause_s = backoff.pause_s(error.retry_after_s)
                    texts, now = error.facts.get("texts", 0), self._clock.now()
                    meter.postponed(self._assignment.partition, texts, now, pause_s, str(error))
                    await backoff.sleep(pause_s)
                except FencedError:
                    raise  # another process goes on with it: nothing has failed
                except FatalError as error:
                    meter.state, meter.last_error = "failed", str(error)
                    logger.error("pipeline.failed", **self._names(), reason=str(error))  # noqa: TRY400 - a sentence, no traceback
                    raise
        finally:
            meter.waiting.pop(self._assignment.partition, None)
            if meter.state != "failed":
                meter.state = "stopped"

    async def _follow(self) -> None:
        """Read, compute and commit from the stored position: up to ``ahead`` steps are computed
        while one is committed; commits stay in order."""
        at = await self._stored_position()
        steps: Iterator[tuple[_Step, Batch]] = iter(())
        computing: deque[tuple[_Step, Batch, asyncio.Task[Outcome]]] = deque()
        committing: asyncio.Task[None] | None = None
        try:
            while True:
                heed_cancellation()
                if len(computing) < self._settings.ahead:
                    step = next(steps, None)
                    if step is None and (found := await self._read(at)) is not None:
                        steps = zip(self._steps(at, found), repeat(found))
                        at = found.last
                        continue
                    waits = step is not None and step[0].after is not None
                    if step is not None and waits and (computing or committing):
                        steps = chain((step,), steps)  # what it waits for may wait for these
                    elif step is not None:
                        await self._awaited(step[0].after)
                        task = asyncio.create_task(self._compute(step[0].changes))
                        computing.append((*step, task))
                        continue
                if computing:
                    part, batch, task = computing[0]
                    outcome = await task
                    computing.popleft()
                    if committing is not None:
                        await asyncio.shield(committing)
                    committing = asyncio.create_task(self._commit(part, batch, outcome))
                elif committing is not None:
                    await asyncio.shield(committing)
                    committing = None
                else:
                    await self._log.wait(self._assignment.topic, self._assignment.partition, at)
        finally:
            for _, _, task in computing:
                task.cancel()
            # Whatever ends the loop: a commit that has begun is finished, never torn.
            left = [] if committing is None else [committing]
            await ended([*(task for _, _, task in computing), *left])

    async def step(self) -> bool:
        """Process what one read gives; False when there was nothing."""
        at = await self._stored_position()
        batch = await self._read(at)
        if batch is None:
            return False
        for step in self._steps(at, batch):
            await self._awaited(step.after)
            await self._commit(step, batch, await self._compute(step.changes))
        return True

    def _steps(self, at: LogPosition, batch: Batch) -> Iterator[_Step]:
        work = self._assignment
        cut = list(parts(batch.changes, work.partition, work.partitions))
        for number, part in enumerate(cut, start=1):
            last = number == len(cut)
            start, after = 0, part.after
            while (end := _slice_end(part.changes, start, self._settings.slice)) is not None:
                yield _Step(part.changes[start:end], None, after)
                start, after = end, None
            # How far this one is in the source is told before it waits: others may wait for it.
            to, as_of = (batch.last, batch.as_of) if last else (at, None)
            move = self._move(at, to, as_of, part.told or _passed(part.changes))
            yield _Step(part.changes[start:], move, after)

    def _move(
        self,
        at: LogPosition,
        to: LogPosition,
        as_of: Microseconds | None,
        position: Position | None,
    ) -> Move:
        work = self._assignment
        return Move(
            consumer=work.pipeline.name,
            topic=work.topic,
            partition=work.partition,
            expected=at,
            to=to,
            source=work.source,
            as_of=as_of,
            position=position,
        )

    async def _awaited(self, after: Awaited | None) -> None:
        """Return when another partition has passed a position of the source."""
        work, meter = self._assignment, self._meter
        told = False
        while after is not None:
            there = await self._store.passed(work.pipeline.name, work.topic, after.partition)
            if there is not None and there >= after.position:
                break
            if not told:
                told = True
                logger.debug("pipeline.behind", **self._names(), awaited=after.partition)
            meter.last_error = f"waits for partition {after.partition}"
            await self._clock.sleep(_LOOK_S)

    async def _stored_position(self) -> LogPosition:
        work = self._assignment
        at = await self._store.position(work.pipeline.name, work.topic, work.partition)
        self._meter.position = at
        return at

    async def _read(self, after: LogPosition) -> Batch | None:
        work = self._assignment
        batch = await self._log.read(
            work.topic,
            work.partition,
            after,
            max_changes=self._settings.batch,
            streams=work.pipeline.streams,
        )
        return None if batch is None else batch._replace(changes=self._screen(batch.changes))

    async def _compute(self, changes: Sequence[Change]) -> Outcome:
        """The pipeline's outcome, with records that it cannot bear set aside. What was erased is
        no change any more (G9)."""
        changes = [change for change in changes if change.schema.stream != ERASED]
        if not changes:
            return Outcome(())
        with span("penstock.compute", **self._names(), changes=len(changes)):
            try:
                return await self._assignment.pipeline.compute(changes, self._tools)
            except BadRecordError as error:
                return await self._without_bad(changes, error)

    async def _commit(self, step: _Step, batch: Batch, outcome: Outcome) -> None:
        """Results, dead letters and position in one transaction."""
        with span("penstock.apply", **self._names(), changes=len(step.changes)):
            try:
                await self._write(step, batch, outcome)
            except BadRecordError as error:
                changes = [one for one in step.changes if one.schema.stream != ERASED]
                outcome = await self._without_bad(changes, error)
                await self._write(step, batch, outcome)
        self._count(step.changes, outcome)

    async def _write(self, step: _Step, batch: Batch, outcome: Outcome) -> None:
        letters = self._letters(batch, outcome.rejected)
        async with self._store.transaction() as transaction:
            reach(Boundary.APPLY, "before")
            for effect in outcome.effects:
                await transaction.apply(effect)
            if letters:
                await transaction.bury(letters)
            reach(Boundary.APPLY, "after")
            if step.move is not None:
                await transaction.move(step.move)
            reach(Boundary.COMMIT, "before")
        reach(Boundary.COMMIT, "after")
        if step.move is not None:
            self._meter.position = step.move.to

    # ------------------------------------------------------------------ records put aside

    async def _without_bad(self, changes: Sequence[Change], error: BadRecordError) -> Outcome:
        """The outcome of all changes but those that fail on their own, found by halving."""
        rejected: list[Rejected] = []
        await self._find_bad([], changes, error, rejected)
        bad = {id(item.change) for item in rejected}
        good = [change for change in changes if id(change) not in bad]
        outcome = Outcome(())
        if good:
            outcome = await self._assignment.pipeline.compute(good, self._tools)
        return Outcome(
            outcome.effects, (*rejected, *outcome.rejected), outcome.embedded, outcome.reused
        )

    async def _find_bad(
        self,
        good: Sequence[Change],
        changes: Sequence[Change],
        error: BadRecordError,
        rejected: list[Rejected],
    ) -> list[Change]:
        """Add to ``rejected`` what fails; returns what is good, ``good`` before it included.

        Each half is tried on top of what is good before it: a change may need an earlier one.
        """
        if len(changes) == 1:
            rejected.append(Rejected(changes[0], error.reason))
            return [*good]
        middle = len(changes) // 2
        for half in (changes[:middle], changes[middle:]):
            problem = await self._try([*good, *half])
            if problem is None:
                good = [*good, *half]
            else:
                good = await self._find_bad(good, half, problem, rejected)
        return [*good]

    async def _try(self, changes: Sequence[Change]) -> BadRecordError | None:
        """Compute and apply, then undo: does it fail?"""
        try:
            outcome = await self._assignment.pipeline.compute(changes, self._tools)
            async with self._store.transaction() as transaction:
                for effect in outcome.effects:
                    await transaction.apply(effect)
                raise _UndoError("a trial is always undone")  # noqa: TRY301 - leaves the transaction
        except _UndoError:
            return None
        except BadRecordError as error:
            return error

    def _letters(self, batch: Batch, rejected: Sequence[Rejected]) -> list[DeadLetter]:
        if not rejected:
            return []
        work = self._assignment
        now = self._clock.monotonic()
        while self._buried and self._buried[0] < now - 3600:
            self._buried.popleft()
        if len(self._buried) + len(rejected) > self._settings.dead_letter_limit:
            raise FatalError(
                f"expected at most {self._settings.dead_letter_limit} records per hour that cannot "
                f"be processed, got {len(self._buried) + len(rejected)} in pipeline "
                f"{work.pipeline.name!r} on {work.topic!r} (the latest: {rejected[-1].reason}): "
                "mend the cause, or raise run.dead_letter_limit, and start again; nothing is lost",
                pipeline=work.pipeline.name,
            )
        self._buried.extend([now] * len(rejected))
        return [
            DeadLetter(
                pipeline=work.pipeline.name,
                topic=work.topic,
                partition=work.partition,
                log_position=batch.last,
                change=item.change,
                reason=item.reason,
            )
            for item in rejected
        ]

    # ------------------------------------------------------------------ counting

    def _count(self, changes: Sequence[Change], outcome: Outcome) -> None:
        meter = self._meter
        meter.changes += len(changes)
        meter.embedded += outcome.embedded
        meter.reused += outcome.reused
        meter.dead_letters += len(outcome.rejected)
        meter.last_error = None
        meter.waiting.pop(self._assignment.partition, None)
        if changes:
            now = self._clock.now()
            every = max(1, len(changes) // FRESHNESS_SAMPLES)
            meter.freshness.add(
                (now - change.committed_at) / 1000
                for change in changes[::every]
                if change.op is not Op.READ
            )

    def _names(self) -> dict[str, str | int]:
        work = self._assignment
        return {
            "pipeline": work.pipeline.name,
            "topic": work.topic,
            "partition": work.partition,
        }
