"""Writes events of the binlog, for tests of those who read them: the inverse of
``penstock.sources.mysql.events`` as far as tests need it. Pure.

The bytes follow MySQL's source documentation ("Binlog Event") and MariaDB's knowledge base.
"""

from __future__ import annotations

import sys
import uuid
import zlib
from collections.abc import Sequence
from struct import pack
from typing import Final

from penstock.sources.mysql.events import (
    ANONYMOUS,
    FORMAT,
    GTID,
    HEADER,
    HEARTBEAT,
    MARIADB_GTID,
    PAYLOAD,
    QUERY,
    ROTATE,
    TABLE_MAP,
    XA_PREPARE,
    XID,
)
from penstock.sources.mysql.protocol import encode_length

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SERVER: Final = 1
WRITE: Final = 30
UPDATE: Final = 31
DELETE: Final = 32


class BinlogWriter:
    """Events one after the other, each at its place in a file. ``checksums`` as a server does."""

    def __init__(self, *, checksums: bool = True, timestamp: int = 1_700_000_000) -> None:
        self.at = 4
        self.checksums = checksums
        self.timestamp = timestamp

    def event(self, kind: int, body: bytes, *, artificial: bool = False) -> bytes:
        """An event of any kind."""
        sealed = self.checksums
        size = HEADER + len(body) + 4 * sealed
        end = 0 if artificial else self.at + size
        head = pack("<IBIIIH", self.timestamp, kind, SERVER, size, end & 0xFFFFFFFF, 0)
        if not artificial:
            self.at = end
        whole = head + body
        return whole + pack("<I", zlib.crc32(whole)) if sealed else whole

    def format(self, version: str = "8.4.0") -> bytes:
        """The first event of a file, which always has a checksum."""
        body = pack("<H50sIB", 4, version.encode(), self.timestamp, HEADER) + bytes(40)
        body += bytes([self.checksums])
        kept, self.checksums = self.checksums, True
        event = self.event(FORMAT, body)
        self.checksums = kept
        return event

    def rotate(self, file: str, offset: int = 4) -> bytes:
        """What follows is in that file."""
        event = self.event(ROTATE, pack("<Q", offset) + file.encode(), artificial=True)
        self.at = offset
        return event

    def gtid(self, server: str, number: int, committed_at: int | None = None) -> bytes:
        """MySQL's beginning of a transaction."""
        body = b"\1" + uuid.UUID(server).bytes + pack("<qBqq", number, 2, 0, 1)
        if committed_at is not None:
            body += committed_at.to_bytes(7, "little")
        return self.event(GTID, body)

    def anonymous(self) -> bytes:
        """The same without a name."""
        return self.event(ANONYMOUS, b"\1" + bytes(16) + pack("<qBqq", 0, 2, 0, 1))

    def mariadb_gtid(self, domain: int, number: int, flags: int = 0) -> bytes:
        """MariaDB's beginning of a transaction."""
        return self.event(MARIADB_GTID, pack("<QIB", number, domain, flags) + bytes(6))

    def query(self, statement: str, database: str = "shop", sql_mode: int = 0) -> bytes:
        """A statement."""
        variables = b"\0" + pack("<I", 0) + b"\1" + pack("<Q", sql_mode)
        name = database.encode()
        body = pack("<IIBHH", 7, 0, len(name), 0, len(variables)) + variables + name + b"\0"
        return self.event(QUERY, body + statement.encode())

    def xid(self) -> bytes:
        """The transaction is committed."""
        return self.event(XID, pack("<Q", 99))

    def xa_prepare(self, name: bytes) -> bytes:
        """The transaction is prepared."""
        return self.event(XA_PREPARE, pack("<BIII", 0, 1, len(name), 0) + name)

    def heartbeat(self, file: str) -> bytes:
        """All that there is was sent."""
        head = pack("<IBIIIH", 0, HEARTBEAT, SERVER, HEADER + len(file) + 4, self.at, 0)
        whole = head + file.encode()
        return whole + pack("<I", zlib.crc32(whole))

    def table_map(
        self,
        table_id: int,
        table: str,
        columns: Sequence[tuple[str, int, bytes]],
        *,
        database: str = "shop",
        unsigned: Sequence[bool] | None = None,
        key: Sequence[int] | None = (0,),
        collation: int | None = 45,
    ) -> bytes:
        """The shape of a table, with everything that ``binlog_row_metadata = FULL`` adds: columns
        are a name, a type and the type's metadata. ``key`` None: nothing of that."""
        body = table_id.to_bytes(6, "little") + b"\1\0"
        for name in (database.encode(), table.encode()):
            body += bytes([len(name)]) + name + b"\0"
        body += encode_length(len(columns)) + bytes(kind for _, kind, _ in columns)
        metadata = b"".join(meta for _, _, meta in columns)
        body += encode_length(len(metadata)) + metadata
        body += bytes([255]) * ((len(columns) + 7) // 8)
        if key is not None:
            signs = list(unsigned or ())
            signs += [False] * (-len(signs) % 8)
            packed = bytes(
                sum(bit << 7 - i for i, bit in enumerate(signs[start : start + 8]))
                for start in range(0, len(signs), 8)
            )
            names = b"".join(
                encode_length(len(name.encode())) + name.encode() for name, _, _ in columns
            )
            parts = [(1, packed), (4, names), (8, b"".join(map(encode_length, key)))]
            if collation is not None:
                parts.append((2, encode_length(collation)))
            for kind, part in parts:
                if part:
                    body += bytes([kind]) + encode_length(len(part)) + part
        return self.event(TABLE_MAP, body)

    def rows(
        self,
        kind: int,
        table_id: int,
        width: int,
        images: Sequence[tuple[Sequence[int], Sequence[bytes | None]]],
        *,
        columns: Sequence[Sequence[int]] | None = None,
    ) -> bytes:
        """Rows: each image is the columns it has and their bytes (None: NULL)."""
        body = table_id.to_bytes(6, "little") + b"\1\0" + b"\2\0" + encode_length(width)
        for present in columns or [images[0][0]] * (2 if kind == UPDATE else 1):
            body += _bitmap(present, width)
        for _, values in images:
            body += _bitmap([i for i, v in enumerate(values) if v is None], len(values))
            body += b"".join(value for value in values if value is not None)
        return self.event(kind, body)

    def payload(self, inner: Sequence[bytes], *, compress: bool = True) -> bytes:
        """A transaction's events in one, as MySQL writes it compressed. The inner events are those
        of a writer without checksums."""
        whole = b"".join(inner)
        packed = whole
        if compress:
            packed = zstd.compress(whole)
        fields = [(2, encode_length(0 if compress else 255)), (3, encode_length(len(whole)))]
        fields.append((1, encode_length(len(packed))))
        body = b"".join(
            encode_length(kind) + encode_length(len(value)) + value for kind, value in fields
        )
        return self.event(PAYLOAD, body + b"\0" + packed)


def _bitmap(present: Sequence[int], width: int) -> bytes:
    bits = sum(1 << i for i in present)
    return bits.to_bytes((width + 7) // 8, "little")
