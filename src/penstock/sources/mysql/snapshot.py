"""Copies of tables: what they hold at a known place of the binlog, in pieces that can be resumed.

A *moment* is a connection that sees one consistent state of all tables, with the place of the
binlog where that state is. MariaDB gives both in one step. MySQL does not say where its snapshot
is: there the tables are locked against writing while it begins, for as long as two questions take.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from penstock.errors import RetryableError
from penstock.records import Change, Microseconds, Op, Position, Schema
from penstock.sources.mysql.catalogue import Server, Table, fetch_end, fetch_shape
from penstock.sources.mysql.connections import Session, connect, quoted, refusal_error
from penstock.sources.mysql.plans import key_maker
from penstock.sources.mysql.positions import Place, snapshot_position
from penstock.sources.mysql.protocol import (
    ERR,
    decode_column_count,
    decode_refusal,
    decode_text_row,
    is_end,
    length_encoded,
)
from penstock.sources.mysql.results import ORDERED, converter_of, selected
from penstock.sources.mysql.shapes import Shape, ShapeColumn, schema_of
from penstock.sources.mysql.stream import COM_QUERY, PacketReader

_SLICE: Final = 500
"""How many rows are parsed before other tasks get a turn: about 2 ms."""
_LOCK_S: Final = 5
"""How long the tables' writers may keep us waiting for the moment (MySQL)."""
_ANSWER_S: Final = 60.0

_BEGIN: Final = "START TRANSACTION WITH CONSISTENT SNAPSHOT"
_STATUS: Final = (
    "SHOW STATUS WHERE Variable_name IN ('Binlog_snapshot_file', 'Binlog_snapshot_position')"
)


@dataclass(frozen=True)
class Progress:
    """How far the copy of a table is. ``after`` is the key of its last row, as the server writes
    it; None at the beginning. ``done`` when all rows are copied."""

    done: bool = False
    after: tuple[bytes, ...] | None = None

    @classmethod
    def parse(cls, text: str | None) -> Progress:
        """Of the source's state."""
        if text is None:
            return cls()
        if text == "done":
            return cls(done=True)
        return cls(after=tuple(bytes.fromhex(part) for part in json.loads(text)))

    def format(self) -> str:
        """For the source's state."""
        if self.done or self.after is None:
            return "done"
        return json.dumps([part.hex() for part in self.after])


class Moment:
    """A connection that sees the tables as they are at ``place``."""

    def __init__(self, session: Session, place: Place, shapes: dict[str, Shape]) -> None:
        self.session = session
        self.place = place
        self.shapes = shapes
        self.rows = 0


