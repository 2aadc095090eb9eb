"""Copies of tables while the stream runs: who reads what, and how far each is.

Workers read chunks and hand rows over; the stream takes them in between its transactions and gives
them positions (`Capture`), so that positions only grow. What is not taken is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal, LiteralString

import psycopg
import structlog

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.records import Row
from penstock.sources.base import CopyProgress
from penstock.sources.postgres.catalogue import Table, fetch
from penstock.sources.postgres.changes import Assembler
from penstock.sources.postgres.chunks import ChunkReader, Look, Moment
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.marks import CopyMark, Visibility
from penstock.sources.postgres.state import CopyState

logger = structlog.get_logger("penstock.sources.postgres")

_WAITING: Final = 2
"""How many batches wait to be taken before the workers wait."""
_FETCH: Final = 500
"""How many rows are read by their keys at a time."""
_LOOK_S: Final = 0.02
"""How soon it is looked again whether a snapshot sees enough."""
_NUDGE_S: Final = 0.2
"""How long the stream may take to come to where a chunk was read before the server is nudged."""
_NUDGE_AGAIN_S: Final = 2.0
_TELL_S: Final = 10.0
"""How often a copy tells how far it is."""

_SNAPSHOT: Final[LiteralString] = "SELECT pg_current_snapshot()::text"
_WRITERS: Final[LiteralString] = """
SELECT string_agg(format('pid %s (%s, for %s s)', pid,
                         coalesce(nullif(application_name, ''), usename, 'unknown'),
                         extract(epoch FROM now() - xact_start)::integer), ', ')
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
"""


@dataclass(eq=False)
class TableCopy:
    """A table that is being copied. ``first``: its rows were not there before. ``settled``: all
    transactions that might have changed it unpublished have ended."""

    table: Table
    first: bool
    settled: bool
    state: CopyState | None = None
    mark: CopyMark = field(default_factory=CopyMark)
    told_at: float = 0.0
    read_rows: int = 0
    read_s: float = 0.0
    ended: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be read."""
        state, mark = self.state, self.mark
        if state is None or mark.again or mark.restart:
            return False
        return 0 <= state.blocks <= state.block

    @property
    def stream(self) -> str:
        """How changes name the table."""
        return self.table.stream

    def resume(self, state: CopyState) -> None:
        """Go on with a copy that an earlier life began."""
        self.state = state
        self.first = state.first
        self.settled = True
        self.mark.again.update(tuple(key) for key in state.again)

    def progress(self) -> CopyProgress:
        """How far it is."""
        state = self.state
        rows = state.rows if state else 0
        rate = self.read_rows / self.read_s if self.read_s else None
        if state is None or state.blocks < 0:
            left = max(0, round(self.table.rows))
        elif state.block:
            left = round(rows * (state.blocks - state.block) / state.block)
        else:
            left = max(0, round(self.table.rows) - rows)
        return CopyProgress(self.stream, rows, rate, left, left / rate if rate else None)


@dataclass(frozen=True)
class Piece:
    """What the stream is to take of a copy: its beginning, or rows, which had that shape.
    ``block``: with these rows all blocks before it are done (-1: not said). ``lsn``: what the rows
    contain had committed by then, so the stream is to give that first."""

    kind: Literal["begin", "rows"]
    copy: TableCopy
    look: Look
    rows: Sequence[Row] = ()
    block: int = -1
    ends_chunk: bool = False
    lsn: int = 0
    taken: asyncio.Event = field(default_factory=asyncio.Event)


