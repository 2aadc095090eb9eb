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

from penstock.errors import ConfigError
from penstock.operate.profiles import desk
from penstock.operate.segments import look_at_segments, segment_events, segment_members, segments_of
from penstock.principals import Principal
from penstock.project import Project
from penstock.settings import Settings

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


def ago(days: float) -> str:
    return (NOW - timedelta(days=days)).isoformat()


@pytest.fixture
async def crm(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE contacts (id int PRIMARY KEY, name text, email text, city text, mobile text)",
            "CREATE TABLE consents (id int PRIMARY KEY, contact int, purpose text, granted bool, "
            "said timestamptz)",
            "CREATE TABLE orders (id int PRIMARY KEY, email text, amount numeric(10,2), paid bool, "
            "route text, ordered timestamptz)",
            "CREATE TABLE reservations (id int PRIMARY KEY, contact int, flight text, status text, "
            "departs timestamptz)",
        ):
            await connection.execute(statement.encode())
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
