"""Bringing live tables to the state after a batch of changes.

For each stream: wait for nobody who alters the table, give it the columns of the batch's schema,
and do the batch's net effect in a few statements (see ``coalesce`` and ``row_statements``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import errors as pg

from penstock.database.connect import translate
from penstock.errors import BadRecordError, PenstockError, RetryableError
from penstock.records import UNCHANGED, Change, Key, Op, Position, Row, Schema
from penstock.stores.postgres.altering import adopt
from penstock.stores.postgres.arrays import array_literal
from penstock.stores.postgres.coalesce import (
    Net,
    Put,
    Segment,
    Undone,
    coalesce,
    missing_row,
    split,
)
from penstock.stores.postgres.evolution import evolution
from penstock.stores.postgres.live_names import key_json, key_texts
from penstock.stores.postgres.live_tables import (
    QUERIES,
    Connection,
    LiveTable,
    create,
    load,
    lock,
    registered,
)
from penstock.stores.postgres.row_statements import RowStatements

MAX_CHARACTERS = 32 * 1024 * 1024
"""The most text that one statement carries, so that a batch of large rows does not become one
parameter that PostgreSQL refuses (1 GB) or two machines must hold at once (G12)."""

Known = dict[tuple[str, str], tuple[str, RowStatements]]
"""Live tables by stream, with the version of the registry's row that they were read from."""


async def prepare(connection: Connection, schemas: Sequence[Schema], tenant: str) -> None:
    """Make the tables that do not exist yet. Columns of those that do follow in stream order."""
    wanted = {(schema.source, schema.stream): schema for schema in schemas}
    if not wanted:
        return
    streams = list(wanted)
    await lock(connection, dict.fromkeys(streams, True))
    there = await registered(connection, streams)
    for stream, schema in wanted.items():
        if stream not in there:
            await create(connection, schema, tenant, None)


