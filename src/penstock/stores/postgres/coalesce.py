"""What a batch of changes comes to, for each key of a live table. Pure.

The last change of a key wins (G1). What it left out as `UNCHANGED` comes from the change of the
same row before it, or else from the row as it is stored. An update that moved a row to another key
takes the row away from the old one and carries its values along. A truncate makes nothing of all
that is older.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple

from penstock.errors import BadRecordError
from penstock.records import (
    UNCHANGED,
    Change,
    Key,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
    Unchanged,
    Value,
)


class Put(NamedTuple):
    """The row that a key has now. With ``base`` some values are `UNCHANGED`: they are those of the
    row that is stored under that key."""

    key: Key
    row: Row
    position: Position
    committed_at: Microseconds
    base: Key | None = None


@dataclass(frozen=True, slots=True)
class Net:
    """What remains to be done, in this order: everything at or before ``truncated_at`` goes, then
    ``gone``, then ``puts`` (complete rows) and ``partial`` (rows with a base)."""

    truncated_at: Position | None
    gone: Sequence[tuple[Key, Position]]
    puts: Sequence[Put]
    partial: Sequence[Put]


class Segment(NamedTuple):
    """Changes of one stream that have the same schema, in order."""

    schema: Schema
    changes: list[Change]


def split(changes: Sequence[Change]) -> Iterator[Segment]:
    """Segments such that those of one stream come in order. Streams do not wait for each other."""
    if len({id(change[0]) for change in changes}) == 1:
        yield Segment(changes[0].schema, list(changes))
        return
    streams: dict[tuple[str, str], list[Segment]] = {}
    current: dict[int, Segment] = {}
    for change in changes:
        schema = change[0]
        segment = current.get(id(schema))
        if segment is None:
            segment = _segment(streams, current, schema)
        segment.changes.append(change)
    yield from chain.from_iterable(streams.values())


def _segment(
    streams: dict[tuple[str, str], list[Segment]], current: dict[int, Segment], schema: Schema
) -> Segment:
    segments = streams.setdefault((schema.source, schema.stream), [])
    if segments and segments[-1].schema == schema:
        current[id(schema)] = segments[-1]
        return segments[-1]
    for before in segments:  # they end here: what comes with them again is a segment of its own
        for number in [n for n, segment in current.items() if segment is before]:
            del current[number]
    segment = Segment(schema, [])
    segments.append(segment)
    current[id(schema)] = segment
    return segment


def coalesce(changes: Sequence[Change]) -> Net:
    """The net effect of changes of one stream with one schema."""
    _, ops, keys, _, _, after, _, old_keys, _ = zip(*changes, strict=True)
    plain = set(ops) <= _PLAIN and not any(old_keys)
    if plain and Unchanged not in set(map(type, chain.from_iterable(filter(None, after)))):
        return _plain_net(dict(zip(keys, changes, strict=True)))
    batch = _Batch()
    for change in changes:
        batch.add(change)
    return _net(batch.truncated_at, batch.rows)


_PLAIN: Final = frozenset({Op.CREATE, Op.UPDATE, Op.READ, Op.DELETE})


class _Standing(NamedTuple):
    """The latest of one key: its row (None: gone), and whether the row came there from elsewhere in
    the transaction named (then the row before it may still leave)."""

    row: Row | None
    position: Position
    committed_at: Microseconds
    base: Key | None = None
    arrived_in: str | None = None


def _plain_net(last: dict[Key, Change]) -> Net:
    """The same as `_net`, without a detour, for what nearly all batches are: rows as they are."""
    puts = [Put(key, c[5], c[3], c[4]) for key, c in last.items() if c[5] is not None]
    gone: list[tuple[Key, Position]] = []
    if len(puts) < len(last):
        gone = [(key, c[3]) for key, c in last.items() if c[5] is None]
    return Net(None, gone, puts, ())


def _net(truncated_at: Position | None, rows: dict[Key, _Standing]) -> Net:
    gone: list[tuple[Key, Position]] = []
    puts: list[Put] = []
    partial: list[Put] = []
    for key, (row, position, committed_at, base, _) in rows.items():
        if row is None:
            gone.append((key, position))
        elif base is None:
            puts.append(Put(key, row, position, committed_at))
        else:
            partial.append(Put(key, row, position, committed_at, base))
    return Net(truncated_at, gone, puts, partial)


class _Batch:
    """Changes taken one after the other."""

    def __init__(self) -> None:
        self.rows: dict[Key, _Standing] = {}
        self.truncated_at: Position | None = None
        self._emptied: set[Key] = set()

    def add(self, change: Change) -> None:
        if change.op is Op.TRUNCATE:
            self._truncate(change.position)
        elif change.op is Op.DELETE or change.after is None:
            self._leave(change.key, change)
        else:
            self._put(change, change.after)

    def _truncate(self, at: Position) -> None:
        """Only what is older goes: at the end of a table's copy, that is not all before it."""
        rows = {key: stood for key, stood in self.rows.items() if stood.position > at}
        self._emptied |= self.rows.keys() - rows.keys()
        self.rows = rows
        self.truncated_at = max(at, self.truncated_at or at)

    def _put(self, change: Change, row: Row) -> None:
        if change.old_key is not None:
            stood = self._leave(change.old_key, change)
            row, base = self._filled(change, row, change.old_key, stood)
        else:
            row, base = self._filled(change, row, change.key, self.rows.get(change.key))
        arrived = change.op is Op.CREATE or change.old_key is not None
        self.rows[change.key] = _Standing(
            row,
            change.position,
            change.committed_at,
            base,
            change.transaction if arrived else None,
        )

    def _leave(self, key: Key, change: Change) -> _Standing | None:
        """The row leaves this key; returns how it stood."""
        stood = self.rows.get(key)
        if stood is not None and _is_another(stood, change):
            # Two rows trade keys within a transaction (a deferred constraint allows it): the one
            # that leaves is the one before, which has already been replaced here.
            return stood
        self.rows[key] = _Standing(None, change.position, change.committed_at)
        return stood

    def _filled(
        self, change: Change, row: Row, source: Key, stood: _Standing | None
    ) -> tuple[Row, Key | None]:
        """The row with its unchanged values, as far as the batch knows; where the rest is."""
        if UNCHANGED not in row:
            return row, None
        if stood is None and source not in self._emptied:
            return row, source
        if stood is None or stood.row is None:
            raise missing_row(change.schema, change.key, change.position)
        row = tuple(
            before if value is UNCHANGED else value
            for value, before in zip(row, stood.row, strict=True)
        )
        return row, stood.base if UNCHANGED in row else None


def _is_another(stood: _Standing, change: Change) -> bool:
    """Is the row that leaves, by what the source sent of it, not the one that stands there?"""
    if stood.row is None or stood.arrived_in is None or change.before is None:
        return False
    return stood.arrived_in == change.transaction and any(
        _differ(value, before) for value, before in zip(stood.row, change.before, strict=True)
    )


def _differ(value: Value, before: Value) -> bool:
    return before is not None and value is not UNCHANGED and value != before


def missing_row(schema: Schema, key: Key, position: Position) -> BadRecordError:
    """An update without some values, for a row that is not there."""
    return BadRecordError(
        f"expected a row with the key {key!r} in {schema.stream!r} for an update that leaves out "
        "unchanged values, got none: its insert is missing (see the dead letters); read the table "
        "again from the source",
        source=schema.source,
        stream=schema.stream,
        key=key,
        position=position,
    )
