"""The running stream: from the server's messages to batches, with its heartbeat.

Batching is by wake-up: all that has arrived is decoded, and what is complete goes out as soon as
the socket has no more. While the consumer is busy more arrives, so batches grow under load by
themselves and a single change waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
import structlog
from psycopg import pq

from penstock.clock import Clock
from penstock.errors import PenstockError, RetryableError, UnavailableError
from penstock.records import Microseconds
from penstock.sources.base import SourceBatch, State
from penstock.sources.postgres import taking
from penstock.sources.postgres.catalogue import (
    Server,
    fetch,
    fetch_primary_key,
    fetch_types,
)
from penstock.sources.postgres.changes import Assembler, TablePlan, table_schema
from penstock.sources.postgres.copying import Copies, Piece, TableCopy
from penstock.sources.postgres.decoder import RELATION, Relation, decode
from penstock.sources.postgres.extras import Keep
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.marks import CopyMark, Visibility
from penstock.sources.postgres.options import PostgresOptions, stream_options
from penstock.sources.postgres.parking import keyless, park
from penstock.sources.postgres.positions import format_lsn, parse_lsn, parse_position
from penstock.sources.postgres.shapes import Shape, ShapeWatch, fetch_shapes
from penstock.sources.postgres.state import COPIED, COPY
from penstock.sources.postgres.stream import DATA, DATA_START, ReplicationStream, wal_end
from penstock.sources.postgres.watch import look_around

logger = structlog.get_logger("penstock.sources.postgres")

_SLICE: Final = 400
"""How many messages are decoded before other tasks get a turn: about 2 ms."""
_GATHER_S: Final = 0.01
"""How long complete transactions may wait for more while the socket has more."""
_SILENCE_S: Final = 60.0
"""How long the server may leave our questions on the stream unanswered."""
_MOMENTS: Final = 20
"""How many moments are remembered that the stream has not reached."""
_PIECES: Final = 4
"""How many batches of copies are given before the stream has its turn again."""
_LOOK_S: Final = 5.0
"""How often we look around at least, so that what is wrong is named within 10 s."""
_CONFIRM_S: Final = 0.05
"""Confirmations closer together than this are joined."""

# Time first: what committed by then lies before the LSNs that are read after.
_PROBE: Final[LiteralString] = """
SELECT t.now, pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text,
       pg_current_snapshot()::text,
       ARRAY(SELECT c.oid::bigint FROM pg_publication_tables p
             JOIN pg_namespace n ON n.nspname = p.schemaname
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
             WHERE p.pubname = %s)
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS t
"""


@dataclass(frozen=True, slots=True)
class _Moment:
    """All that committed by ``time`` ended by ``lsn``."""

    time: Microseconds
    lsn: int


class Capture:
    """One life of the replication stream. ``start``, then iterate ``batches``, then ``close``."""

    def __init__(
        self,
        catalogue: psycopg.AsyncConnection,
        replication: psycopg.AsyncConnection,
        source: str,
        publication: str,
        tables: Mapping[str, tuple[int, int]],
        *,
        shapes: Mapping[str, Shape],
        on_altered: Callable[[Collection[str]], None],
        on_begun: Callable[[str], None],
        on_copied: Callable[[str], None],
        dsn: str,
        clock: Clock,
        server: Server,
        batch_changes: int,
        limits: PostgresLimits,
        heartbeat_s: float,
        options: PostgresOptions,
        parked: Collection[str] = (),
    ) -> None:
        self._catalogue = catalogue
        self._what = f"source {source!r}"
        self._source = source
        self._publication = publication
        self._tables = dict(tables)
        self._shapes = ShapeWatch(shapes)
        self._on_altered = on_altered
        self._on_begun = on_begun
        self._on_copied = on_copied
        self._asked = stream_options(options, server.version)
        self._parked = set(parked)
        self._clock = clock
        self._batch_changes = batch_changes
        self._heartbeat_s = heartbeat_s
        timeout_s = server.wal_sender_timeout_ms / 1000 or 60.0
        self._status_s = min(10.0, timeout_s / 3)
        self._segment_bytes = server.segment_bytes
        self._stream = ReplicationStream(replication, self._what, max_bytes=limits.read_ahead_bytes)
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._types: dict[tuple[int, int], str] = {}
        self._moments: list[_Moment] = []
        self._flush_delay_us = 3000 * server.wal_writer_delay_ms
        self._as_of = Microseconds(0)
        self._reported_lsn = 0
        self._confirming: asyncio.TimerHandle | None = None
        self._confirmed_at = 0.0
        self._progress = 0
        self._split = False
        self._resumed_at = 0
        self._pieces: list[bytes] = []
        self._keep = Keep(source, options.messages, options.own_origin_only)
        self._assembler = Assembler(source, keep=self._keep)
        self._places = taking.Places(0, ())
        self._marks: dict[str, CopyMark] = {}
        self.copies = Copies(
            dsn,
            source,
            publication,
            clock=clock,
            limits=limits,
            batch_rows=batch_changes,
            assembler=lambda: self._assembler,
            is_past=self._is_past,
            nudge=self._nudge,
            wake=self._stream.wake,
        )

    async def start(self, slot: str, resume_lsn: int, state: State, durable: int) -> None:
        """Begin to receive what comes after that LSN and, in it, after the state's position."""
        self._assembler = Assembler(
            self._source, state.get("position"), resume_lsn, keep=self._keep
        )
        given = [state[name] for name in ("position", COPIED) if name in state]
        # The transaction of the last change may not have been given to its end.
        self._resumed_at = parse_position(state["position"])[0] if "position" in state else 0
        self._places = taking.Places(resume_lsn, given)
        self._reported_lsn = self._progress = resume_lsn
        # Both names are made by us or are checked by the server: quoted as identifier and literal.
        quoted_slot = slot.replace('"', '""')
        quoted_publication = self._publication.replace('"', '""').replace("'", "''")
        asked = "".join(f", {name} '{value}'" for name, value in self._asked.items())
        command = (
            f'START_REPLICATION SLOT "{quoted_slot}" LOGICAL {format_lsn(resume_lsn)} '
            f"(proto_version '1', publication_names '\"{quoted_publication}\"'{asked})"
        )
        await self._stream.start(command.encode(), pq.ExecStatus.COPY_BOTH)
        self._stream.confirm(durable)
        self._tasks = [
            asyncio.create_task(self._keep_alive(), name=f"keepalive {self._source}"),
            asyncio.create_task(self._beat(), name=f"heartbeat {self._source}"),
        ]

    async def batches(self) -> AsyncGenerator[SourceBatch]:
        """Batches until `close`; raises what ends the stream, or a copy."""
        assembler = self._assembler
        while await self._arrived():
            gather_until = self._loop.time() + _GATHER_S
            while self._pieces:
                await self._feed()
                while len(assembler.changes) > self._batch_changes:
                    yield self._whole_batch() if assembler.complete else self._part_batch()
                await asyncio.sleep(0)
                if assembler.complete and self._loop.time() > gather_until:
                    break
                if not self._pieces:
                    self._stream.poll()
                    self._pieces = self._stream.take()
            batch = self._report()
            if batch is not None:
                yield batch
            for batch in self._copied():
                yield batch

    def copy(self, copy: TableCopy) -> None:
        """Copy a table beside the stream."""
        self._marks[copy.stream] = copy.mark
        if copy.state is not None:
            self._want(copy)
        self.copies.add(copy)

    @property
    def ended(self) -> bool:
        """Whether there will be nothing more."""
        return self._stream.ended

    async def _arrived(self) -> bool:
        """Wait for something to do; False when there will be nothing more."""
        if self._pieces:
            return True
        if self._is_due():
            self._stream.poll()  # what commits meanwhile is not to wait for a copy
            self._pieces = self._stream.take()
            return True
        await self._stream.wait()
        self._pieces = self._stream.take()
        return bool(self._pieces) or not self._stream.ended

    def _copied(self) -> Iterator[SourceBatch]:
        """What the copies have read by now; nothing in the middle of a transaction."""
        for _ in range(_PIECES):
            if self.copies.error is not None:
                raise self.copies.error
            piece = self.copies.take() if self._is_due() else None
            if piece is None:
                return
            batch = self._take(piece)
            piece.taken.set()
            if batch is not None:
                yield batch

    def _is_due(self) -> bool:
        """Whether there is a piece of a copy, and its place is here: the stream has given all that
        the piece contains, and is not in the middle of a transaction."""
        if not self.copies.pieces or self._is_within():
            return False
        return self._is_past(self.copies.pieces[0].lsn)

    def _is_past(self, lsn: int) -> bool:
        """Whether the stream has given all that ended by this LSN."""
        return self._end_of_record(lsn) <= self._reach()

    def _is_within(self) -> bool:
        """Whether what was given last is not the end of its transaction."""
        return self._split or self._reach() <= self._resumed_at

    def _take(self, piece: Piece) -> SourceBatch | None:
        copy = piece.copy
        if piece.kind == "begin":
            is_new = copy.state is None
            batch = taking.begin(copy, piece, self._places)
            if is_new:
                self._want(copy)
                self._on_begun(copy.stream)
            return batch
        batch = taking.give(copy, piece, self._places)
        if piece.ends_chunk and copy.is_complete:
            self._end_copy(copy, piece)
        return batch if batch.changes or batch.state else None

    def _end_copy(self, copy: TableCopy, piece: Piece) -> None:
        copy.ended = True
        del self.copies.active[copy.stream], self._marks[copy.stream]
        self._want(copy)
        self._shapes.copied(copy.stream, piece.look.shape)
        self._on_copied(copy.stream)

    def _want(self, copy: TableCopy) -> None:
        """Changes of the table that commit after the copy's beginning are wanted."""
        assert copy.state is not None
        starts_at = parse_position(copy.state.begun)[0]
        self._tables[copy.stream] = (copy.table.oid, starts_at)
        self._assembler.begin_table(copy.table.oid, starts_at, self._marks.get(copy.stream))

    def _report(self) -> SourceBatch | None:
        """What is complete, or that time has passed; None when there is nothing to say."""
        if not self._assembler.complete and not self._is_news():
            return None
        batch = self._whole_batch()
        return batch if batch.changes or batch.state or batch.as_of else None

    def confirm(self, lsn: int) -> None:
        """All until ``lsn`` is durable here: tell the server, soon."""
        self._stream.durable = max(self._stream.durable, lsn)
        if self._confirming is None:
            wait_s = self._confirmed_at + _CONFIRM_S - self._loop.time()
            if wait_s <= 0:
                self._confirm_now()
            else:
                self._confirming = self._loop.call_later(wait_s, self._confirm_now)

    async def close(self) -> None:
        """Stop reading; the connections are closed by whoever opened them."""
        if self._confirming is not None:
            self._confirming.cancel()
            self._confirm_now()
        self._stream.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.copies.close()

    def _confirm_now(self) -> None:
        self._confirming = None
        self._confirmed_at = self._loop.time()
        self._stream.confirm(self._stream.durable)

    async def _feed(self) -> None:
        """Decode a slice of what has come."""
        assembler = self._assembler
        pieces, self._pieces = self._pieces[:_SLICE], self._pieces[_SLICE:]
        messages: list[bytes] = []
        for piece in pieces:
            if piece[0] != DATA:
                assembler.feed_all(messages, DATA_START)
                messages = []
                self._progress = max(self._progress, wal_end(piece))
            elif piece[DATA_START] == RELATION:
                assembler.feed_all(messages, DATA_START)
                messages = []
                relation = decode(piece, DATA_START)
                assert isinstance(relation, Relation)
                assembler.define(relation.oid, await self._plan(relation))
            else:
                messages.append(piece)
        assembler.feed_all(messages, DATA_START)

    async def _plan(self, relation: Relation) -> TablePlan | None:
        stream = f"{relation.namespace}.{relation.name}"
        known = self._tables.get(stream)
        if known is None or known[0] != relation.oid:
            return None
        self._shapes.describe(stream, relation)
        wanted = [(column.type_oid, column.type_modifier) for column in relation.columns]
        new = [pair for pair in wanted if pair not in self._types]
        if new:
            self._types |= await fetch_types(self._catalogue, self._what, new)
        primary_key: tuple[str, ...] = ()
        if relation.identity == "f":
            primary_key = await fetch_primary_key(self._catalogue, self._what, relation.oid)
        schema = table_schema(self._source, relation, self._types, primary_key)
        if not schema.key_indexes:
            await self._park(stream)
            return None
        # Asking took time: what is wanted of the table may have changed.
        return TablePlan.make(schema, self._tables[stream][1], self._marks.get(stream))

    async def _park(self, stream: str) -> None:
        """Leave a table out that has no key any more; the others go on."""
        if stream in self.copies.active:
            raise RetryableError(f"table {stream!r} of {self._what} lost its key in its copy")
        oid, _ = self._tables.pop(stream)
        self._assembler.define(oid, None)
        self._parked.add(stream)
        reason = keyless(stream)
        self._shapes.note(park(stream, reason))
        logger.error("source.table_parked", source=self._source, table=stream, reason=reason)
        self._stream.wake()

    def _is_news(self) -> bool:
        """Whether there is something to report though no change is complete."""
        if self._split and not self._assembler.changes:
            return self._assembler.end_lsn > self._reported_lsn
        if self._shapes.has_news and not self._assembler.changes:
            return True
        reach = self._reach()
        return any(moment.lsn <= reach for moment in self._moments)

    def _reach(self) -> int:
        """All transactions that end by this LSN are decoded."""
        return max(self._progress, self._assembler.end_lsn)

    def _part_batch(self) -> SourceBatch:
        """A piece of a transaction that does not fit into one batch: what it says of time and of
        what may be forgotten comes with its end."""
        self._split = True
        changes = self._assembler.take_part(self._batch_changes)
        self._places.passed(changes[-1].position)
        return SourceBatch(changes, {"position": changes[-1].position, **self._put_off()})

    def _whole_batch(self) -> SourceBatch:
        """All that is complete (which may be no more than that time has passed)."""
        state: dict[str, str | None] = {**self._shapes.take_noted(), **self._put_off()}
        changes = self._assembler.take_complete()
        if changes:
            state["position"] = changes[-1].position
            self._places.passed(changes[-1].position)
        # Time may be told of in the middle of a transaction: that does not end it.
        self._split = self._split and not changes and self._assembler.is_open
        reach = self._reach()
        if reach > self._reported_lsn:
            self._reported_lsn = reach
            state["lsn"] = format_lsn(reach)
        return SourceBatch(changes, state, self._time())

    def _put_off(self) -> dict[str, str]:
        """Rows that copies are to read by their keys, where that is not in the state."""
        return {
            COPY + copy.stream: taking.describe(copy)
            for copy in self.copies.active.values()
            if copy.mark.changed and copy.state is not None
        }

    def _time(self) -> Microseconds | None:
        """The latest time up to which everything is included; None if it is not news."""
        times = [self._as_of]
        if self._assembler.committed_at is not None:
            times.append(self._assembler.committed_at)
        reach = self._reach()
        times += [moment.time for moment in self._moments if moment.lsn <= reach]
        self._moments = [moment for moment in self._moments if moment.lsn > reach]
        latest = max(times)
        if self.copies.is_first_load:
            # Until a table is there as a whole, this is known for the time after only.
            self._moments = [_Moment(latest, 0), *self._moments]
            return None
        if latest == self._as_of:
            return None
        self._as_of = latest
        return latest

    async def _keep_alive(self) -> None:
        """Tell the server that we live, whether or not the consumer takes anything."""
        while not self._stream.ended:
            await asyncio.sleep(self._status_s)
            self._stream.confirm(self._stream.durable)

    async def _beat(self) -> None:
        """Find out again and again what time it is in the stream; notice when all is silent."""
        try:
            while not self._stream.ended:
                await self._probe()
                self._stream.confirm(self._stream.durable, ask=True)
                await self._clock.sleep(min(self._heartbeat_s, _LOOK_S))
        except PenstockError as error:
            self._stream.fail(error)

    async def _nudge(self) -> None:
        """Have the server bring to disk, and so into the stream, what it has only inserted into its
        log: the end of a transaction that has a number and no changes does that, in a moment."""
        await fetch(self._catalogue, self._what, "SELECT pg_current_xact_id()::text")

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(10):
                rows = await fetch(self._catalogue, self._what, _PROBE, (self._publication,))
                found = await fetch_shapes(self._catalogue, self._what, self._publication)
                lost = await look_around(
                    self._catalogue,
                    self._what,
                    self._publication,
                    list(self._tables),
                    sorted(self._parked),
                )
        except TimeoutError as error:
            raise UnavailableError(
                f"expected an answer from {self._what} within 10 s, got none: reconnecting"
            ) from error
        time, inserted, flushed, snapshot, oids = rows[0]
        self._assembler.settle(Visibility.parse(snapshot))
        for stream in lost:
            await self._park(stream)
        for stream, (oid, _) in self._tables.items():
            if oid not in oids:
                raise RetryableError(
                    f"table {stream!r} of {self._what} left publication {self._publication!r}: it "
                    "was dropped, renamed or made anew; looking again"
                )
        silent_s = self._loop.time() - self._stream.heard_at
        if silent_s > _SILENCE_S and not self._stream.paused:
            raise UnavailableError(
                f"expected a sign of life on the replication stream of {self._what}, got none for "
                f"{silent_s:.0f} s: reconnecting"
            )
        # A copy looks after its table itself, as long as it lasts.
        watched = [stream for stream in self._tables if stream not in self.copies.active]
        altered = self._shapes.compare(found, watched, self._loop.time())
        if altered:
            self._on_altered(altered)
        self._remember(time, parse_lsn(inserted), parse_lsn(flushed))
        self._stream.wake()

    def _remember(self, time: int, inserted: int, flushed: int) -> None:
        """What has been committed is in what the server has inserted into its log. The stream only
        has what is flushed too: a commit that does not wait for that is flushed a little later, and
        other things may stay unflushed for long, so the flushed end tells of a time before that."""
        if len(self._moments) > _MOMENTS:
            return  # the stream is far behind: the earlier ones are reached first
        self._moments += [
            _Moment(Microseconds(time), self._end_of_record(inserted)),
            _Moment(Microseconds(time - self._flush_delay_us), self._end_of_record(flushed)),
        ]

    def _end_of_record(self, lsn: int) -> int:
        """Just after a page's header is the same place as just before it, where streams end."""
        if lsn % self._segment_bytes == 40:
            return lsn - 40
        return lsn - 24 if lsn % 8192 == 24 else lsn
