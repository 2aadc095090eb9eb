"""What the stream does to a table while it is copied. Pure.

A copy is read in chunks, each as of its own snapshot, while the stream goes on. A chunk's row is
given later than the changes that came in between, so it must not say less than they did: rows that
the stream touched since the chunk's snapshot are left out of the chunk (the algorithm of DBLog,
with the snapshot itself in the place of the low watermark).

An update that leaves out unchanged values needs the row that it changes, which may not have been
copied yet. Such a row is read again by its key, and given whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from penstock.records import UNCHANGED, Key, Row

_XIDS: Final = 1 << 32


class Visibility(NamedTuple):
    """A snapshot of the server: which transactions it sees."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Visibility:
        """Of ``pg_current_snapshot()``: ``xmin:xmax:xid,xid``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(",")))))

    def sees(self, xid: int) -> bool:
        """Whether a transaction that has committed, by its number as the stream gives it (the
        lower 32 bits), is in the snapshot."""
        whole = self._whole(xid)
        return whole < self.xmin or (whole < self.xmax and whole not in self.running)

    def unsettled(self, xids: Iterable[int]) -> set[int]:
        """Those that some later snapshot might not see yet."""
        return {xid for xid in xids if self._whole(xid) >= self.xmin}

    def _whole(self, xid: int) -> int:
        ahead = (xid - self.xmax) % _XIDS
        return self.xmax + (ahead if ahead < _XIDS // 2 else ahead - _XIDS)


class CopyMark:
    """One table's: rows touched since the snapshot of the present chunk, rows to be read by key.

    ``open_chunk`` when a snapshot is known, `touch` and `put_off` for each change that the stream
    gives from then on, `settled` for each row of the chunk, ``close_chunk`` at its end.
    """

    def __init__(self, again: Iterable[Key] = (), *, most: int = 100_000) -> None:
        self.again: set[Key] = set(again)
        """Keys of rows that are to be read by their key."""
        self.fetching: set[Key] = set()
        """Those that the present chunk reads."""
        self.covered = False
        """Every row is in the copy, or in `again`."""
        self.restart = False
        """Too much is to be read again: the copy is to begin anew."""
        self.spoiled = False
        """The present chunk's rows are void: the stream emptied the table, or touched too much."""
        self.changed = False
        """`again` is not what the state says."""
        self._most = most
        self._touched: set[Key] = set()
        self._overlays: dict[Key, Row] = {}

    def open_chunk(self, fetching: Iterable[Key] = ()) -> None:
        """A chunk is read as of now: all that the stream gave before is in it."""
        self._touched.clear()
        self._overlays.clear()
        self.spoiled = False
        self.fetching = set(fetching)
        self.again -= self.fetching

    def close_chunk(self) -> None:
        """The chunk's rows are given (or void: then what it was to fetch stays to be fetched)."""
        if self.spoiled:
            self.again |= self.fetching
        self.changed = self.changed or bool(self.fetching)
        self.fetching = set()
        self._overlays.clear()

    def begin_anew(self) -> None:
        """Everything is copied once more from now on."""
        self.restart = self.covered = False
        self.again.clear()
        self.changed = True

    def touch(self, key: Key) -> None:
        """The stream says what this key holds."""
        self._touched.add(key)
        self._overlays.pop(key, None)
        if key in self.again:
            self.again.discard(key)
            self.changed = True
        if len(self._touched) > self._most:
            # What is spoiled need not be told apart: the chunk is read once more.
            self.spoiled = True
            self._touched.clear()

    def empty(self) -> None:
        """The stream says that no row is left."""
        self.changed = self.changed or bool(self.again)
        self.again.clear()
        self.fetching.clear()
        self._overlays.clear()
        self._touched.clear()
        self.spoiled = True

    def knows(self, base: Key) -> bool:
        """Whether the row that an update leaves values out of has been given for sure."""
        if base in self._touched:
            return True
        return self.covered and base not in self.again and base not in self.fetching

    def put_off(self, key: Key, row: Row) -> None:
        """The row of this key is to be read, as ``row`` leaves values out of one we do not know."""
        if key in self.fetching:
            before = self._overlays.get(key)
            self._overlays[key] = row if before is None else overlaid(before, row)
            return
        self.changed = True
        self.again.add(key)
        if len(self.again) > self._most:
            self.again.clear()
            self.restart = True

    def settled(self, key: Key, row: Row) -> Row | None:
        """A row of the present chunk as it is to be given; None when the stream knows better."""
        if self.spoiled or key in self._touched or key in self.again:
            return None
        overlay = self._overlays.get(key)
        return row if overlay is None else overlaid(row, overlay)

    @property
    def is_quiet(self) -> bool:
        """Whether all rows of the present chunk are to be given as they are."""
        return not (self.spoiled or self._touched or self.again or self._overlays)


def overlaid(row: Row, over: Row) -> Row:
    """``over``, and where it left values out those of ``row``."""
    return tuple(
        below if value is UNCHANGED else value for below, value in zip(row, over, strict=True)
    )
