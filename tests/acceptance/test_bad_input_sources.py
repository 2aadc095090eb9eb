"""Wrong databases: each fault is named in a sentence that says what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from tests.acceptance.conftest import Home

SHOP = """
CREATE TABLE products (id int PRIMARY KEY, name text, price numeric);
INSERT INTO products VALUES (1, 'tent', 99), (2, 'lamp', 19);
CREATE TABLE loose (a int);
"""


@pytest.fixture
def shop(source_url: str) -> str:
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute(SHOP)
    return source_url


def source(dsn: str, tables: str = "[products]") -> str:
    return f'  shop: {{type: postgres, dsn: "{dsn}", heartbeat: 0.1, tables: {tables}}}\n'


def other(dsn: str, **changed: object) -> str:
    return make_conninfo("", **{**conninfo_to_dict(dsn), **changed})  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_source_unreachable(home: Home, database_url: str) -> None:
    """`check` names it; `run --once` tries for some seconds and gives up with the sentence."""
    home.project(database_url, source(f"postgresql://me:secret@127.0.0.1:{free_port()}/shop"))
    checked = home.run("check")
    assert checked.code == 1
    assert "expected to reach the server of source 'shop'" in checked.output
    assert "start it, or mend the DSN" in checked.output
    said = home.run("run", "--once").sentence()
    assert "gave up on source shop: expected to reach the server" in said
    assert "secret" not in said + checked.output


def test_wrong_password_and_wrong_database(home: Home, database_url: str, shop: str) -> None:
    """What the server refuses is told with what to mend, and the password is not."""
    home.project(
        database_url,
        source(other(shop, password="wrongsecret")).replace("shop:", "pass:")
        + source(other(shop, dbname="nowhere")),
    )
    checked = home.run("check")
    assert checked.code == 1
    assert "give the right user and password in the DSN" in checked.output
    assert "give the right database and user in the DSN" in checked.output
    assert "wrongsecret" not in checked.output
    said = home.run("run", "--once").sentence()
    assert "expected to be let in by the server of source" in said
    assert "wrongsecret" not in said


def test_missing_rights(home: Home, database_url: str, shop: str) -> None:
    """A role that may neither read nor replicate is told which rights to grant."""
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS nobody_here")
        connection.execute("CREATE ROLE nobody_here LOGIN PASSWORD 'x'")
    home.project(database_url, source(other(shop, user="nobody_here", password="x")))
    checked = home.run("check")
    assert checked.code == 1
    assert "GRANT SELECT" in checked.output
    assert "REPLICATION" in checked.output
    home.run("run", "--once").sentence()
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("DROP ROLE nobody_here")


def test_table_without_key_and_unknown_table(home: Home, database_url: str, shop: str) -> None:
    """Each is named with the tables that are there, or what to add."""
    home.project(database_url, source(shop, "[products, loose, flights]"))
    checked = home.run("check")
    assert checked.code == 1
    assert "expected a key on table 'public.loose'" in checked.output
    assert "ADD PRIMARY KEY" in checked.output or "add a primary key" in checked.output
    assert "expected a table 'flights' in source 'shop'" in checked.output
    assert "'public.products'" in checked.output
    assert "expected a table 'flights'" in home.run("run", "--once").sentence()


def test_unknown_columns(home: Home, database_url: str, shop: str) -> None:
    """Searched, shown and title are compared with the table, by `check` and before `run` starts."""
    home.project(
        database_url,
        source(shop, "{products: {searched: [nam], shown: [prise], title: '{titel}'}}"),
    )
    checked, ran = home.run("check", "--json"), home.run("run", "--once")
    assert checked.code == 1
    messages = " ".join(f["message"] for f in checked.json["findings"] if f["level"] == "error")
    said = ran.sentence(2)
    for text in (messages, said):
        assert "got 'nam': did you mean 'name'?" in text
        assert "got 'prise': did you mean 'price'?" in text
        assert "got 'titel': it has id, name, price" in text


def test_wal_level_not_logical(home: Home, database_url: str, replica_url: str) -> None:
    """A server that does not log for replication is told how to."""
    home.project(database_url, source(replica_url))
    checked = home.run("check")
    assert checked.code == 1
    assert "expected wal_level 'logical', got 'replica'" in checked.output
    assert "ALTER SYSTEM SET wal_level = logical" in checked.output
    assert "wal_level" in home.run("run", "--once").sentence()


@pytest.fixture
def replica_url(home: Home) -> Iterator[str]:
    """A source on a server with the wal_level that PostgreSQL has by default."""
    import asyncio

    from penstock.database.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(
        home.folder / "replica", settings={"wal_level": "replica", "fsync": "off"}
    )
    dsn = asyncio.run(server.start())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SHOP)
    yield dsn
    asyncio.run(server.stop())


def test_broken_source_beside_a_good_one(home: Home, database_url: str, shop: str) -> None:
    """`run` says loudly what stopped and goes on with the rest; Ctrl-C ends it with 130."""
    home.project(
        database_url,
        source(shop, "[flights]")
        + "  documents: {type: files, path: ./documents, heartbeat: 0.1}\n",
    )
    (home.documents / "tents.md").write_text("# Tents\nThe yellow tent is waterproof.\n")
    running = home.start("run")
    running.wait_for("the rest goes on")
    assert "expected a table 'flights' in source 'shop'" in running.errors
    found = home.run("search", "tent", "--json").json
    assert [passage["key"] for passage in found["passages"]] == ["tents.md"]
    ended = running.signal().end()
    assert "stopped" in ended.sentence(130)


def test_database_of_the_project_unreachable(home: Home) -> None:
    """Every command says which server it could not reach, and what to do."""
    unreachable = f"postgresql://me:secret@127.0.0.1:{free_port()}/penstock"
    home.project(unreachable, more="run: {patience: 0s}\n")
    for command in (["run"], ["status"], ["ask", "anything"]):
        said = home.run(*command).sentence()
        assert "expected" in said
        assert "127.0.0.1" in said
        assert "secret" not in said
        assert len(said.splitlines()) == 1


def test_port_taken(home: Home, database_url: str) -> None:
    """The port of metrics and health belongs to another: the sentence names it and the setting."""
    home.project(database_url)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        home.write(home.file.read_text().replace("port: 0", f"port: {port}"))
        checked = home.run("check")
        assert f"127.0.0.1:{port} cannot be used" in checked.output
        said = home.run("run").sentence(2)
        assert f"expected 127.0.0.1:{port} to be free" in said
        assert "set server.port" in said
