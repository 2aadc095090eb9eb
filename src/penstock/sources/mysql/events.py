"""Events of the binlog, from bytes to records. Pure.

Covers version 4 of the format as MySQL 5.7 and later and MariaDB 10.2 and later write it: both
kinds of GTID, compressed events and transactions, checksums. What holds rows is decoded further by
``rows.py`` once it is known which table they are of. Whatever is not a well-formed event raises
`ProtocolError`, however it was broken.

The format is described in MySQL's source documentation, "Binlog Event", and MariaDB's knowledge
base, "Replication Protocol".
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from penstock.sources.mysql.protocol import (
    BROKEN,
    ProtocolError,
    broken,
    length_encoded,
    length_encoded_bytes,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEADER: Final = 19
CHECKSUM: Final = 4
LARGEST_UNPACKED: Final = 1 << 30
"""What is said to unpack to more is refused: a server's largest packet is this."""

QUERY: Final = 2
STOP: Final = 3
ROTATE: Final = 4
FORMAT: Final = 15
XID: Final = 16
TABLE_MAP: Final = 19
INCIDENT: Final = 26
HEARTBEAT: Final = 27
GTID: Final = 33
ANONYMOUS: Final = 34
XA_PREPARE: Final = 38
PARTIAL_UPDATE: Final = 39
PAYLOAD: Final = 40
TAGGED_GTID: Final = 42
MARIADB_GTID: Final = 162
MARIADB_ENCRYPTION: Final = 164
QUERY_COMPRESSED: Final = 165
_ARTIFICIAL: Final = 0x20

_header = Struct("<IBIIIH").unpack_from
_query = Struct("<IIBHH").unpack_from
_uint16 = Struct("<H").unpack_from
_uint32 = Struct("<I").unpack_from
_uint64 = Struct("<Q").unpack_from
_mariadb_gtid = Struct("<QIB").unpack_from


class Header(NamedTuple):
    """What all events begin with. ``end`` is where the event ends in its file, modulo 2**32 (0 for
    events that the server makes up for us)."""

    timestamp: int
    type: int
    server: int
    size: int
    end: int
    flags: int


class Format(NamedTuple):
    """The first event of each file."""

    server_version: str
    created: int
    checksums: bool


class Rotate(NamedTuple):
    """What follows is in this file, at this place."""

    file: str
    offset: int


class Gtid(NamedTuple):
    """A transaction begins. ``text`` names it (empty when it is anonymous). A ``standalone`` one
    is the next event alone; others go on until their commit. ``committed_at`` in microseconds,
    where the server says it that finely."""

    text: str
    standalone: bool = False
    committed_at: int | None = None
    xa: bool = False


class Query(NamedTuple):
    """A statement: the beginning or the end of a transaction, or one that defines something."""

    database: str
    statement: str
    ansi_quotes: bool
    error: int


class RowsHead(NamedTuple):
    """Which rows an event holds. ``before`` and ``after`` say which columns are there (None: there
    is no such image). Rows begin at ``start`` in ``data``."""

    table_id: int
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    partial: bool
    width: int
    data: bytes
    start: int


class RowsKind(NamedTuple):
    """What an event type says of its rows."""

    version: int
    before: bool
    after: bool
    compressed: bool = False
    partial: bool = False


ROWS: Final = {
    23: RowsKind(1, before=False, after=True),
    24: RowsKind(1, before=True, after=True),
    25: RowsKind(1, before=True, after=False),
    30: RowsKind(2, before=False, after=True),
    31: RowsKind(2, before=True, after=True),
    32: RowsKind(2, before=True, after=False),
    PARTIAL_UPDATE: RowsKind(2, before=True, after=True, partial=True),
    166: RowsKind(1, before=False, after=True, compressed=True),
    167: RowsKind(1, before=True, after=True, compressed=True),
    168: RowsKind(1, before=True, after=False, compressed=True),
    169: RowsKind(2, before=False, after=True, compressed=True),
    170: RowsKind(2, before=True, after=True, compressed=True),
    171: RowsKind(2, before=True, after=False, compressed=True),
}


def decode_header(data: bytes) -> Header:
    """The header of an event.

    Raises:
        ProtocolError: truncated, or not as long as it says.
    """
    try:
        header = Header(*_header(data, 0))
    except BROKEN as error:
        raise broken("a binlog event", data) from error
    if header.size != len(data):
        raise broken(f"a binlog event of {header.size} bytes", data)
    return header


