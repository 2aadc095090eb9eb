"""Looking whether anything is left: for values in what tables say, and for bytes in files.

A search for bytes sees what lies in a file as it is. It does not see what is compressed (large
values, batches of the log), which is therefore looked at through SQL and our own codec; nor blocks
of the disk that no file has any more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from penstock.log.erasing import mentions
from penstock.stores.postgres.live_tables import all_tables

if TYPE_CHECKING:
    from penstock.project import Project

Connection = psycopg.AsyncConnection[Any]
Progress = Callable[[str], None]

_WIDTH: Final = 4
_BLOCK: Final = 1 << 24


@dataclass
class Searched:
    """What was searched and found: ``left`` by table, ``bytes_left`` by kind of file."""

    values: int = 0
    tables: int = 0
    left: dict[str, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    bytes_left: dict[str, int] = field(default_factory=dict)
    why_no_files: str = ""

    @property
    def found(self) -> int:
        """How often anything was found."""
        return sum(self.left.values()) + sum(self.bytes_left.values())

    def to_dict(self) -> dict[str, Any]:
        """As a receipt has it."""
        return {**asdict(self), "found": self.found}


async def search(project: Project, values: Sequence[str], progress: Progress) -> Searched:
    """Look for these values everywhere."""
    searched = Searched(values=len(values))
    if not values:
        return searched
    async with project.pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION READ ONLY")
        await _search_tables(connection, values, searched, progress)
        progress("looking through the log")
        needles = Needles([value.casefold() for value in values])
        left = await mentions(
            connection,
            project.settings.tenant,
            lambda text: needles.stand_in(text.casefold().encode("utf-8", "surrogatepass")),
        )
        if left:
            searched.left["log"] = left
    if project.server is None:
        searched.why_no_files = "the database is not the embedded one: its files are not ours"
        return searched
    progress("searching the files of the database")
    await asyncio.to_thread(_search_files, project.server.data_dir, values, searched)
    return searched


async def _search_tables(
    connection: Connection, values: Sequence[str], searched: Searched, progress: Progress
) -> None:
    cursor = await connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'penstock' ORDER BY 1"
    )
    tables = [("penstock", name) for (name,) in await cursor.fetchall()]
    tables += [(one.schema_name, one.table_name) for one in await all_tables(connection)]
    for schema, table in tables:
        progress(f"looking through {schema}.{table}")
        columns = await _columns(connection, schema, table)
        searched.tables += 1
        if not columns:
            continue
        counted = await connection.execute(
            sql.SQL(
                # OFFSET 0: what a row says is written out once, not once for each value.
                "SELECT count(*) FROM (SELECT lower(concat_ws(' ', {})) AS said FROM {} t "
                "OFFSET 0) t WHERE EXISTS (SELECT FROM unnest(%s::text[]) v "
                "WHERE strpos(t.said, v) > 0)"
            ).format(sql.SQL(", ").join(columns), sql.Identifier(schema, table)),
            [[value.lower() for value in _written(values)]],
        )
        row = await counted.fetchone()
        if row and row[0]:
            searched.left[f"{schema}.{table}"] = row[0]


async def _columns(connection: Connection, schema: str, table: str) -> list[sql.Composed]:
    """Those of a table that can hold a text. Bytes are dead letters (JSON in ASCII), the log, which
    is read as such, or numbers of ours."""
    cursor = await connection.execute(
        "SELECT a.attname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' "
        "WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND a.attnum > 0 "
        "AND NOT a.attisdropped AND coalesce(e.typcategory, t.typcategory) NOT IN ('B', 'N', 'V') "
        "AND t.typname NOT IN ('bytea', 'halfvec', 'vector', 'timestamptz', 'date')",
        [schema, table],
    )
    columns = [
        sql.SQL("t.{}::text").format(sql.Identifier(name)) for (name,) in await cursor.fetchall()
    ]
    if (schema, table) == ("penstock", "dead_letters"):
        columns.append(sql.SQL("convert_from({}, 'LATIN1')").format(sql.Identifier("t", "payload")))
    return columns


def _written(values: Sequence[str]) -> list[str]:
    """As they are, and as JSON in ASCII writes them."""
    return sorted({form for value in values for form in (value, json.dumps(value)[1:-1])})


def _search_files(folder: Path, values: Sequence[str], searched: Searched) -> None:
    needles = Needles(values)
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or _is_program(path, folder):
            continue
        try:
            size = path.stat().st_size
            found = needles.count(path) if size else 0
        except FileNotFoundError:
            continue  # the server removed it meanwhile
        searched.files += 1
        searched.bytes += size
        if found:
            kind = _kind(path.relative_to(folder))
            searched.bytes_left[kind] = searched.bytes_left.get(kind, 0) + found


def _is_program(path: Path, folder: Path) -> bool:
    return path.relative_to(folder).parts[0] == "programs"


def _kind(path: Path) -> str:
    parts = path.parts
    return "/".join(parts[:2]) if parts[0] == "pgdata" and len(parts) > 2 else parts[0]


class Needles:
    """Many values looked for in one pass: by the hash of their first four bytes, then exactly."""

    def __init__(self, values: Sequence[str]) -> None:
        self._by_start: dict[int, list[bytes]] = {}
        for value in {one.encode() for one in _written(values)}:
            if len(value) >= _WIDTH:
                start = int.from_bytes(value[:_WIDTH], "little")
                self._by_start.setdefault(start, []).append(value)
        starts = np.fromiter(self._by_start, np.uint32, len(self._by_start))
        self._table = np.zeros(1 << 16, bool)
        self._table[_hashed(starts)] = True
        self._longest = max((len(v) for vs in self._by_start.values() for v in vs), default=0)

    def count(self, path: Path) -> int:
        """How often any of them stands in a file."""
        found = 0
        left = b""
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                data = left + block
                # What begins behind this may end in the next block.
                ends = max(0, len(data) - self._longest)
                found += self._count(data, ends)
                left = data[ends:]
        return found + self._count(left, len(left))

    def stand_in(self, data: bytes) -> bool:
        """Whether any of them stands in there."""
        return self._count(data, len(data)) > 0

    def _count(self, data: bytes, ends: int) -> int:
        """Those that begin before ``ends``."""
        found = 0
        for shift in range(_WIDTH):
            if len(data) < shift + _WIDTH:
                break
            words = np.frombuffer(data, "<u4", (len(data) - shift) // _WIDTH, shift)
            places = np.flatnonzero(self._table[_hashed(words)])
            for place, word in zip(places.tolist(), words[places].tolist(), strict=True):
                at = place * _WIDTH + shift
                if at < ends:
                    found += sum(data.startswith(v, at) for v in self._by_start.get(word, ()))
        return found


def _hashed(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (words * np.uint32(2_654_435_761)) >> np.uint32(16)


def mend_server_log(folder: Path, values: Sequence[str]) -> bool:
    """What the server logged may repeat a value of a refused row: such a file is emptied."""
    needles = Needles(values)
    mended = False
    for path in (folder / "server.log", folder / "server.log.1"):
        if path.exists() and needles.count(path):
            with path.open("r+b") as file:
                file.truncate(0)
            mended = True
    return mended