class Copies:
    """All copies of one life of the stream. Errors of a copy end the stream."""

    def __init__(
        self,
        dsn: str,
        source: str,
        publication: str,
        *,
        clock: Clock,
        limits: PostgresLimits,
        batch_rows: int,
        assembler: Callable[[], Assembler],
        is_past: Callable[[int], bool],
        nudge: Callable[[], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self._dsn = dsn
        self._source = source
        self._what = f"source {source!r}"
        self._publication = publication
        self._clock = clock
        self._limits = limits
        self._batch_rows = batch_rows
        self._assembler = assembler
        self._is_past = is_past
        self._nudge = nudge
        self._wake = wake
        self._queue: deque[TableCopy] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._looked = False
        self._space = asyncio.Event()
        self.pieces: deque[Piece] = deque()
        self.active: dict[str, TableCopy] = {}
        self.error: PenstockError | None = None

    def add(self, copy: TableCopy) -> None:
        """Copy this table as soon as there is a worker."""
        self.active[copy.stream] = copy
        self._queue.append(copy)
        if len(self._workers) < self._limits.copy_tables:
            worker = asyncio.create_task(self._work(), name=f"copy {self._source}")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    @property
    def is_first_load(self) -> bool:
        """Whether a table is not there yet as a whole."""
        return any(copy.first for copy in self.active.values())

    def take(self) -> Piece | None:
        """The next piece, if there is one; the caller says when it is done with it."""
        if self.error is not None:
            raise self.error
        piece = self.pieces.popleft() if self.pieces else None
        if len(self.pieces) < _WAITING:
            self._space.set()
        return piece

    def progress(self) -> list[CopyProgress]:
        """How far each copy is."""
        return [copy.progress() for copy in self.active.values()]

    async def close(self) -> None:
        """Stop reading."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    # ------------------------------------------------------------------ the workers

    async def _work(self) -> None:
        try:
            connection = await connect(self._dsn, self._what)
            try:
                while self._queue:
                    await self._copy(connection, self._queue.popleft())
            finally:
                await connection.close()
        except PenstockError as error:
            self.error = self.error or error
            self._wake()

    async def _copy(self, connection: psycopg.AsyncConnection, copy: TableCopy) -> None:
        reader = ChunkReader(connection, self._what, self._source, self._publication, copy.table)
        if not copy.settled:
            await self._settle(connection, copy)
        if copy.state is None:
            shape, plan = await reader.look()
            await self._give(Piece("begin", copy, Look(shape, plan, self._clock.now())))
        await self._catch_up(reader)
        logger.info("source.copying", source=self._source, **copy.progress()._asdict())
        copy.told_at = self._loop.time()
        size = self._limits.chunk_blocks
        while True:
            began = self._loop.time()
            moment = await self._begin(reader, copy)
            if moment is None:
                continue
            ended = await self._chunk(reader, copy, moment, size)
            if copy.ended:
                break
            size = _next_size(size, ended - began, self._limits.chunk_s, halve=copy.mark.spoiled)
            copy.read_s += self._loop.time() - began
            self._tell(copy)
        logger.info("source.copied", source=self._source, **copy.progress()._asdict())

    async def _settle(self, connection: psycopg.AsyncConnection, copy: TableCopy) -> None:
        """Wait for all transactions that write now. What they did to a table before it was
        published does not come by the stream, so the copy must see it."""
        text = (await fetch(connection, self._what, _SNAPSHOT))[0][0]
        now, warned_at = Visibility.parse(text), self._loop.time()
        while Visibility.parse(text).xmin < now.xmax:
            if self._loop.time() - warned_at > self._limits.open_writers_s:
                warned_at = self._loop.time()
                writers = (await fetch(connection, self._what, _WRITERS))[0][0]
                logger.warning(
                    "source.copy_waits",
                    source=self._source,
                    table=copy.stream,
                    reason=f"transactions that write have been open since before it: {writers}",
                )
            await self._clock.sleep(_LOOK_S)
            text = (await fetch(connection, self._what, _SNAPSHOT))[0][0]
        copy.settled = True

    async def _catch_up(self, reader: ChunkReader) -> None:
        """Wait while the stream is behind: a chunk that is read now would wait for it, and with it
        a snapshot and who wants to alter the table."""
        lsn = await reader.flushed()
        async with self._nudging(lsn):
            while not self._is_past(lsn):
                await self._clock.sleep(_LOOK_S)

    async def _begin(self, reader: ChunkReader, copy: TableCopy) -> Moment | None:
        """A moment that sees all that the stream has given; None: not yet."""
        moment = await reader.begin()
        if moment is None:
            await self._clock.sleep(_LOOK_S)
            return None
        assembler, state = self._assembler(), copy.state
        assert state is not None
        if not self._looked:
            self._looked = True
            assembler.expect(moment.waiting)
        if not assembler.is_seen_by(moment.visible):
            await reader.end()
            await self._clock.sleep(_LOOK_S)
            return None
        shape = moment.look.shape.format()
        if state.blocks < 0:
            state.files, state.blocks, state.shape = moment.files, moment.blocks, shape
        elif copy.mark.restart or (state.files, state.shape) != (moment.files, shape):
            # Rows are in other places now, or look different from those that were given.
            await reader.end()
            logger.info("source.copying_anew", source=self._source, table=copy.stream)
            await self._give(Piece("begin", copy, moment.look))
            return None
        # From here to the first await nothing comes by the stream.
        copy.mark.covered = state.block >= state.blocks
        keys = list(copy.mark.again)[:_FETCH]
        copy.mark.open_chunk(keys)
        return moment

    async def _chunk(
        self, reader: ChunkReader, copy: TableCopy, moment: Moment, size: int
    ) -> float:
        """Returns when all was read (on the loop's clock)."""
        state, plan = copy.state, moment.look.plan
        assert state is not None
        limits, block = self._limits, -1
        if copy.mark.fetching:
            parts = reader.by_key(plan, copy.mark.fetching, self._batch_rows, limits.batch_bytes)
        elif state.block < state.blocks:
            block = min(state.blocks, state.block + size)
            parts = reader.blocks(plan, state.block, block, self._batch_rows, limits.batch_bytes)
        else:
            parts = _nothing()
        async with self._nudging(moment.lsn):
            return await self._give_all(reader, copy, moment, parts, block)

    @asynccontextmanager
    async def _nudging(self, lsn: int) -> AsyncIterator[None]:
        """While the stream is to come to this LSN: that may lie at the end of a log that nobody
        writes on, and that the server therefore keeps in its memory."""
        done = asyncio.Event()

        async def nudge() -> None:
            wait_s = _NUDGE_S
            while not done.is_set() and not self._is_past(lsn):
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await done.wait()
                    return
                if not self._is_past(lsn):
                    await self._nudge()
                wait_s = _NUDGE_AGAIN_S

        nudging = asyncio.create_task(nudge(), name=f"nudge {self._source}")
        try:
            yield
            # What the server was asked is answered to the end: others use the connection.
            done.set()
            await nudging
        finally:
            nudging.cancel()
            await asyncio.wait({nudging})

    async def _give_all(
        self,
        reader: ChunkReader,
        copy: TableCopy,
        moment: Moment,
        parts: AsyncGenerator[list[Row]],
        block: int,
    ) -> float:
        last: list[Row] = []
        async with aclosing(parts) as pieces:
            async for rows in pieces:
                if last:
                    await self._put(Piece("rows", copy, moment.look, last, lsn=moment.lsn))
                last = [] if copy.mark.spoiled else rows
        # All is read: who wants to alter the table need not wait until it is taken.
        await reader.end()
        ended_at = self._loop.time()
        end = Piece("rows", copy, moment.look, last, block, ends_chunk=True, lsn=moment.lsn)
        await self._give(end)
        return ended_at

    async def _put(self, piece: Piece) -> None:
        while len(self.pieces) >= _WAITING:
            self._space.clear()
            await self._space.wait()
        piece.copy.read_rows += len(piece.rows or ())
        self.pieces.append(piece)
        self._wake()

    async def _give(self, piece: Piece) -> None:
        await self._put(piece)
        await piece.taken.wait()

    def _tell(self, copy: TableCopy) -> None:
        if self._loop.time() - copy.told_at > _TELL_S:
            copy.told_at = self._loop.time()
            logger.info("source.copying", source=self._source, **copy.progress()._asdict())


async def _nothing() -> AsyncGenerator[list[Row]]:
    return
    yield


def _next_size(size: int, took_s: float, wanted_s: float, *, halve: bool) -> int:
    """How many blocks the next chunk has, so that it takes about as long as is wanted."""
    if halve:
        return max(1, size // 2)
    if took_s > 2 * wanted_s:
        return max(1, size // 2)
    if took_s < wanted_s / 2:
        return min(size * 2, 1 << 16)
    return size
