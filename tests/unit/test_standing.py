"""Keys under which two rows stand for a moment."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.records import Change, Column, Microseconds, Op, Position, Row, Schema
from penstock.stores.postgres.coalesce import Undone, coalesce

ITEMS = Schema("s", "t", (Column("id", "text", key=True), Column("v", "text")))


def change(op: Op, at: int, before: Row | None, after: Row | None, txn: str = "7") -> Change:
    """As a table with full identity sends it."""
    [key] = (after or before or (None,))[:1]
    assert not isinstance(key, int)
    old = before[0] if before is not None else key
    return Change(
        ITEMS,
        op,
        (str(key),),
        Position(f"{at:04}"),
        Microseconds(at),
        after,
        before,
        None if op is not Op.UPDATE or old == key else (str(old),),
        txn,
    )


def test_g2_equal_rows_that_trade_keys_are_both_there() -> None:
    """One is put; of the other key only what came within the transaction is gone."""
    net = coalesce(
        [
            change(Op.UPDATE, 1, ("1", "a"), ("2", "a")),
            change(Op.UPDATE, 2, ("2", "a"), ("1", "a")),
        ]
    )
    assert [(put.key, put.row) for put in net.puts] == [(("1",), ("1", "a"))]
    assert net.gone == []
    assert net.undone == [Undone(("2",), Position("0001"), Position("0002"))]


def test_g2_a_row_that_replaces_another_with_its_key_stays() -> None:
    """Made before the other one is deleted, as a deferred constraint allows."""
    net = coalesce([change(Op.CREATE, 1, None, ("1", "b")), change(Op.DELETE, 2, ("1", "a"), None)])
    assert [put.row for put in net.puts] == [("1", "b")]
    assert not net.gone
    assert not net.undone


def test_what_is_delivered_again_is_no_second_row() -> None:
    """Only what comes later in the source can be of two rows."""
    once = [
        change(Op.DELETE, 1, ("1", "a"), None),
        change(Op.CREATE, 2, None, ("1", "b")),
        change(Op.UPDATE, 3, ("1", "b"), ("2", "b")),
    ]
    net = coalesce([*once, *once])
    assert [put.row for put in net.puts] == [("2", "b")]
    assert [key for key, *_ in (*net.gone, *net.undone)] == [("1",)]


KEYS = "123"
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["move", "set", "make", "take"]), st.integers(0, 9), st.integers(0, 9)
    ),
    max_size=14,
)


@settings(max_examples=400, deadline=None)
@given(st.sets(st.sampled_from(KEYS)), ACTIONS, st.data())
def test_g1_g2_any_transaction_with_a_deferred_key(
    there: set[str], actions: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Rows of few values, several under one key in between, at most one at the end."""
    rows: list[tuple[str, str]] = [(key, "a") for key in sorted(there)]
    stored = dict(rows)
    changes = []
    numbers = itertools.count(1)
    for action, one, two in actions:
        value, key = "ab"[two % 2], KEYS[two % 3]
        if action == "make":
            rows.append((key, value))
            changes.append(change(Op.CREATE, next(numbers), None, rows[-1]))
        elif rows:
            before: tuple[str, str] = rows.pop(one % len(rows))
            if action == "take":
                changes.append(change(Op.DELETE, next(numbers), before, None))
                continue
            after = (key, before[1]) if action == "move" else (before[0], value)
            rows.append(after)
            changes.append(change(Op.UPDATE, next(numbers), before, after))
    for crowded, count in Counter(key for key, _ in rows).items():
        for _ in range(count - 1):
            last = data.draw(st.sampled_from([row for row in rows if row[0] == crowded]))
            rows.remove(last)
            changes.append(change(Op.DELETE, next(numbers), last, None))
    assume(changes)
    net = coalesce(changes)
    for left, _ in net.gone:
        stored.pop(str(left[0]), None)
    stored |= {str(put.key[0]): str(put.row[1]) for put in net.puts}
    assert not net.partial
    assert stored == dict(rows)
