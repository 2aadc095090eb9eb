"""What one record in Kafka holds: a piece of what was appended to one partition in one step.

What is appended to a partition at once is one text of bytes (see `penstock.log.codec`), cut into
pieces that every broker takes without being asked to allow more. All pieces are written in one
transaction, so a reader of committed records gets all or none. Pieces of two writers may lie
between each other; only where no append is open does a reader stop (`Assembler`), so that a
position never points into one.

Each record says how many changes and bytes the partition held before its append. With one writer
per topic, which is how Penstock uses a log, they are exact; they serve retention and reports only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from penstock.errors import FatalError
from penstock.records import LogPosition, Microseconds

VERSION: Final = 1
PIECE_BYTES: Final = 900_000
"""A little less than the megabyte that Kafka allows a record where nobody configured it."""

_TIMED: Final = 1
# version, flags, writer, number of the append, piece, pieces, changes, bytes of the append, as_of,
# and what was before it: changes, bytes
_HEAD: Final = struct.Struct(">BBQQIIIIqQQ")


class Totals(NamedTuple):
    """How much a partition holds, or held, from its beginning on."""

    changes: int = 0
    size: int = 0


class Append(NamedTuple):
    """What one step appended to one partition."""

    payload: bytes
    changes: int
    size: int
    as_of: Microseconds | None
    before: Totals

    @property
    def after(self) -> Totals:
        """What the partition holds with it."""
        return Totals(self.before.changes + self.changes, self.before.size + self.size)


class Frame(NamedTuple):
    """One record, taken apart."""

    writer: int
    number: int
    piece: int
    pieces: int
    append: Append  # its payload is this piece alone


class Whole(NamedTuple):
    """Appends that were completed together; reading resumes after ``last``."""

    last: LogPosition
    appends: tuple[Append, ...]


def frames(append: Append, writer: int, number: int) -> Iterator[bytes]:
    """The records of an append, in order."""
    payload, changes, size, as_of, before = append
    pieces = max(1, -(-len(payload) // PIECE_BYTES))
    flags = 0 if as_of is None else _TIMED
    view = memoryview(payload)
    for piece in range(pieces):
        head = _HEAD.pack(
            VERSION, flags, writer, number, piece, pieces, changes, size, as_of or 0, *before
        )
        yield b"".join((head, view[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES]))


def parse(value: bytes | None) -> Frame:
    """One record, taken apart."""
    if value is None or len(value) < _HEAD.size:
        raise _foreign(f"{0 if value is None else len(value)} bytes")
    head = _HEAD.unpack_from(value)
    version, flags, writer, number, piece, pieces, changes, size, as_of, *before = head
    if version != VERSION:
        raise _foreign(f"a record of format {version}")
    if not 0 <= piece < pieces:
        raise _foreign(f"piece {piece} of {pieces}")
    time = Microseconds(as_of) if flags & _TIMED else None
    append = Append(value[_HEAD.size :], changes, size, time, Totals(*before))
    return Frame(writer, number, piece, pieces, append)


def _foreign(got: str) -> FatalError:
    return FatalError(
        f"expected a topic that only Penstock writes to, got {got}: something else wrote to it, or "
        "a newer version of penstock did; give the log a prefix of its own, or upgrade"
    )


class Assembler:
    """Puts the records of one partition together again, in order."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], list[bytes]] = {}
        self._done: list[Append] = []

    @property
    def between(self) -> bool:
        """Is no append open here?"""
        return not self._open and not self._done

    def feed(self, offset: int, value: bytes | None) -> Whole | None:
        """Take the next record; what it completed, if it leaves nothing open."""
        frame = parse(value)
        name = (frame.writer, frame.number)
        parts = self._open.setdefault(name, [])
        if len(parts) != frame.piece:
            raise FatalError(
                f"expected piece {len(parts)} of an append at {offset + 1}, got piece "
                f"{frame.piece}: reading began in the middle of an append, or records are missing "
                "from the topic; start its consumers from the beginning",
                position=offset + 1,
            )
        parts.append(frame.append.payload)
        if len(parts) == frame.pieces:
            payload = parts[0] if len(parts) == 1 else b"".join(parts)
            self._done.append(frame.append._replace(payload=payload))
            del self._open[name]
        if self._open or not self._done:
            return None
        whole = Whole(LogPosition(offset + 1), tuple(self._done))
        self._done = []
        return whole
