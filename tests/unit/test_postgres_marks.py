"""What the stream does to a table while it is copied, and what that means for the copy's rows."""

from __future__ import annotations

import pytest

from penstock.records import UNCHANGED, Column, Key, Microseconds, Op, Row, Schema
from penstock.sources.postgres.changes import Assembler, TablePlan
from penstock.sources.postgres.decoder import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Truncate,
    Update,
)
from penstock.sources.postgres.marks import CopyMark, Visibility
from penstock.testing.pgoutput import encode

SCHEMA = Schema("s", "public.t", (Column("id", "int", key=True), Column("v", "text")))


def copying(mark: CopyMark) -> Assembler:
    assembler = Assembler("s")
    assembler.define(7, TablePlan.make(SCHEMA, mark=mark))
    assembler.feed(encode(Begin(800, Microseconds(0), 41)))
    return assembler


@pytest.mark.parametrize(
    ("snapshot", "xid", "seen"),
    [
        ("10:20:12,15", 9, True),
        ("10:20:12,15", 11, True),
        ("10:20:12,15", 12, False),
        ("10:20:12,15", 20, False),
        ("10:20:12,15", 25, False),
        ("10:10:", 9, True),
        # The stream gives the lower half of a number only.
        (f"{2**32 + 5}:{2**32 + 9}:{2**32 + 7}", 6, True),
        (f"{2**32 + 5}:{2**32 + 9}:{2**32 + 7}", 7, False),
        (f"{2**32 + 5}:{2**32 + 9}:{2**32 + 7}", 2**32 - 3, True),
    ],
)
def test_which_transactions_a_snapshot_sees(snapshot: str, xid: int, seen: bool) -> None:
    """Those that had ended when it was taken."""
    assert Visibility.parse(snapshot).sees(xid) is seen


def test_g1_a_chunk_must_see_what_the_stream_gave() -> None:
    """A transaction reaches us a moment before others see it: until then no chunk is read."""
    assembler = copying(CopyMark())
    assert not assembler.is_seen_by(Visibility.parse("41:42:41"))
    assert assembler.is_seen_by(Visibility.parse("42:42:"))


@pytest.mark.parametrize(
    "message",
    [
        Insert(7, ("1", "new")),
        Update(7, None, None, ("1", "new")),
        Update(7, "key", ("1", None), ("9", "new")),
        Delete(7, "key", ("1", None)),
        Truncate((7,), 0),
    ],
)
def test_g1_g4_a_chunk_leaves_out_what_the_stream_touched(message: Message) -> None:
    """The stream's word about a key is later than the chunk's snapshot."""
    mark = CopyMark()
    assembler = copying(mark)
    mark.open_chunk()
    assert mark.settled(("1",), ("1", "old")) == ("1", "old")
    assembler.feed(encode(message))
    assert mark.settled(("1",), ("1", "old")) is None
    mark.open_chunk()
    assert mark.settled(("1",), ("1", "old")) == ("1", "old")


def test_an_update_of_a_row_that_is_not_copied_yet_waits_for_it() -> None:
    """It leaves a value out, so it cannot be given: the row is read by its key instead."""
    mark = CopyMark()
    assembler = copying(mark)
    mark.open_chunk()
    partial: Row = ("1", UNCHANGED)
    assembler.feed(encode(Update(7, None, None, partial)))
    assert (assembler.changes, mark.again, mark.changed) == ([], {("1",)}, True)
    assert mark.settled(("1",), ("1", "old")) is None
    mark.open_chunk({("1",)})
    assembler.feed(encode(Update(7, None, None, partial)))
    assert mark.settled(("1",), ("1", "read")) == ("1", "read")
    mark.close_chunk()
    mark.covered = True
    assembler.feed(encode(Update(7, None, None, partial)))
    assert [change.after for change in assembler.changes] == [partial]


def test_a_row_that_moves_before_it_is_copied_leaves_its_key() -> None:
    """What it left out is read under the new key; the old key is free."""
    mark = CopyMark()
    assembler = copying(mark)
    mark.open_chunk()
    assembler.feed(encode(Update(7, "key", ("1", None), ("2", UNCHANGED))))
    assembler.feed(encode(Commit(800, 808, Microseconds(0))))
    assert [(c.op, c.key) for c in assembler.changes] == [(Op.DELETE, ("1",))]
    assert mark.again == {("2",)}


def test_g12_what_is_remembered_is_bounded() -> None:
    """A chunk beside which too much is touched is read again; too many rows to read by key, and
    the copy begins anew."""
    mark = CopyMark(most=10)
    mark.open_chunk()
    keys: list[Key] = [(str(number),) for number in range(30)]
    for key in keys:
        mark.touch(key)
    assert mark.spoiled
    assert mark.settled(("77",), ("77", "x")) is None
    mark.open_chunk()
    for key in keys:
        mark.put_off(key, (*key, UNCHANGED))
    assert mark.restart
    assert len(mark.again) <= 10
