"""Rows that move to another key, when a topic has several partitions. Pure.

A change that moves a row is in the partitions of both keys, which are processed at their own pace.
Each of them does its own half: the one takes the row away from the old key, the other puts it under
the new one. So every key is written by one partition alone, in its order, and two that work at the
same time never touch the same row.

There is one exception. A source may leave out values that did not change (large ones), and those
are where the row was: only the partition of the old key knows when they are all there. It then does
both halves, and the two meet: the partition of the new key says that it has come there
(`Part.told`) and waits until the move has been done (`Part.after`); the other waits for it to come,
because the row that stood under the new key may itself have had to be read before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from penstock.log.partitions import partitions_of
from penstock.records import UNCHANGED, Change, Key, Op, Position
from penstock.standing import is_another, told_by


class Awaited(NamedTuple):
    """Another partition of the topic, and the position in the source that it must have passed."""

    partition: int
    position: Position


class Part(NamedTuple):
    """Some changes of a batch, to be processed once another partition is ``after`` there. ``told``
    is how far this partition is in the source when they are done, if that is further than they
    are: what comes next is done by the partition that waits for this to be told."""

    changes: Sequence[Change]
    after: Awaited | None = None
    told: Position | None = None


def parts(changes: Sequence[Change], partition: int, partitions: int) -> Iterator[Part]:
    """A batch as one partition of so many has to do it."""
    if partitions == 1 or all(change[7] is None for change in changes):
        yield Part(changes)
        return
    mine: list[Change] = []
    after: Awaited | None = None
    here: dict[tuple[str, Key], Change] = {}
    came: dict[tuple[str, Key], Change] = {}
    for change in changes:
        half, awaited = _half(change, partition, partitions)
        if half.op is Op.DELETE and _is_another(came.get((half.schema.stream, half.key)), half):
            continue  # rows trade keys, and the one that leaves has been replaced already
        if half is not change and half.op is Op.CREATE:
            here[half.schema.stream, half.key] = half
        if awaited is not None:
            comes = half is not change
            if mine or after is not None or comes:
                yield Part(mine, after, change.position if comes else None)
            came, here = came | here, {}
            mine, after = [], awaited
        mine.append(half)
    yield Part(mine, after)


def _is_another(came: Change | None, leaves: Change) -> bool:
    """Is the row that leaves a key, by what was sent of it, not the one that came there in the same
    transaction, and has been stored since? (Within one part who processes it tells them apart, see
    `penstock.standing`.)"""
    if came is None or came.transaction != leaves.transaction:
        return False
    return is_another(came.after, leaves.before)


def _half(change: Change, partition: int, partitions: int) -> tuple[Change, Awaited | None]:
    if change.old_key is None or change.after is None:
        return change, None
    [new] = partitions_of(change._replace(old_key=None), partitions)
    [old] = partitions_of(change._replace(key=change.old_key, old_key=None), partitions)
    if new == old:
        return change, None
    row = told_by(change.after, change.before)
    if UNCHANGED in row:
        if partition == old:
            return change, Awaited(new, change.position)
        arrived = change._replace(op=Op.UPDATE, old_key=None, before=None)
        return arrived, Awaited(old, change.position)
    if partition == old:
        return change._replace(op=Op.DELETE, key=change.old_key, old_key=None, after=None), None
    return change._replace(op=Op.CREATE, old_key=None, before=None, after=row), None