class TableWriter:
    """Applies changes within one transaction. ``known`` outlives it and belongs to the store."""

    def __init__(self, connection: Connection, tenant: str, known: Known) -> None:
        self._connection = connection
        self._raw = psycopg.AsyncRawCursor(connection)
        self._tenant = tenant
        self._known = known
        self._locked: dict[tuple[str, str], bool] = {}

    async def apply(self, changes: Sequence[Change]) -> None:
        """Do these changes. Raises `BadRecordError` when PostgreSQL refuses a value; the message
        names the change when there is only one, otherwise the caller halves them."""
        if not changes:
            return
        segments = list(split(changes))
        await self._open(segments)
        for segment in segments:
            try:
                await self._segment(segment)
            except (psycopg.Error, BadRecordError) as error:
                raise _refused(error, segment.schema, segment.changes) from error

    # ------------------------------------------------------------------ the table

    async def _open(self, segments: Sequence[Segment]) -> None:
        """Lock the tables of all changes in one step, then learn what the registry says of them
        now. A table is locked ``alone`` where it will be made, altered or truncated, by what is
        known of it; a lock that is held is never changed for a stronger one."""
        wanted: dict[tuple[str, str], bool] = {}
        for segment in segments:
            stream = (segment.schema.source, segment.schema.stream)
            wanted[stream] = wanted.get(stream, False) or self._alters(segment)
        new = {stream: alone for stream, alone in wanted.items() if stream not in self._locked}
        if new:
            await lock(self._connection, new)
            self._locked.update(new)
            await self._refresh(list(new))
        for segment in segments:
            stream = (segment.schema.source, segment.schema.stream)
            if self._locked[stream] or not self._alters(segment):
                continue
            if stream in new:
                # It has changed since it was last read; what is known now is what the next attempt
                # begins with.
                raise RetryableError(
                    f"expected the columns of {segment.schema.stream!r} to be those that were "
                    "known, but another process has changed them: it is done again"
                )
            # An earlier effect of this transaction needed less, and has written: there is no way
            # back to a stronger lock at once.
            await lock(self._connection, {stream: True})
            self._locked[stream] = True
            await self._refresh([stream])

    def _alters(self, segment: Segment) -> bool:
        """Is the table made, altered or truncated by these changes, as far as is known?"""
        schema, changes = segment
        known = self._known.get((schema.source, schema.stream))
        if known is None:
            return True
        table = known[1].table
        if _needs(table, schema, changes[0].position):
            return True
        truncates = (c.position for c in changes if c.op is Op.TRUNCATE)
        return any(position > (table.truncated_at or "") for position in truncates)

    async def _refresh(self, streams: Sequence[tuple[str, str]]) -> None:
        found = await registered(self._connection, streams)
        for stream in streams:
            row = found.get(stream)
            if row is None:
                self._known.pop(stream, None)
                continue
            known = self._known.get(stream)
            if known is None or known[0] != row.version:
                self._known[stream] = (
                    row.version,
                    RowStatements(await load(self._connection, row)),
                )

    async def _statements(self, schema: Schema, position: Position) -> RowStatements:
        """The table's, with the columns of ``schema`` unless it has later ones."""
        stream = (schema.source, schema.stream)
        known = self._known.get(stream)
        if known is not None and not _needs(known[1].table, schema, position):
            return known[1]
        if known is None:
            await create(self._connection, schema, self._tenant, position)
        else:
            await self._follow(known[1].table, schema, position)
        await self._refresh([stream])
        return self._known[stream][1]

    async def _follow(self, table: LiveTable, schema: Schema, position: Position) -> None:
        if table.columns == schema.columns and not table.columns_at:
            names = {"source": table.source, "stream": table.stream, "columns_at": position}
            await self._connection.execute(QUERIES["columns_from"], names)
        elif table.columns != schema.columns and position > (table.columns_at or ""):
            await adopt(self._connection, table, schema, position)

    # ------------------------------------------------------------------ the rows

    async def _segment(self, segment: Segment) -> None:
        changes: Sequence[Change] = segment.changes
        statements = await self._statements(segment.schema, changes[0].position)
        if statements.table.columns != segment.schema.columns:
            changes = with_columns(statements.table.schema, changes)
            if not changes:
                return
        net = coalesce(changes)
        if net.truncated_at is not None:
            statements = await self._truncate(statements, net.truncated_at)
        puts = [*net.puts, *await self._moved(statements, net)]
        if net.gone:
            await self._remove(statements, net.gone)
        if net.undone:
            await self._undo(statements, net.undone)
        if puts:
            await self._put(statements, puts)
        await self._patch(statements, [put for put in net.partial if put.base == put.key])

    async def _truncate(self, statements: RowStatements, at: Position) -> RowStatements:
        table = statements.table
        if at <= (table.truncated_at or ""):
            return statements
        stream = (table.source, table.stream)
        await self._raw.execute(statements.truncate, [at])
        names = {"source": table.source, "stream": table.stream, "position": at}
        await self._connection.execute(QUERIES["truncated"], names)
        await self._connection.execute(QUERIES["forget_tombstones"], names)
        await self._refresh([stream])
        return self._known[stream][1]

    async def _put(self, statements: RowStatements, puts: Sequence[Put]) -> None:
        table = statements.table
        keys, rows, positions, times, _ = zip(*puts, strict=True)
        arrays = [array_literal(column) for column in zip(*rows, strict=True)]
        if _too_large(arrays, puts):
            middle = len(puts) // 2
            await self._put(statements, puts[:middle])
            await self._put(statements, puts[middle:])
            return
        if table.whole_row_key:
            arrays.append(array_literal(row_digests(rows)))
        arrays += [
            array_literal(positions),
            array_literal(list(map(str, times))),
            array_literal(key_texts(keys)),
        ]
        await self._execute(statements.put, (*arrays, *_marks(table), self._tenant))

    async def _remove(
        self, statements: RowStatements, gone: Sequence[tuple[Key, Position]]
    ) -> None:
        table = statements.table
        keys, positions = zip(*gone, strict=True)
        arrays = [
            *_key_arrays(table, keys),
            array_literal(positions),
            array_literal(key_texts(keys)),
        ]
        await self._execute(statements.remove, (*arrays, *_marks(table)))

    async def _undo(self, statements: RowStatements, undone: Sequence[Undone]) -> None:
        table = statements.table
        keys, since, positions = zip(*undone, strict=True)
        arrays = [
            *_key_arrays(table, keys),
            array_literal(positions),
            array_literal(key_texts(keys)),
            array_literal(since),
        ]
        await self._execute(statements.undo, (*arrays, *_marks(table)))

    async def _moved(self, statements: RowStatements, net: Net) -> list[Put]:
        """Rows that came from another key and left values unchanged, completed with those."""
        moved = [(put, put.base) for put in net.partial if put.base not in {None, put.key}]
        if not moved:
            return []
        bases = [base for _, base in moved if base is not None]
        arrays = [*_key_arrays(statements.table, bases), _numbers(len(bases))]
        cursor = await self._execute(statements.stored, arrays)
        stored: dict[int, Row] = {number: tuple(row) for number, *row in await cursor.fetchall()}
        await self._expect(statements, [put for i, (put, _) in enumerate(moved) if i not in stored])
        return [
            put._replace(row=_completed(put.row, stored[i]), base=None)
            for i, (put, _) in enumerate(moved)
            if i in stored
        ]

    async def _patch(self, statements: RowStatements, partial: Sequence[Put]) -> None:
        """Rows that left values unchanged: only what they carry is written."""
        table = statements.table
        shapes: dict[tuple[int, ...], list[Put]] = {}
        for put in partial:
            present = tuple(i for i, value in enumerate(put.row) if value is not UNCHANGED)
            shapes.setdefault(present, []).append(put)
        for present, puts in shapes.items():
            keys, rows, positions, times, _ = zip(*puts, strict=True)
            columns = list(zip(*rows, strict=True))
            arrays = [array_literal(columns[i]) for i in present]
            if _too_large(arrays, puts):
                middle = len(puts) // 2
                await self._patch(statements, puts[:middle])
                await self._patch(statements, puts[middle:])
                continue
            arrays = [
                *_key_arrays(table, keys),
                *arrays,
                array_literal(positions),
                array_literal(list(map(str, times))),
                array_literal(key_texts(keys)),
            ]
            cursor = await self._execute(statements.patch(present), (*arrays, *_marks(table)))
            if cursor.rowcount < len(puts):
                await self._expect(statements, puts)

    async def _expect(self, statements: RowStatements, puts: Sequence[Put]) -> None:
        """Each of these is stored by now, or something later made it void."""
        if not puts:
            return
        table, keys = statements.table, [put.key for put in puts]
        arrays = [
            *_key_arrays(table, keys),
            array_literal([put.position for put in puts]),
            array_literal(key_texts(keys)),
            _numbers(len(puts)),
        ]
        cursor = await self._execute(statements.unmet, (*arrays, *_marks(table)))
        row = await cursor.fetchone()
        if row is not None:
            put = puts[row[0]]
            raise missing_row(table.schema, put.key, put.position)

    async def _execute(
        self, statement: str, values: Sequence[str]
    ) -> psycopg.AsyncRawCursor[tuple[Any, ...]]:
        return await self._raw.execute(statement.encode(), values, prepare=True)


