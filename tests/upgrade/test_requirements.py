"""A server of the user's own: what it lacks is said in one sentence, and nothing is made before."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.database.connect import connect
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.database.requirements import (
    _complain_of_extension,
    _complain_of_server,
    probe,
)
from penstock.errors import ConfigError

PASSWORD = "quite"


@pytest.fixture(scope="module")
def administrator() -> Iterator[str]:
    """The DSN of the superuser of a server on which no project was ever made."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "external", settings={"fsync": "off"})
    try:
        yield asyncio.run(postgres.start())
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def server(administrator: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A superuser's session in a fresh database ``external``, with a user ``app``."""
    async with await connect(administrator) as connection:
        await connection.execute("CREATE DATABASE external")
        await connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        async with await connect(other(administrator)) as inside:
            yield inside
        await connection.execute("DROP DATABASE external WITH (FORCE)")
        await connection.execute("DROP ROLE IF EXISTS penstock_reader")
        await connection.execute("DROP ROLE app")


def other(administrator: str, user: str | None = None) -> str:
    options = {"user": user, "password": PASSWORD} if user else {}
    return psycopg.conninfo.make_conninfo(administrator, dbname="external", **options)


async def test_a_user_with_few_rights_is_enough(
    server: psycopg.AsyncConnection[Any], administrator: str
) -> None:
    """No superuser is needed: CREATE on the database, CREATEROLE, and the extension."""
    await server.execute("CREATE EXTENSION vector")
    await server.execute("GRANT CREATE ON DATABASE external TO app")
    await server.execute("ALTER ROLE app CREATEROLE")
    assert await migrate(other(administrator, "app"))
    async with await connect(other(administrator, "app")) as connection:
        await connection.execute("INSERT INTO penstock.models (name, dimensions) VALUES ('m', 3)")
        await connection.execute("SET ROLE penstock_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("DELETE FROM penstock.models")


async def test_each_missing_right_is_named_with_what_grants_it(
    server: psycopg.AsyncConnection[Any], administrator: str
) -> None:
    """Following the advice of each message, one after the other, leads to a migrated database."""
    for sentence, mend in (
        ("may not create the extension vector", "CREATE EXTENSION vector"),
        ("may not create schemas", 'GRANT CREATE ON DATABASE "external" TO "app"'),
        (
            "may not create the role penstock_reader",
            "CREATE ROLE penstock_reader NOLOGIN NOBYPASSRLS",
        ),
        ("may not act as the role penstock_reader", 'GRANT penstock_reader TO "app"'),
    ):
        with pytest.raises(ConfigError) as caught:
            await migrate(other(administrator, "app"))
        assert sentence in str(caught.value)
        assert mend in str(caught.value)
        assert PASSWORD not in str(caught.value)
        await server.execute(mend.encode())
    assert await migrate(other(administrator, "app"))


async def test_an_extension_off_the_search_path_is_said(
    server: psycopg.AsyncConnection[Any], administrator: str
) -> None:
    """Hosted servers put extensions into a schema of their own."""
    await server.execute("CREATE SCHEMA extensions")
    await server.execute("CREATE EXTENSION vector SCHEMA extensions")
    with pytest.raises(ConfigError, match="schema 'extensions', which is not on the search path"):
        await migrate(other(administrator))


async def test_a_schema_of_somebody_else_is_said(
    server: psycopg.AsyncConnection[Any], administrator: str
) -> None:
    """The schema penstock exists and belongs to another user."""
    await server.execute("CREATE EXTENSION vector")
    await server.execute("CREATE SCHEMA penstock")
    await server.execute("GRANT CREATE ON DATABASE external TO app")
    with pytest.raises(ConfigError, match="may not create tables in the schema penstock"):
        await migrate(other(administrator, "app"))


FACTS: Mapping[str, Any] = {
    "version_number": 180004,
    "version": "18.4",
    "standby": False,
    "encoding": "UTF8",
    "database": "d",
    "user": "u",
    "superuser": True,
    "vector_installed": None,
    "vector_available": "0.8.5",
    "vector_trusted": False,
    "vector_visible": True,
    "vector_schema": None,
}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"version_number": 140012, "version": "14.12"}, "PostgreSQL 15 or later, found 14.12"),
        ({"standby": True}, "found a standby"),
        ({"encoding": "LATIN1"}, "in UTF8, found LATIN1"),
        ({"vector_available": None}, "no extension vector"),
        ({"vector_available": "0.7.4"}, "the server has 0.7.4"),
        ({"vector_installed": "0.7.4"}, "ALTER EXTENSION vector UPDATE"),
        ({}, None),
        ({"vector_installed": "0.10.0"}, None),
    ],
)
def test_an_old_server_is_said(facts: Mapping[str, Any], sentence: str | None) -> None:
    """Versions are compared as numbers, and the message says what was found."""
    all_facts = {**FACTS, **facts}
    complaint = _complain_of_server(all_facts) or _complain_of_extension(all_facts)
    assert (complaint is None) == (sentence is None)
    assert (sentence or "") in (complaint or "")


async def test_what_is_known_of_a_database(administrator: str, database_url: str) -> None:
    """Versions and sizes for `check` and `status`."""
    facts = await probe(database_url)
    assert facts.server_version.startswith("18")
    assert facts.vector_version is not None
    assert facts.database_bytes > 1_000_000
    assert facts.connections >= 1
    assert facts.free_bytes is None
    assert (await probe(administrator)).vector_version is None
