"""What is known of people beside their traits, from the sources to the one who asks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.acceptance.test_profiles import carried
from tests.acceptance.test_profiles_api import calling

from penstock import wiring
from penstock.errors import ConfigError
from penstock.operate.profiles import desk
from penstock.operate.segments import look_at_segments, segment_events, segment_members, segments_of
from penstock.principals import Principal
from penstock.project import Project
from penstock.settings import Settings
from penstock.stores.postgres.search import PostgresSnapshot

NOW = datetime.now(UTC)
CUSTOMER: dict[str, Any] = {
    "tables": {
        "crm.contacts": {
            "identifiers": {"email": "email", "crm": "id"},
            "traits": {"name": "name", "city": "city", "mobile": "mobile"},
        },
        "crm.consents": {"identifiers": {"crm": "contact"}, "time": "said"},
        "crm.orders": {"identifiers": {"email": "email"}, "time": "ordered"},
        "crm.reservations": {"identifiers": {"crm": "contact"}, "time": "departs"},
    },
    "computed": {
        "orders_90d": {"table": "crm.orders", "value": "count", "within": "90d"},
        "lifetime_value": {"table": "crm.orders", "value": "sum(amount)"},
        "paid": {"table": "crm.orders", "value": "sum(amount)", "where": {"paid": True}},
        "last_order": {"table": "crm.orders", "value": "last"},
        "favourite_route": {"table": "crm.orders", "value": "most_frequent(route)"},
    },
    "lists": {
        "reservations": {
            "table": "crm.reservations",
            "columns": ["flight", "departs"],
            "where": {"status": "open"},
            "order": "departs",
            "limit": 2,
        }
    },
    "consent": {
        "table": "crm.consents",
        "purpose": "purpose",
        "granted": "granted",
        "needed": {
            "mobile": ["api", "prompt"],
            "lifetime_value": "training",
            "reservations": ["prompt", "api"],
        },
    },
    "segments": {"frequent": "orders_90d >= 2 and city = 'Berlin'"},
}

TABLES = (
    "CREATE TABLE contacts (id int PRIMARY KEY, name text, email text, city text, mobile text)",
    """CREATE TABLE consents (id int PRIMARY KEY, contact int, purpose text, granted bool,
       said timestamptz)""",
    """CREATE TABLE orders (id int PRIMARY KEY, email text, amount numeric(10,2), paid bool,
       route text, ordered timestamptz)""",
    """CREATE TABLE reservations (id int PRIMARY KEY, contact int, flight text, status text,
       departs timestamptz)""",
)


def ago(days: float) -> str:
    return (NOW - timedelta(days=days)).isoformat()


@pytest.fixture
async def crm(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        for statement in TABLES:
            await connection.execute(statement)
        yield connection


def settings(
    folder: Path, database: str, source: str, customer: Any = None, tables: Any = None
) -> Settings:
    return Settings.model_validate(
        {
            "project": f"details{os.getpid()}",
            "database": database,
            "data": str(folder / "data"),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "crm": {
                    "type": "postgres",
                    "dsn": source,
                    "heartbeat": 0.1,
                    "tables": tables or ["contacts", "consents", "orders", "reservations"],
                }
            },
            "profiles": {"customer": customer or CUSTOMER},
        }
    )


async def fill(crm: psycopg.AsyncConnection) -> None:
    await crm.execute(
        "INSERT INTO contacts VALUES (1, 'Ada', 'ada@x.org', 'Berlin', '0170'), "
        "(2, 'Grace', 'grace@x.org', 'Bonn', '0171')"
    )
    for number, (email, amount, paid, route, days) in enumerate(
        [
            ("ada@x.org", "10.50", True, "BER-VIE", 1),
            ("Ada@X.org", "20.00", False, "BER-VIE", 30),
            ("ada@x.org", "100", True, "BER-ROM", 400),
            ("grace@x.org", "7", True, None, 2),
        ]
    ):
        await crm.execute(
            "INSERT INTO orders VALUES (%s, %s, %s, %s, %s, %s)",
            [number, email, amount, paid, route, ago(days)],
        )
    for number, status, days in ((1, "open", -3), (2, "open", -1), (3, "open", -9), (4, "gone", 0)):
        await crm.execute(
            "INSERT INTO reservations VALUES (%s, 1, %s, %s, %s)",
            [number, f"PS{number}", status, ago(days)],
        )


async def shown(project: Project, who: str = "ada@x.org") -> dict[str, Any]:
    async with calling(project, Principal()) as client:
        answer = await client.get(f"/v1/profiles/customer/{who}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def values(found: dict[str, Any]) -> dict[str, Any]:
    return {name: one["value"] for name, one in found["computed"].items()}


async def test_g11_computed_values_follow_rows_merges_and_splits(
    tmp_path: Path, database_url: str, source_url: str, crm: psycopg.AsyncConnection
) -> None:
    await fill(crm)
    async with carried(settings(tmp_path, database_url, source_url)) as project:
        ada = values(await shown(project))
        assert ada == {
            "orders_90d": 2,
            "paid": "110.5",
            "last_order": ago(1),
            "favourite_route": "BER-VIE",
        }
        # A row that changes and one that goes; columns that no identifier or trait reads.
        await crm.execute("UPDATE orders SET amount = 11, route = 'BER-ROM' WHERE id = 0")
        await crm.execute("DELETE FROM orders WHERE id = 1")
        await project.caught_up(limit_s=30)
        ada = values(await shown(project))
        assert (ada["orders_90d"], ada["paid"], ada["favourite_route"]) == (1, "111", "BER-ROM")
        # Whoever is merged has the rows of both, and gives them back.
        number = await desk(project).merge(["crm/contacts/1", "crm/contacts/2"], by="t", reason="t")
        assert values(await shown(project))["paid"] == "118"
        await desk(project).revoke(number)
        assert values(await shown(project))["paid"] == "111"
        assert values(await shown(project, "grace@x.org"))["paid"] == "7"
        # A row that moves to somebody else.
        await crm.execute("UPDATE orders SET email = 'grace@x.org' WHERE id = 0")
        await project.caught_up(limit_s=30)
        assert values(await shown(project, "grace@x.org"))["paid"] == "18"
        await crm.execute("TRUNCATE orders")
        await project.caught_up(limit_s=30)
        assert values(await shown(project, "grace@x.org")) == {"orders_90d": 0}


async def agree(crm: psycopg.AsyncConnection, project: Project, *rows: tuple[Any, ...]) -> None:
    """Purpose, whether, and how many days ago; of Ada."""
    await crm.execute("TRUNCATE consents")
    for number, (purpose, granted, days) in enumerate(rows):
        await crm.execute(
            "INSERT INTO consents VALUES (%s, 1, %s, %s, %s)",
            [number, purpose, granted, None if days is None else ago(days)],
        )
    await project.caught_up(limit_s=30)


async def told(project: Project) -> dict[str, Any]:
    """What a model is told of Ada."""
    context = await project.context("Which city?", profile="customer:ada@x.org", mode="text")
    return dict(context.rows[0].values)


async def test_g7_consent_decides_what_the_prompt_the_api_and_training_may_use(
    tmp_path: Path, database_url: str, source_url: str, crm: psycopg.AsyncConnection
) -> None:
    """Closed until somebody has agreed, and again when they take it back; each purpose alone."""
    await fill(crm)
    async with carried(settings(tmp_path, database_url, source_url)) as project:
        reader = project.services().profiles

        async def known(purpose: str) -> set[str]:
            found = await reader.read("customer", "ada@x.org", Principal(), purpose=purpose)
            assert found is not None
            said = found.to_dict()
            assert ("mobile" in said["traits"]) is ("mobile" not in said["withheld"])
            return {*said["traits"], *said["computed"], *said["lists"]} & set(
                CUSTOMER["consent"]["needed"]
            )

        assert [await known(purpose) for purpose in ("prompt", "api", "training")] == [set()] * 3
        assert not {"mobile", "lifetime_value", "reservations"} & set(await told(project))
        assert "0170" not in str(await shown(project))
        await agree(crm, project, ("prompt", True, 5), ("training", True, 5))
        assert await known("prompt") == {"mobile", "reservations"}
        assert await known("training") == {"lifetime_value"}
        assert await known("api") == set()
        assert (await told(project))["mobile"] == "0170"
        # What was said last counts, whatever the order of arrival; a no without a time counts too.
        await agree(crm, project, ("prompt", False, 3), ("prompt", True, 5), ("api", True, -2))
        assert [await known(purpose) for purpose in ("prompt", "api", "training")] == [set()] * 3
        await agree(crm, project, ("prompt", True, 1), ("prompt", False, None))
        assert await known("prompt") == set()
        await agree(crm, project, ("prompt", True, 1), ("prompt", False, 1))
        assert await known("prompt") == set()


async def test_a_prompt_has_open_rows_and_what_changed_lately(
    tmp_path: Path, database_url: str, source_url: str, crm: psycopg.AsyncConnection
) -> None:
    """Rows as their live table has them, so many as are wanted; few words for all."""
    await fill(crm)
    async with carried(settings(tmp_path, database_url, source_url)) as project:
        await agree(crm, project, ("prompt", True, 5), ("api", True, 5), ("training", True, 9))
        said = await told(project)
        assert said["orders_90d"] == "2"
        assert [row.split(",")[0] for row in said["reservations"].split("; ")] == [
            "flight PS2",
            "flight PS1",
            "and more",
        ]
        # What is computed of orders for training only keeps their events from the prompt.
        assert "amount" not in str(said)
        assert said["lately"].count("reservations") == 1  # the one that has departed
        await crm.execute("UPDATE reservations SET status = 'gone' WHERE id = 2")
        await crm.execute("DELETE FROM reservations WHERE id = 3")
        await project.caught_up(limit_s=30)
        at_desk = await desk(project).detailed(await desk(project).one("ada@x.org"), "Prompt")
        assert len(at_desk.lists["reservations"].rows) == 1
        [row] = (await shown(project))["lists"]["reservations"]["rows"]
        assert (row["values"]["flight"], row["key"]) == ("PS1", "1")


async def test_g7_a_list_shows_rows_only_to_who_may_see_them(
    tmp_path: Path, database_url: str, source_url: str, crm: psycopg.AsyncConnection
) -> None:
    await fill(crm)
    mine = {"reservations": {"permissions": {"type": "columns", "allow": ["status"]}}}
    customer = {**CUSTOMER, "allow": ["everyone"]}
    del customer["consent"]
    tables = {"contacts": {}, "consents": {}, "orders": {}, **mine}
    chosen = settings(tmp_path, database_url, source_url, customer, tables)
    await crm.execute("UPDATE reservations SET status = 'user:bo' WHERE id = 1")
    customer["lists"] = {"reservations": {"table": "crm.reservations", "columns": ["flight"]}}
    chosen = settings(tmp_path, database_url, source_url, customer, tables)
    async with carried(chosen) as project:
        for user, flights in (("bo", ["PS1"]), ("eve", [])):
            found = await project.services().profiles.read("customer", "ada@x.org", Principal(user))
            assert found is not None
            rows = found.to_dict()["lists"]["reservations"]["rows"]
            assert [row["values"]["flight"] for row in rows] == flights
            # The query alone refuses too, were the database's own policy not there.
            async with project.snapshots.snapshot(Principal(user)) as snapshot:
                assert isinstance(snapshot, PostgresSnapshot)
                await snapshot.connection.execute("RESET ROLE")
                wanted = wiring.details_of(chosen, "customer")
                now = project.clock.now()
                id_ = found.detailed.profile.id
                seen = await snapshot.profile_details("customer", id_, wanted, now)
            rows_seen = seen.lists["reservations"].rows
            assert [row.values["flight"] for row in rows_seen] == flights


async def test_columns_and_names_that_do_not_exist_are_refused_before_anything_starts(
    tmp_path: Path, database_url: str, source_url: str, crm: psycopg.AsyncConnection
) -> None:
    def changed(**parts: Any) -> Settings:
        return settings(tmp_path, database_url, source_url, {**CUSTOMER, **parts})

    computed = {**CUSTOMER["computed"], "x": {"table": "crm.orders", "value": "sum(amuont)"}}
    with pytest.raises(ConfigError, match=r"computed.x to name columns of .*did you mean 'amount'"):
        async with carried(changed(computed=computed)):
            pass
    for parts, said in (
        ({"computed": {"x": {"table": "crm.orders", "value": "total(amount)"}}}, "expected one of"),
        ({"computed": {"x": {"table": "crm.order", "value": "count"}}}, "expected one of `tables`"),
        ({"consent": {**CUSTOMER["consent"], "needed": {"phone": "api"}}}, "got 'phone'"),
    ):
        with pytest.raises(ValueError, match=said):
            changed(**parts)
    for condition, said in (("oders > 1", "got 'oders'"), ("city = ; drop", "got '; drop'")):
        with pytest.raises(ConfigError, match=said):
            async with carried(changed(segments={"s": condition})):
                pass


async def test_segments_follow_changes_of_profiles(
    tmp_path: Path, database_url: str, source_url: str, crm: psycopg.AsyncConnection
) -> None:
    """In by an order, out by a move to another town, with their events in order, over HTTP too."""
    await fill(crm)
    async with carried(settings(tmp_path, database_url, source_url)) as project:

        async def turned() -> list[str]:
            await project.caught_up(limit_s=30)
            await look_at_segments(segments_of(project))
            return [e.event for e in await segment_events(project, None, "frequent")]

        assert await turned() == ["entered"]
        ada = await desk(project).one("ada@x.org")
        assert [m.profile for m in await segment_members(project, None, "frequent")] == [ada.id]
        async with calling(project, Principal()) as client:
            answer = await client.get("/v1/profiles/customer?segment=frequent")
            assert [one["id"] for one in answer.json()["profiles"]] == [ada.id]
            for path in ("customer?segment=other", "spy?segment=frequent"):
                assert (await client.get(f"/v1/profiles/{path}")).status_code == 404
        await crm.execute("UPDATE contacts SET city = 'Bonn' WHERE id = 1")
        assert await turned() == ["entered", "left"]
        await crm.execute("UPDATE contacts SET city = 'Berlin' WHERE id = 2")
        await crm.execute("UPDATE orders SET email = 'grace@x.org' WHERE id = 0")
        assert await turned() == ["entered", "left", "entered"]
        # Whoever is no more is in no segment either.
        await desk(project).merge([ada.id, "grace@x.org"], by="t", reason="t")
        await crm.execute("DELETE FROM contacts")
        assert (await turned())[-1] == "left"
        assert await segment_members(project, None, "frequent") == []


async def test_values_that_are_declared_later_are_computed_of_all_rows(
    tmp_path: Path, database_url: str, source_url: str, crm: psycopg.AsyncConnection
) -> None:
    """Rows are read anew from the live tables, not only what comes from then on; as events under
    their identifiers as well. A table that is no longer read is forgotten."""
    await fill(crm)
    plain = {"tables": {**CUSTOMER["tables"]}}
    async with carried(settings(tmp_path, database_url, source_url, plain)) as project:
        assert values(await shown(project)) == {}
        before = await desk(project).one("ada@x.org")
    orders = {**CUSTOMER["tables"]["crm.orders"], "events": True}
    events = {**CUSTOMER, "tables": {**CUSTOMER["tables"], "crm.orders": orders}}
    for customer, records in ((CUSTOMER, 8), (events, 6)):
        async with carried(settings(tmp_path, database_url, source_url, customer)) as project:
            ada = await desk(project).one("ada@x.org")
            assert (ada.id, len(ada.records)) == (before.id, records)
            assert values(await shown(project))["paid"] == "110.5"
            await look_at_segments(segments_of(project))
            members = await segment_members(project, None, "frequent")
            assert [member.profile for member in members] == [ada.id]
    async with (
        carried(settings(tmp_path, database_url, source_url, plain)) as project,
        project.pool.connection() as connection,
    ):
        for table in ("facts", "members", "due", "segments"):
            cursor = await connection.execute(f"SELECT FROM penstock.profile_{table}".encode())
            assert await cursor.fetchall() == []
