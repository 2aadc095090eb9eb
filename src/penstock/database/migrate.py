"""Bring a project database to the schema of this version: numbered SQL files, applied once each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from penstock.boundaries import Boundary, reach
from penstock.database.connect import connect, translated
from penstock.database.requirements import expect_requirements
from penstock.errors import FatalError

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = int.from_bytes(hashlib.sha256(b"penstock.migrate").digest()[:8], "big", signed=True)
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """What tells whether an applied file was changed afterwards."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(folder: Path = MIGRATIONS) -> Sequence[Migration]:
    """All migrations in ``folder``, in order: numbered 1, 2, 3, ... without gaps."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise FatalError(f"expected a migration named NNNN_name.sql, found {path.name!r}")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise FatalError(f"expected migrations numbered 1, 2, 3, ... in {folder}, found {numbers}")
    return found


async def migrate(dsn: str, *, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing, each file in its own transaction; returns the names of those applied.

    Safe to call by several processes at once and again at any time. Raises `ConfigError` when the
    server or the rights do not suffice, `FatalError` when the database was made by a newer Penstock
    or an applied file differs from ours.
    """
    ours = read_migrations() if migrations is None else migrations
    connection = await connect(dsn, application_name="penstock migrate")
    applied = []
    with translated():
        try:
            await connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
            done = await _applied(connection)
            _compare(ours, done)
            missing = [migration for migration in ours if migration.number not in done]
            if missing:
                await expect_requirements(connection)
            for migration in missing:
                await _apply(connection, migration)
                applied.append(f"{migration.number:04}_{migration.name}")
        finally:
            await connection.close()
    return applied


async def _applied(
    connection: psycopg.AsyncConnection[Any],
) -> Mapping[int, tuple[str, str]]:
    # Not to_regclass, which fails in a schema that our user may not look into.
    cursor = await connection.execute(
        "SELECT 1 FROM pg_tables WHERE schemaname = 'penstock' AND tablename = 'migrations'"
    )
    if await cursor.fetchone() is None:
        return {}
    cursor = await connection.execute(
        "SELECT number, name, sha256 FROM penstock.migrations ORDER BY number"
    )
    return {number: (name, digest) for number, name, digest in await cursor.fetchall()}


def _compare(ours: Sequence[Migration], done: Mapping[int, tuple[str, str]]) -> None:
    known = {migration.number: migration for migration in ours}
    for number, (name, digest) in done.items():
        migration = known.get(number)
        if migration is None:
            raise FatalError(
                f"the database was made by a newer Penstock (it has schema {max(done):04}, this "
                f"version knows up to {max(known, default=0):04}): use the version that knows "
                f"{number:04}_{name}, or a later one",
                schema=max(done),
            )
        if migration.sha256 != digest:
            raise FatalError(
                f"migration {number:04}_{name} was applied with other contents than this version "
                "has: use the version that made the database, or a released one",
                number=number,
            )


async def _apply(connection: psycopg.AsyncConnection[Any], migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute("SET LOCAL client_min_messages = warning")
        await connection.execute(migration.text.encode())
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS penstock.migrations (number integer PRIMARY KEY,"
            " name text NOT NULL, sha256 text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        await connection.execute(
            "INSERT INTO penstock.migrations (number, name, sha256) VALUES (%s, %s, %s)",
            [migration.number, migration.name, migration.sha256],
        )
        reach(Boundary.MIGRATE, "before")
    reach(Boundary.MIGRATE, "after")