def _needs(table: LiveTable, schema: Schema, position: Position) -> bool:
    """Does the table need (to be told) the columns of a change at this position?"""
    if position <= (table.columns_at or ""):
        return False
    return table.columns != schema.columns or not table.columns_at


def with_columns(schema: Schema, changes: Sequence[Change]) -> list[Change]:
    """Changes of an older schema as rows of the present one: columns that were renamed since go by
    their new name, those that there were not yet are empty. Changes that cannot be told a key of
    the present schema are left out: they are older than its key."""
    fitted: list[Change] = []
    places: dict[Schema, _Places | None] = {}
    for change in changes:
        if change.schema not in places:
            places[change.schema] = _places(change.schema, schema)
        found = places[change.schema]
        if found is None:
            continue
        fitted.append(
            change._replace(
                schema=schema,
                key=_rekeyed(change.key, found.key),
                old_key=change.old_key and _rekeyed(change.old_key, found.key),
                after=change.after and _picked(change.after, found.row),
                before=None,
            )
        )
    return fitted


class _Places(NamedTuple):
    """Where the columns of one schema, and the parts of its key, stand in another."""

    row: tuple[int | None, ...]
    key: tuple[int, ...]


def _places(old: Schema, new: Schema) -> _Places | None:
    renamed = {now: before for before, now in evolution(old.columns, new.columns).rename}
    names = [renamed.get(name, name) for name in new.names]
    at = {name: place for place, name in enumerate(old.names)}
    old_key = [old.names[i] for i in old.key_indexes]
    new_key = [names[i] for i in new.key_indexes]
    if set(old_key) != set(new_key):
        return None
    return _Places(tuple(map(at.get, names)), tuple(map(old_key.index, new_key)))


def _picked(row: Row, places: Sequence[int | None]) -> Row:
    return tuple(None if place is None else row[place] for place in places)


def _rekeyed(key: Key, places: Sequence[int]) -> Key:
    return tuple(key[place] for place in places) if key else key


def _marks(table: LiveTable) -> tuple[str, str, str]:
    return table.source, table.stream, table.truncated_at or ""


def _numbers(count: int) -> str:
    return array_literal(list(map(str, range(count))))


def _key_arrays(table: LiveTable, keys: Sequence[Key]) -> list[str]:
    if table.whole_row_key:
        return [array_literal(row_digests(keys))]
    return [array_literal(column) for column in zip(*keys, strict=True)]


def row_digests(rows: Sequence[Row]) -> list[str]:
    """What stands for rows that have no key but themselves."""
    return [hashlib.md5(key_json(row).encode(), usedforsecurity=False).hexdigest() for row in rows]


def _completed(row: Row, stored: Row) -> Row:
    return tuple(
        before if value is UNCHANGED else value for value, before in zip(row, stored, strict=True)
    )


def _too_large(arrays: Sequence[str], puts: Sequence[Put]) -> bool:
    return len(puts) > 1 and sum(map(len, arrays)) > MAX_CHARACTERS


def _refused(
    error: psycopg.Error | BadRecordError, schema: Schema, changes: Sequence[Change]
) -> PenstockError:
    """The error of ours; where a value is at fault it names the change, if there is only one."""
    if isinstance(error, BadRecordError):
        ours: PenstockError = error
    elif isinstance(error, pg.ProgramLimitExceeded):
        ours = BadRecordError(f"the database refuses the row: {error.diag.message_primary}")
    else:
        ours = translate(error)
    if not isinstance(ours, BadRecordError):
        return ours
    which = f"the key {changes[0].key!r}" if len(changes) == 1 else f"one of {len(changes)} changes"
    facts = {
        **ours.facts,
        "source": schema.source,
        "stream": schema.stream,
        "key": changes[0].key,
        "position": changes[0].position,
        "changes": len(changes),
    }
    return BadRecordError(f"{ours.reason} ({which} of {schema.stream!r})", **facts)
