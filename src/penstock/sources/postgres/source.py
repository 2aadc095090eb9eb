"""The PostgreSQL source: a consistent copy of tables, then every change by logical replication."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing

import psycopg

from penstock.clock import Clock
from penstock.errors import SourceError
from penstock.sources.base import CopyProgress, SourceBatch, State, StateChange
from penstock.sources.postgres.capture import Capture
from penstock.sources.postgres.catalogue import (
    Table,
    fetch_server,
    fetch_tables,
)
from penstock.sources.postgres.changes import NEVER
from penstock.sources.postgres.checks import require_logical
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.copying import TableCopy
from penstock.sources.postgres.inspection import PostgresDatabase
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.options import PostgresOptions
from penstock.sources.postgres.parking import parked_facts, settle_tables
from penstock.sources.postgres.positions import format_lsn, parse_lsn, parse_position
from penstock.sources.postgres.publication import (
    DOUBT,
    DoubtError,
    Identity,
    check_identity,
    check_slot,
    claim_slot,
    drop_slot,
    ensure_publication,
    export_snapshot,
    identify,
)
from penstock.sources.postgres.state import (
    COPY,
    changed_facts,
    copied_tables,
    shapes_in,
    unfinished_copies,
)


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
        options: PostgresOptions | None = None,
    ) -> None:
        super().__init__(
            name,
            dsn,
            tables,
            clock=clock,
            slot=slot,
            publication=publication,
            limits=limits or PostgresLimits(),
            options=options or PostgresOptions(),
        )
        self._heartbeat_s = heartbeat_s
        self._batch_changes = max_batch_changes
        self._durable = 0
        self._capture: Capture | None = None
        self._wanted: set[str] = set()
        self._begun: set[str] = set()
        self._tables: dict[str, Table] = {}
        self._resources = AsyncExitStack()

    async def read(self, state: State) -> AsyncGenerator[SourceBatch]:
        """See `penstock.sources.base.Source.read`. May be called again after it has ended."""
        await self.close()
        self._durable = 0  # only what is acknowledged is confirmed, not what reading begins with
        self._wanted |= self._begun  # begun, but not durable: the state may not know
        self._begun = set()
        try:
            if DOUBT in state:
                raise SourceError(state[DOUBT])
            async with aclosing(self._read(state)) as batches:
                async for batch in batches:
                    yield batch
        except DoubtError as error:
            yield SourceBatch(state={DOUBT: str(error)})
            raise
        finally:
            await self.close()

    async def _read(self, state: State) -> AsyncGenerator[SourceBatch]:
        catalogue = await self._open_catalogue()
        server = await fetch_server(catalogue, self._what)
        require_logical(server, self._what)
        replication = await self._open_replication()
        found = await fetch_tables(catalogue, self._what)
        tables, parked = settle_tables(self._patterns, found, self.name, state)
        identity = await identify(replication, self._what)
        await self._check_identity(replication, identity, state)
        resume_lsn = await self._resume_lsn(catalogue, state)
        published = await ensure_publication(
            catalogue, self._what, self.publication, tables, server, mend="lsn" not in state
        )
        facts = changed_facts(state, tables, identity) | parked_facts(state, parked)
        settled = False
        if resume_lsn is None:
            resume_lsn, settled = await self._make_slot(catalogue), True
            state = {}
        if "lsn" not in state:
            facts["lsn"] = format_lsn(resume_lsn)
        if facts:
            yield SourceBatch(state=facts)
        copied = copied_tables(state, tables, published)
        self._capture = capture = Capture(
            catalogue,
            replication,
            self.name,
            self.publication,
            {table.stream: (table.oid, copied.get(table.oid, NEVER)) for table in tables},
            shapes=shapes_in(state),
            on_altered=self._ask_again,
            on_begun=self._note_begun,
            on_copied=self._note_copied,
            dsn=self._dsn,
            clock=self._clock,
            server=server,
            batch_changes=self._batch_changes,
            limits=self._limits,
            heartbeat_s=self._heartbeat_s,
            options=self._options,
            parked=parked,
        )
        await capture.start(self.slot, resume_lsn, state, self._durable)
        self._tables = {table.stream: table for table in tables}
        begun = unfinished_copies(state, tables, published)
        for table in tables:
            if table.oid in begun or table.oid not in copied:
                copy = TableCopy(table, first=True, settled=settled)
                if table.oid in begun:
                    copy.resume(begun[table.oid])
                capture.copy(copy)
        self._copy_wanted()
        async with aclosing(capture.batches()) as batches:
            async for batch in batches:
                yield batch

    def copies(self) -> Sequence[CopyProgress]:
        """See `penstock.sources.base.CopyingSource.copies`."""
        return [] if self._capture is None else self._capture.copies.progress()

    def _copy_wanted(self) -> None:
        """Begin the copies that were asked for, of tables that are not being copied already."""
        capture = self._capture
        if capture is None:
            return
        self._wanted &= self._tables.keys()
        for stream in sorted(self._wanted - capture.copies.active.keys()):
            capture.copy(TableCopy(self._tables[stream], first=False, settled=True))

    def _note_begun(self, stream: str) -> None:
        self._wanted.discard(stream)
        self._begun.add(stream)

    def _note_copied(self, stream: str) -> None:
        if stream in self._wanted:  # asked for once more, meanwhile
            self._copy_wanted()

    async def acknowledge(self, state: StateChange) -> None:
        """See `penstock.sources.base.Source.acknowledge`."""
        self._begun -= {
            name.removeprefix(COPY)
            for name, value in state.items()
            if name.startswith(COPY) and value is not None
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
        self._copy_wanted()

    async def close(self) -> None:
        """See `penstock.sources.base.Source.close`."""
        capture, self._capture = self._capture, None
        resources, self._resources = self._resources, AsyncExitStack()
        if capture is not None:
            await capture.close()
        await resources.aclose()

    async def _open_catalogue(self) -> psycopg.AsyncConnection:
        answer_s = self._limits.answer_s
        connection = await connect(
            self._dsn, self._what, statement_timeout_s=answer_s, answer_s=answer_s
        )
        self._resources.push_async_callback(connection.close)
        return connection

    async def _open_replication(self) -> psycopg.AsyncConnection:
        connection = await connect(
            self._dsn, self._what, replication=True, answer_s=self._limits.answer_s
        )
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

    async def _make_slot(self, catalogue: psycopg.AsyncConnection) -> int:
        """Where the new slot begins: all transactions that commit from there on come whole."""
        replication = await connect(self._dsn, self._what, replication=True)
        try:
            export = await export_snapshot(
                replication,
                self._what,
                self.slot,
                temporary=False,
                patience_s=self._limits.consistent_point_s,
                watch=catalogue,
                failover=self._options.failover,
            )
        finally:
            await replication.close()
        return export.consistent_point
