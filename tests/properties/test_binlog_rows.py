"""Rows of the binlog: what an encoder writes the decoder reads, and nonsense is one error."""

from __future__ import annotations

import datetime as dt
from decimal import Context, Decimal
from struct import pack
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SourceError
from penstock.records import Row
from penstock.sources.mysql import ddl, texts
from penstock.sources.mysql.changes import Assembler
from penstock.sources.mysql.events import RowsHead
from penstock.sources.mysql.forms import ColumnForm
from penstock.sources.mysql.geometry import ewkt
from penstock.sources.mysql.gtids import MySQLGtids
from penstock.sources.mysql.json_binary import json_text
from penstock.sources.mysql.plans import Tracked
from penstock.sources.mysql.positions import Place, make_position, parse_position, snapshot_position
from penstock.sources.mysql.protocol import (
    Converter,
    ProtocolError,
    decode_text_row,
    encode_text_row,
)
from penstock.sources.mysql.readers import encode_decimal, reader_of
from penstock.sources.mysql.rows import decode_rows
from penstock.testing.binlog import BinlogWriter

Case = tuple[ColumnForm, bytes, str]

letters = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


def integers(kind: int, size: int) -> st.SearchStrategy[Case]:
    half = 1 << 8 * size - 1
    signed = st.integers(-half, half - 1).map(
        lambda n: (ColumnForm(kind, 0), n.to_bytes(size, "little", signed=True), str(n))
    )
    unsigned = st.integers(0, 2 * half - 1).map(
        lambda n: (ColumnForm(kind, 0, unsigned=True), n.to_bytes(size, "little"), str(n))
    )
    return signed | unsigned


@st.composite
def decimals(draw: st.DrawFn) -> Case:
    precision = draw(st.integers(1, 65))
    scale = draw(st.integers(0, min(30, precision)))
    number = draw(st.integers(-(10**precision) + 1, 10**precision - 1))
    exact = Context(prec=100)  # the default one rounds to 28 digits
    text = f"{Decimal(number).scaleb(-scale, exact):f}" if scale else str(number)
    with_places = (
        texts.numeric(text) if number else texts.numeric("0." + "0" * scale if scale else "0")
    )
    form = ColumnForm(246, precision << 8 | scale)
    return form, encode_decimal(with_places, precision, scale), with_places


def moment(value: dt.datetime, digits: int) -> str:
    part = value.microsecond // 10 ** (6 - digits) * 10 ** (6 - digits) if digits else 0
    return f"{value.replace(microsecond=0)}{texts.fraction(part)}"


@st.composite
def datetimes(draw: st.DrawFn) -> Case:
    value = draw(st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)))  # noqa: DTZ001 - the server's times have no zone
    digits = draw(st.integers(0, 6))
    packed = (value.year * 13 + value.month) << 22 | value.day << 17
    packed |= value.hour << 12 | value.minute << 6 | value.second
    data = (packed + 0x8000000000).to_bytes(5, "big") + fraction(value.microsecond, digits)
    return ColumnForm(18, digits), data, f"{value.year:04d}{moment(value, digits)[4:]}"


@st.composite
def timestamps(draw: st.DrawFn) -> Case:
    value = draw(st.datetimes(dt.datetime(1970, 1, 1, 0, 0, 1), dt.datetime(2106, 1, 1)))  # noqa: DTZ001 - the server's times have no zone
    digits = draw(st.integers(0, 6))
    seconds = int((value.replace(microsecond=0) - dt.datetime(1970, 1, 1)).total_seconds())  # noqa: DTZ001 - the server's times have no zone
    data = seconds.to_bytes(4, "big") + fraction(value.microsecond, digits)
    return ColumnForm(17, digits), data, moment(value, digits) + "+00"


