"""The MySQL source: a copy of tables at known places of the binlog, then every change from it.

State, as small named texts: ``server`` (which server), ``place`` (where the binlog is read from
next: epoch, offset, file), ``born`` (when that file was begun), ``gtids`` (what lies before it),
``position`` (the last change given), ``table:STREAM`` (how far the copy of the table is),
``shape:STREAM`` (what the table looks like at ``place``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from penstock.clock import Clock
from penstock.errors import ConfigError, RetryableError, SourceError
from penstock.records import Microseconds, Schema
from penstock.sources.base import Finding, RowHash, SourceBatch, State, StateChange
from penstock.sources.mysql.capture import SHAPE, Capture, start_of
from penstock.sources.mysql.catalogue import (
    Server,
    Table,
    choose_tables,
    fetch_charsets,
    fetch_column_names,
    fetch_end,
    fetch_files,
    fetch_gtids,
    fetch_server,
    fetch_tables,
    matches,
    refuse_what_cannot_be_captured,
)
from penstock.sources.mysql.changes import Assembler
from penstock.sources.mysql.checks import check_source, refuse_server
from penstock.sources.mysql.connections import Session, connect
from penstock.sources.mysql.gtids import parse_gtids
from penstock.sources.mysql.plans import NEVER, Tracked
from penstock.sources.mysql.positions import Place, file_number, rows_before
from penstock.sources.mysql.shapes import Shape
from penstock.sources.mysql.snapshot import Moment, Progress, TableCopier, open_moment
from penstock.sources.mysql.verify import row_hashes

logger = structlog.get_logger("penstock.sources.mysql")

_TABLE: Final = "table:"
_NOW: Final = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
_ALWAYS: Final = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class MySQLLimits:
    """How much is held, and how long is waited."""

    read_ahead_bytes: int = 4_000_000
    piece_s: float = 20.0
    """How long one piece of a copy takes at most (of tables whose keys can be cut); the stream
    waits for that time."""
    reread_pause_s: float = 10.0
    """How long the stream goes on before a copy that could not begin is tried again."""


class LogStatus(NamedTuple):
    """Where we are in the binlog, and where it ends."""

    place: str | None
    end: str
    files: int
    retained_bytes: int


class MySQLSource:
    """Captures tables of one server: MySQL 5.7 or later, MariaDB 10.2 or later.

    ``tables`` are names (``shop.flights``) or globs (``shop.*``), looked up each time that reading
    begins; tables made later that match a glob are captured from then on. ``server_id`` names us
    among the readers of the binlog and must be no one else's. The user needs REPLICATION SLAVE,
    REPLICATION CLIENT (MariaDB 10.5 and later: BINLOG MONITOR), SELECT on the tables, and for MySQL
    LOCK TABLES. Nothing is left in the server.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        tables: Sequence[str],
        *,
        clock: Clock,
        server_id: int,
        heartbeat_s: float = 5.0,
        max_batch_changes: int = 5000,
        limits: MySQLLimits = MySQLLimits(),
    ) -> None:
        if not tables:
            raise ConfigError(f"expected the names of tables for source {name!r}, got none")
        if not 0 < server_id < 1 << 32:
            raise ConfigError(
                f"expected a server_id from 1 to 4294967295 for source {name!r}, got {server_id}"
            )
        self.name = name
        self._dsn = dsn
        self._patterns = tuple(tables)
        self._clock = clock
        self._server_id = server_id
        self._heartbeat_s = heartbeat_s
        self._batch_changes = max_batch_changes
        self._limits = limits
        self._what = f"source {name!r}"
        self._capture: Capture | None = None
        self._wanted: set[str] = set()
        self._copying: set[str] = set()
        self._place: Place | None = None
        self._position: str | None = None
        """The last row of a copy that was given, or what the state says was given last."""
        self._resources = AsyncExitStack()

    async def read(self, state: State) -> AsyncGenerator[SourceBatch]:
        """See `penstock.sources.base.Source.read`. May be called again after it has ended."""
        await self.close()
        try:
            async with aclosing(self._read(state)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            await self.close()

    async def _read(self, state: State) -> AsyncGenerator[SourceBatch]:
        catalogue = await self._open()
        server = await fetch_server(catalogue)
        refuse_server(server, self._what)
        tables = choose_tables(self._patterns, await fetch_tables(catalogue), self._what)
        start = await self._start(catalogue, server, state)
        facts, later = _changed_facts(state, tables), _server_facts(state, server, start)
        if not start.by_gtid:
            facts, later = facts | later, {}
        self._position = state.get("position")
        self._wanted |= self._copying  # begun, but not durable: the state may not know
        self._copying = set()
        if facts:
            yield SourceBatch(state=facts)
        progress = {
            table.stream: Progress.parse(state.get(_TABLE + table.stream)) for table in tables
        }
        assembler = Assembler(
            self.name,
            start.place,
            wanted=self._is_wanted,
            tables=_tracked(state, tables, progress),
            charsets=await fetch_charsets(catalogue),
            gtids=parse_gtids(start.gtids, mariadb=server.mariadb),
            position=state.get("position"),
            born=None if start.by_gtid else state.get("born"),
        )
        self._capture = capture = Capture(
            catalogue,
            await self._open(),
            self.name,
            assembler,
            on_unclear=self._ask_again,
            clock=self._clock,
            server=server,
            server_id=self._server_id,
            batch_changes=self._batch_changes,
            read_ahead_bytes=self._limits.read_ahead_bytes,
            heartbeat_s=self._heartbeat_s,
            first_state=later,
        )
        await capture.start(by_gtid=start.by_gtid)
        missing = [table for table in tables if not progress[table.stream].done]
        self._wanted -= {table.stream for table in missing}
        async with aclosing(self._load(catalogue, capture, server, missing, progress)) as load:
            async for batch in load:
                yield batch
        while not capture.ended:
            for part in (self._reread(catalogue, capture, server), capture.batches()):
                async with aclosing(part) as batches:
                    async for batch in batches:
                        yield batch

    async def acknowledge(self, state: StateChange) -> None:
        """See `penstock.sources.base.Source.acknowledge`. The server keeps its binlogs for as long
        as it was told to; there is nothing to confirm."""
        self._copying -= {
            name.removeprefix(_TABLE)
            for name, value in state.items()
            if name.startswith(_TABLE) and value is not None
        }
        place = state.get("place")
        if place is not None:
            self._place = Place.parse(place)

    async def reread_streams(self, streams: Sequence[str]) -> None:
        """See `penstock.sources.base.RereadableSource.reread_streams`."""
        self._ask_again(streams)

    def _ask_again(self, streams: Collection[str]) -> None:
        self._wanted.update(streams)
        if self._capture is not None:
            self._capture.interrupt()

    async def close(self) -> None:
        """See `penstock.sources.base.Source.close`."""
        capture, self._capture = self._capture, None
        resources, self._resources = self._resources, AsyncExitStack()
        if capture is not None:
            await capture.close()
        await resources.aclose()

    async def check(self) -> Sequence[Finding]:
        """See `penstock.sources.base.CheckableSource.check`."""
        return await check_source(self._dsn, self.name, self._patterns)

    async def drop(self) -> Sequence[str]:
        """See `penstock.sources.base.DroppableSource.drop`: we leave nothing in the server."""
        await self.close()
        return []

    async def status(self) -> LogStatus:
        """Where we are, asked on a connection of its own."""
        session = await connect(self._dsn, self._what)
        try:
            file, offset = await fetch_end(session)
            files = await fetch_files(session)
            place = None if self._place is None else self._place
            return LogStatus(
                None if place is None else f"{place.file}:{place.offset}",
                f"{file}:{offset}",
                len(files),
                sum(files.values()),
            )
        finally:
            await session.close()

    async def streams(self) -> list[str]:
        """The streams that the project's names mean at the source now."""
        session = await connect(self._dsn, self._what)
        try:
            found = await fetch_tables(session)
            return [table.stream for table in choose_tables(self._patterns, found, self._what)]
        finally:
            await session.close()

    async def columns(self) -> dict[str, list[str]]:
        """The columns of every table at the source, by stream; for comparing with the settings."""
        session = await connect(self._dsn, self._what)
        try:
            return await fetch_column_names(session)
        finally:
            await session.close()

    async def row_hashes(
        self, schema: Schema, columns: Sequence[str] | None = None
    ) -> AsyncGenerator[RowHash]:
        """A hash of every row that one of our streams has now, ordered by key; for comparing with
        the live table. ``columns`` are those that are hashed: the ones of ``schema`` that the table
        still has (None: all of them)."""
        session = await connect(self._dsn, self._what, answer_s=None)
        try:
            tables = await fetch_tables(session)
            table = choose_tables([schema.stream], tables, self._what)[0]
            async with aclosing(
                row_hashes(session, table, schema, columns or schema.names)
            ) as found:
                async for row in found:
                    yield row
        finally:
            await session.close()

    # ------------------------------------------------------------------ beginning

    async def _open(self) -> Session:
        session = await connect(self._dsn, self._what)
        self._resources.push_async_callback(session.close)
        return session

    def _is_wanted(self, stream: str) -> bool:
        return any(matches(pattern, stream) for pattern in self._patterns)

    async def _start(self, catalogue: Session, server: Server, state: State) -> _Start:
        """Where the stream goes on: at the end of the log for a new source, else where the state
        says, on this server or, by GTIDs, on another one of the same replication."""
        if "place" not in state:
            file, offset = await fetch_end(catalogue)
            gtids = await fetch_gtids(catalogue, server, file, offset)
            return _Start(Place(1, file, offset), gtids)
        place, gtids = Place.parse(state["place"]), state.get("gtids", "")
        self._place = place
        if state.get("server", server.identity) != server.identity:
            if not gtids or not server.gtids:
                raise SourceError(
                    f"expected the server of {self._what} to be {state['server']!r}, got "
                    f"{server.identity!r}: without GTIDs another server's binlog cannot be "
                    "followed; mend the DSN, or `penstock drop` the source and run again"
                )
            logger.warning("source.other_server", source=self.name, server=server.identity)
            return _Start(Place(place.epoch + 1, "", 0), gtids, by_gtid=True)
        files = await fetch_files(catalogue)
        size = files.get(place.file)
        if size is None:
            raise self._purged(place, files)
        if size < place.offset:
            raise SourceError(
                f"expected binlog {place.file!r} of {self._what} to have {place.offset} bytes at "
                f"least, got {size}: it was reset, or the server lost its end in a crash "
                "(sync_binlog = 1 prevents that); `penstock drop` the source and run again"
            )
        return _Start(start_of(place), gtids)

    def _purged(self, place: Place, files: Collection[str]) -> SourceError:
        first = min(files, key=file_number, default="none")
        return SourceError(
            f"expected binlog {place.file!r} of {self._what}, got {first!r} as the oldest: it was "
            "purged before it was read; `penstock drop` the source and run again (its tables are "
            "copied anew), and keep binlogs longer (binlog_expire_logs_seconds, expire_logs_days)",
            place=place.format(),
        )

    # ------------------------------------------------------------------ copies

    async def _load(
        self,
        catalogue: Session,
        capture: Capture,
        server: Server,
        missing: Sequence[Table],
        progress: dict[str, Progress],
    ) -> AsyncGenerator[SourceBatch]:
        """Copy tables, piece by piece: first all that committed before a piece's moment, then the
        piece, so that positions keep their order; the stream goes on between pieces."""
        left = list(missing)
        while left:
            epoch = capture.assembler.here.epoch
            caught_up = Place(epoch, *await fetch_end(catalogue))
            async with aclosing(capture.batches(until=caught_up)) as batches:
                async for batch in batches:
                    yield batch
            epoch = capture.assembler.here.epoch
            now = Microseconds(int((await catalogue.fetch(_NOW))[0][0]))
            moment = await open_moment(self._dsn, self._what, server, left, epoch)
            self._resources.push_async_callback(moment.session.close)
            moment.rows = rows_before(moment.place, self._position)
            piece = self._piece(capture, server, moment, left, progress, now)
            async with aclosing(piece) as batches:
                async for batch in batches:
                    yield batch

    async def _piece(
        self,
        capture: Capture,
        server: Server,
        moment: Moment,
        left: list[Table],
        progress: dict[str, Progress],
        now: Microseconds,
    ) -> AsyncGenerator[SourceBatch]:
        try:
            for table in left:
                if progress[table.stream].after is None:
                    capture.begin_table(table.stream, moment.shapes[table.stream], moment.place)
            async with aclosing(capture.batches(until=moment.place)) as batches:
                async for batch in batches:
                    yield batch
            ends = asyncio.get_running_loop().time() + self._limits.piece_s
            copier = TableCopier(
                moment,
                self.name,
                now,
                batch_rows=self._batch_changes,
                # Where rows may come without some values, a table is copied whole: a row must be
                # there before a part of it changes.
                until=ends if server.row_image == "FULL" else None,
            )
            last = SourceBatch()
            while left:
                table = left[0]
                logger.info("source.copying", source=self.name, table=table.stream)
                copy = copier.copy(table, progress[table.stream])
                async with aclosing(copy) as parts:
                    async for changes, reached in parts:
                        if last.changes:
                            yield last
                        progress[table.stream] = reached
                        self._position = changes[-1].position if changes else self._position
                        last = SourceBatch(changes, self._copied(table, reached, moment))
                if progress[table.stream].done:
                    left.pop(0)
                if asyncio.get_running_loop().time() > ends:
                    break
        finally:
            await moment.session.close()
        # Only now, when the server keeps nothing from being altered for us.
        if last.changes:
            yield last

    def _copied(self, table: Table, progress: Progress, moment: Moment) -> StateChange:
        state: dict[str, str | None] = {}
        if self._position is not None:
            state["position"] = self._position
        if progress.after is not None or progress.done:
            state[_TABLE + table.stream] = progress.format()
            state[SHAPE + table.stream] = moment.shapes[table.stream].format()
        return state

    async def _reread(
        self, catalogue: Session, capture: Capture, server: Server
    ) -> AsyncGenerator[SourceBatch]:
        """Copy tables (again) whose rows cannot be made right by the stream alone."""
        wanted, self._wanted = self._wanted, set()
        if not wanted:
            return
        again = self._capturable(wanted, await fetch_tables(catalogue))
        if not again:
            return
        streams = {table.stream for table in again}
        self._copying |= streams
        # First the word that there is no copy, then nothing of the tables until there is one: a
        # process that dies in between leaves it to the next to make the copy.
        yield SourceBatch(state={_TABLE + stream: None for stream in sorted(streams)})
        for stream in streams:
            capture.assembler.tables[stream] = Tracked(None, NEVER)
        progress = {stream: Progress() for stream in streams}
        try:
            load = self._load(catalogue, capture, server, again, progress)
            async with aclosing(load) as batches:
                async for batch in batches:
                    yield batch
        except RetryableError as error:
            if type(error) is not RetryableError:
                raise
            logger.warning("source.rereading_later", source=self.name, reason=str(error))
            asyncio.get_running_loop().call_later(
                self._limits.reread_pause_s, self._ask_again, streams
            )

    def _capturable(self, wanted: Collection[str], tables: Sequence[Table]) -> list[Table]:
        found = []
        for table in tables:
            if table.stream not in wanted or not self._is_wanted(table.stream):
                continue
            try:
                refuse_what_cannot_be_captured(table, self._what)
            except SourceError as error:
                # The others go on; whoever starts the source again is told.
                logger.error("source.table_left_out", source=self.name, reason=str(error))  # noqa: TRY400 - a sentence, no traceback
                continue
            found.append(table)
        return found


class _Start(NamedTuple):
    place: Place
    gtids: str
    by_gtid: bool = False


def _changed_facts(state: State, tables: Sequence[Table]) -> dict[str, str | None]:
    """What the state must forget: tables that are gone."""
    wanted = {kind + table.stream for table in tables for kind in (_TABLE, SHAPE)}
    return {name: None for name in state if name.startswith((_TABLE, SHAPE)) and name not in wanted}


def _server_facts(state: State, server: Server, start: _Start) -> dict[str, str | None]:
    """What the state must say of the server from now on. After a failover that is true only
    together with the first place of the new server's log."""
    facts: dict[str, str | None] = {}
    if state.get("server") != server.identity:
        facts["server"] = server.identity
    if "place" not in state:
        facts |= {"place": start.place.format(), "gtids": start.gtids}
    return facts


def _tracked(
    state: State, tables: Sequence[Table], progress: dict[str, Progress]
) -> dict[str, Tracked]:
    found = {}
    for table in tables:
        how_far = progress[table.stream]
        shape = state.get(SHAPE + table.stream)
        begun = how_far.done or how_far.after is not None
        found[table.stream] = Tracked(
            None if shape is None else Shape.parse(shape), _ALWAYS if begun else NEVER
        )
    return found
