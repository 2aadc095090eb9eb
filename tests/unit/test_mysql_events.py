"""Events of MySQL that the MariaDB server of the tests does not write, and all that is broken."""

from __future__ import annotations

from contextlib import suppress
from struct import pack

import pytest

from penstock.errors import SourceError
from penstock.records import Op
from penstock.sources.mysql import events
from penstock.sources.mysql.changes import Assembler
from penstock.sources.mysql.geometry import ewkt
from penstock.sources.mysql.gtids import MariaDBGtids, MySQLGtids, parse_gtids
from penstock.sources.mysql.json_binary import json_text
from penstock.sources.mysql.plans import Tracked
from penstock.sources.mysql.positions import Place, unwrapped
from penstock.sources.mysql.protocol import (
    Framer,
    ProtocolError,
    decode_column_count,
    decode_refusal,
    decode_result_column,
    decode_text_row,
)
from penstock.testing.binlog import DELETE, UPDATE, WRITE, BinlogWriter

SERVER = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
OTHER = "00000000-71ca-11e1-9e33-c80aa9429562"
COLUMNS = [("id", 3, b""), ("name", 15, b"\x28\x00"), ("n", 8, b"")]
CHARSETS = {45: "utf8mb4", 63: "binary"}


def assembler(position: str | None = None, start: int = 4) -> Assembler:
    return Assembler(
        "shop",
        Place(1, "binlog.000001", start),
        wanted=lambda stream: stream.startswith("shop."),
        tables={"shop.t": Tracked(None, (0, 0, 0))},
        charsets=CHARSETS,
        gtids=MySQLGtids(),
        position=position,
    )


def row(number: int, name: str | None = "x", n: int = 1) -> tuple[range, list[bytes | None]]:
    text = None if name is None else bytes([len(name)]) + name.encode()
    return range(3), [pack("<I", number), text, pack("<Q", n)]


def transaction(writer: BinlogWriter, number: int) -> list[bytes]:
    """Two rows are made, one changes its key, one goes."""
    return [
        writer.gtid(SERVER, number, 1_700_000_000_123_456),
        writer.query("BEGIN"),
        writer.table_map(7, "t", COLUMNS, unsigned=[True, True]),
        writer.rows(WRITE, 7, 3, [row(1), row(2, None, 2**64 - 1)]),
        writer.rows(UPDATE, 7, 3, [row(1), row(4294967295, "y")]),
        writer.rows(DELETE, 7, 3, [row(2, None)]),
        writer.xid(),
    ]


def test_a_transaction_of_mysql_becomes_changes() -> None:
    """Keys, unsigned numbers, GTID and time of a whole transaction."""
    writer, fed = BinlogWriter(), assembler()
    for event in [writer.format(), *transaction(writer, 5)]:
        fed.feed(event)
    changes = fed.take_complete()
    assert [(c.op, c.key, c.old_key) for c in changes] == [
        (Op.CREATE, ("1",), None),
        (Op.CREATE, ("2",), None),
        (Op.UPDATE, ("4294967295",), ("1",)),
        (Op.DELETE, ("2",), None),
    ]
    assert changes[1].after == ("2", None, "18446744073709551615")
    assert {c.transaction for c in changes} == {f"{SERVER}:5"}
    assert {c.committed_at for c in changes} == {1_700_000_000_123_456}
    assert [c.type for c in changes[0].schema.columns] == ["bigint", "text", "numeric(20,0)"]
    assert [c.position for c in changes] == sorted({c.position for c in changes})
    assert fed.gtids.format() == f"{SERVER}:5"
    assert fed.at.offset == writer.at


