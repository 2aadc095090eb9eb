"""No framework: files are read, cut into sentences joined up to 500 characters, embedded and copied
into two tables in one transaction. What a load costs at the least. See peer_common.py.

Needs psycopg and numpy.
"""

from __future__ import annotations

import hashlib
import re
import struct

import numpy as np
import psycopg
from peer_common import DSN, REAL, SIZE, TABLE, Timed, files, number

BOUNDARY = re.compile(r"(?<=[.!?])\s+|\n\n")
VECTOR = struct.Struct(">hh").pack(384, 0)
BYTES = [VECTOR + row.astype(">f4").tobytes() for row in TABLE]


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def pieces(text: str) -> list[str]:
    """Sentences joined up to 500 characters."""
    found: list[str] = []
    joined = ""
    for sentence in BOUNDARY.split(text):
        if joined and len(joined) + len(sentence) + 1 > SIZE:
            found.append(joined)
            joined = sentence
        else:
            joined = f"{joined} {sentence}" if joined else sentence
    return [*found, joined] if joined else found


def value(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def main() -> None:
    """Load everything."""
    assert not REAL, "the loop has no model of its own"
    assert np.isfinite(TABLE).all()
    header, trailer = b"PGCOPY\n\xff\r\n\x00" + bytes(8), b"\xff\xff"
    with psycopg.connect(DSN) as connection:
        connection.execute("CREATE TABLE doc (id int PRIMARY KEY, path text UNIQUE, hash bytea)")
        connection.execute(
            "CREATE TABLE chunk (doc int NOT NULL, hash bytea NOT NULL, place int, body text, "
            "embedding vector(384), PRIMARY KEY (doc, hash))"
        )
        connection.commit()
        timed = Timed()
        documents, chunks = [], []
        for id_, path in enumerate(files()):
            text = path.read_text(encoding="utf-8")
            key = value(struct.pack(">i", id_))
            name = value(str(path).encode())
            documents.append(b"\x00\x03" + key + name + value(digest(text)))
            distinct = {digest(piece): (place, piece) for place, piece in enumerate(pieces(text))}
            for hash_, (place, piece) in distinct.items():
                chunks.append(
                    b"\x00\x05" + key + value(hash_) + value(struct.pack(">i", place))
                    + value(piece.encode()) + value(BYTES[number(piece)])
                )  # fmt: skip
        with connection.cursor() as cursor:
            for table, rows in (("doc", documents), ("chunk", chunks)):
                with cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
                    copy.write(b"".join((header, *rows, trailer)))
        connection.commit()
        timed.tell(len(documents), len(chunks))


if __name__ == "__main__":
    main()
