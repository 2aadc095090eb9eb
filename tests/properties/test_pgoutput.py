"""The pgoutput decoder against an encoder, against truncation and against nonsense."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.records import UNCHANGED, Microseconds, Row
from penstock.sources.postgres.bulk import decode_rows
from penstock.sources.postgres.copy_text import parse_copy_row
from penstock.sources.postgres.decoder import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    ProtocolError,
    Relation,
    RelationColumn,
    Truncate,
    Type,
    Update,
    decode,
)
from penstock.sources.postgres.positions import (
    format_lsn,
    make_position,
    parse_lsn,
    parse_position,
)
from penstock.sources.postgres.taking import Places
from penstock.testing.pgoutput import encode

oids = st.integers(0, 2**32 - 1)
lsns = st.integers(0, 2**64 - 1)
times = st.integers(-(2**61), 2**61).map(Microseconds)
names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
values = st.one_of(
    st.none(),
    st.just(UNCHANGED),
    st.text(max_size=40),
    st.integers(200, 700).map(lambda n: "é" * n),
)
rows: st.SearchStrategy[Row] = st.lists(values, max_size=8).map(tuple)
columns = st.builds(RelationColumn, names, oids, st.integers(-(2**31), 2**31 - 1), st.booleans())
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Begin, lsns, times, oids),
    st.builds(Commit, lsns, lsns, times),
    st.builds(Origin, lsns, names),
    st.builds(Relation, oids, names, names, st.sampled_from("dnfi"), st.lists(columns).map(tuple)),
    st.builds(Type, oids, names, names),
    st.builds(Insert, oids, rows),
    st.builds(Update, oids, st.sampled_from(["key", "full"]), rows, rows),
    st.builds(Update, oids, st.none(), st.none(), rows),
    st.builds(Delete, oids, st.sampled_from(["key", "full"]), rows),
    st.builds(Truncate, st.lists(oids).map(tuple), st.integers(0, 3)),
    st.builds(LogicalMessage, st.booleans(), lsns, names, st.binary(max_size=50)),
)


@given(messages, st.binary(max_size=30))
def test_decoding_undoes_encoding(message: Message, before: bytes) -> None:
    """Each message comes out as it went in, wherever in the buffer it begins."""
    assert decode(encode(message)) == message
    assert decode(before + encode(message), len(before)) == message


@given(messages)
@settings(max_examples=200)
def test_a_truncated_message_is_one_kind_of_error(message: Message) -> None:
    """A message cut off anywhere, or with something after it, raises `ProtocolError`."""
    data = encode(message)
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode(data[:end])
    with pytest.raises(ProtocolError):
        decode(data + b"x")


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_nonsense_is_one_kind_of_error(data: bytes) -> None:
    """Bytes of any kind decode or raise `ProtocolError`, never anything else."""
    with suppress(ProtocolError):
        decode(data)


@given(messages, st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=500)
def test_a_flipped_byte_is_one_kind_of_error(message: Message, place: int, flip: int) -> None:
    """A damaged message decodes to something else or raises `ProtocolError`."""
    data = bytearray(encode(message))
    data[place % len(data)] ^= flip
    with suppress(ProtocolError):
        decode(bytes(data))


@given(lsns)
def test_an_lsn_is_read_as_it_is_written(lsn: int) -> None:
    """Text and number of an LSN stand for each other."""
    assert parse_lsn(format_lsn(lsn)) == lsn


@given(st.tuples(lsns, oids), st.tuples(lsns, oids))
def test_g1_positions_sort_as_text_like_commit_and_place(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    """The order of positions as text is the order of commits, then of places."""
    assert (make_position(*one) < make_position(*other)) == (one < other)
    assert parse_position(make_position(*one)) == one


@given(st.integers(8, 2**60).map(lambda n: n * 8), st.integers(1, 2**31), oids)
def test_g1_copied_rows_stand_between_the_commits_around_them(
    commit: int, count: int, other: int
) -> None:
    """A copied row is later than every change that was given before it, also by an earlier life,
    and earlier than all that commit later."""
    places = Places(commit - 8, [make_position(commit, other)])
    last = make_position(commit, other)
    for _ in range(6):
        lsn, first = places.next(count)
        assert last < make_position(lsn, first)
        last = make_position(lsn, first + count - 1)
        assert last < make_position(commit + 8, 1)
        places = Places(commit - 16, [make_position(commit, other), last])
    places.passed(make_position(commit + 800, 3))
    assert make_position(*places.next()) > make_position(commit + 800, other)


@given(st.lists(messages, max_size=30), st.integers(0, 3), rows, st.data())
@settings(max_examples=300)
def test_many_messages_decode_as_each_alone(
    some: list[Message], at: int, row: Row, data: st.DataObject
) -> None:
    """Whatever stands among them, and whichever of them is damaged."""
    alike: list[Message] = [Insert(9, row), Update(9, None, None, row), Insert(8, row)]
    times: int = data.draw(st.integers(0, 12), label="times")
    pieces = [b"#" * at + encode(message) for message in (*alike * times, *some)]
    damaged: bool = data.draw(st.booleans(), label="damaged")
    if pieces and damaged:
        place = data.draw(st.integers(0, len(pieces) - 1))
        broken = bytearray(pieces[place])
        broken[data.draw(st.integers(at, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
        pieces[place] = bytes(broken)[: data.draw(st.integers(at + 1, len(broken)))]
    for piece, found in zip(pieces, decode_rows(pieces, at), strict=True):
        if found is not None:
            message = decode(piece, at)
            assert isinstance(message, Insert | Update)
            assert message.new == found


def _copy_line(row: tuple[str | None, ...]) -> bytes:
    """A line as the server writes it."""
    escapes = {
        ord(char): "\\" + sign for char, sign in zip("\\\b\f\n\r\t\v", "\\bfnrtv", strict=True)
    }
    fields = ["\\N" if value is None else value.translate(escapes) for value in row]
    return ("\t".join(fields) + "\n").encode()


@given(st.lists(st.one_of(st.none(), st.text("\\\tNn\r\v\n\b\fé'x", max_size=8)), min_size=1))
def test_a_copied_row_is_read_as_it_was_written(row: list[str | None]) -> None:
    """Escapes of COPY's text format are resolved, and the text \\N is not NULL."""
    assert parse_copy_row(_copy_line(tuple(row))) == tuple(row)