def fraction(microseconds: int, digits: int) -> bytes:
    size = (digits + 1) // 2
    kept = microseconds // 10 ** (6 - digits) * 10 ** (6 - digits) if digits else 0
    return (kept // 10 ** (6 - 2 * size)).to_bytes(size, "big") if size else b""


@st.composite
def spans(draw: st.DrawFn) -> Case:
    hours, minutes, seconds = draw(st.tuples(st.integers(0, 838), *[st.integers(0, 59)] * 2))
    microseconds = draw(st.integers(0, 999_999))
    negative = draw(st.booleans())
    number = (hours << 12 | minutes << 6 | seconds) << 24 | microseconds
    data = ((-number if negative else number) + (1 << 47)).to_bytes(6, "big")
    return ColumnForm(19, 6), data, texts.interval(negative, hours, minutes, seconds, microseconds)


def lengthened(size: int, value: bytes) -> bytes:
    return len(value).to_bytes(size, "little") + value


cases: st.SearchStrategy[Case] = st.one_of(
    *(integers(kind, size) for kind, size in ((1, 1), (2, 2), (9, 3), (3, 4), (8, 8))),
    decimals(),
    datetimes(),
    timestamps(),
    spans(),
    st.dates(dt.date(1, 1, 1)).map(
        lambda d: (
            ColumnForm(10, 0),
            (d.year << 9 | d.month << 5 | d.day).to_bytes(3, "little"),
            f"{d.year:04d}-{d.month:02d}-{d.day:02d}",
        )
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(
        lambda f: (ColumnForm(5, 8), pack("<d", f), texts.double(f))
    ),
    letters.map(lambda s: (ColumnForm(15, 1000, charset="utf8mb4"), lengthened(2, s.encode()), s)),
    letters.map(
        lambda s: (ColumnForm(252, 3, charset="utf16"), lengthened(3, s.encode("utf-16-be")), s)
    ),
    st.binary(max_size=40).map(
        lambda b: (ColumnForm(252, 4, charset="binary"), lengthened(4, b), texts.binary(b))
    ),
    st.integers(0, 2**10 - 1).map(
        lambda n: (ColumnForm(16, 1 << 8 | 2), n.to_bytes(2, "big"), f"{n:010b}")
    ),
    st.integers(0, 7).map(
        lambda n: (
            ColumnForm(248, 248 << 8 | 1, values=("a", "b", "c")),
            bytes([n]),
            ",".join(x for i, x in enumerate("abc") if n >> i & 1),
        )
    ),
)  # fmt: skip
tables = st.lists(st.tuples(cases, st.booleans()), min_size=1, max_size=12)


def head(data: bytes, width: int) -> RowsHead:
    return RowsHead(1, None, tuple(range(width)), partial=False, width=width, data=data, start=0)


def encoded(row: list[tuple[Case, bool]]) -> tuple[bytes, Row]:
    empty = sum(1 << i for i, (_, null) in enumerate(row) if null)
    data = empty.to_bytes((len(row) + 7) // 8, "little")
    data += b"".join(case[1] for case, null in row if not null)
    return data, tuple(None if null else case[2] for case, null in row)


@given(tables)
def test_decoding_undoes_encoding(row: list[tuple[Case, bool]]) -> None:
    """Each value of a row comes out as the text that was written."""
    data, wanted = encoded(row)
    readers = [reader_of(case[0]) for case, _ in row]
    found = list(decode_rows(head(data * 2, len(row)), readers))
    assert [images.after for images in found] == [wanted, wanted]
    assert [images.place for images in found] == [0, len(data)]


@given(tables)
def test_g13_a_truncated_row_is_one_kind_of_error(row: list[tuple[Case, bool]]) -> None:
    """Cut off anywhere it is a `ProtocolError`."""
    data, _ = encoded(row)
    readers = [reader_of(case[0]) for case, _ in row]
    for end in range(1, len(data)):
        try:
            found = list(decode_rows(head(data[:end], len(row)), readers))
        except ProtocolError:
            continue
        raise AssertionError(f"cut at {end} of {len(data)} gave {found}")


@given(st.lists(st.none() | st.binary(max_size=300), min_size=1, max_size=10))
def test_rows_of_results_come_out_as_they_went_in(values: list[bytes | None]) -> None:
    """The text protocol, with values of any length."""
    hexed: tuple[Converter, ...] = tuple([bytes.hex] * len(values))
    wanted = tuple(None if value is None else value.hex() for value in values)
    assert decode_text_row(encode_text_row(tuple(values)), hexed) == wanted


@given(st.binary(max_size=200))
def test_g13_nonsense_is_one_kind_of_error(data: bytes) -> None:
    """Whatever comes, nothing but our own errors."""
    writer = BinlogWriter(checksums=False)
    for kind in (2, 4, 16, 19, 30, 31, 32, 33, 38, 39, 40, 162, 165, 166):
        assembler = Assembler(
            "shop", Place(1, "binlog.000001", 4), wanted=lambda _: True,
            tables={"shop.t": Tracked(None, (0, 0, 0))}, charsets={}, gtids=MySQLGtids(),
        )  # fmt: skip
        expecting(assembler.feed, writer.table_map(7, "t", [("id", 3, b""), ("j", 245, b"\4")]))
        expecting(assembler.feed, writer.event(kind, data))
        expecting(assembler.feed, writer.event(kind, b"\7\0\0\0\0\0\1\0\2\0\2\3" + data))
    expecting(json_text, data)
    expecting(ewkt, data)


def expecting(decode: Any, data: bytes) -> None:
    try:
        decode(data)
    except SourceError:
        return


@given(
    st.integers(0, 65534), st.integers(0, 2**31), st.integers(4, 2**39), st.integers(0, 2**32 - 1)
)
def test_g1_positions_compare_as_places_do(epoch: int, number: int, offset: int, row: int) -> None:
    """As text, in the order of the log; rows of a copy stand just before what follows it."""
    place = Place(epoch, f"binlog.{number:06d}", offset)
    position = make_position(place, row)
    assert parse_position(position) == (epoch, number, offset, row)
    copied = snapshot_position(place, row)
    ended = make_position(place._replace(offset=max(4, offset - 19)), 2**32 - 1)
    if offset >= 23:
        assert ended < copied < snapshot_position(place, row + 1) < make_position(place, 0)
    later = place._replace(file=f"binlog.{number + 1:06d}", offset=4)
    assert position < make_position(later, 0) < make_position(later._replace(epoch=epoch + 1), 0)


@given(st.text(max_size=120))
def test_statements_are_never_an_error(statement: str) -> None:
    """Whatever a statement is, reading it gives definitions or none."""
    for prefix in ("", "ALTER TABLE t ", "CREATE TABLE ", "RENAME TABLE a TO ", "DROP TABLE "):
        ddl.definitions(prefix + statement, "shop")
