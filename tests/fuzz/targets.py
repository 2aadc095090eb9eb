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
