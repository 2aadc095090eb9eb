"""What a project database needs of its server, and what is known about it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from penstock.database.connect import connect, translated
from penstock.database.queries import load_queries
from penstock.errors import ConfigError

MINIMUM_POSTGRES = 15
MINIMUM_VECTOR = (0, 8)

_QUERIES = load_queries(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What ``check`` and ``status`` show of a project database.

    ``folder_bytes`` and ``free_bytes`` are known only of a server on this machine.
    """

    server_version: str
    vector_version: str | None
    database_bytes: int
    wal_level: str
    max_connections: int
    connections: int
    started_at: datetime
    folder_bytes: int | None = None
    free_bytes: int | None = None


async def probe(dsn: str, *, data_dir: Path | None = None) -> DatabaseFacts:
    """Look at a database without changing anything; ``data_dir`` is that of an embedded one."""
    async with await connect(dsn, application_name="penstock check") as connection:
        facts = await _fetch(connection, "facts")
    if data_dir is None:
        return DatabaseFacts(**facts)
    return DatabaseFacts(
        **facts,
        folder_bytes=_size(data_dir),
        free_bytes=shutil.disk_usage(data_dir).free,
    )


async def expect_requirements(connection: psycopg.AsyncConnection[Any]) -> None:
    """Raise a `ConfigError` that says in one sentence what the server or our user lacks."""
    facts = await _fetch(connection, "look")
    complaint = (
        _complain_of_server(facts) or _complain_of_extension(facts) or _complain_of_rights(facts)
    )
    if complaint is not None:
        raise ConfigError(complaint, **facts)


def _complain_of_server(facts: Mapping[str, Any]) -> str | None:
    if facts["version_number"] < MINIMUM_POSTGRES * 10000:
        return (
            f"expected PostgreSQL {MINIMUM_POSTGRES} or later, found {facts['version']}: upgrade "
            "the server or use `database: embedded`"
        )
    if facts["standby"]:
        return (
            "expected a database that can be written, found a standby: connect to the primary "
            "(target_session_attrs=read-write finds it)"
        )
    if facts["encoding"] != "UTF8":
        return (
            f"expected the database {facts['database']!r} in UTF8, found {facts['encoding']}: "
            "create it with ENCODING 'UTF8' TEMPLATE template0"
        )
    return None


def _complain_of_extension(facts: Mapping[str, Any]) -> str | None:
    wanted = ".".join(map(str, MINIMUM_VECTOR))
    installed, available = facts["vector_installed"], facts["vector_available"]
    if installed is not None:
        if _version(installed) < MINIMUM_VECTOR:
            return (
                f"expected the extension vector {wanted} or later in {facts['database']!r}, found "
                f"{installed}: install pgvector {wanted} and run ALTER EXTENSION vector UPDATE"
            )
        if not facts["vector_visible"]:
            return (
                f"the extension vector is in the schema {facts['vector_schema']!r}, which is not on"
                f" the search path: run ALTER ROLE {_identifier(facts['user'])} SET search_path = "
                f'"$user", public, {_identifier(facts["vector_schema"])}'
            )
        return None
    if available is None:
        return f"the server has no extension vector: install pgvector {wanted} or later there"
    if _version(available) < MINIMUM_VECTOR:
        return (
            f"expected the extension vector {wanted} or later, the server has {available}: install "
            f"pgvector {wanted} or later there"
        )
    if not facts["superuser"] and not facts["vector_trusted"]:
        return (
            f"the user {facts['user']!r} may not create the extension vector: let an administrator "
            f"run CREATE EXTENSION vector in {facts['database']!r}"
        )
    return None


def _complain_of_rights(facts: Mapping[str, Any]) -> str | None:
    user = _identifier(facts["user"])
    if not facts["may_create"]:
        if facts["has_schema"]:
            return (
                f"the user {facts['user']!r} may not create tables in the schema penstock: connect "
                "as its owner"
            )
        return (
            f"the user {facts['user']!r} may not create schemas in {facts['database']!r}: let an "
            f"administrator run GRANT CREATE ON DATABASE {_identifier(facts['database'])} TO {user}"
        )
    if facts["has_reader"] and not facts["may_grant_reader"]:
        return (
            f"the user {facts['user']!r} may not act as the role penstock_reader: let an "
            f"administrator run GRANT penstock_reader TO {user}"
        )
    if not facts["has_reader"] and not (facts["superuser"] or facts["may_create_roles"]):
        return (
            f"the user {facts['user']!r} may not create the role penstock_reader: let an "
            "administrator run CREATE ROLE penstock_reader NOLOGIN NOBYPASSRLS; "
            f"GRANT penstock_reader TO {user}"
        )
    return None


async def _fetch(connection: psycopg.AsyncConnection[Any], query: str) -> dict[str, Any]:
    with translated():
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_QUERIES[query])
            row = await cursor.fetchone()
    assert row is not None
    return row


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _identifier(name: str) -> str:
    """A name as a person can paste it into psql."""
    return psycopg.sql.Identifier(name).as_string()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:  # a file of the running server that is gone by now, or not for our eyes
            continue
    return total
