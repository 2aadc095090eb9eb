"""Rows of live tables as applications get them: what is asked, and what nobody may see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from penstock.keys import Scope, mint
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.records import Column, Schema
from penstock.settings import Settings
from penstock.stores.base import ApplyRows, TableSnapshot, TableWanted
from penstock.stores.postgres import table_rows
from penstock.stores.postgres.search import PostgresSnapshot
from penstock.testing.knowledge import store
from penstock.testing.permissions import row

ID = Column("id", "bigint", key=True)
TICKETS = Schema("crm", "public.tickets", (ID, Column("subject", "text"), Column("owner", "text")))
ORDERS = Schema(
    "crm",
    "public.orders",
    (ID, Column("city", "text"), Column("paid", "boolean"), Column("note", "json")),
)
SECRETS = Schema("crm", "public.secrets", (ID, Column("pin", "text")))
UNSAID = Schema("crm", "public.unsaid", (ID, Column("pin", "text")))
STAFF = Schema("crm", "public.staff", (ID, Column("name", "text"), Column("salary", "int")))
HERE, THERE = (Schema("crm", f"{name}.twice", (ID, Column("x", "text"))) for name in "ab")


@pytest.fixture
async def project(database_url: str) -> AsyncIterator[Project]:
    """As it is when its source has been loaded."""
    permissions: dict[str, Any] = {"type": "columns", "users": ["owner"], "always": ["group:boss"]}
    tables: dict[str, Any] = {
        "tickets": {"permissions": permissions},
        "orders": {"permissions": "open"},
        "secrets": {"permissions": "closed"},
        "unsaid": {},
        "staff": {"permissions": "open", "searched": ["name"], "shown": ["id"]},
        "a.twice": {"permissions": "open"},
        "b.twice": {"permissions": "open"},
    }
    crm = {"type": "postgres", "dsn": "postgresql://nowhere.invalid/x", "tables": tables}
    settings = Settings.model_validate(
        {
            "project": "rows",
            "database": database_url,
            "knowledge": {"embedder": "constant"},
            "sources": {"crm": crm},
        }
    )
    async with open_project(settings=settings) as opened:
        await store(
            opened.store,
            ApplyRows(
                [
                    row(TICKETS, 1, "late", "ada"),
                    row(TICKETS, 2, "lost", "bob"),
                    row(TICKETS, 3, "late", None),
                    *(row(ORDERS, n, "Bonn" if n % 2 else None, "t", "{}") for n in range(1, 8)),
                    row(SECRETS, 1, "1234"),
                    row(UNSAID, 1, "1234"),
                    row(STAFF, 1, "Ada", "9000"),
                    row(HERE, 1, "a"),
                    row(THERE, 1, "b"),
                ]
            ),
        )
        yield opened


@asynccontextmanager
async def calling(
    project: Project, user: str | None = None, *groups: str, scope: Scope = Scope.TABLES
) -> AsyncIterator[httpx2.AsyncClient]:
    who = Principal(user, groups)
    token, key = mint("t", frozenset({Scope.ASK, scope}), project.clock.now(), principal=who)
    await project.keys().add(key)
    app = project.application()
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://localhost",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[None]:
    """What a server does around an application's requests."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    up = asyncio.Event()

    async def send(message: Any) -> None:
        assert message["type"] != "lifespan.startup.failed", message
        up.set()

    await told.put({"type": "lifespan.startup"})
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(app(scope, told.get, send))
    await up.wait()
    yield
    await told.put({"type": "lifespan.shutdown"})
    await running


async def ids(client: httpx2.AsyncClient, place: str) -> list[int]:
    answer = await client.get(f"/v1/tables/crm/{place}")
    assert answer.status_code == 200, answer.text
    return [row["values"]["id"] for row in answer.json()["rows"]]


async def test_rows_are_found_by_equality(project: Project) -> None:
    async with calling(project) as client:
        assert await ids(client, "orders?city=Bonn&paid=true") == [1, 3, 5, 7]
        assert await ids(client, "public.orders?id=4") == [4]
        assert await ids(client, "orders?city=' OR true --") == []
        found = (await client.get("/v1/tables/crm/orders?limit=2")).json()
        assert [row["values"]["id"] for row in found["rows"]] == [1, 2]
        assert found["more"]
        assert found["rows"][0]["values"] == {"id": 1, "city": "Bonn", "paid": True, "note": {}}
        assert found["table"] == "public.orders"


async def test_g7_rows_are_for_those_whom_their_columns_name(project: Project) -> None:
    """Also where somebody asks for exactly the row of another, and through the database alone."""
    for who, mine in (
        ((None,), []),
        (("ada",), [1]),
        (("bob",), [2]),
        (("eve", "boss"), [1, 2, 3]),
    ):
        async with calling(project, *who) as client:
            assert await ids(client, "tickets") == mine
            assert await ids(client, "tickets?id=2&owner=bob") == [n for n in mine if n == 2]
        rule = project.services().tables.rule("crm", "public.tickets")
        async with project.snapshots.snapshot(Principal(who[0], tuple(who[1:]))) as snapshot:
            assert isinstance(snapshot, PostgresSnapshot)
            assert isinstance(snapshot, TableSnapshot)
            for given, role in ((None, "penstock_reader"), (rule, None)):  # each wall alone
                if role is None:
                    await snapshot.connection.execute("RESET ROLE")
                wanted = TableWanted("crm", "public.tickets", ["id"], {}, 10, given)
                found = await snapshot.table_rows(wanted)
                assert found is not None
                assert [row.values["id"] for row in found.rows] == mine


