"""Which partition a change belongs to; the same in every process and for ever."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from penstock.records import Change, Key, Microseconds


def parted(
    changes: Sequence[Change], as_of: Microseconds | None, count: int
) -> Mapping[int, Sequence[Change]]:
    """What each of ``count`` partitions gets of an append, in their order. Time goes to all."""
    if count == 1:
        return {0: changes} if changes or as_of is not None else {}
    parts: dict[int, list[Change]] = {}
    if as_of is not None:
        parts = {number: [] for number in range(count)}
    for change in changes:
        for number in partitions_of(change, count):
            parts.setdefault(number, []).append(change)
    return dict(sorted(parts.items()))


def partitions_of(change: Change, count: int) -> Sequence[int]:
    """Which of ``count`` partitions get a change: that of its key; those of both keys when it moves
    a row from one to the other; all of them for a truncate. The same in every process."""
    if not change.key:
        return range(count)
    stream = change.schema.stream
    new = _partition(stream, change.key, count)
    old = new if change.old_key is None else _partition(stream, change.old_key, count)
    return (new,) if old == new else (new, old)


def _partition(stream: str, key: Key, count: int) -> int:
    parts = (stream, *("0" if part is None else "1" + part for part in key))
    return zlib.crc32("\0".join(parts).encode("utf-8", "surrogatepass")) % count
