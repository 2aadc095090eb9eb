"""What reads bytes that others wrote. Given any bytes at all, a target returns or raises one of our
errors; anything else is a fault, and so is memory that grows beyond the limit.

A target is a function of bytes with the decorator. ``python tests/fuzz/run.py NAME`` runs it; what
it finds goes to ``corpus/NAME`` and is tried again by every test run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, TypeAlias

Target: TypeAlias = Callable[[bytes], object]

TARGETS: Final[dict[str, Target]] = {}
FILE_NAMES: Final = ("a", "a.md", "a.html", "a.pdf", "a.docx", "a.csv", "a.txt", "a.parquet")


def target(function: Target) -> Target:
    """Register a target under its name."""
    TARGETS[function.__name__] = function
    return function


def text_of(data: bytes) -> str:
    """Any text, also with lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


@target
def pgoutput(data: bytes) -> object:
    from penstock.sources.postgres.decoder import decode

    return decode(data)


@target
def postgres_copy(data: bytes) -> object:
    from penstock.sources.postgres.copy_text import parse_copy_rows

    return parse_copy_rows(data.split(b"\n"))


@target
def postgres_positions(data: bytes) -> object:
    from penstock.sources.postgres.positions import parse_lsn, parse_position

    return (parse_lsn, parse_position)[len(data) % 2](text_of(data))


@target
def log_codec(data: bytes) -> object:
    from penstock.log.codec import Codec

    return Codec().decode(data)


@target
def log_codec_with_a_good_checksum(data: bytes) -> object:
    """So that what is behind the checksum is reached too."""
    from penstock.log.codec import Codec

    flags, body = data[:1] or b"\0", data[1:]
    check = zlib.crc32(body, zlib.crc32(b"\x01" + flags))
    return Codec().decode(b"\x01" + flags + check.to_bytes(4, "big") + body)


@target
def sniff(data: bytes) -> object:
    from penstock.sources.extract.sniff import sniff

    return sniff(FILE_NAMES[data[0] % len(FILE_NAMES) if data else 0], data[1:])


@target
def markdown_structure(data: bytes) -> object:
    from penstock.pipelines.knowledge.structure import sections

    return sections(text_of(data))


@target
def settings(data: bytes) -> object:
    from penstock.config import parse_settings

    return parse_settings(text_of(data), environment={})


@target
def mysql_event(data: bytes) -> object:
    from penstock.sources.mysql import events

    header = events.decode_header(data)
    body = data[19:]
    decoders = (events.decode_format, events.decode_rotate)
    return header, decoders[data[0] % len(decoders)](body)


@target
def mysql_table_and_transaction(data: bytes) -> object:
    from penstock.sources.mysql import events
    from penstock.sources.mysql.table_map import decode_table_map

    decoders: tuple[Target, ...] = (
        decode_table_map,
        lambda body: decode_table_map(body, mariadb=True),
        lambda body: events.decode_gtid(body, events.GTID),
        lambda body: events.decode_gtid(body, events.MARIADB_GTID),
        events.decode_query,
        lambda body: events.decode_query(body, compressed=True),
        events.payload_events,
        events.xa_name,
    )
    return decoders[data[0] % len(decoders) if data else 0](data[1:])


@target
def mysql_rows(data: bytes) -> object:
    """A column of every type, in rows of each kind of event."""
    from penstock.sources.mysql import events, forms
    from penstock.sources.mysql.forms import ColumnForm
    from penstock.sources.mysql.readers import reader_of
    from penstock.sources.mysql.rows import Images, decode_rows, skipper_of

    columns = [
        ColumnForm(forms.LONG, 0),
        ColumnForm(forms.LONGLONG, 0, unsigned=True),
        ColumnForm(forms.NEWDECIMAL, 20 << 8 | 4),
        ColumnForm(forms.VARCHAR, 300, charset="utf8mb4"),
        ColumnForm(forms.STRING, 254 << 8 | 40, charset="latin1"),
        ColumnForm(forms.DATETIME2, 6),
        ColumnForm(forms.TIMESTAMP2, 3),
        ColumnForm(forms.TIME2, 2),
        ColumnForm(forms.DATE, 0),
        ColumnForm(forms.JSON, 4),
        ColumnForm(forms.GEOMETRY, 4),
        ColumnForm(forms.ENUM, 1, values=("a", "b")),
        ColumnForm(forms.SET, 1, values=("a", "b")),
        ColumnForm(forms.BIT, 1 << 8 | 3),
        ColumnForm(forms.DOUBLE, 8),
    ]
    readers = [reader_of(column) for column in columns]
    kinds = list(events.ROWS.values())
    head = events.decode_rows_head(data[1:], kinds[data[0] % len(kinds) if data else 0])
    return list(decode_rows(head, readers, Images(readers, [0], list(map(skipper_of, columns)))))


@target
def mysql_json(data: bytes) -> object:
    from penstock.sources.mysql.json_binary import json_text

    return json_text(data)


@target
def mysql_geometry(data: bytes) -> object:
    from penstock.sources.mysql.geometry import ewkt

    return ewkt(data)


@target
def mysql_positions(data: bytes) -> object:
    from penstock.sources.mysql.gtids import parse_gtids
    from penstock.sources.mysql.positions import Place, parse_position

    text = text_of(data[1:])
    parsers: tuple[Callable[[str], object], ...] = (
        Place.parse,
        parse_position,
        lambda text: parse_gtids(text, mariadb=True),
        lambda text: parse_gtids(text, mariadb=False),
    )
    return parsers[data[0] % len(parsers) if data else 0](text)


@target
def mysql_statements(data: bytes) -> object:
    from penstock.sources.mysql.ddl import definitions

    return definitions(text_of(data), "shop")


@target
def json_records(data: bytes) -> object:
    from penstock.sources.formats.values import json_text, parse_json

    return json_text(parse_json(data))


@target
def messages_of_topics(data: bytes) -> object:
    """The second of two records, after what the first taught: key and value apart at a newline."""
    from penstock.sources.topics.base import Decoder, Slice
    from penstock.sources.topics.canal import CanalFormat
    from penstock.sources.topics.debezium import DebeziumFormat
    from penstock.sources.topics.fast import DebeziumDecoder
    from penstock.sources.topics.maxwell import MaxwellFormat
    from penstock.sources.topics.messages import MessageDecoder, Wanted
    from penstock.sources.topics.positions import place_records
    from penstock.sources.topics.shapes import Shapes

    shapes, wanted = Shapes("shop"), Wanted(["*"])
    decoders: tuple[Callable[[], Decoder], ...] = (
        lambda: DebeziumDecoder(shapes, wanted),
        lambda: MessageDecoder(DebeziumFormat(unwrapped=True), shapes, wanted),
        lambda: MessageDecoder(MaxwellFormat(), shapes, wanted),
        lambda: MessageDecoder(CanalFormat(), shapes, wanted),
    )
    decoder = decoders[data[0] % len(decoders) if data else 0]()
    halves = [piece.partition(b"\n") for piece in data[1:].split(b"\n\n", 1)]
    records = Slice(
        "server.shop.things",
        0,
        [f"{i:08X}" for i in range(len(halves))],
        [0] * len(halves),
        [key or None for key, _, _ in halves],
        [value or None for _, _, value in halves],
    )
    return decoder.decode(records, place_records(records, None).positions)
