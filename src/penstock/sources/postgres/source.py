"""The PostgreSQL source: a consistent copy of tables, then every change by logical replication.

State, as small named texts: ``system`` and ``timeline`` (which server), ``lsn`` (what the slot may
be told to forget), ``position`` (the last change given), ``table:STREAM`` (consistent point of the
table's copy and the table's oid, once it is complete), ``shape:STREAM`` (what the table looked like
when it was copied or the stream last described it).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg
import structlog

from penstock.clock import Clock
from penstock.errors import ConfigError, SourceError
from penstock.records import Microseconds, Schema
from penstock.sources.base import Finding, RowHash, SourceBatch, State, StateChange
from penstock.sources.postgres.capture import Capture
from penstock.sources.postgres.catalogue import (
    Server,
    Table,
    choose_tables,
    fetch,
    fetch_column_names,
    fetch_published,
    fetch_relation,
    fetch_server,
    fetch_slot,
    fetch_tables,
    fetch_types,
)
from penstock.sources.postgres.changes import NEVER, TablePlan, table_schema
from penstock.sources.postgres.checks import check_source
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.positions import format_lsn, parse_lsn, parse_position
from penstock.sources.postgres.publication import (
    Export,
    Identity,
    NoMomentError,
    Published,
    check_identity,
    check_slot,
    claim_slot,
    default_slot_name,
    drop_publication,
    drop_slot,
    ensure_publication,
    export_snapshot,
    identify,
)
from penstock.sources.postgres.shapes import STATE as _SHAPE
from penstock.sources.postgres.shapes import Shape, fetch_shapes
from penstock.sources.postgres.snapshot import TableCopier, enter_snapshot
from penstock.sources.postgres.verify import HashedTable, current_lsn, row_hashes

logger = structlog.get_logger("penstock.sources.postgres")

OLDEST_VERSION: Final = 150000
_TABLE: Final = "table:"


@dataclass(frozen=True, slots=True)
class PostgresLimits:
    """How much is held, and how long is waited."""

    read_ahead_bytes: int = 4_000_000
    consistent_point_s: float = 300.0
    """How long to wait for open transactions before a copy."""
    reread_point_s: float = 3.0
    """The same when a table is copied again: the stream waits for that time."""
    reread_pause_s: float = 30.0
    """How long the stream goes on before that is tried again."""
    slot_s: float = 6.0
    """How long to wait for a slot that a killed process still holds."""
    answer_s: float = 10.0
    """How long the server may take to answer a question of ours."""


class SlotStatus(NamedTuple):
    """How the slot stands: what is confirmed, and how much WAL the server keeps for us."""

    slot: str
    confirmed_lsn: str | None
    current_lsn: str
    retained_wal_bytes: int
    lag_bytes: int
    active: bool
    wal_status: str | None


class _Copied(NamedTuple):
    """A table's complete copy, as the state holds it."""

    consistent_point: int
    oid: int

    @classmethod
    def parse(cls, text: str) -> _Copied:
        point, _, oid = text.partition(" ")
        return cls(parse_lsn(point), int(oid or 0))

    def format(self) -> str:
        return f"{format_lsn(self.consistent_point)} {self.oid}"