@pytest.mark.parametrize("compress", [True, False])
def test_a_compressed_transaction_is_the_same(compress: bool) -> None:
    """MySQL's transaction payload: Zstandard, or none."""
    inner = BinlogWriter(checksums=False)
    _, *events_inside = transaction(inner, 5)
    writer, fed = BinlogWriter(), assembler()
    fed.feed(writer.format())
    fed.feed(writer.gtid(SERVER, 5))
    payload = writer.payload(events_inside, compress=compress)
    fed.feed(payload)
    changes = fed.take_complete()
    assert [c.op for c in changes] == [Op.CREATE, Op.CREATE, Op.UPDATE, Op.DELETE]
    assert [c.position for c in changes] == sorted({c.position for c in changes})
    for place, change in enumerate(changes):
        resumed = assembler(position=change.position)
        again = BinlogWriter()
        for event in [again.format(), again.gtid(SERVER, 5), payload]:
            resumed.feed(event)
        assert resumed.take_complete() == changes[place + 1 :]


def test_g2_resuming_from_any_position_equals_never_stopping() -> None:
    """Whatever was the last change, the rest follows, once."""
    writer, whole = BinlogWriter(), assembler()
    fed = [writer.format(), *transaction(writer, 1), *transaction(writer, 2)]
    for event in fed:
        whole.feed(event)
    changes = whole.take_complete()
    assert len(changes) == 8
    for place, change in enumerate(changes):
        resumed = assembler(position=change.position)
        for event in fed:
            resumed.feed(event)
        assert resumed.take_complete() == changes[place + 1 :]


def test_partial_images_leave_values_unchanged() -> None:
    """binlog_row_image = MINIMAL: the key before, what changed after."""
    writer, fed = BinlogWriter(), assembler()
    for event in (
        writer.format(),
        writer.gtid(SERVER, 1),
        writer.query("BEGIN"),
        writer.table_map(7, "t", COLUMNS),
        writer.rows(
            UPDATE, 7, 3, [([0], [pack("<I", 1)]), ([2], [pack("<Q", 9)])], columns=[[0], [2]]
        ),
        writer.rows(WRITE, 7, 3, [([0], [pack("<I", 5)])]),
        writer.xid(),
    ):
        fed.feed(event)
    [change] = fed.take_complete()
    assert change.key == ("1",)
    assert change.after is not None
    assert [repr(value) for value in change.after] == ["'1'", "UNCHANGED", "'9'"]
    assert fed.unclear == {"shop.t"}  # a new row of which the log holds a part


def test_json_that_is_logged_in_parts_is_refused_with_the_mend() -> None:
    """binlog_row_value_options = PARTIAL_JSON."""
    writer, fed = BinlogWriter(), assembler()
    for event in (writer.format(), writer.gtid(SERVER, 1), writer.query("BEGIN")):
        fed.feed(event)
    fed.feed(writer.table_map(7, "t", [("id", 3, b""), ("doc", 245, b"\4")]))
    body = (7).to_bytes(6, "little") + b"\1\0\2\0\2\3\3" + b"\0" + pack("<I", 1) + bytes(4)
    body += b"\1\1\0" + pack("<I", 1) + bytes(4)
    with pytest.raises(SourceError, match="binlog_row_value_options"):
        fed.feed(writer.event(events.PARTIAL_UPDATE, body))


def test_files_follow_each_other_and_grow_beyond_4_gib() -> None:
    """Places go on in the next file; what events say of a place is modulo 2**32."""
    writer, fed = BinlogWriter(), assembler()
    for event in [writer.format(), *transaction(writer, 1)]:
        fed.feed(event)
    fed.feed(writer.rotate("binlog.000002"))
    fed.feed(writer.format())
    assert (fed.at.file, fed.at.offset) == ("binlog.000002", writer.at)
    assert unwrapped(100, (1 << 32) - 50) == (1 << 32) + 100
    assert unwrapped(0xFFFFFFF0, (1 << 32) - 50) == 0xFFFFFFF0


def test_a_binlog_that_was_reset_is_noticed() -> None:
    """The same file name, begun at another time."""
    writer = BinlogWriter(timestamp=1_700_000_001)
    fed = Assembler(
        "shop", Place(1, "binlog.000001", 4), wanted=lambda _: False, tables={},
        charsets={}, gtids=MariaDBGtids(), born="1700000000 binlog.000001",
    )  # fmt: skip
    with pytest.raises(SourceError, match="reset"):
        fed.feed(writer.format())


