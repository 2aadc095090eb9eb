"""When an event happened, as far as that can be believed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from penstock.records import Microseconds

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = datetime.resolution
DAY: Final = 86_400_000_000

EARLIEST: Final = Microseconds((datetime(1980, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND)
"""Nothing that a system of today records happened before: 1970 and 1900 are unset clocks."""
AHEAD: Final = 2 * 366 * DAY
"""So long after its commit a row may lie (a flight that is booked today), and no longer."""


def moment(said: str | None) -> Microseconds | None:
    """A time as sources print it; None for what is none. Without a zone it is UTC."""
    if said is None:
        return None
    try:
        found = datetime.fromisoformat(said.strip())
    except ValueError:
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return Microseconds((found - _EPOCH) // _MICROSECOND)


def event_time(said: str | None, committed_at: Microseconds) -> Microseconds | None:
    """When a row says that something happened; None where that is impossible or nothing is said:
    then the row is in no window and is nobody's last one, and is counted as one without a time."""
    at = moment(said)
    if at is None or at < EARLIEST or (committed_at and at > committed_at + AHEAD):
        return None
    return at