class PostgresSource:
    """Captures tables of one PostgreSQL database (15 or later).

    ``tables`` are names (``flights``, ``public.flights``) or globs (``public.*``), looked up each
    time that reading begins. ``slot`` and ``publication`` default to ``penstock_NAME``; they are
    made on first use. The role needs REPLICATION, SELECT on the tables and, for making the
    publication, CREATE on the database and ownership of the tables; a publication of that name
    that somebody else made is used as it is, with its row filters and column lists.

    Partitioned tables come under their own name. Stored generated columns are captured from
    PostgreSQL 18 on; before that, and virtual ones always, they are left out. Types that are not
    built in come as text, domains as their base type.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        tables: Sequence[str],
        *,
        clock: Clock,
        slot: str | None = None,
        publication: str | None = None,
        heartbeat_s: float = 5.0,
        max_batch_changes: int = 5000,
        limits: PostgresLimits = PostgresLimits(),
    ) -> None:
        if not tables:
            raise ConfigError(f"expected the names of tables for source {name!r}, got none")
        self.name = name
        self.slot = slot or default_slot_name(name)
        self.publication = publication or self.slot
        self._dsn = dsn
        self._patterns = tuple(tables)
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._batch_changes = max_batch_changes
        self._limits = limits
        self._what = f"source {name!r}"
        self._durable = 0
        self._capture: Capture | None = None
        self._wanted: set[str] = set()
        self._copying: set[str] = set()
        self._resources = AsyncExitStack()

    async def read(self, state: State) -> AsyncGenerator[SourceBatch]:
        """See `penstock.sources.base.Source.read`. May be called again after it has ended."""
        await self.close()
        self._durable = 0  # only what is acknowledged is confirmed, not what reading begins with
        try:
            async with aclosing(self._read(state)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            await self.close()

    async def _read(self, state: State) -> AsyncGenerator[SourceBatch]:
        catalogue = await self._open_catalogue()
        server = await fetch_server(catalogue, self._what)
        require_logical(server, self._what)
        replication = await self._open_replication()
        tables = choose_tables(self._patterns, await fetch_tables(catalogue, self._what), self.name)
        identity = await identify(replication, self._what)
        await self._check_identity(replication, identity, state)
        resume_lsn = await self._resume_lsn(catalogue, state)
        published = await ensure_publication(
            catalogue, self._what, self.publication, tables, server
        )
        self._wanted |= self._copying  # begun, but not durable: the state may not know
        self._copying = set()
        copied, shapes = _copied_tables(state, tables, published), _shapes_in(state)
        facts = _changed_facts(state, tables, identity)
        if resume_lsn is None:
            first = self._first_load(catalogue, tables, published, facts)
            async with aclosing(first) as batches:
                async for batch in batches:
                    resume_lsn = _lsn_in(batch.state, resume_lsn)
                    copied |= _copied_in(batch.state)
                    shapes |= _shapes_in(batch.state)
                    yield batch
        else:
            facts |= {} if "lsn" in state else {"lsn": format_lsn(resume_lsn)}
            if facts:
                yield SourceBatch(state=facts)
        assert resume_lsn is not None
        starts = {table.stream: (table.oid, copied.get(table.oid, NEVER)) for table in tables}
        self._capture = capture = Capture(
            catalogue,
            replication,
            self.name,
            self.publication,
            starts,
            shapes=shapes,
            on_altered=self._ask_again,
            clock=self._clock,
            server=server,
            batch_changes=self._batch_changes,
            read_ahead_bytes=self._limits.read_ahead_bytes,
            heartbeat_s=self._heartbeat_s,
        )
        await capture.start(self.slot, resume_lsn, state.get("position"), self._durable)
        missing = [table for table in tables if table.oid not in copied]
        later = self._later_load(catalogue, capture, missing, published)
        self._wanted -= {table.stream for table in missing}
        async with aclosing(later) as batches:
            async for batch in batches:
                yield batch
        while not capture.ended:
            again = [table for table in tables if table.stream in self._wanted]
            for part in (self._reread(catalogue, capture, again), capture.batches()):
                async with aclosing(part) as batches:
                    async for batch in batches:
                        yield batch

    async def acknowledge(self, state: StateChange) -> None:
        """See `penstock.sources.base.Source.acknowledge`."""
        self._copying -= {
            name.removeprefix(_TABLE)
            for name, value in state.items()
            if name.startswith(_TABLE) and value is not None
        }
        lsn = state.get("lsn")
        if lsn is None:
            return
        self._durable = max(self._durable, parse_lsn(lsn))
        if self._capture is not None:
            self._capture.confirm(self._durable)

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
        return await check_source(
            self._dsn, self.name, self._patterns, slot=self.slot, publication=self.publication
        )

    async def drop(self) -> Sequence[str]:
        """See `penstock.sources.base.DroppableSource.drop`."""
        await self.close()
        dropped = []
        connection = await connect(self._dsn, self._what)
        try:
            await claim_slot(
                connection, self._what, self.slot, clock=self._clock, patience_s=self._limits.slot_s
            )
            if await drop_slot(connection, self._what, self.slot):
                dropped.append(f"replication slot {self.slot}")
            if await drop_publication(connection, self._what, self.publication):
                dropped.append(f"publication {self.publication}")
        finally:
            await connection.close()
        return dropped

    async def status(self) -> SlotStatus | None:
        """How the slot stands now, asked on a connection of its own; None before there is one."""
        connection = await connect(self._dsn, self._what, statement_timeout_s=self._limits.answer_s)
        try:
            slot = await fetch_slot(connection, self._what, self.slot)
            if slot is None:
                return None
            current = (await fetch(connection, self._what, "SELECT pg_current_wal_lsn()::text"))[0]
            confirmed = slot.confirmed_lsn
            return SlotStatus(
                slot.name,
                None if confirmed is None else format_lsn(confirmed),
                current[0],
                slot.retained_bytes,
                max(0, parse_lsn(current[0]) - (confirmed or 0)),
                slot.active_pid is not None,
                slot.wal_status,
            )
        finally:
            await connection.close()

    async def current_lsn(self) -> str:
        """Where the server's log ends now: what committed before lies before it."""
        connection = await connect(self._dsn, self._what, statement_timeout_s=self._limits.answer_s)
        try:
            return await current_lsn(connection, self._what)
        finally:
            await connection.close()

    async def streams(self) -> list[str]:
        """The streams that the project's names mean at the source now."""
        connection = await connect(self._dsn, self._what)
        try:
            found = await fetch_tables(connection, self._what)
            return [table.stream for table in choose_tables(self._patterns, found, self.name)]
        finally:
            await connection.close()

    async def columns(self) -> dict[str, list[str]]:
        """The columns of every table at the source, by stream; for comparing with the settings."""
        connection = await connect(self._dsn, self._what, statement_timeout_s=self._limits.answer_s)
        try:
            return await fetch_column_names(connection, self._what)
        finally:
            await connection.close()

    async def row_hashes(
        self, schema: Schema, columns: Sequence[str] | None = None
    ) -> AsyncGenerator[RowHash]:
        """A hash of every row that one of our streams has now, ordered by key; for comparing with
        the live table. ``columns`` are those that are hashed: the ones of ``schema`` that the table
        still has (None: all of them)."""
        connection = await connect(self._dsn, self._what)
        try:
            tables = await fetch_tables(connection, self._what)
            table = choose_tables([schema.stream], tables, self.name)[0]
            hashed = HashedTable(
                (table.namespace, table.name),
                columns or schema.names,
                [column.name for column in schema.columns if column.key],
                only=table.kind == "r",
            )
            async with aclosing(row_hashes(connection, self._what, hashed)) as rows:
                async for row in rows:
                    yield row
        finally:
            await connection.close()

    async def _open_catalogue(self) -> psycopg.AsyncConnection:
        connection = await connect(self._dsn, self._what, statement_timeout_s=self._limits.answer_s)
        self._resources.push_async_callback(connection.close)
        return connection

    async def _open_replication(self) -> psycopg.AsyncConnection:
        connection = await connect(self._dsn, self._what, replication=True)
        self._resources.push_async_callback(connection.close)
        return connection

    async def _check_identity(
        self, replication: psycopg.AsyncConnection, identity: Identity, state: State
    ) -> None:
        seen = parse_lsn(state["lsn"]) if "lsn" in state else 0
        if "position" in state:
            seen = max(seen, parse_position(state["position"])[0])
        known = (state.get("system"), state.get("timeline"))
        await check_identity(replication, self._what, identity, known, seen)

    async def _resume_lsn(self, catalogue: psycopg.AsyncConnection, state: State) -> int | None:
        """Where the stream goes on; None when there is no slot and never was one."""
        slot = await claim_slot(
            catalogue, self._what, self.slot, clock=self._clock, patience_s=self._limits.slot_s
        )
        if "lsn" in state:
            resume_lsn = parse_lsn(state["lsn"])
            check_slot(slot, self._what, self.slot, resume_lsn)
            return resume_lsn
        if slot is not None and (slot.invalid is not None or slot.confirmed_lsn is None):
            # Of a life that is forgotten: nothing was read from it, nothing is lost.
            await drop_slot(catalogue, self._what, self.slot)
            return None
        return None if slot is None else slot.confirmed_lsn

    async def _first_load(
        self,
        catalogue: psycopg.AsyncConnection,
        tables: Sequence[Table],
        published: Published,
        facts: StateChange,
    ) -> AsyncGenerator[SourceBatch]:
        """Make the slot and copy all tables as of the moment where it begins."""
        before = (await fetch(catalogue, self._what, _NOW))[0][0]
        async with self._export(catalogue, temporary=False) as export:
            yield SourceBatch(state={**facts, "lsn": format_lsn(export.consistent_point)})
            copies = self._copy(export, tables, published, before)
            async with aclosing(copies) as batches:
                async for batch in batches:
                    yield batch
        yield SourceBatch(as_of=before)

    async def _later_load(
        self,
        catalogue: psycopg.AsyncConnection,
        capture: Capture,
        missing: Sequence[Table],
        published: Published,
        patience_s: float | None = None,
    ) -> AsyncGenerator[SourceBatch]:
        """Copy tables that came later (or whose first copy was interrupted) in between: first all
        that committed before their copy, then the copy, so that positions keep their order."""
        if not missing:
            return
        caught_up = parse_lsn(await current_lsn(catalogue, self._what))
        async with aclosing(capture.batches(until=caught_up)) as batches:
            async for batch in batches:
                yield batch
        before = (await fetch(catalogue, self._what, _NOW))[0][0]
        async with self._export(catalogue, temporary=True, patience_s=patience_s) as export:
            point = export.consistent_point
            capture.begin_tables([table.stream for table in missing], point)
            copies = self._copy(export, missing, published, before)
            for part in (capture.batches(until=point), copies):
                async with aclosing(part) as batches:
                    async for batch in batches:
                        _end_tables(capture, batch.state)
                        yield batch

    async def _reread(
        self, catalogue: psycopg.AsyncConnection, capture: Capture, again: Sequence[Table]
    ) -> AsyncGenerator[SourceBatch]:
        """Copy tables again whose rows cannot be made right by the stream alone."""
        streams = {table.stream for table in again}
        self._wanted -= streams
        if not again:
            self._wanted.clear()  # streams that we do not have
            return
        self._copying |= streams
        # First the word that there is no copy, then nothing of the tables until there is one: a
        # process that dies in between leaves it to the next to make the copy.
        yield SourceBatch(state={_TABLE + stream: None for stream in sorted(streams)})
        filters = await fetch_published(catalogue, self._what, self.publication)
        published = Published(frozenset(), filters)
        patience_s = self._limits.reread_point_s
        load = self._later_load(catalogue, capture, again, published, patience_s)
        try:
            async with aclosing(load) as batches:
                async for batch in batches:
                    yield batch
        except NoMomentError as error:
            logger.warning("source.rereading_later", source=self.name, reason=str(error))
            asyncio.get_running_loop().call_later(
                self._limits.reread_pause_s, self._ask_again, streams
            )

    @asynccontextmanager
    async def _export(
        self,
        catalogue: psycopg.AsyncConnection,
        *,
        temporary: bool,
        patience_s: float | None = None,
    ) -> AsyncIterator[Export]:
        replication = await self._open_replication()
        try:
            yield await export_snapshot(
                replication,
                self._what,
                f"{self.slot[:57]}_copy" if temporary else self.slot,
                temporary=temporary,
                patience_s=patience_s or self._limits.consistent_point_s,
                watch=catalogue,
            )
        finally:
            await replication.close()

    async def _copy(
        self,
        export: Export,
        tables: Sequence[Table],
        published: Published,
        committed_at: Microseconds,
    ) -> AsyncGenerator[SourceBatch]:
        last = SourceBatch()
        connection = await connect(self._dsn, self._what)
        self._resources.push_async_callback(connection.close)
        try:
            await enter_snapshot(connection, self._what, export.snapshot, tables)
            copier = TableCopier(
                connection,
                self._what,
                export.consistent_point,
                committed_at,
                batch_rows=self._batch_changes,
            )
            for table in tables:
                async for batch in self._copy_table(connection, copier, export, table, published):
                    if last.changes or last.state:
                        yield last
                    last = batch
        finally:
            await connection.close()
        # Only now, when no lock is left in the source: whoever sees the end of the copy may
        # take long, or alter the table.
        yield last

    async def _copy_table(
        self,
        connection: psycopg.AsyncConnection,
        copier: TableCopier,
        export: Export,
        table: Table,
        published: Published,
    ) -> AsyncGenerator[SourceBatch]:
        logger.info("source.copying", source=self.name, table=table.stream)
        plan = await self._plan(connection, table)
        finished = {_TABLE + table.stream: _Copied(export.consistent_point, table.oid).format()}
        found = (await fetch_shapes(connection, self._what, self.publication)).get(table.stream)
        if found is not None:
            finished[_SHAPE + table.stream] = found.shape.format()
        copy = copier.copy(table, plan, published.filters.get(table.oid), finished)
        async with aclosing(copy) as batches:
            async for batch in batches:
                yield batch

    async def _plan(self, connection: psycopg.AsyncConnection, table: Table) -> TablePlan:
        relation = await fetch_relation(connection, self._what, self.publication, table)
        wanted = [(column.type_oid, column.type_modifier) for column in relation.columns]
        types = await fetch_types(connection, self._what, wanted)
        return TablePlan.make(
            table_schema(self.name, relation, types, tuple(table.primary_key or ()))
        )


