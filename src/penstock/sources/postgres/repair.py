"""Repair by comparison: a moment of the source, every row's hash on both sides, what differs.

The moment is the consistent point of a slot: a new one where the slot was lost, else a temporary
one, and then the stream goes on from where it stood. For each compared table the state says, as for
a copy, that what committed before the moment is in it, so the stream leaves that out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import psycopg
import structlog

from penstock.clock import Clock
from penstock.errors import SourceError
from penstock.records import Change, Column, Key, Microseconds, Op, Position, Row
from penstock.sources.base import LiveSide, RepairStep, RowHash, SourceBatch, State
from penstock.sources.comparing import Compared, walk
from penstock.sources.postgres.catalogue import (
    Slot,
    Table,
    choose_tables,
    fetch,
    fetch_relation,
    fetch_server,
    fetch_tables,
    fetch_types,
)
from penstock.sources.postgres.changes import TablePlan, table_schema
from penstock.sources.postgres.checks import require_logical
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.keyed_rows import KeyedRows
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.moment import enter_snapshot
from penstock.sources.postgres.positions import (
    format_lsn,
    make_position,
    parse_lsn,
    parse_position,
)
from penstock.sources.postgres.publication import (
    DOUBT,
    Export,
    Identity,
    Published,
    check_identity,
    check_slot,
    claim_slot,
    drop_slot,
    ensure_publication,
    export_snapshot,
    identify,
)
from penstock.sources.postgres.shapes import STATE as SHAPE
from penstock.sources.postgres.shapes import fetch_shapes
from penstock.sources.postgres.state import COPIED, COPY, TABLE, Copied
from penstock.sources.postgres.verify import HashedTable, row_hashes

logger = structlog.get_logger("penstock.sources.postgres")

_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_FETCH: Final = 1000
"""How many differing rows are fetched, and given, at a time."""
_SAY_EVERY: Final = 20_000
"""After how many compared rows something is said even where nothing differs."""


@dataclass(slots=True)
class _Found:
    """The differences of one table that were not given yet, and the counts so far."""

    table: Table
    missing: list[Key] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    superfluous: list[Key] = field(default_factory=list)
    compared: int = 0
    upserts: int = 0
    deletes: int = 0

    def add(self, pair: Compared) -> None:
        """Count one key, and keep what differs."""
        self.compared += 1
        if pair.kind == "superfluous":
            self.superfluous.append(pair.key)
        elif pair.kind != "equal":
            self.missing.append(pair.key)
            self.hashes.append(pair.hash)

    @property
    def waiting(self) -> int:
        """How many differences were not given yet (of one kind)."""
        return max(len(self.missing), len(self.superfluous))

    def step(
        self, batch: SourceBatch, *, expected: int, done: bool = False, note: str = ""
    ) -> RepairStep:
        return RepairStep(
            self.table.stream,
            batch,
            self.compared,
            expected,
            self.upserts,
            self.deletes,
            done,
            note,
        )


class Repair:
    """One repair of one source. Use once."""

    def __init__(
        self,
        name: str,
        dsn: str,
        patterns: Sequence[str],
        *,
        slot: str,
        publication: str,
        clock: Clock,
        failover: bool = False,
        limits: PostgresLimits,
    ) -> None:
        self._name = name
        self._what = f"source {name!r}"
        self._dsn = dsn
        self._patterns = patterns
        self._slot = slot
        self._publication = publication
        self._clock = clock
        self._failover = failover
        self._limits = limits
        self._stack = AsyncExitStack()
        self._place = 0
        self._point = 0
        self._committed_at = Microseconds(0)

    async def steps(
        self, state: State, streams: Sequence[str] | None, live: LiveSide
    ) -> AsyncGenerator[RepairStep]:
        """See `penstock.sources.base.RepairableSource.repair`."""
        async with self._stack:
            catalogue = await self._connect()
            server = await fetch_server(catalogue, self._what)
            require_logical(server, self._what)
            replication = await self._connect(replication=True)
            identity = await identify(replication, self._what)
            named = choose_tables(
                self._patterns, await fetch_tables(catalogue, self._what), self._name
            )
            tables = _wanted(named, streams, self._name)
            lost = await self._what_is_lost(catalogue, replication, identity, state)
            if lost and len(tables) < len(named):
                raise SourceError(
                    f"expected to compare all tables of {self._what}, because changes of each may "
                    f"be missing, got {len(tables)} of {len(named)} ({lost}): leave --table out"
                )
            published = await ensure_publication(
                catalogue, self._what, self._publication, named, server, mend=True
            )
            if lost:
                logger.warning("source.slot_made_anew", source=self._name, reason=lost)
                await drop_slot(catalogue, self._what, self._slot)
            self._committed_at = Microseconds((await fetch(catalogue, self._what, _NOW))[0][0])
            async with self._moment(replication, catalogue, temporary=not lost) as export:
                yield self._beginning(state, named, identity, export, lost)
                await live.forget_later(make_position(self._point - 8, 0))
                async with aclosing(self._tables(tables, published, export, live)) as steps:
                    async for step in steps:
                        yield step
            yield RepairStep("", SourceBatch(as_of=self._committed_at if lost else None), done=True)

    async def _connect(self, *, replication: bool = False) -> psycopg.AsyncConnection:
        connection = await connect(self._dsn, self._what, replication=replication)
        self._stack.push_async_callback(connection.close)
        return connection

    async def _what_is_lost(
        self,
        catalogue: psycopg.AsyncConnection,
        replication: psycopg.AsyncConnection,
        identity: Identity,
        state: State,
    ) -> str:
        """Why the stream cannot go on from where it stood; "" when it can."""
        slot = await claim_slot(
            catalogue,
            self._what,
            self._slot,
            clock=self._clock,
            patience_s=self._limits.slot_s,
        )
        return state.get(DOUBT) or await lost_way(
            replication, self._what, self._slot, identity, state, slot
        )

    @asynccontextmanager
    async def _moment(
        self,
        replication: psycopg.AsyncConnection,
        catalogue: psycopg.AsyncConnection,
        *,
        temporary: bool,
    ) -> AsyncIterator[Export]:
        export = await export_snapshot(
            replication,
            self._what,
            f"{self._slot[:57]}_copy" if temporary else self._slot,
            temporary=temporary,
            patience_s=self._limits.consistent_point_s,
            watch=catalogue,
            failover=self._failover,
        )
        self._point = export.consistent_point
        yield export

    def _beginning(
        self,
        state: State,
        named: Sequence[Table],
        identity: Identity,
        export: Export,
        lost: str,
    ) -> RepairStep:
        """What the state says from now on. Where the way was lost no table has a copy until it was
        compared: whoever stops before that copies it again."""
        facts: dict[str, str | None] = {
            "system": identity.system,
            "timeline": str(identity.timeline),
        }
        if lost:
            facts |= {name: None for name in state if name.startswith((TABLE, SHAPE, COPY))}
            facts |= {
                "lsn": format_lsn(export.consistent_point),
                "position": None,
                COPIED: None,
                DOUBT: None,
            }
        note = f"the slot is made anew ({lost})" if lost else ""
        expected = sum(max(0, int(table.rows)) for table in named)
        return RepairStep("", SourceBatch(state=facts), expected=expected, note=note)

    # ------------------------------------------------------------------ tables

    async def _tables(
        self, tables: Sequence[Table], published: Published, export: Export, live: LiveSide
    ) -> AsyncGenerator[RepairStep]:
        reading, fetching = await self._connect(), await self._connect()
        for connection in (reading, fetching):
            await enter_snapshot(connection, self._what, export.snapshot, tables)
        for table in tables:
            plan = await self._plan(fetching, table)
            table_steps = self._table(
                reading, fetching, table, plan, published.filters.get(table.oid), live
            )
            async with aclosing(table_steps) as steps:
                async for step in steps:
                    yield step

    async def _plan(self, connection: psycopg.AsyncConnection, table: Table) -> TablePlan:
        relation = await fetch_relation(connection, self._what, self._publication, table)
        wanted = [(column.type_oid, column.type_modifier) for column in relation.columns]
        types = await fetch_types(connection, self._what, wanted)
        return TablePlan.make(
            table_schema(self._name, relation, types, tuple(table.primary_key or ()))
        )

    async def _table(
        self,
        reading: psycopg.AsyncConnection,
        fetching: psycopg.AsyncConnection,
        table: Table,
        plan: TablePlan,
        row_filter: str | None,
        live: LiveSide,
    ) -> AsyncGenerator[RepairStep]:
        schema = plan.schema
        key = [column.name for column in schema.columns if column.key]
        found = _Found(table)
        expected = max(0, int(table.rows))
        have = await live.columns(table.stream)
        note = _how_columns_differ(have, schema.columns)
        begun: list[Change] = []
        if have is None or _keys_differ(have, schema.columns):
            begun.append(self._change(plan, Op.TRUNCATE, ()))
        elif not note:
            # First, so that a row which is missing in the table, but not at the source, comes
            # after.
            async with aclosing(live.orphaned_texts(table.stream)) as orphans:
                begun += [self._change(plan, Op.DELETE, orphan) async for orphan in orphans]
        yield found.step(SourceBatch(begun), expected=expected, note=note)
        rows = KeyedRows(fetching, self._what, table, schema.names, key)
        mending = _Mending(rows, plan, self._change, live)
        hashed = HashedTable(
            (table.namespace, table.name), schema.names, key, table.kind == "r", row_filter
        )
        if have is None or _keys_differ(have, schema.columns):
            ours = _nothing()
        else:
            # With other columns every row differs from what is here.
            ours = live.row_hashes(table.stream, key if note else schema.names)
        compared = _compared(row_hashes(reading, self._what, hashed), ours, found)
        async with aclosing(compared):
            async for differs in compared:
                changes = await mending.changes(found) if differs else []
                yield found.step(SourceBatch(changes), expected=expected)
        if not note:
            async with aclosing(live.stale_texts(table.stream)) as stale:
                found.missing += [place async for place in stale]
        while found.waiting:
            changes = await mending.changes(found)
            yield found.step(SourceBatch(changes), expected=expected)
        state: dict[str, str | None] = {
            TABLE + table.stream: Copied(self._point, table.oid).format(),
            COPY + table.stream: None,
            COPIED: snapshot_position(self._point, self._place),
        }
        shape = (await fetch_shapes(fetching, self._what, self._publication)).get(table.stream)
        if shape is not None:
            state[SHAPE + table.stream] = shape.shape.format()
        yield found.step(SourceBatch(state=state), expected=expected, done=True, note=note)

    def _change(self, plan: TablePlan, op: Op, key: Key, row: Row | None = None) -> Change:
        position = snapshot_position(self._point, self._place)
        self._place += 1
        return Change(plan.schema, op, key, position, self._committed_at, row)


@dataclass(frozen=True, slots=True)
class _Mending:
    """Turns differences of one table into changes."""

    rows: KeyedRows
    plan: TablePlan
    make: Callable[..., Change]
    live: LiveSide

    async def changes(self, found: _Found) -> list[Change]:
        """The next of what differs, deletes first; takes it out of what waits."""
        made: list[Change] = []
        stream = found.table.stream
        gone, found.superfluous = found.superfluous[:_FETCH], found.superfluous[_FETCH:]
        if gone:
            keys = await self.live.exact_keys(stream, gone)
            made += [self.make(self.plan, Op.DELETE, key) for key in keys]
            found.deletes += len(keys)
        wanted, found.missing = found.missing[:_FETCH], found.missing[_FETCH:]
        hashes, found.hashes = found.hashes[:_FETCH], found.hashes[_FETCH:]
        if wanted:
            rows = await self.rows.fetch(wanted, hashes)
            made += [self.make(self.plan, Op.READ, self.plan.key(row), row) for row in rows]
            found.upserts += len(rows)
        return made


def snapshot_position(point: int, place: int) -> Position:
    """The position of change number ``place`` (from 0) of a repair as of this moment.

    WAL records begin at multiples of 8: what lies in the 7 bytes before the moment is later than
    every commit before it and earlier than every commit from it on.
    """
    return make_position(point - 7 + (place >> 32), place & 0xFFFFFFFF)


async def _compared(
    theirs: AsyncGenerator[RowHash], ours: AsyncGenerator[tuple[Key, str]], found: _Found
) -> AsyncGenerator[bool]:
    """Walk both sides; yields now and then, True when enough differs to mend it."""
    async with aclosing(theirs), aclosing(ours), aclosing(walk(theirs, ours)) as pairs:
        async for pair in pairs:
            found.add(pair)
            if found.waiting >= _FETCH:
                yield True
            elif found.compared % _SAY_EVERY == 0:
                yield False


async def lost_way(
    replication: psycopg.AsyncConnection,
    what: str,
    name: str,
    identity: Identity,
    state: State,
    slot: Slot | None,
) -> str:
    """Why the stream cannot go on from where the state says; "" when it can."""
    if "lsn" not in state:
        return "nothing was read yet"
    resume = parse_lsn(state["lsn"])
    seen = resume
    if "position" in state:
        seen = max(seen, parse_position(state["position"])[0])
    try:
        await check_identity(
            replication, what, identity, (state.get("system"), state.get("timeline")), seen
        )
        check_slot(slot, what, name, resume)
    except SourceError as error:
        return str(error).partition(":")[0]
    return ""


async def _nothing() -> AsyncGenerator[tuple[Key, str]]:
    none: tuple[tuple[Key, str], ...] = ()
    for pair in none:
        yield pair


def _wanted(named: Sequence[Table], streams: Sequence[str] | None, source: str) -> list[Table]:
    if streams is None:
        return list(named)
    return choose_tables(streams, named, source)


def _keys_differ(have: Sequence[Column], now: Sequence[Column]) -> bool:
    return {c.name for c in have if c.key} != {c.name for c in now if c.key}


def _how_columns_differ(have: Sequence[Column] | None, now: Sequence[Column]) -> str:
    """Why every row is given anew; "" when the columns are the same."""
    if have is None:
        return "there is no live table yet"
    if tuple(have) == tuple(now):
        return ""
    if _keys_differ(have, now):
        return "its key changed"
    return "its columns changed"