def checked(data: bytes) -> bytes:
    """The event without its checksum.

    Raises:
        ProtocolError: the checksum is not that of the event.
    """
    if len(data) < HEADER + CHECKSUM:
        raise broken("a binlog event with its checksum", data)
    body = data[:-CHECKSUM]
    if zlib.crc32(body) != _uint32(data, len(body))[0]:
        raise ProtocolError(
            f"expected a binlog event with the checksum {_uint32(data, len(body))[0]:08x}, got "
            f"{zlib.crc32(body):08x}: it was damaged on its way or on the server's disk"
        )
    return body


def unsealed(data: bytes) -> bytes:
    """The event without its checksum, if it has one."""
    body = data[:-CHECKSUM]
    sealed = len(body) >= HEADER and zlib.crc32(body) == _uint32(data, len(body))[0]
    return body if sealed else data


def decode_format(data: bytes) -> Format:
    """The first event of a file (given with its checksum: it says whether others have one)."""
    try:
        version, server_version = _uint16(data, HEADER)[0], data[HEADER + 2 : HEADER + 52]
        (created,) = _uint32(data, HEADER + 52)
        if version != 4 or data[HEADER + 56] != HEADER or len(data) < HEADER + 57 + 1 + CHECKSUM:
            raise ValueError(version)
        algorithm = data[-CHECKSUM - 1]
        if algorithm not in (0, 1):
            raise ValueError(algorithm)
        text = server_version.rstrip(b"\0").decode()
    except BROKEN as error:
        raise broken("the description of a binlog file of version 4", data) from error
    return Format(text, created, algorithm == 1)


def decode_rotate(data: bytes) -> Rotate:
    """Where the stream goes on."""
    try:
        (offset,) = _uint64(data, HEADER)
        file = data[HEADER + 8 :].rstrip(b"\0").decode()
        if not file:
            raise ValueError(file)
    except BROKEN as error:
        raise broken("a rotate event", data) from error
    return Rotate(file, offset)


