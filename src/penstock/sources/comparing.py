"""Two streams of row hashes, walked side by side: which rows differ. Pure; collects nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal, NamedTuple, TypeAlias

from penstock.records import Key

Hashed: TypeAlias = tuple[Key, str]
"""A row's key as text, and the hash of all of it."""

Difference = Literal["equal", "missing", "superfluous", "other"]
"""Of a live row, seen from the source: ``missing`` here, ``superfluous`` here, ``other`` values."""


class Compared(NamedTuple):
    """One key and what the walk found there."""

    key: Key
    kind: Difference
    hash: str
    """The source's; "" where it has no such row."""


async def walk(
    theirs: AsyncIterator[Hashed], ours: AsyncIterator[Hashed]
) -> AsyncGenerator[Compared]:
    """Compare two streams that are ordered by the keys' texts byte by byte, NULL last.

    Keys that come more than once (rows of a table without a key) count as one row.
    """
    left, right = await anext(theirs, None), await anext(ours, None)
    while left is not None or right is not None:
        if right is None or (left is not None and order(left[0]) < order(right[0])):
            assert left is not None
            yield Compared(left[0], "missing", left[1])
            left = await _next_key(theirs, left[0])
        elif left is None or order(right[0]) < order(left[0]):
            yield Compared(right[0], "superfluous", "")
            right = await _next_key(ours, right[0])
        else:
            yield Compared(left[0], "equal" if left[1] == right[1] else "other", left[1])
            left = await _next_key(theirs, left[0])
            right = await _next_key(ours, right[0])


async def _next_key(rows: AsyncIterator[Hashed], key: Key) -> Hashed | None:
    async for row in rows:
        if row[0] != key:
            return row
    return None


def order(key: Key) -> tuple[tuple[bool, bytes], ...]:
    """As PostgreSQL orders texts byte by byte, NULL last."""
    return tuple((part is None, (part or "").encode()) for part in key)