@pytest.mark.parametrize("kind", [events.TAGGED_GTID, events.INCIDENT])
def test_what_cannot_be_followed_is_named(kind: int) -> None:
    """Tagged GTIDs, and a server that lost events."""
    writer, fed = BinlogWriter(), assembler()
    fed.feed(writer.format())
    with pytest.raises(SourceError, match="expected"):
        fed.feed(writer.event(kind, bytes(30)))


def test_gtids_of_both_flavours() -> None:
    """Intervals join, in any order; MariaDB keeps the last of each domain."""
    seen = MySQLGtids(f"{SERVER}:1-5:11-18,\n{OTHER.upper()}:7")
    for number in (6, 10, 8, 7, 20):
        seen.add(f"{SERVER}:{number}")
    assert seen.format() == f"{OTHER}:7,{SERVER}:1-8:10-18:20"
    assert MySQLGtids(seen.format()).encode() == seen.encode()
    assert len(seen.encode()) == 8 + 2 * 24 + 16 * 4
    place = parse_gtids("1-2-50, 0-1-100", mariadb=True)
    place.add("0-3-101")
    assert place.format() == "0-3-101,1-2-50"
    for text, mariadb in (("x", True), (f"{SERVER}:5-1", False), (f"{SERVER}:tag:5", False)):
        with pytest.raises(SourceError):
            parse_gtids(text, mariadb=mariadb)


# --------------------------------------------------------------------------- JSON


def small_object(*items: tuple[str, int, bytes]) -> bytes:
    """A small object: values of at most two bytes stand in the table, others behind it."""
    count = len(items)
    at = 4 + count * 4 + count * 3
    keys, table, values, names, behind = b"", b"", b"", b"", b""
    at_values = at + sum(len(k.encode()) for k, _, _ in items)
    for key, kind, value in items:
        keys += pack("<HH", at + len(names), len(key.encode()))
        names += key.encode()
        if kind in (4, 5, 6):
            table += bytes([kind]) + value.ljust(2, b"\0")
        else:
            table += bytes([kind]) + pack("<H", at_values + len(behind))
            behind += value
    body = keys + table + names + behind + values
    return pack("<HH", count, 4 + len(body)) + body


JSON = [
    (b"", "null"),
    (b"\x04\x00", "null"),
    (b"\x04\x01", "true"),
    (b"\x05" + pack("<h", -3), "-3"),
    (b"\x0a" + pack("<Q", 2**64 - 1), "18446744073709551615"),
    (b"\x0b" + pack("<d", 1.5), "1.5"),
    (b"\x0b" + pack("<d", 1e22), "1e22"),
    (b'\x0c\x05a"\xc3\xa9\n', '"a\\"é\\n"'),
    (b"\x00" + small_object(), "{}"),
    (
        b"\x00" + small_object(("a", 4, b"\2"), ("bb", 12, b"\1x"), ("c", 0, small_object())),
        '{"a": false, "bb": "x", "c": {}}',
    ),
    (b"\x02" + pack("<HHBHBH", 2, 10, 5, 1, 4, 0), "[1, null]"),
    (b"\x0f\xf6\x04\x03\x01\x81\x05", "1.5"),  # decimal(3,1)
    (b"\x0f\x0a\x08" + pack("<q", ((2024 * 13 + 2) << 5 | 3) << 17 << 24), '"2024-02-03"'),
    (b"\x0f\xfc\x02ab", '"base64:type252:YWI="'),
]


@pytest.mark.parametrize(("data", "text"), JSON)
def test_binary_json_is_printed_as_mysql_prints_it(data: bytes, text: str) -> None:
    """Literals, numbers, texts, objects, arrays, and values that JSON does not have."""
    assert json_text(data) == text


def test_json_that_is_nested_for_ever_is_an_error() -> None:
    """An array whose value is itself."""
    with pytest.raises(ProtocolError):
        json_text(b"\x02" + pack("<HHBH", 1, 7, 2, 0))


