"""Appends as records of Kafka and back, and names that Kafka allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError, FatalError
from penstock.log.kafka.frames import PIECE_BYTES, Append, Assembler, Totals, frames, parse
from penstock.log.kafka.names import Names
from penstock.records import Microseconds

NAMES = Names("penstock.demo.")


def append(payload: bytes, changes: int = 1, as_of: int | None = None) -> Append:
    time = None if as_of is None else Microseconds(as_of)
    return Append(payload, changes, len(payload), time, Totals(7, 70))


def test_pieces_of_an_append_come_back_as_one() -> None:
    """As many records as it needs; the totals go on from before it."""
    given_append = append(b"x" * (2 * PIECE_BYTES + 5), 9, -3)
    records = list(frames(given_append, 1, 2))
    assert len(records) == 3
    assert all(len(record) < 1_000_000 for record in records)
    assembler = Assembler()
    assert [assembler.feed(i, record) for i, record in enumerate(records[:2])] == [None, None]
    whole = assembler.feed(2, records[2])
    assert whole is not None
    assert (whole.last, whole.appends) == (3, (given_append,))
    assert given_append.after == Totals(16, 70 + 2 * PIECE_BYTES + 5)


def test_l2_no_position_is_inside_an_append_of_another_writer() -> None:
    """Where two writers' records lie between each other, both are given at the end of the later."""
    one = list(frames(append(b"a" * (PIECE_BYTES + 1)), 1, 1))
    (two,) = frames(append(b"b"), 2, 1)
    assembler = Assembler()
    assert assembler.feed(10, one[0]) is None
    assert assembler.feed(11, two) is None
    assert not assembler.between
    whole = assembler.feed(12, one[1])
    assert whole is not None
    assert (whole.last, [len(each.payload) for each in whole.appends]) == (13, [1, PIECE_BYTES + 1])
    assert assembler.between


def test_a_reader_that_begins_inside_an_append_is_refused() -> None:
    """Never a part of an append for the whole."""
    records = list(frames(append(b"a" * (PIECE_BYTES + 1)), 1, 1))
    with pytest.raises(FatalError, match="in the middle of an append"):
        Assembler().feed(4, records[1])


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\x09" * 80])
def test_records_of_others_are_refused(value: bytes | None) -> None:
    """Somebody else's producer on our topic is named."""
    with pytest.raises(FatalError, match="only Penstock writes to"):
        parse(value)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_names_come_back(name: str) -> None:
    """Whatever a name is made of; state topics are never taken for topics."""
    assert NAMES.ours(NAMES.topic(name)) == name
    assert set(NAMES.topic(name)) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    )
    assert NAMES.ours(NAMES.state(name)) is None
    assert Names("other.").ours(NAMES.topic(name)) is None


def test_a_name_that_is_too_long_for_kafka_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 249"):
        NAMES.topic("x" * 300)
