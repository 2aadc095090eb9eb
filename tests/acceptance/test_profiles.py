"""Profiles from their sources to the one who asks: two systems that know the same people."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psycopg
import pytest

from penstock.errors import ConfigError
from penstock.operate.profile_picture import evidence, html, svg
from penstock.operate.profiles import ProfileDesk, desk
from penstock.operate.replay import replay
from penstock.principals import Principal
from penstock.project import Project
from penstock.settings import Settings
from penstock.stores.base import ProfileSnapshot, StoredProfile

TABLES: dict[str, Any] = {
    "crm.contacts": {
        "identifiers": {"email": "email", "phone": ["mobile", "landline"], "crm": "id"},
        "traits": {"name": "{first} {last}", "city": "city"},
    },
    "shop.orders": {
        "identifiers": {"email": "email", "phone": "phone"},
        "traits": {"name": "customer", "order": "id"},
    },
}
PROFILES: dict[str, Any] = {
    "customer": {
        "tables": TABLES,
        "identifiers": {
            "email": {"priority": 10},
            "phone": {"region": "DE", "shared_by_at_most": 4},
            "crm": {"form": "exact", "per_profile_at_most": 2},
        },
        "traits": {"name": {"rule": "most_trusted", "trust": ["crm"]}, "order": "union"},
    }
}


@pytest.fixture
async def systems(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        await connection.execute(
            "CREATE TABLE contacts (id int PRIMARY KEY, first text, last text, email text, "
            "mobile text, landline text, city text, notes text)"
        )
        await connection.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, customer text, email text, phone text)"
        )
        yield connection


def settings(folder: Path, database: str, source: str, profiles: Any = PROFILES) -> Settings:
    def captured(table: str) -> dict[str, Any]:
        return {"type": "postgres", "dsn": source, "heartbeat": 0.1, "tables": {table: {}}}

    return Settings.model_validate(
        {
            "project": f"profiles{os.getpid()}",
            "database": database,
            "data": str(folder / "data"),
            "knowledge": {"embedder": "constant"},
            "sources": {"crm": captured("contacts"), "shop": captured("orders")},
            "profiles": profiles,
        }
    )


@asynccontextmanager
async def carried(chosen: Settings) -> AsyncIterator[Project]:
    """The project, running; in step when the block begins."""
    project = Project(chosen)
    try:
        await project.start()
        async with project.running():
            await project.caught_up(limit_s=30)
            yield project
    finally:
        await project.close()


@asynccontextmanager
async def opened(chosen: Settings) -> AsyncIterator[Project]:
    project = Project(chosen)
    try:
        await project.start()
        yield project
    finally:
        await project.close()


def names(profile: StoredProfile) -> list[str]:
    return [f"{one.source}/{one.key}" for one in profile.records]


def value(profile: StoredProfile, trait: str) -> list[str]:
    return [one.value for one in profile.traits[trait]]


async def fill(systems: psycopg.AsyncConnection) -> None:
    await systems.execute(
        "INSERT INTO contacts VALUES "
        "(1, 'Ada', 'Lovelace', 'Ada@Example.org', '+49 170 1234567', NULL, 'Berlin', 'vip'), "
        "(2, 'Grace', 'Hopper', 'grace@example.org', 'n/a', '030 7654321', 'Bonn', NULL)"
    )
    await systems.execute(
        "INSERT INTO orders VALUES (100, 'A. Lovelace', 'ada@example.org', NULL), "
        "(101, 'A. L.', 'N/A', '0170/1234567'), (102, 'G. H.', NULL, '+49307654321')"
    )


async def test_two_systems_know_one_person(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    async with carried(settings(tmp_path, database_url, source_url)) as project:
        ada = await desk(project).one("ADA@example.org")
        assert names(ada) == ["crm/1", "shop/100", "shop/101"]
        assert value(ada, "name") == ["Ada Lovelace"]
        assert value(ada, "order") == ["100", "101"]
        assert (await desk(project).one("030 765 43 21")).id == (
            await desk(project).one("crm/contacts/2")
        ).id
        # A change of evidence splits, and the ids stay where most of the records are.
        await systems.execute("UPDATE orders SET phone = NULL WHERE id = 101")
        await project.caught_up(limit_s=30)
        assert names(await desk(project).one(ada.id)) == ["crm/1", "shop/100"]
        alone = await desk(project).one("shop/orders/101")
        assert names(alone) == ["shop/101"]
        # A column that nobody reads changes nothing.
        before = await desk(project).one("crm/contacts/2")
        await systems.execute("UPDATE contacts SET notes = 'x' WHERE id = 2")
        await systems.execute("DELETE FROM orders WHERE id = 102")
        await project.caught_up(limit_s=30)
        after = await desk(project).one("crm/contacts/2")
        assert (names(before), names(after)) == (["crm/2", "shop/102"], ["crm/2"])


async def wrongly_merged(desk: ProfileDesk, systems: psycopg.AsyncConnection, p: Project) -> None:
    """The office types its own number into the order of Grace: it is Ada's mobile."""
    await systems.execute(
        "INSERT INTO orders VALUES (103, 'G. H.', 'grace@example.org', '+491701234567')"
    )
    await p.caught_up(limit_s=30)


