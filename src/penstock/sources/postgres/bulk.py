"""Many rows decoded at once: the hot path of capture. Pure.

The values of one column are found in all messages together, with numpy, so that Python does nothing
for each value but cut its text out. What is unusual (an old row, a value that was left out, a
broken message) is left to `penstock.sources.postgres.decoder`, which takes messages one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.records import Row, Value
from penstock.sources.postgres.decoder import INSERT, UPDATE

FEWEST: Final = 12
"""Fewer messages of one shape are decoded one by one."""
_TAGS: Final = (bytes([UPDATE]), bytes([INSERT]))
_NEW: Final = b"N"
_NULL: Final = ord("n")
_TEXT: Final = ord("t")
_HEAD: Final = 8
"""Tag, relation, kind of row, number of columns."""


def decode_rows(pieces: Sequence[bytes], start: int) -> list[Row | None]:
    """For each message that begins at ``start`` of a piece the new row, where it is an insert or an
    update without an old row and could be decoded with others; None elsewhere."""
    found: list[Row | None] = [None] * len(pieces)
    groups: dict[bytes, list[int]] = {}
    for place, piece in enumerate(pieces):
        if piece[start : start + 1] in _TAGS and piece[start + 5 : start + 6] == _NEW:
            groups.setdefault(piece[start + 6 : start + _HEAD], []).append(place)
    if 2 * sum(map(len, groups.values())) < len(pieces):
        return found  # small transactions: in between there is as much else
    for width, places in groups.items():
        if len(places) >= FEWEST:
            same = [pieces[i][start:] for i in places]
            rows = _same_width(same, int.from_bytes(width, "big"))
            for place, row in zip(places, rows, strict=False):
                found[place] = row
    return found


def _same_width(messages: Sequence[bytes], width: int) -> list[Row]:
    """Rows of so many columns; nothing at all if one of them is not as it should be."""
    whole = b"".join(messages)
    octets = np.frombuffer(whole, np.uint8)
    sizes = np.fromiter(map(len, messages), np.int64, len(messages))
    ends = np.cumsum(sizes)
    at = ends - sizes + _HEAD
    foreign = None if whole.isascii() else _foreign_before(octets)
    text = whole.decode("latin-1")
    columns: list[Sequence[Value]] = []
    for _ in range(width):
        kinds = octets.take(at, mode="clip")
        is_null = kinds == _NULL
        if not np.all(is_null | (kinds == _TEXT)):
            return []
        lengths = octets.take(at + 4, mode="clip").astype(np.int64)
        for byte in (1, 2, 3):
            high = octets.take(at + byte, mode="clip")
            if high.any():
                lengths |= high.astype(np.int64) << (8 * (4 - byte))
        first = at + 5
        last = np.where(is_null, first, first + lengths)
        if np.any(last > ends + 5):
            return []
        try:
            columns.append(_values(whole, text, first, last, is_null, foreign))
        except UnicodeDecodeError:
            return []
        at = np.where(is_null, at + 1, last)
    if not np.array_equal(at, ends):
        return []
    return list(zip(*columns, strict=True)) if columns else [()] * len(messages)


def _foreign_before(octets: NDArray[np.uint8]) -> NDArray[np.int32]:
    """How many bytes that are not ASCII come before each place."""
    before = np.zeros(len(octets) + 1, np.int32)
    np.cumsum(octets >> 7, dtype=np.int32, out=before[1:])
    return before


def _values(
    whole: bytes,
    text: str,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    is_null: NDArray[np.bool_],
    foreign: NDArray[np.int32] | None,
) -> list[Value]:
    starts, stops = first.tolist(), last.tolist()
    values: list[Value] = [text[a:b] for a, b in zip(starts, stops)]  # noqa: B905 - quicker
    if is_null.any():
        for place in np.flatnonzero(is_null).tolist():
            values[place] = None
    if foreign is None:
        return values
    mixed = foreign.take(last, mode="clip") != foreign.take(first, mode="clip")
    if mixed.any():
        for place in np.flatnonzero(mixed & ~is_null).tolist():
            values[place] = whole[starts[place] : stops[place]].decode()
    return values
