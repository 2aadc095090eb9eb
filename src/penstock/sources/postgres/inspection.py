"""Looking at a PostgreSQL source beside the stream: each question on its own connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from penstock.clock import Clock
from penstock.errors import ConfigError
from penstock.records import Schema
from penstock.sources.base import Finding, Health, LiveSide, RepairStep, RowHash, State
from penstock.sources.postgres.catalogue import (
    choose_tables,
    fetch,
    fetch_column_names,
    fetch_slot,
    fetch_tables,
)
from penstock.sources.postgres.checks import check_source
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.health import look
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.options import PostgresOptions
from penstock.sources.postgres.parking import settle_tables
from penstock.sources.postgres.positions import format_lsn, parse_lsn
from penstock.sources.postgres.publication import (
    claim_slot,
    default_slot_name,
    drop_publication,
    drop_slot,
)
from penstock.sources.postgres.repair import Repair
from penstock.sources.postgres.state import TABLE
from penstock.sources.postgres.verify import HashedTable, current_lsn, row_hashes


class SlotStatus(NamedTuple):
    """How the slot stands: what is confirmed, and how much WAL the server keeps for us."""

    slot: str
    confirmed_lsn: str | None
    current_lsn: str
    retained_wal_bytes: int
    lag_bytes: int
    active: bool
    wal_status: str | None


class PostgresDatabase:
    """The database of a source, with the names of what we keep there."""

    def __init__(
        self,
        name: str,
        dsn: str,
        tables: Sequence[str],
        *,
        clock: Clock,
        slot: str | None,
        publication: str | None,
        limits: PostgresLimits,
        options: PostgresOptions,
    ) -> None:
        if not tables:
            raise ConfigError(f"expected the names of tables for source {name!r}, got none")
        self.name = name
        self.slot = slot or default_slot_name(name)
        self.publication = publication or self.slot
        self._dsn = dsn
        self._patterns = tuple(tables)
        self._clock = clock
        self._limits = limits
        self._options = options
        self._what = f"source {name!r}"

    async def close(self) -> None:
        """Nothing stays open between questions."""

    async def check(self) -> Sequence[Finding]:
        """See `penstock.sources.base.CheckableSource.check`."""
        return await check_source(
            self._dsn,
            self.name,
            self._patterns,
            slot=self.slot,
            publication=self.publication,
            options=self._options,
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

    async def health(self) -> Health | None:
        """See `penstock.sources.base.WatchedSource.health`."""
        connection = await connect(self._dsn, self._what, statement_timeout_s=self._limits.answer_s)
        try:
            return await look(connection, self._what, self.slot, self._options.wal_budget_bytes)
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
            # Tables that cannot be captured now (and are left out, if they were) are no streams.
            known = {TABLE + table.stream: "" for table in found}
            return [t.stream for t in settle_tables(self._patterns, found, self.name, known)[0]]
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
            tables = await fetch_tables(connection, self._what, [schema.stream])
            # A table that is left out for the moment can be compared all the same.
            table = tables[0] if tables else choose_tables([schema.stream], tables, self.name)[0]
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

    async def repair(
        self, state: State, streams: Sequence[str] | None, live: LiveSide
    ) -> AsyncGenerator[RepairStep]:
        """See `penstock.sources.base.RepairableSource.repair`."""
        work = Repair(
            self.name,
            self._dsn,
            self._patterns,
            slot=self.slot,
            publication=self.publication,
            clock=self._clock,
            failover=self._options.failover,
            limits=self._limits,
        )
        async with aclosing(work.steps(state, streams, live)) as steps:
            async for step in steps:
                yield step
