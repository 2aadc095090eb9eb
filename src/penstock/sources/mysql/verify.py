"""What ``penstock verify`` asks of the source: a hash of every row, in the order of the keys.

The server cannot order rows by the texts that changes carry, so the hashes are sorted here, in a
database in a temporary file: memory stays flat however large the table is.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Final

from penstock.records import Schema
from penstock.sources.base import RowHash
from penstock.sources.mysql.catalogue import Table, fetch_shape
from penstock.sources.mysql.connections import Session
from penstock.sources.mysql.snapshot import row_texts

_PAGE: Final = 5000


def row_hash(values: Sequence[str | None]) -> str:
    """As `penstock.database.row_hash` has it computed by PostgreSQL."""
    parts = ("null" if v is None else f"{len(v.encode())}:{v}" for v in values)
    whole = "".join(f"{part}," for part in parts)
    return hashlib.md5(whole.encode(), usedforsecurity=False).hexdigest()


async def row_hashes(
    session: Session, table: Table, schema: Schema, columns: Sequence[str]
) -> AsyncGenerator[RowHash]:
    """All rows of a table, ordered by the key's texts byte by byte."""
    shape = await fetch_shape(session, table)
    names = [column.name for column in shape.columns if column.name in schema.names]
    keys = [names.index(column.name) for column in schema.columns if column.key]
    hashed = [names.index(name) for name in columns]
    with (
        tempfile.TemporaryDirectory(prefix="penstock-verify-") as folder,
        closing(_opened(Path(folder) / "hashes", len(keys))) as database,
    ):
        rows: list[tuple[bytes | str, ...]] = []
        async with aclosing(row_texts(session, table, shape, schema)) as found:
            async for row in found:
                key = (str(row[i]).encode() for i in keys)
                rows.append((*key, row_hash([row[i] for i in hashed])))
                if len(rows) >= _PAGE:
                    await asyncio.to_thread(_keep, database, rows)
                    rows = []
        await asyncio.to_thread(_keep, database, rows)
        places = ", ".join(str(i + 1) for i in range(len(keys)))
        cursor = database.execute(f"SELECT * FROM hashes ORDER BY {places}")  # noqa: S608 - numbers of ours
        while page := await asyncio.to_thread(cursor.fetchmany, _PAGE):
            for *key_parts, digest in page:
                yield RowHash(tuple(part.decode() for part in key_parts), digest)


def _opened(file: Path, keys: int) -> sqlite3.Connection:
    database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA synchronous = OFF")
    names = ", ".join([*(f"k{i} BLOB" for i in range(keys)), "hash TEXT"])
    database.execute(f"CREATE TABLE hashes ({names})")
    return database


def _keep(database: sqlite3.Connection, rows: Sequence[tuple[bytes | str, ...]]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT INTO hashes VALUES ({marks})", rows)  # noqa: S608 - marks only