_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


def require_logical(server: Server, what: str) -> None:
    """Refuse a server that cannot be captured at all."""
    if server.version < OLDEST_VERSION:
        raise SourceError(
            f"expected PostgreSQL 15 or later behind {what}, got {server.version // 10000}: "
            "upgrade it"
        )
    if server.in_recovery:
        raise SourceError(f"expected a primary server behind {what}, got a standby: mend the DSN")
    if server.wal_level != "logical":
        raise SourceError(
            f"expected wal_level 'logical' on the server of {what}, got {server.wal_level!r}: "
            "ALTER SYSTEM SET wal_level = logical, then restart the server"
        )


def _changed_facts(
    state: State, tables: Sequence[Table], identity: Identity
) -> dict[str, str | None]:
    """What the state must say from now on: who the server is, and no tables that are gone."""
    wanted = {kind + table.stream for table in tables for kind in (_TABLE, _SHAPE)}
    facts: dict[str, str | None] = {
        name: None for name in state if name.startswith((_TABLE, _SHAPE)) and name not in wanted
    }
    now = {"system": identity.system, "timeline": str(identity.timeline)}
    return facts | {name: value for name, value in now.items() if state.get(name) != value}


def _copied_tables(state: State, tables: Sequence[Table], published: Published) -> dict[int, int]:
    """Tables whose copy is complete and whose changes were published ever since, with the
    consistent point of the copy."""
    copied = {}
    for table in tables:
        text = state.get(_TABLE + table.stream)
        if text is None or table.oid in published.added:
            continue
        entry = _Copied.parse(text)
        if entry.oid == table.oid:
            copied[table.oid] = entry.consistent_point
    return copied


def _copied_in(state: StateChange) -> dict[int, int]:
    entries = (
        _Copied.parse(text)
        for name, text in state.items()
        if name.startswith(_TABLE) and text is not None
    )
    return {entry.oid: entry.consistent_point for entry in entries}


def _shapes_in(state: StateChange) -> dict[str, Shape]:
    return {
        name.removeprefix(_SHAPE): Shape.parse(text)
        for name, text in state.items()
        if name.startswith(_SHAPE) and text is not None
    }


def _end_tables(capture: Capture, state: StateChange) -> None:
    for stream, shape in _shapes_in(state).items():
        capture.end_table(stream, shape)


def _lsn_in(state: StateChange, before: int | None) -> int | None:
    lsn = state.get("lsn")
    return before if lsn is None else parse_lsn(lsn)