async def open_moment(
    dsn: str, what: str, server: Server, tables: Sequence[Table], epoch: int
) -> Moment:
    """Begin a moment. Raises `RetryableError` when a table is altered meanwhile, or writers do
    not let us in for a moment (MySQL)."""
    session = await connect(dsn, what, answer_s=_ANSWER_S)
    try:
        before = {table.stream: await fetch_shape(session, table) for table in tables}
        await session.fetch("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        if server.mariadb:
            await session.fetch(_BEGIN)
            found = {name.lower(): value for name, value in await session.fetch(_STATUS)}
            file = str(found["binlog_snapshot_file"])
            offset = int(found["binlog_snapshot_position"])
        else:
            file, offset = await _locked_moment(dsn, what, session, tables)
        shapes = {}
        for table in tables:
            # From the first question on, the server keeps the table from being altered.
            name = quoted(table.database, table.name)
            await session.fetch(f"SELECT 1 FROM {name} LIMIT 0")  # noqa: S608 - a quoted name
            shapes[table.stream] = await fetch_shape(session, table)
            _refuse_altered(table, what, before[table.stream], shapes[table.stream])
        return Moment(session, Place(epoch, file, offset), shapes)
    except BaseException:
        await session.close()
        raise


def _refuse_altered(table: Table, what: str, before: Shape, now: Shape) -> None:
    if now != before:
        raise RetryableError(
            f"table {table.stream} of {what} was altered while its copy began: it is begun again"
        )


async def _locked_moment(
    dsn: str, what: str, session: Session, tables: Sequence[Table]
) -> tuple[str, int]:
    """Begin the transaction while nobody can write to the tables, and read where the log is: all
    that was written to them lies before it, and nothing else does."""
    async with AsyncExitStack() as stack:
        locker = await connect(dsn, what)
        stack.push_async_callback(locker.close)
        await locker.fetch(f"SET SESSION lock_wait_timeout = {_LOCK_S}")
        names = ", ".join(f"{quoted(table.database, table.name)} READ" for table in tables)
        await locker.fetch(f"LOCK TABLES {names}")
        await session.fetch(_BEGIN)
        end = await fetch_end(session)
        await locker.fetch("UNLOCK TABLES")
        return end


class TableCopier:
    """Copies tables one after the other at one moment; positions go on from table to table."""

    def __init__(
        self,
        moment: Moment,
        source: str,
        committed_at: Microseconds,
        *,
        batch_rows: int,
        until: float | None,
    ) -> None:
        self._moment = moment
        self._session = moment.session
        self._what = moment.session.what
        self._source = source
        self._committed_at = committed_at
        self._batch_rows = batch_rows
        self._until = until
        self._loop = asyncio.get_running_loop()

    async def copy(
        self, table: Table, progress: Progress
    ) -> AsyncGenerator[tuple[list[Change], Progress]]:
        """Changes of one table with how far they go: first the word that what was there before is
        gone, then its rows. Ends early, between rows, when its time is over."""
        shape = self._moment.shapes[table.stream]
        schema = schema_of(self._source, table.stream, shape)
        changes: list[Change] = []
        if progress.after is None:
            truncate = Change(schema, Op.TRUNCATE, (), self._next(), self._committed_at)
            changes.append(truncate)
        key = key_maker(schema)
        converters = tuple(map(converter_of, shape.columns))
        # In the index's order, which the server can follow without sorting.
        indexes = [schema.index(name) for name in table.key]
        columns = [shape.columns[i] for i in indexes]
        resumable = can_resume(columns)
        after = progress.after
        reader = PacketReader(self._session)
        await reader.start(COM_QUERY, self._select(table, shape, columns, progress))
        async for rows in _packets(reader, self._what):
            for packet in rows:
                row = decode_text_row(packet, converters)
                position = snapshot_position(self._moment.place, self._moment.rows)
                self._moment.rows += 1
                changes.append(Change(schema, Op.READ, key(row), position, self._committed_at, row))
            if rows and resumable:
                after = _raw_key(rows[-1], indexes)
            if len(changes) >= self._batch_rows:
                yield changes, Progress(after=after if resumable else None)
                changes = []
                if resumable and self._until is not None and self._loop.time() > self._until:
                    reader.stop()
                    return
        reader.release(_ANSWER_S)
        yield changes, Progress(done=True)

    def _next(self) -> Position:
        position = snapshot_position(self._moment.place, self._moment.rows)
        self._moment.rows += 1
        return position

    def _select(
        self, table: Table, shape: Shape, key: Sequence[ShapeColumn], progress: Progress
    ) -> bytes:
        statement = _whole(table, shape.columns)
        if can_resume(key):
            if progress.after is not None:
                statement += f" WHERE {_after(self._session, key, progress.after)}"
            names = [quoted(column.name) for column in key]
            statement += f" ORDER BY {', '.join(names)}"
        return statement.encode("utf-8", "surrogateescape")


def _whole(table: Table, columns: Sequence[ShapeColumn]) -> str:
    names = ", ".join(map(selected, columns))
    return f"SELECT {names} FROM {quoted(table.database, table.name)}"  # noqa: S608 - quoted names


def can_resume(key: Sequence[ShapeColumn]) -> bool:
    """Whether a copy can be cut off between keys of such columns and go on."""
    return all(column.kind in ORDERED for column in key)


def _after(session: Session, key: Sequence[ShapeColumn], values: Sequence[bytes]) -> str:
    """A condition for rows behind this key, in a form that lets the server use its index."""
    names = [quoted(column.name) for column in key]
    literals = [
        session.literal(value if column.kind in ("binary", "varbinary") else value.decode())
        for column, value in zip(key, values, strict=True)
    ]
    parts = []
    for i, name in enumerate(names):
        equal = [f"{names[k]} = {literals[k]}" for k in range(i)]
        parts.append("(" + " AND ".join([*equal, f"{name} > {literals[i]}"]) + ")")
    return " OR ".join(parts)


def _raw_key(packet: bytes, indexes: Sequence[int]) -> tuple[bytes, ...]:
    """The key's values as the server wrote them."""
    wanted = max(indexes) + 1
    values: list[bytes] = []
    at = 0
    for _ in range(wanted):
        if packet[at] == 0xFB:
            values.append(b"")
            at += 1
            continue
        length, at = length_encoded(packet, at)
        values.append(packet[at : at + length])
        at += length
    return tuple(values[i] for i in indexes)


async def _packets(reader: PacketReader, what: str) -> AsyncGenerator[list[bytes]]:
    """The rows of a result as packets, in slices."""
    ends, columns = 0, -1
    try:
        while ends < 2:
            await reader.wait()
            packets = reader.take()
            rows: list[bytes] = []
            for packet in packets:
                if packet[:1] == bytes([ERR]):
                    raise refusal_error(decode_refusal(packet), what)
                if columns < 0:
                    columns = decode_column_count(packet)
                elif is_end(packet):
                    ends += 1
                elif ends:
                    rows.append(packet)
            for start in range(0, len(rows), _SLICE):
                yield rows[start : start + _SLICE]
                await asyncio.sleep(0)
    finally:
        reader.stop()


async def row_texts(
    session: Session, table: Table, shape: Shape, schema: Schema
) -> AsyncGenerator[tuple[str | None, ...]]:
    """All rows of a table, as changes would carry them, in any order."""
    columns = [column for column in shape.columns if column.name in schema.names]
    converters = tuple(map(converter_of, columns))
    reader = PacketReader(session)
    await reader.start(COM_QUERY, _whole(table, columns).encode())
    async for rows in _packets(reader, session.what):
        for packet in rows:
            yield decode_text_row(packet, converters)
