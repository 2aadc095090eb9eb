"""What stands under each key while changes are taken one after the other. Pure.

A constraint that is checked only at the end of a transaction lets a row take a key before the row
that stands there has left it: for a moment two rows bear one key. What a source sends says *that*
a row leaves a key, and how it looked, not *which* of the two it is. So those that came within one
transaction are kept above what was there before: who leaves is the last that came and looks like
what was sent, or else what was there before. Of two that look alike it does not matter.

If all leave that came, what was there before stands again. Where that is not known here (it is in
the store, or nothing is), nothing may be said of it but this: whatever the transaction itself put
there is gone (`Stood.since`).
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from penstock.records import UNCHANGED, Change, Position, Row, Value

K = TypeVar("K")
T = TypeVar("T")


class Stood(NamedTuple, Generic[T]):
    """The latest of one key: ``what`` the caller keeps of it, and whether it is ``there``."""

    what: T
    position: Position
    row: Row | None = None
    """As it would be sent when it leaves."""
    there: bool = True
    came_in: str | None = None
    """The transaction in which it was made or came from another key, while that may go on."""
    below: Stood[T] | None = None
    """What was there before it came; None where that is not known."""
    since: Position | None = None
    """What is there is not known; but nothing is that came at this position or later."""


class Standing(Generic[K, T]):
    """The latest of all keys, in the order in which they were last touched."""

    def __init__(self) -> None:
        self.of: dict[K, Stood[T]] = {}

    def meant(self, key: K, change: Change) -> Stood[T] | None:
        """What a change that updates or takes away a key's row speaks of; None: not known here."""
        stood = self._below(key, change)[1]
        return None if stood is None or stood.since is not None else stood

    def come(self, key: K, change: Change, what: T, row: Row | None) -> None:
        """A row is made under a key or comes there."""
        below = self.of.pop(key, None)
        if below is not None and below.came_in is not None:
            if below.came_in != change.transaction:
                below = below._replace(came_in=None, below=None)
            elif below.position >= change.position:
                below = below.below  # the same, delivered again
        self.of[key] = Stood(what, change.position, row, came_in=change.transaction, below=below)

    def update(self, key: K, change: Change, what: T, row: Row | None) -> None:
        """A row has changed in its place."""
        above, stood = self._below(key, change)
        fresh = Stood(what, change.position, row)
        if stood is not None and _came_within(stood, change):
            fresh = fresh._replace(came_in=stood.came_in, below=stood.below)
        self._put(key, above, fresh)

    def leave(self, key: K, change: Change, gone: T) -> None:
        """A row leaves its key; ``gone`` is what the caller keeps of that."""
        above, stood = self._below(key, change)
        rest = Stood(gone, change.position, there=False)
        if stood is not None and _came_within(stood, change):
            below = stood.below
            if below is None:
                rest = rest._replace(since=stood.position)
            elif below.since is not None:
                rest = rest._replace(since=below.since)
            else:
                rest = below
        self._put(key, above, rest)

    def empty(self, key: K, at: Position, gone: T) -> None:
        """Nothing that is older than a position is there any more."""
        stood = self.of[key]
        bottom = Stood(gone, at, there=False)
        above = []
        while stood.position > at:
            above.append(stood)
            if stood.below is None:
                break
            stood = stood.below
        self._put(key, above, bottom)

    def _below(self, key: K, change: Change) -> tuple[list[Stood[T]], Stood[T] | None]:
        """Those that came within the transaction and are not meant, and what is."""
        above = []
        stood = self.of.get(key)
        while (
            stood is not None
            and _came_within(stood, change)
            and is_another(stood.row, change.before)
        ):
            above.append(stood)
            stood = stood.below
        return above, stood

    def _put(self, key: K, above: list[Stood[T]], stood: Stood[T]) -> None:
        for each in reversed(above):
            stood = each._replace(below=stood)
        self.of.pop(key, None)
        self.of[key] = stood


def _came_within(stood: Stood[T], change: Change) -> bool:
    """Did it come in the transaction that a change is of, and before it? (Else the change has been
    delivered again.)"""
    return (
        stood.came_in is not None
        and stood.came_in == change.transaction
        and change.before is not None
        and stood.position < change.position
    )


def is_another(row: Row | None, before: Row | None) -> bool:
    """Does what was sent of a row before its change not look like this row? What is not known of
    either tells nothing."""
    if row is None or before is None:
        return False
    return any(map(_differ, row, before))


def _differ(value: Value, before: Value) -> bool:
    return before is not None and value is not UNCHANGED and value != before


def told_by(row: Row, before: Row | None) -> Row:
    """A row with the values that were left out, where the row before was sent in full (as it is of
    tables whose rows can trade keys)."""
    if before is None or UNCHANGED not in row:
        return row
    return tuple(
        was if value is UNCHANGED and isinstance(was, str) else value
        for value, was in zip(row, before, strict=True)
    )