async def test_a_wrong_merge_is_explained_and_undone_and_stays_so_after_a_replay(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    chosen = settings(tmp_path, database_url, source_url)
    async with carried(chosen) as project:
        at = desk(project)
        ada, grace = (await at.one("crm/contacts/1")).id, (await at.one("crm/contacts/2")).id
        await wrongly_merged(at, systems, project)
        assert (await at.one(grace)).id == ada
        found = await at.explain("crm/contacts/1", "crm/contacts/2")
        assert found.together
        assert "phone:+491701234567" in {by for _, _, by in found.ties}
        await at.unmerge([grace], by="tester", reason="two people")
        assert (await at.one("crm/contacts/1")).id == ada
        assert (await at.one("crm/contacts/2")).id == grace
        found = await at.explain("crm/contacts/1", "crm/contacts/2")
        assert not found.together
        assert [because for *_, because in found.refused] == ["decision 1 says otherwise"]
        async with at.reading() as reading:
            told = [(e.event, e.profile, e.other) for e in await reading.events(created=False)]
        # What came before depends on which source was loaded first.
        assert told[-3:] == [
            ("merged", grace, ada),
            ("restored", grace, None),
            ("split", grace, ada),
        ]
        before = [await at.one(id_) for id_ in (ada, grace)]
    async with opened(chosen) as project:
        await replay(project, "profiles", position=0)
    async with carried(chosen) as project:
        at = desk(project)
        after = [await at.one(id_) for id_ in (ada, grace)]
        assert list(map(names, after)) == list(map(names, before))
        await at.revoke(1)
        assert (await at.one(grace)).id == ada
        await at.block("phone:0170 1234567", by="tester", reason="the office")
        assert (await at.one("crm/contacts/2")).id == grace
        found = await at.explain("crm/contacts/1", "shop/orders/103")
        assert [identifier for identifier, _ in found.ignored] == ["phone:+491701234567"]


async def test_other_rules_read_all_rows_anew(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    mails = {
        "customer": {
            "tables": {
                name: {"identifiers": {"email": "email"}, "traits": {"name": "email"}}
                for name in TABLES
            }
        }
    }
    # Profiles are added to a project that has loaded: its log is not needed.
    async with carried(settings(tmp_path, database_url, source_url, {})) as project:
        with pytest.raises(ConfigError, match="expected `profiles` in the project file"):
            desk(project)
    await systems.execute("DELETE FROM orders WHERE id = 101")
    async with carried(settings(tmp_path, database_url, source_url, mails)) as project:
        ada = await desk(project).one("crm/contacts/1")
        assert names(ada) == ["crm/1", "shop/100"]
        assert names(await desk(project).one("crm/contacts/2")) == ["crm/2"]
    async with carried(settings(tmp_path, database_url, source_url)) as project:
        assert (await desk(project).one("crm/contacts/1")).id == ada.id
        assert names(await desk(project).one("crm/contacts/2")) == ["crm/2", "shop/102"]
        await systems.execute("UPDATE orders SET phone = NULL WHERE id = 102")
        await project.caught_up(limit_s=30)
        assert names(await desk(project).one("crm/contacts/2")) == ["crm/2"]
    only = {"customer": {"tables": {"crm.contacts": TABLES["crm.contacts"]}}}
    async with carried(settings(tmp_path, database_url, source_url, only)) as project:
        assert names(await desk(project).one(ada.id)) == ["crm/1"]
    async with carried(settings(tmp_path, database_url, source_url, {})) as project:
        await systems.execute("UPDATE contacts SET email = 'x@example.org' WHERE id = 1")
        await project.caught_up(limit_s=30)
    async with carried(settings(tmp_path, database_url, source_url, only)) as project:
        again = await desk(project).one("x@example.org")
        assert names(again) == ["crm/1"]
        assert again.id != ada.id


async def test_a_question_about_somebody_knows_them(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    async with carried(settings(tmp_path, database_url, source_url)) as project:
        for who in ("customer:ADA@example.org", "phone:0170 1234567", "customer:crm:1"):
            context = await project.context("where?", mode="text", profile=who)
            ada = context.rows[0]
            assert ada.values == {"name": "Ada Lovelace", "city": "Berlin", "order": "100; 101"}
            age = context.age_ms(ada.source)
            assert age is not None
            assert age < 60_000
            assert context.notes == ()
        answer = await project.answer("Which city is it?", profile=f"customer:{ada.row_key[0]}")
        assert "Berlin" in answer.text
        nobody = await project.context("where?", mode="text", profile="nobody@example.org")
        assert nobody.rows == []
        assert nobody.notes == ("no customer is known (or to be shown) by what was named",)


async def test_g7_profiles_are_for_those_who_may_see_them(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    closed = {"customer": {**PROFILES["customer"], "allow": ["group:support"]}}
    async with carried(settings(tmp_path, database_url, source_url, closed)) as project:
        id_ = (await desk(project).one("crm/contacts/1")).id
        for principal, sees in (
            (Principal(), False),
            (Principal("ada"), False),
            (Principal("bo", ("support",)), True),
            (Principal("bo", ("support",), tenant="other"), False),
        ):
            async with project.snapshots.snapshot(principal) as snapshot:
                assert isinstance(snapshot, ProfileSnapshot)
                assert (await snapshot.profile("customer", id_) is not None) is sees
                found = await snapshot.profiles_bearing("customer", ["email:ada@example.org"])
                assert (list(found) == [id_]) is sees


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"tables": {"crm.nothing": {"identifiers": {"email": "email"}}}}, "(contacts)"),
        ({"tables": {"erp.contacts": {"identifiers": {"email": "email"}}}}, "(crm, shop)"),
        ({"tables": {"contacts": {"identifiers": {"email": "email"}}}}, "SOURCE.TABLE"),
        ({"tables": {"crm.contacts": {}}}, "expected a table with `identifiers`"),
        (
            {
                "tables": {"crm.contacts": {"identifiers": {"email": "email"}}},
                "identifiers": {"mail": {}},
            },
            "(email), got 'mail'",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, said: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match="profiles") as caught:
        settings(tmp_path, "embedded", "postgresql://nowhere/x", {"customer": said})
    assert sentence in str(caught.value)


async def test_a_column_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    said = {"customer": {"tables": {"crm.contacts": {"identifiers": {"email": "emial"}}}}}
    with pytest.raises(ConfigError, match=r"'emial': did you mean 'email'\?"):
        async with carried(settings(tmp_path, database_url, source_url, said)):
            pass


async def test_a_picture_shows_the_evidence_and_runs_nothing(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    """Whatever the values are: they are text in it. Records that do not fit are counted."""
    await fill(systems)
    await systems.execute(
        """INSERT INTO contacts (id, first, last, email) VALUES
        (3, '<script>alert(1)</script>', E'O''Hara & \\x01 "Sons" ]]>', 'ada@example.org')"""
    )
    async with carried(settings(tmp_path, database_url, source_url)) as project:
        at = desk(project)
        await wrongly_merged(at, systems, project)
        await at.unmerge(["crm/contacts/2", "shop/orders/103"], by="tester", reason="two people")
        drawn = await at.picture("crm/contacts/1", "crm/contacts/2")
    picture = ET.fromstring(drawn.svg)
    tags = {element.tag.rpartition("}")[2] for element in picture.iter()}
    assert tags == {"svg", "title", "style", "rect", "text", "g", "path"}
    shown = [element.text or "" for element in picture.iter() if element.tag.endswith("}text")]
    ids = {key: member.place.profile for key, member in drawn.whole.members.items() if member.place}
    assert set(ids.values()) <= set(shown)
    assert "email:ada@example.org" in shown
    assert any(text.startswith("name: <script>alert(1)</script> O'Hara & ") for text in shown)
    assert any(text.startswith("decision 1 (phone:+4") for text in shown)
    page = html(drawn.svg, drawn.title, evidence(drawn.whole))
    assert "<script" not in page
    assert "refused: decision" in page
    small = svg(drawn.whole, "title", {}, most=2)
    assert "5 more records are not shown" in small
    ET.fromstring(small)
