"""Positions of a MySQL source. Pure.

The order of transactions is that of the binlog: a file's number, and the place in it. A row is
named by the place of its event and its own place in that event. Another server has other files, so
before all stands which server it was: a number that grows with each failover. All as hexadecimal of
fixed width, which sorts as text.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from penstock.errors import SourceError
from penstock.records import Position

FIRST_EVENT: Final = 4
"""Where events begin in a file: after its mark."""
_GAP: Final = 18
"""No event is shorter than its header, so none begins so closely after the end of another."""


class Place(NamedTuple):
    """A boundary between events: in which life of the source, which file, and where."""

    epoch: int
    file: str
    offset: int

    @property
    def order(self) -> tuple[int, int, int]:
        """What places are compared by."""
        return self.epoch, file_number(self.file), self.offset

    @classmethod
    def parse(cls, text: str) -> Place:
        """Of the source's state."""
        epoch, _, rest = text.partition(" ")
        offset, _, file = rest.partition(" ")
        try:
            return cls(int(epoch), file, int(offset))
        except ValueError as error:
            raise SourceError(
                f"expected a place like '1 1234 binlog.000007', got {text!r} in the state of this "
                "source: it was written by something else"
            ) from error

    def format(self) -> str:
        """For the source's state; the name of the file last, for it may hold anything."""
        return f"{self.epoch} {self.offset} {self.file}"


def file_number(file: str) -> int:
    """The number that a binlog's name ends with."""
    if not file:
        return 0  # the server is yet to say which
    _, _, digits = file.rpartition(".")
    if not digits.isdecimal():
        raise SourceError(f"expected a binlog named like binlog.000007, got {file!r}")
    return int(digits)


def event_prefix(place: Place) -> str:
    """What the positions of all rows of the event that begins here begin with."""
    return f"{place.epoch:04X}{file_number(place.file):08X}{place.offset + _GAP:010X}."


def make_position(place: Place, within: int) -> Position:
    """The position of the row that begins ``within`` the event that begins at ``place``."""
    return Position(f"{event_prefix(place)}{within:08X}")


def snapshot_position(place: Place, row: int) -> Position:
    """The position of row number ``row`` of a copy that shows what was at ``place``: after all
    events that end there, before those that begin there. A copy of more than 2**32 rows goes on in
    the next of the bytes between."""
    before = place._replace(offset=place.offset - _GAP + (row >> 32))
    return make_position(before, row & 0xFFFFFFFF)


def rows_before(place: Place, position: str | None) -> int:
    """How many rows of copies were given at this place, if the last change given has this
    position."""
    if position is None:
        return 0
    epoch, file, offset, within = parse_position(position)
    gap = offset - (place.offset - _GAP)
    if (epoch, file) != (place.epoch, file_number(place.file)) or not 0 <= gap < _GAP:
        return 0
    return (gap << 32 | within) + 1


def parse_position(position: str) -> tuple[int, int, int, int]:
    """Epoch, number of the file, place of the event, place within it."""
    event, _, within = position.partition(".")
    try:
        offset = int(event[12:22], 16) - _GAP
        return int(event[:4], 16), int(event[4:12], 16), offset, int(within, 16)
    except ValueError as error:
        raise SourceError(
            f"expected a position like 000100000007000000052A.00000020, got {position!r} in the "
            "state of this source: it was written by something else"
        ) from error


def unwrapped(end: int, near: int) -> int:
    """The place in a file that an event names modulo 2**32, as the one next to ``near``: files
    grow beyond 4 GiB when a transaction is that large."""
    return near + ((end - near + (1 << 31)) % (1 << 32) - (1 << 31))