# --------------------------------------------------------------------------- broken bytes


def broken_everywhere(data: bytes, decode: object) -> None:
    """Cut off at any byte there is a `SourceError`, or (where the length is not known) a value."""
    assert callable(decode)
    for end in range(len(data)):
        with suppress(SourceError):
            decode(data[:end])


def test_g13_truncated_events_are_one_kind_of_error() -> None:
    """At every byte, and for every kind of event."""
    writer = BinlogWriter(checksums=False)
    whole = [
        writer.rotate("binlog.000001"),
        *transaction(writer, 1),
        writer.xa_prepare(b"name"),
        writer.payload([writer.xid()]),
        writer.query("ALTER TABLE t ADD COLUMN x int DEFAULT 1"),
    ]
    for number, event in enumerate(whole):
        for end in range(len(event)):
            fed = assembler()
            for before in whole[:number]:
                fed.feed(before)
            with pytest.raises(ProtocolError):
                fed.feed(event[:end])
            # The same cut, with a header that claims it is whole.
            cut = event[:9] + pack("<I", end) + event[13:end]
            if end >= events.HEADER:
                with suppress(SourceError):  # most cuts fail, some are whole
                    fed.feed(cut)


def test_g13_truncated_gtids_of_mariadb_are_one_kind_of_error() -> None:
    """At every byte."""
    event = BinlogWriter(checksums=False).mariadb_gtid(3, 5, 1)
    assert events.decode_gtid(event, events.MARIADB_GTID) == events.Gtid("3-1-5", standalone=True)
    for end in range(events.HEADER + 13):
        with pytest.raises(ProtocolError):
            events.decode_gtid(event[:end], events.MARIADB_GTID)


def test_g13_truncated_answers_are_one_kind_of_error() -> None:
    """Of questions: columns, rows, errors."""
    column = b"\3def\1d\1t\1t\1a\1a\x0c" + pack("<HIBHB", 45, 80, 253, 0, 0) + b"\0\0"
    broken_everywhere(column, decode_result_column)
    assert decode_result_column(column).name == "a"
    broken_everywhere(b"\xff" + pack("<H", 1236) + b"#HY000gone", decode_refusal)
    broken_everywhere(b"\xfc\x00\x01", decode_column_count)
    packet = b"\xfb\x03abc\xfc\x05\x00hello"
    assert decode_text_row(packet, (None, None, None)) == (None, "abc", "hello")
    for end in range(len(packet)):
        with pytest.raises(ProtocolError):
            decode_text_row(packet[:end], (None, None, None))


def test_g13_truncated_values_are_one_kind_of_error() -> None:
    """Of JSON and of geometries."""
    for data, _ in JSON:
        broken_everywhere(data, json_text)
    point = pack("<IBIdd", 0, 1, 1, 1.0, 2.0)
    assert ewkt(point) == "POINT(1 2)"
    for end in range(len(point)):
        with pytest.raises(ProtocolError):
            ewkt(point[:end])


def test_a_wrong_checksum_is_an_error() -> None:
    """A bit that fell over between the server's disk and here."""
    writer, fed = BinlogWriter(), assembler()
    fed.feed(writer.format())
    event = bytearray(writer.query("BEGIN"))
    event[-6] ^= 1
    with pytest.raises(ProtocolError, match="checksum"):
        fed.feed(bytes(event))


def test_packets_are_cut_wherever_the_bytes_come() -> None:
    """In pieces, and larger than one packet can be."""
    large = b"x" * (0xFFFFFF + 5)
    data = b"".join(
        len(part).to_bytes(3, "little") + bytes([i]) + part
        for i, part in enumerate([b"one", b"", large[:0xFFFFFF], large[0xFFFFFF:], b"two"])
    )
    framer = Framer()
    found = []
    for start in range(0, len(data), 1 << 20):
        found += framer.feed(data[start : start + (1 << 20)])
    assert found == [b"one", b"", large, b"two"]
    assert framer.held == 0
