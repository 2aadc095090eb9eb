"""Rows of copies become changes: in between transactions, with positions of their own. Pure.

What is copied is given at the place where the stream is: after the commit that was given last, and
before all that come. WAL records begin at multiples of 8, so the 7 bytes after a commit's beginning
are nobody's place; within one of them rows are numbered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from penstock.records import Change, Microseconds, Op, Position, Row
from penstock.sources.base import SourceBatch
from penstock.sources.postgres.changes import TablePlan
from penstock.sources.postgres.copying import Piece, TableCopy
from penstock.sources.postgres.marks import CopyMark
from penstock.sources.postgres.positions import make_position, parse_position
from penstock.sources.postgres.state import COPIED, COPY, SHAPE, TABLE, Copied, CopyState

_PLACES: Final = 1 << 32
_new = cast("Callable[[type[Change], tuple[Any, ...]], Change]", tuple.__new__)


class Places:
    """The positions of copied rows: each is later than all that was given before."""

    def __init__(self, lsn: int, given: Sequence[str]) -> None:
        """``lsn``: what commits from there on is yet to be given; positions given before."""
        last = max(map(parse_position, given), default=(0, 0))
        self._lsn, place = max(last, ((lsn - 1) // 8 * 8, 0))
        self._place = place + 1  # the next one that is free, where the LSN is nobody's

    def passed(self, position: str) -> None:
        """The stream gave this change."""
        self._lsn, self._place = max(parse_position(position), (self._lsn, self._place))

    def next(self, count: int = 1) -> tuple[int, int]:
        """The LSN and the first number of so many positions."""
        if self._lsn % 8 == 0 or self._place + count >= _PLACES:
            self._lsn, self._place = self._lsn + 1, 0
        first = self._place
        self._place += count
        return self._lsn, first


def begin(copy: TableCopy, piece: Piece, places: Places) -> SourceBatch:
    """The copy begins, or begins anew. A table that was not there before begins empty; of one that
    was, the rows stay until their copies come."""
    position = make_position(*places.next())
    empty = copy.first and copy.state is None
    copy.mark.begin_anew()
    copy.state = CopyState(copy.table.oid, position, copy.first, not empty, piece.look.time)
    said: dict[str, str | None] = {COPY + copy.stream: describe(copy), COPIED: str(position)}
    if empty:
        return SourceBatch([_truncate(piece, position)], said)
    return SourceBatch(state={**said, TABLE + copy.stream: None})


def give(copy: TableCopy, piece: Piece, places: Places) -> SourceBatch:
    """Rows of a chunk, without those of which the stream knows better."""
    mark, state = copy.mark, copy.state
    assert state is not None
    changes = _changes(piece.look.plan, mark, piece.rows, piece.look.time, places)
    state.rows += len(changes)
    if piece.ends_chunk:
        if piece.block >= 0 and not mark.spoiled and not mark.restart:
            state.block = piece.block
        mark.close_chunk()
    if piece.ends_chunk and copy.is_complete:
        return _end(copy, piece, changes)
    if not piece.ends_chunk and not mark.changed:
        return SourceBatch(changes, {COPIED: str(changes[-1].position)} if changes else {})
    said: dict[str, str | None] = {COPY + copy.stream: describe(copy)}
    if changes:
        said[COPIED] = str(changes[-1].position)
    return SourceBatch(changes, said)


def describe(copy: TableCopy) -> str:
    """How far the copy is, for the state."""
    mark, state = copy.mark, copy.state
    assert state is not None
    if mark.restart:
        state.block, state.rows, state.files = 0, 0, ""
    state.again = sorted(
        (list(key) for key in mark.again | mark.fetching), key=lambda key: [str(k) for k in key]
    )
    mark.changed = False
    return state.format()


def _end(copy: TableCopy, piece: Piece, changes: list[Change]) -> SourceBatch:
    """The copy is complete. What the table held before it and nobody touched since is gone at the
    source: it goes with a truncate that has the position of the copy's beginning."""
    state = copy.state
    assert state is not None
    done = Copied(parse_position(state.begun)[0], copy.table.oid)
    said: dict[str, str | None] = {
        COPY + copy.stream: None,
        TABLE + copy.stream: done.format(),
        SHAPE + copy.stream: piece.look.shape.format(),
    }
    if changes:
        said[COPIED] = str(changes[-1].position)
    if state.sweep:
        changes.insert(0, _truncate(piece, Position(state.begun)))
    return SourceBatch(changes, said)


def _truncate(piece: Piece, position: Position) -> Change:
    return Change(piece.look.plan.schema, Op.TRUNCATE, (), position, piece.look.time)


def _changes(
    plan: TablePlan, mark: CopyMark, rows: Sequence[Row], time: Microseconds, places: Places
) -> list[Change]:
    if mark.spoiled:
        return []
    schema, key, read = plan.schema, plan.key, Op.READ
    pairs = [(key(row), row) for row in rows]
    if not mark.is_quiet:
        settled = ((k, mark.settled(k, row)) for k, row in pairs)
        pairs = [(k, row) for k, row in settled if row is not None]
    lsn, first = places.next(len(pairs))
    prefix = f"{lsn:016X}."
    return [
        _new(Change, (schema, read, k, f"{prefix}{place:08X}", time, row, None, None, None))
        for place, (k, row) in enumerate(pairs, first)
    ]