def decode_gtid(data: bytes, kind: int) -> Gtid:
    """The beginning of a transaction, in either flavour."""
    try:
        if kind == MARIADB_GTID:
            return _decode_mariadb_gtid(data)
        at = HEADER + 1
        identifier = data[at : at + 16].hex()
        (number,) = _uint64(data, at + 16)
        at += 24
        committed_at = None
        if at < len(data) and data[at] == 2:
            at += 17
            if at + 7 <= len(data):
                stamp = int.from_bytes(data[at : at + 7], "little")
                committed_at = stamp & ~(1 << 55)
    except BROKEN as error:
        raise broken("a GTID event", data) from error
    if kind == ANONYMOUS:
        return Gtid("", committed_at=committed_at)
    server = "-".join(identifier[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
    return Gtid(f"{server}:{number}", committed_at=committed_at)


def _decode_mariadb_gtid(data: bytes) -> Gtid:
    number, domain, flags = _mariadb_gtid(data, HEADER)
    server = Header(*_header(data, 0)).server
    return Gtid(f"{domain}-{server}-{number}", bool(flags & 1), xa=bool(flags & 0xC0))


def decode_query(data: bytes, *, compressed: bool = False) -> Query:
    """A statement of the log."""
    try:
        _, _, length, error_code, variables = _query(data, HEADER)
        at = HEADER + 13
        database_at = at + variables
        ansi = _ansi_quotes(data[at:database_at])
        database = data[database_at : database_at + length]
        if data[database_at + length] != 0:
            raise ValueError(length)
        words = data[database_at + length + 1 :]
        if compressed:
            words = _unpacked(words)
        return Query(database.decode(), words.decode("utf-8", "replace"), ansi, error_code)
    except (*BROKEN, zlib.error) as error:
        raise broken("a query event", data) from error


def _ansi_quotes(variables: bytes) -> bool:
    """Whether double quotes were those of names: a bit of the session's SQL mode, which comes
    behind the session's flags."""
    at = 0
    if variables[:1] == b"\0":
        at = 5
    if variables[at : at + 1] == b"\1" and len(variables) >= at + 9:
        return bool(_uint64(variables, at + 1)[0] & 4)
    return False


def _unpacked(data: bytes) -> bytes:
    """What MariaDB compressed: a byte of flags, the length in big-endian order, zlib's stream."""
    flags = data[0]
    size = flags & 7
    if flags & 0xF0 != 0x80 or not 1 <= size <= 4:
        raise ValueError(flags)
    length = int.from_bytes(data[1 : 1 + size], "big")
    return _inflated(data[1 + size :], length)


def _inflated(data: bytes, length: int) -> bytes:
    if length > LARGEST_UNPACKED:
        raise ValueError(length)
    unpack = zlib.decompressobj()
    whole = unpack.decompress(data, length + 1)
    if len(whole) != length:
        raise ValueError(len(whole))
    return whole


def rows_table(data: bytes) -> int:
    """Of which table a row event is; for leaving out those that nobody wants."""
    if len(data) < HEADER + 8:
        raise broken("a row event", data)
    return int.from_bytes(data[HEADER : HEADER + 6], "little")


def decode_rows_head(data: bytes, kind: RowsKind) -> RowsHead:
    """Which rows the event holds."""
    try:
        at = HEADER + 8
        table_id = rows_table(data)
        if kind.version == 2:
            (extra,) = _uint16(data, at)
            if extra < 2:
                raise ValueError(extra)
            at += extra
        width, at = length_encoded(data, at)
        first, at = _columns(data, at, width)
        second: tuple[int, ...] | None = None
        if kind.before and kind.after:
            second, at = _columns(data, at, width)
        if kind.compressed:
            data, at = _unpacked(data[at:]), 0
    except (*BROKEN, zlib.error) as error:
        raise broken("a row event", data) from error
    if kind.before:
        return RowsHead(table_id, first, second, kind.partial, width, data, at)
    return RowsHead(table_id, None, first, kind.partial, width, data, at)


def _columns(data: bytes, at: int, width: int) -> tuple[tuple[int, ...], int]:
    size = (width + 7) // 8
    present = data[at : at + size]
    if len(present) != size or not width:
        raise ValueError(width)
    return _present(present, width), at + size


@lru_cache(maxsize=256)
def _present(bitmap: bytes, width: int) -> tuple[int, ...]:
    return tuple(i for i in range(width) if bitmap[i >> 3] >> (i & 7) & 1)


def payload_events(data: bytes) -> list[bytes]:
    """The events of a transaction that MySQL wrote compressed. They have no checksums."""
    try:
        fields: dict[int, bytes] = {}
        at = HEADER
        while True:
            kind, at = length_encoded(data, at)
            if kind == 0:
                break
            fields[kind], at = length_encoded_bytes(data, at)
        algorithm = length_encoded(fields[2], 0)[0] if 2 in fields else 255
        length = length_encoded(fields[3], 0)[0] if 3 in fields else len(data) - at
        packed = data[at:]
        if length > LARGEST_UNPACKED:
            raise ValueError(length)
        whole = _unzstd(packed, length) if algorithm == 0 else packed
        if len(whole) != length or algorithm not in (0, 255):
            raise ValueError(algorithm)
        return list(_split(whole))
    except (*BROKEN, KeyError) as error:
        raise broken("a compressed transaction", data) from error


def _unzstd(packed: bytes, length: int) -> bytes:
    try:
        # No more than was announced, and a byte to see that there is more.
        return zstd.ZstdDecompressor().decompress(packed, length + 1)
    except (zstd.ZstdError, EOFError) as error:
        raise ValueError(str(error)) from error


def _split(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (size,) = _uint32(data, at + 9)
        if size < HEADER or at + size > len(data):
            raise ValueError(size)
        yield data[at : at + size]
        at += size


def xa_name(data: bytes) -> str:
    """Which transaction an XA PREPARE event leaves prepared, as XA COMMIT names it."""
    try:
        one_phase = data[HEADER]
        format_id, global_length, branch_length = Struct("<III").unpack_from(data, HEADER + 1)
        at = HEADER + 13
        if one_phase > 1 or len(data) < at + global_length + branch_length:
            raise ValueError(one_phase)
        name = data[at : at + global_length].hex()
        branch = data[at + global_length : at + global_length + branch_length].hex()
    except BROKEN as error:
        raise broken("an XA PREPARE event", data) from error
    return f"X'{name}',X'{branch}',{format_id}"


def is_artificial(header: Header) -> bool:
    """Whether the server made it up for us: it has no place in a file."""
    return header.end == 0 or bool(header.flags & _ARTIFICIAL)
