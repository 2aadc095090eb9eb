"""What is kept in memory for other readers."""

from __future__ import annotations

from penstock.log.recent import Recent, Stored
from penstock.records import Change, LogPosition
from penstock.testing.logs import change, keys


def stored(first: int, *changes: Change, size: int = 10) -> Stored:
    last = LogPosition(first + max(len(changes), 1) - 1)
    streams = frozenset(each.schema.stream for each in changes)
    return Stored(LogPosition(first), last, changes, streams, None, size)


def test_consecutive_appends_are_read_together() -> None:
    """Up to a gap, or to what was asked for."""
    recent = Recent(1000)
    for piece in (stored(1, change(1), change(2)), stored(3, change(3)), stored(5, change(5))):
        recent.put("t", 0, piece)
    batch = recent.read("t", 0, LogPosition(0), 10, None)
    assert batch is not None
    assert (keys(batch.changes), batch.first, batch.last) == (["1", "2", "3"], 1, 3)
    first = recent.read("t", 0, LogPosition(0), 1, None)
    assert first is not None
    assert first.last == 2
    assert recent.read("t", 0, LogPosition(1), 10, None) is None
    assert recent.read("t", 0, LogPosition(3), 10, None) is None
    assert recent.read("t", 1, LogPosition(0), 10, None) is None


def test_the_oldest_goes_when_there_is_too_much() -> None:
    """And what is larger than all is never kept."""
    recent = Recent(25)
    for first in (1, 2, 3):
        recent.put("t", 0, stored(first, change(first)))
    recent.put("t", 0, stored(4, change(4), size=26))
    held = [recent.read("t", 0, LogPosition(at), 1, None) is not None for at in range(4)]
    assert held == [False, True, True, False]


def test_what_is_forgotten_or_trimmed_is_not_read() -> None:
    """Retention and dropped topics hold for the memory too."""
    recent = Recent(1000)
    for topic in ("t", "u"):
        for first in (1, 2):
            recent.put(topic, 0, stored(first, change(first)))
    recent.trim("t", 0, LogPosition(2))
    assert recent.read("t", 0, LogPosition(0), 10, None) is None
    assert recent.read("t", 0, LogPosition(1), 10, None) is not None
    recent.forget("t")
    assert recent.read("t", 0, LogPosition(1), 10, None) is None
    assert recent.read("u", 0, LogPosition(0), 10, None) is not None
