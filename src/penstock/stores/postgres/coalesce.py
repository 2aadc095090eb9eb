"""What a batch of changes comes to, for each key of a live table. Pure.

The last change of a key wins (G1). What it left out as `UNCHANGED` comes from the change of the
same row before it, or else from the row as it is stored. An update that moved a row to another key
takes the row away from the old one and carries its values along. A truncate makes nothing of all
that is older. Rows that trade keys within a transaction: see `penstock.standing`.
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
)
from penstock.standing import Standing, told_by


class Put(NamedTuple):
    """The row that a key has now. With ``base`` some values are `UNCHANGED`: they are those of the
    row that is stored under that key."""

    key: Key
    row: Row
    position: Position
    committed_at: Microseconds
    base: Key | None = None


class Undone(NamedTuple):
    """Whatever came to a key from ``since`` on has left it again; what was there before stays."""

    key: Key
    since: Position
    position: Position


@dataclass(frozen=True, slots=True)
class Net:
    """What remains to be done, in this order: everything at or before ``truncated_at`` goes, then
    ``gone`` and ``undone``, then ``puts`` (complete rows) and ``partial`` (rows with a base)."""

    truncated_at: Position | None
    gone: Sequence[tuple[Key, Position]]
    puts: Sequence[Put]
    partial: Sequence[Put]
    undone: Sequence[Undone] = ()


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
        last = dict(zip(keys, changes, strict=True))
        if not _made_and_gone(changes, last):
            return _plain_net(last)
    batch = _Batch()
    for change in changes:
        batch.add(change)
    return _net(batch)


def _made_and_gone(changes: Sequence[Change], last: dict[Key, Change]) -> bool:
    """Whether a key's row was made and its last one went in one transaction: they may be two."""
    gone = {
        (key, change.transaction)
        for key, change in last.items()
        if change.before is not None and change.op is Op.DELETE and change.transaction
    }
    return bool(gone) and any(
        change.op is Op.CREATE and (change.key, change.transaction) in gone for change in changes
    )


_PLAIN: Final = frozenset({Op.CREATE, Op.UPDATE, Op.READ, Op.DELETE})


class _Kept(NamedTuple):
    """A row as far as the batch knows it, and where the rest is."""

    row: Row
    committed_at: Microseconds
    base: Key | None = None


def _plain_net(last: dict[Key, Change]) -> Net:
    """The same as `_net`, without a detour, for what nearly all batches are: rows as they are."""
    puts = [Put(key, c[5], c[3], c[4]) for key, c in last.items() if c[5] is not None]
    gone: list[tuple[Key, Position]] = []
    if len(puts) < len(last):
        gone = [(key, c[3]) for key, c in last.items() if c[5] is None]
    return Net(None, gone, puts, ())


def _net(batch: _Batch) -> Net:
    gone: list[tuple[Key, Position]] = []
    undone: list[Undone] = []
    puts: list[Put] = []
    partial: list[Put] = []
    for key, stood in batch.standing.of.items():
        if stood.since is not None:
            undone.append(Undone(key, stood.since, stood.position))
        elif not stood.there or stood.what is None:
            gone.append((key, stood.position))
        else:
            row, committed_at, base = stood.what
            into = puts if base is None else partial
            into.append(Put(key, row, stood.position, committed_at, base))
    return Net(batch.truncated_at, gone, puts, partial, undone)


class _Batch:
    """Changes taken one after the other."""

    def __init__(self) -> None:
        self.standing: Standing[Key, _Kept | None] = Standing()
        self.truncated_at: Position | None = None
        self._emptied: set[Key] = set()

    def add(self, change: Change) -> None:
        if change.op is Op.TRUNCATE:
            self._truncate(change.position)
        elif change.op is Op.DELETE or change.after is None:
            self.standing.leave(change.key, change, None)
        else:
            self._put(change, told_by(change.after, change.before))

    def _truncate(self, at: Position) -> None:
        """Only what is older goes: at the end of a table's copy, that is not all before it."""
        for key, stood in list(self.standing.of.items()):
            if stood.position > at:
                self.standing.empty(key, at, None)
            else:
                del self.standing.of[key]
                self._emptied.add(key)
        self.truncated_at = max(at, self.truncated_at or at)

    def _put(self, change: Change, row: Row) -> None:
        key, old, standing = change.key, change.old_key, self.standing
        kept = self._filled(change, row, key if old is None else old)
        if old is not None:
            standing.leave(old, change, None)
        if old is None and change.op is not Op.CREATE:
            standing.update(key, change, kept, kept.row)
        else:
            standing.come(key, change, kept, kept.row)

    def _filled(self, change: Change, row: Row, source: Key) -> _Kept:
        """The row with its unchanged values, as far as the batch knows; where the rest is."""
        if UNCHANGED not in row:
            return _Kept(row, change.committed_at)
        stood = self.standing.meant(source, change)
        if stood is None and source not in self._emptied:
            return _Kept(row, change.committed_at, source)
        if stood is None or not stood.there or stood.what is None:
            raise missing_row(change.schema, change.key, change.position)
        row = tuple(
            before if value is UNCHANGED else value
            for value, before in zip(row, stood.what.row, strict=True)
        )
        return _Kept(row, change.committed_at, stood.what.base if UNCHANGED in row else None)


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
