"""Rows that move between partitions: each partition does its own half of the move."""

from __future__ import annotations

import asyncio

import pytest

from penstock.log.partitions import parted, partitions_of
from penstock.pipelines.tables import TablesPipeline
from penstock.records import UNCHANGED, Change, Column, Microseconds, Op, Position, Row, Schema
from penstock.runtimes.moves import Awaited, parts
from penstock.stores.base import ApplyRows
from penstock.stores.postgres.coalesce import Undone, coalesce

ITEMS = Schema("s", "t", (Column("id", "text", key=True), Column("v", "text"), Column("b", "text")))
COUNT = 4


def change(
    op: Op,
    key: str,
    at: int,
    row: Row | None = None,
    *,
    old: str | None = None,
    before: Row | None = None,
) -> Change:
    return Change(
        ITEMS, op, (key,), Position(f"{at:03}"), Microseconds(at), row, before,
        None if old is None else (old,), "7",
    )  # fmt: skip


def home(key: str) -> int:
    [found] = partitions_of(change(Op.DELETE, key, 0), COUNT)
    return found


ONE = "1"
OTHER = next(str(n) for n in range(2, 99) if home(str(n)) != home(ONE))


def halves(*changes: Change) -> tuple[list[Change], list[Change]]:
    """What the partitions of the two keys make of it."""
    log = parted(changes, None, COUNT)
    found = []
    for key in (ONE, OTHER):
        cut = parts(log.get(home(key), []), home(key), COUNT)
        found.append([one for part in cut for one in part.changes])
    return found[0], found[1]


def test_g1_a_complete_move_is_two_halves() -> None:
    """The one takes the row away, the other puts it; neither touches the other's key."""
    left, came = halves(change(Op.UPDATE, OTHER, 1, (OTHER, "v", "b"), old=ONE))
    assert [(one.op, one.key, one.old_key, one.after) for one in left] == [
        (Op.DELETE, (ONE,), None, None)
    ]
    assert [(one.op, one.key, one.old_key) for one in came] == [(Op.CREATE, (OTHER,), None)]


def test_g1_one_partition_has_moves_whole() -> None:
    """There is nobody to share them with; nor has a move within one partition halves."""
    move = change(Op.UPDATE, OTHER, 1, (OTHER, "v", "b"), old=ONE)
    assert [list(part.changes) for part in parts([move], 0, 1)] == [[move]]
    near = next(str(n) for n in range(2, 999) if home(str(n)) == home(ONE))
    within = change(Op.UPDATE, near, 1, (near, "v", UNCHANGED), old=ONE)
    assert [list(part.changes) for part in parts([within], home(ONE), COUNT)] == [[within]]


def test_g2_a_move_that_leaves_values_out_is_done_by_the_partition_that_has_them() -> None:
    """The two meet there: the one does it when the other has said that it has come, the other goes
    on when it has been done."""
    first = change(Op.UPDATE, OTHER, 1, (OTHER, "a", "b"))
    move = change(Op.UPDATE, OTHER, 2, (OTHER, "v", UNCHANGED), old=ONE)
    after = change(Op.UPDATE, OTHER, 3, (OTHER, "w", UNCHANGED))
    [done] = parts([move], home(ONE), COUNT)
    assert done == ([move], Awaited(home(OTHER), move.position), None)
    before, rest = parts([first, move, after], home(OTHER), COUNT)
    assert before == ([first], None, move.position)
    assert rest.after == Awaited(home(ONE), move.position)
    assert rest.told is None
    assert [one.old_key for one in rest.changes] == [None, None]
    comes, _ = parts([move], home(OTHER), COUNT)
    assert comes == ([], None, move.position), "it is said also where nothing came before"


def test_g2_values_that_the_old_row_tells_are_not_left_out() -> None:
    """Of a table with full identity: so nothing waits."""
    was = (ONE, "v", "large")
    _, [came] = halves(change(Op.UPDATE, OTHER, 1, (OTHER, "w", UNCHANGED), old=ONE, before=was))
    assert came.after == (OTHER, "w", "large")


def test_g1_rows_that_trade_keys_are_put_and_not_taken_away() -> None:
    """Within one transaction the row that leaves is the one before, not the one that came."""
    mine, theirs = halves(
        change(Op.UPDATE, OTHER, 1, (OTHER, "v2", "b"), old=ONE, before=(ONE, "v1", "b")),
        change(Op.UPDATE, ONE, 2, (ONE, "w2", "c"), old=OTHER, before=(OTHER, "w1", "c")),
    )
    for found, key, value in ((mine, ONE, "w2"), (theirs, OTHER, "v2")):
        net = coalesce(found)
        assert [(put.key, put.row[1]) for put in net.puts] == [((key,), value)]
        assert not net.gone


def test_g2_equal_rows_that_trade_keys_across_partitions_are_both_there() -> None:
    """Nothing on the wire tells them from one row that went there and back."""
    mine, theirs = halves(
        change(Op.UPDATE, OTHER, 1, (OTHER, "v", "b"), old=ONE, before=(ONE, "v", "b")),
        change(Op.UPDATE, ONE, 2, (ONE, "v", "b"), old=OTHER, before=(OTHER, "v", "b")),
    )
    net = coalesce(mine)
    assert [put.key for put in net.puts] == [(ONE,)]
    net = coalesce(theirs)
    assert not net.puts
    assert not net.gone
    assert net.undone == [Undone((OTHER,), Position("001"), Position("002"))]


@pytest.mark.parametrize("count", [1, 4])
def test_what_moves_nowhere_is_as_it_was(count: int) -> None:
    """Without a copy, even."""
    changes = [change(Op.CREATE, ONE, 1, (ONE, "v", "b")), change(Op.DELETE, ONE, 2)]
    [part] = parts(changes, home(ONE) if count > 1 else 0, count)
    assert part.changes is changes
    outcome = asyncio.run(TablesPipeline("tables", ("t",)).compute(part.changes, None))  # type: ignore[arg-type]
    assert outcome.effects == (ApplyRows(changes),)
