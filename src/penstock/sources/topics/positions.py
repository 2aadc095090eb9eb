"""Positions of records in topics. Pure.

    TTTTTTTTTTT-OFFSET-NNNNNN-PARTITION-TOPIC

``T`` is time in milliseconds (11 hexadecimal digits) as the broker has it, but never less than
that of a record before it in the same partition: within a partition positions follow the offsets
whatever the clocks say, and between partitions (where a topic has no order) they follow time. So a
truncate, or a row that moved because partitions were added, stands where one would look for it.
``N`` counts the changes inside one record. The same record has the same position whenever it is
read, so a topic that is read again from its beginning changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple, cast

from penstock.errors import BadRecordError, SourceError
from penstock.records import Position
from penstock.sources.topics.base import Slice

LATEST: Final = (1 << 44) - 1
MOST_IN_RECORD: Final = (1 << 24) - 1
_FIRST: Final = "-000000-"


class Place(NamedTuple):
    """How far a partition was read: the last record's offset, and the time in its position."""

    offset: str
    time_ms: int
    mark: str = ""

    @classmethod
    def parse(cls, text: str, name: str) -> Place:
        """From the state."""
        offset, _, rest = text.partition(" ")
        time, _, mark = rest.partition(" ")
        try:
            return cls(offset, int(time), mark)
        except ValueError as error:
            raise SourceError(
                f"expected an offset and a time in the state of {name!r}, got {text!r}: it was "
                "written by something else"
            ) from error

    def format(self) -> str:
        """For the state."""
        return f"{self.offset} {self.time_ms} {self.mark}".rstrip()

    @property
    def resume(self) -> str:
        """What the transport is given to go on after it."""
        return f"{self.offset} {self.mark}".rstrip()


@dataclass(frozen=True, slots=True)
class Placed:
    """Positions for the records of a slice, and where its partition stands after them."""

    positions: Sequence[Position]
    place: Place


def place_records(records: Slice, before: Place | None) -> Placed:
    """Give every record its position."""
    least = 0 if before is None else before.time_ms
    times = records.times
    if not least <= min(times) == max(times) <= LATEST:
        rising = [max(0, min(time, LATEST)) for time in times]
        rising[0] = max(rising[0], least)
        times = list(accumulate(rising, max))
    heads = {time: f"{time:011x}-" for time in set(times)}
    tail = f"{_FIRST}{records.partition}-{records.topic}"
    positions = [
        heads[time] + offset + tail for time, offset in zip(times, records.offsets, strict=True)
    ]
    mark = "" if records.marks is None else records.marks[-1]
    return Placed(cast("list[Position]", positions), Place(records.offsets[-1], times[-1], mark))


def nth(position: Position, number: int) -> Position:
    """The position of change ``number`` (from 0) of the record that stands at ``position``."""
    if number == 0:
        return position
    if number > MOST_IN_RECORD:
        raise BadRecordError(f"expected at most {MOST_IN_RECORD} changes in one record, got more")
    head, _, tail = position.partition(_FIRST)
    return Position(f"{head}-{number:06x}-{tail}")