async def test_g6_a_snapshot_is_the_same_one_after_rows_were_read(project: Project) -> None:
    """Rows are read within a savepoint, whose end is not the snapshot's."""
    said = (
        "SELECT current_user::text, penstock.tenant(), current_setting('transaction_isolation'), "
        "now()"
    )
    async with project.snapshots.snapshot(Principal("ada", ())) as snapshot:
        assert isinstance(snapshot, PostgresSnapshot)
        assert isinstance(snapshot, TableSnapshot)
        [before] = await (await snapshot.connection.execute(said)).fetchall()
        await snapshot.table_rows(TableWanted("crm", "public.tickets", ["id"], {}, 10, None))
        [after] = await (await snapshot.connection.execute(said)).fetchall()
    assert after == before
    assert before[:3] == ("penstock_reader", "default", "repeatable read")


async def test_g7_a_closed_table_is_like_one_that_is_not_there(project: Project) -> None:
    """Closed, left unsaid in a project with permissions, of another source, or nowhere."""
    async with calling(project, "ada", "boss") as client:
        for place in ("crm/secrets", "crm/unsaid", "crm/nothing", "erp/orders", "crm/pg_class"):
            answer = await client.get(f"/v1/tables/{place}?pin=1234")
            source, table = place.split("/")
            assert answer.status_code == 404
            said = answer.json()["detail"]
            assert said.endswith(f"may see, found none called {table!r} in {source!r}")


@pytest.mark.parametrize(
    ("place", "status", "said"),
    [
        ("orders?town=Bonn", 400, "expected columns of public.orders (id, city, paid, note)"),
        ("staff?salary=9000", 400, "expected columns of public.staff (id, name), got 'salary'"),
        ("orders?_penstock_tenant=default", 400, "got '_penstock_tenant'"),
        ("orders?id=x", 400, "expected values that the columns can hold"),
        ("orders?note=1", 400, "expected values that the columns can hold"),
        ("orders?id=99999999999999999999999", 400, "expected values that the columns can hold"),
        ("orders?id=1&id=2", 400, "expected each column once"),
        ("orders?limit=0", 422, "limit: "),
        ("orders?limit=1001", 422, "limit: "),
        ("twice", 400, "means a.twice, b.twice: name it whole"),
        ("orders?city=%00", 200, '"rows":[]'),
    ],
)
async def test_what_cannot_be_asked_is_told(
    project: Project, place: str, status: int, said: str
) -> None:
    """In a sentence; and the connection of the snapshot stays in use."""
    async with calling(project) as client:
        assert await ids(client, "orders?id=1") == [1]
        before = project.pool.get_stats()["connections_num"]
        answer = await client.get(f"/v1/tables/crm/{place}")
        assert project.pool.get_stats()["connections_num"] == before
        assert answer.status_code == status, answer.text
        assert said in (answer.text if status == 200 else answer.json()["detail"])


async def test_what_takes_too_long_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that somebody holds; the next one is read."""
    monkeypatch.setattr(table_rows, "_PATIENCE", table_rows._PATIENCE.replace("10s", "50ms"))
    async with calling(project) as client, project.pool.connection() as other, other.transaction():
        await other.execute("LOCK TABLE crm.orders IN ACCESS EXCLUSIVE MODE")
        answer = await client.get("/v1/tables/crm/orders")
        assert answer.status_code == 400
        assert "expected rows that are found within 10 seconds" in answer.json()["detail"]
        assert await ids(client, "staff") == [1]


async def test_a_column_that_is_not_shown_is_not_there(project: Project) -> None:
    async with calling(project) as client:
        [found] = (await client.get("/v1/tables/crm/staff")).json()["rows"]
    assert found["values"] == {"id": 1, "name": "Ada"}


async def test_g7_an_assistant_reads_tables_with_the_scope(project: Project) -> None:
    """Through /mcp, with the official client; a key that may only ask is refused."""
    asked = {"source": "crm", "table": "tickets", "equal": {"owner": "ada"}}
    for scope, refused in ((Scope.TABLES, False), (Scope.EMBED, True)):
        app = project.application()
        who = Principal("ada")
        token, key = mint("t", frozenset({Scope.ASK, scope}), project.clock.now(), principal=who)
        await project.keys().add(key)
        async with (
            serving(app),
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=app),
                base_url="http://localhost",
                headers={"Authorization": f"Bearer {token}"},
            ) as http,
            Client(streamable_http_client("http://localhost/mcp", http_client=http)) as client,
        ):
            told = await client.call_tool("query_table", asked)
            assert told.is_error is refused
            if refused:
                assert "expected a key with the scope 'tables'" in str(told.content)
                continue
            assert told.structured_content is not None
            [found] = told.structured_content["rows"]
            assert found["values"]["subject"] == "late"
            nothing = {**asked, "equal": {"owner": None}}
            told = await client.call_tool("query_table", nothing)
            assert told.structured_content is not None
            assert told.structured_content["rows"] == []
