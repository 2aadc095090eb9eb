"""The PostgreSQL source: a consistent copy of tables, then every change by logical replication."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import psycopg
import structlog

from penstock.clock import Clock
from penstock.errors import SourceError
from penstock.records import Microseconds
from penstock.sources.base import SourceBatch, State, StateChange
from penstock.sources.postgres.capture import Capture
from penstock.sources.postgres.catalogue import (
    Server,
    Table,
    choose_tables,
    fetch,
    fetch_published,
    fetch_relation,
    fetch_server,
    fetch_tables,
    fetch_types,
)
from penstock.sources.postgres.changes import NEVER, TablePlan, table_schema
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.inspection import PostgresDatabase
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.positions import format_lsn, parse_lsn, parse_position
from penstock.sources.postgres.publication import (
    Export,
    Identity,
    NoMomentError,
    Published,
    check_identity,
    check_slot,
    claim_slot,
    drop_slot,
    ensure_publication,
    export_snapshot,
    identify,
)
from penstock.sources.postgres.shapes import fetch_shapes
from penstock.sources.postgres.snapshot import TableCopier, enter_snapshot
from penstock.sources.postgres.state import (
    SHAPE,
    TABLE,
    Copied,
    changed_facts,
    copied_in,
    copied_tables,
    lsn_in,
    shapes_in,
)
from penstock.sources.postgres.verify import current_lsn

logger = structlog.get_logger("penstock.sources.postgres")

OLDEST_VERSION: Final = 150000


class PostgresSource(PostgresDatabase):
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
        limits: PostgresLimits | None = None,
    ) -> None:
        super().__init__(
            name,
            dsn,
            tables,
            clock=clock,
            slot=slot,
            publication=publication,
            limits=limits or PostgresLimits(),
        )
        self._heartbeat_s = heartbeat_s
        self._batch_changes = max_batch_changes
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
        copied, shapes = copied_tables(state, tables, published), shapes_in(state)
        facts = changed_facts(state, tables, identity)
        if resume_lsn is None:
            first = self._first_load(catalogue, tables, published, facts)
            async with aclosing(first) as batches:
                async for batch in batches:
                    resume_lsn = lsn_in(batch.state, resume_lsn)
                    copied |= copied_in(batch.state)
                    shapes |= shapes_in(batch.state)
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
            name.removeprefix(TABLE)
            for name, value in state.items()
            if name.startswith(TABLE) and value is not None
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
        yield SourceBatch(state={TABLE + stream: None for stream in sorted(streams)})
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
        finished = {TABLE + table.stream: Copied(export.consistent_point, table.oid).format()}
        found = (await fetch_shapes(connection, self._what, self.publication)).get(table.stream)
        if found is not None:
            finished[SHAPE + table.stream] = found.shape.format()
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


def _end_tables(capture: Capture, state: StateChange) -> None:
    for stream, shape in shapes_in(state).items():
        capture.end_table(stream, shape)
