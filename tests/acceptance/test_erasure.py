"""Somebody is erased: from the log, tables, profiles and texts; and does not come back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.errors import ConfigError
from penstock.operate.audit import Auditor
from penstock.operate.erasing import erase, preview
from penstock.operate.erasing.exporting import export, markdown
from penstock.operate.profiles import desk
from penstock.operate.replay import replay
from penstock.operate.segments import look_at_segments, segment_members, segments_of
from penstock.principals import Principal
from penstock.project import Project
from penstock.settings import Settings
from penstock.stores.base import Filter

from .test_topics import Cluster, cluster

__all__ = ["cluster"]

PROFILES: dict[str, Any] = {
    "customer": {
        "tables": {
            "crm.contacts": {
                "identifiers": {"email": "email", "phone": "mobile"},
                "traits": {"name": "name"},
            },
            "shop.orders": {"identifiers": {"email": "email"}, "traits": {"order": "id"}},
        },
        "identifiers": {"email": {}, "phone": {"region": "DE", "shared_by_at_most": 1}},
    }
}


@pytest.fixture
async def systems(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        await connection.execute(
            "CREATE TABLE contacts (id int PRIMARY KEY, name text, email text, mobile text, "
            "notes text)"
        )
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY, email text, what text)")
        await connection.execute(
            "CREATE TABLE tickets (id int PRIMARY KEY, sender text, said text)"
        )
        yield connection


def settings(folder: Path, database: str, source: str) -> Settings:
    def captured(**tables: Any) -> dict[str, Any]:
        return {"type": "postgres", "dsn": source, "heartbeat": 0.1, "tables": tables}

    return Settings.model_validate(
        {
            "project": f"erasure{os.getpid()}",
            "database": database,
            "data": str(folder / "data"),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "crm": captured(contacts={"searched": ["name", "notes"]}),
                "shop": captured(orders={}, tickets={"searched": ["said"]}),
            },
            "profiles": PROFILES,
        }
    )


@asynccontextmanager
async def carried(chosen: Settings) -> AsyncIterator[Project]:
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


async def fill(systems: psycopg.AsyncConnection) -> None:
    await systems.execute(
        "INSERT INTO contacts VALUES "
        "(1, 'Ada Lovelace', 'ada@example.org', '0170 1234567', 'canarynotes prefers the window'),"
        "(2, 'Grace Hopper', 'grace@example.org', '0170 7654321', 'likes the aisle very much')"
    )
    await systems.execute(
        "INSERT INTO orders VALUES (100, 'Ada@example.org', 'canaryorder one lighthouse'), "
        "(101, 'grace@example.org', 'another lighthouse model')"
    )
    await systems.execute(
        "INSERT INTO tickets VALUES (7, 'ada@example.org', 'canaryticket my luggage is lost'), "
        "(8, 'grace@example.org', 'where is my luggage, please')"
    )


async def everything(project: Project) -> str:
    """All that is stored, as texts: tables, and the log as it is read."""
    found: list[str] = []
    async with project.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT schemaname, tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        for schema, name in await cursor.fetchall():
            rows = await connection.execute(f'SELECT t::text FROM "{schema}"."{name}" t')
            found += [row[0] for row in await rows.fetchall()]
    for info in await project.log.describe():
        after = info.first - 1
        while batch := await project.log.read(info.topic, info.partition, after):  # type: ignore[arg-type]
            found += [repr(change) for change in batch.changes]
            after = batch.last
    return "\n".join(found)


async def test_g9_a_person_goes_from_everything_and_does_not_come_back(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    chosen = settings(tmp_path, database_url, source_url)
    async with carried(chosen) as project:
        # Versions from before are in the log only.
        await systems.execute(
            "UPDATE contacts SET notes = 'canarylater now the aisle' WHERE id = 1"
        )
        await systems.execute("UPDATE contacts SET notes = 'now the window seat' WHERE id = 2")
        await project.caught_up(limit_s=30)
        assert "canarynotes" in await everything(project)
    async with opened(chosen) as project:
        before = await preview(project, ["email:ada@example.org"], None)
        assert before.records == [
            "crm/public.contacts/1",
            "shop/public.orders/100",
            "shop/public.tickets/7",
        ]
        outcome = await erase(project, ["email:ada@example.org"], reason="request 1")
        assert outcome.holders == before.holders
        assert outcome.holders["log"] == 4
        assert outcome.receipt["search"]["found"] == 0
        left = (await everything(project)).casefold()
        for canary in ("canary", "ada@example", "lovelace", "1234567"):
            assert canary not in left
        assert "grace@example.org" in left
    async with opened(chosen) as project:
        for pipeline in ("tables", "knowledge", "profiles"):
            await replay(project, pipeline, position=0)
    # It is still in its sources, and they say it again.
    await systems.execute("UPDATE contacts SET notes = 'canarynew again' WHERE id = 1")
    await systems.execute("INSERT INTO orders VALUES (102, 'ada@example.org', 'canarythird')")
    await systems.execute("INSERT INTO orders VALUES (103, 'grace@example.org', 'a third order')")
    async with carried(chosen) as project:
        left = (await everything(project)).casefold()
        for canary in ("canary", "ada@example", "lovelace"):
            assert canary not in left
        grace = await desk(project).one("email:grace@example.org")
        assert [f"{one.source}/{one.key}" for one in grace.records] == [
            "crm/2", "shop/101", "shop/103",
        ]  # fmt: skip


async def test_g9_what_others_share_or_say_stays(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    """A telephone that two people bear takes nobody else's rows; who mentions somebody is named."""
    await fill(systems)
    await systems.execute("UPDATE contacts SET mobile = '0170 1234567' WHERE id = 2")
    await systems.execute(
        "INSERT INTO orders VALUES (104, 'grace@example.org', '0170 1234567'); "
        "INSERT INTO tickets VALUES (9, 'grace@example.org', 'please ask ada@example.org too')"
    )
    chosen = settings(tmp_path, database_url, source_url)
    async with carried(chosen):
        pass
    async with opened(chosen) as project:
        outcome = await preview(project, ["crm/contacts/1"], None)
        assert outcome.records == [
            "crm/public.contacts/1",
            "shop/public.orders/100",
            "shop/public.tickets/7",
        ]
        assert outcome.mentions == ["shop/tickets/9"] or outcome.mentions == [
            "shop/public.tickets/9"
        ]
        everybody = await everything(project)
        assert everybody == await everything(project)  # a preview has changed nothing
        with pytest.raises(ConfigError, match="names whom it is about"):
            await erase(project, ["crm/contacts/1"], reason="for ada@example.org")
        for nobody in ("7", "Somebody Unknown", "crm/nothing/1"):
            with pytest.raises(ConfigError, match="expected a"):
                await preview(project, [nobody], None)
        with pytest.raises(ConfigError, match="several"):
            await preview(project, ["0170 1234567"], None)
        done = await erase(project, ["crm/contacts/1"], reason="request 2")
        # The ticket that mentions her is somebody else's: it is said, and stays.
        assert done.mentions == outcome.mentions
        assert done.receipt["search"]["found"] > 0
        left = await everything(project)
        assert "please ask ada@example.org" in left
        assert left.count("0170 1234567") > 0
        assert "canarynotes" not in left


async def test_what_is_known_of_somebody_is_told_with_where_it_is_from(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    chosen = settings(tmp_path, database_url, source_url)
    async with carried(chosen) as project:
        await systems.execute("UPDATE contacts SET notes = 'other notes' WHERE id = 1")
        await project.caught_up(limit_s=30)
        found = await export(project, "email:ada@example.org")
    [profile] = found["profiles"]
    assert profile["traits"]["name"][0]["value"] == "Ada Lovelace"
    assert profile["traits"]["name"][0]["from"] == "crm/public.contacts/1"
    assert [row["record"] for row in found["rows"]] == [
        "crm/public.contacts/1",
        "shop/public.orders/100",
        "shop/public.tickets/7",
    ]
    assert {one["document"].partition("/")[0] for one in found["documents"]} == {"crm", "shop"}
    notes = [one["after"]["notes"] for one in found["history"] if "contacts" in one["record"]]
    assert notes == ["canarynotes prefers the window", "other notes"]
    assert "grace" not in repr(found).casefold()
    read = markdown(found)
    assert "- name: Ada Lovelace (from crm/public.contacts/1" in read


def holding(folder: Path, value: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and value.encode() in p.read_bytes()]


@pytest.mark.package("lancedb")
async def test_g9_a_second_store_gives_up_the_bytes(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    lance = tmp_path / "lance"
    said = settings(tmp_path, database_url, source_url).model_dump(mode="json")
    said["knowledge"]["stores"] = {"lance": {"type": "lancedb", "uri": str(lance)}}
    said["sources"]["crm"]["dsn"] = said["sources"]["shop"]["dsn"] = source_url
    said["sources"]["crm"]["tables"]["contacts"]["title"] = "notes"
    chosen = Settings.model_validate(said)
    async with carried(chosen) as project:
        await project.follow()
    assert holding(lance, "canarynotes")
    assert holding(lance, "likes the aisle")
    async with opened(chosen) as project:
        await erase(project, ["email:ada@example.org"], reason="request 3")
    assert not holding(lance, "canarynotes")
    assert holding(lance, "likes the aisle")


async def test_g9_events_segments_and_what_is_computed_go_with_the_person(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    """Events that only a short number ties to somebody are found by the graph itself."""
    await fill(systems)
    await systems.execute("CREATE TABLE visits (id int PRIMARY KEY, contact int, page text)")
    await systems.execute(
        "INSERT INTO visits VALUES (51, 1, 'canarypage one'), (52, 1, 'canarypage two'), "
        "(53, 2, 'the start page'), (54, 2, 'the other page')"
    )
    said = settings(tmp_path, database_url, source_url).model_dump(mode="json")
    said["sources"]["crm"]["dsn"] = said["sources"]["shop"]["dsn"] = source_url
    said["sources"]["shop"]["tables"]["visits"] = {}
    contacts = {"identifiers": {"email": "email", "crm": "id"}, "traits": {"name": "name"}}
    visits = {"identifiers": {"crm": "contact"}, "events": True}
    said["profiles"] = {
        "customer": {
            "tables": {"crm.contacts": contacts, "shop.visits": visits},
            "computed": {"pages": {"table": "shop.visits", "value": "count"}},
            "segments": {"visitors": "pages >= 2"},
        }
    }
    chosen = Settings.model_validate(said)
    async with carried(chosen) as project:
        await look_at_segments(segments_of(project))
        assert len(await segment_members(project, None, "visitors")) == 2
    async with opened(chosen) as project:
        outcome = await erase(project, ["ada@example.org"], reason="request 4")
        assert outcome.receipt["search"]["found"] == 0
        left = (await everything(project)).casefold()
        assert "canarypage" not in left
        assert "the other page" in left
        [grace] = await segment_members(project, None, "visitors")
        found = await desk(project).one("grace@example.org")
        assert grace.profile == found.id
        async with project.pool.connection() as connection:
            cursor = await connection.execute("SELECT key FROM penstock.profile_facts ORDER BY 1")
            assert await cursor.fetchall() == [("53",), ("54",)]
            cursor = await connection.execute("SELECT count(*) FROM penstock.profile_records")
            assert await cursor.fetchone() == (2,)


async def test_g9_answers_about_somebody_are_redacted_and_the_chain_still_fits(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    """What was answered from their rows, what they asked themselves, what mentions them; and what a
    source of interactions has made of it."""
    await fill(systems)
    base = settings(tmp_path, database_url, source_url).model_dump(mode="python")
    base["sources"]["voice"] = {"type": "interactions", "heartbeat": 0.1}
    chosen = Settings.model_validate(base)
    async with carried(chosen) as project:
        about = await project.answer("Who prefers the window?", profile="customer:ada@example.org")
        other = await project.answer("Is it open?", where=Filter(sources=("elsewhere",)))
        asked = await project.answer("Where is my luggage?", principal=Principal("ada@example.org"))
        await project.caught_up(limit_s=30)
        assert "canarynotes" in await everything(project)
    async with opened(chosen) as project:
        outcome = await erase(project, ["email:ada@example.org"], reason="asked for it")
        assert outcome.receipt["search"]["found"] == 0, outcome.receipt["search"]
        ledger = project.ledger()
        for answer, state in ((about, "redacted"), (asked, "redacted"), (other, "kept")):
            assert answer.id is not None
            entry = await ledger.find(answer.id)
            assert entry is not None
            assert entry.state == state, answer.text
        found = await Auditor(project.pool, "default").verify()
        assert found.sound, found
        left = await everything(project)
    assert "canary" not in left
    assert "ada@example.org" not in left.lower()
    assert outcome.receipt


async def test_g9_what_a_topic_tells_of_their_profile_goes_too(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    """Events with their reasons and memberships: in the log, in live tables, and where the topic is
    read anew. Followers learn that the id means nobody; others keep theirs."""
    await fill(systems)
    base = settings(tmp_path, database_url, source_url).model_dump(mode="python")
    for source in ("crm", "shop"):
        base["sources"][source]["dsn"] = source_url
    base["sources"]["people"] = {"type": "profile_events", "kind": "customer", "heartbeat": 0.1}
    base["profiles"]["customer"]["segments"] = {"known": "name is known"}
    chosen = Settings.model_validate(base)
    await systems.execute("INSERT INTO contacts VALUES (3, 'Ada L.'), (4, 'Rear Admiral Hopper')")
    async with carried(chosen) as project:
        await systems.execute(
            "UPDATE contacts SET email = 'ada@example.org' WHERE id = 3; "
            "UPDATE contacts SET email = 'grace@example.org' WHERE id = 4"
        )
        await project.caught_up(limit_s=30)
        ada = await desk(project).one("email:ada@example.org")
        grace = await desk(project).one("email:grace@example.org")
        await look_at_segments(segments_of(project))
        await project.caught_up(limit_s=30)
        assert {ada.id, grace.id} <= await told(project)
        merged = await merges(project)
        assert len(merged) == 2
        assert '"email:ada@example.org"' in await everything(project)
    async with opened(chosen) as project:
        outcome = await erase(project, ["email:ada@example.org"], reason="request 5")
        assert outcome.receipt["search"]["found"] == 0, outcome.receipt["search"]
        assert await told(project) == {grace.id}
        assert set((await merges(project)).values()) == {grace.id}
    async with carried(chosen) as project:
        left = await everything(project)
        async with project.pool.connection() as connection:
            cursor = await connection.execute("SELECT id, profile FROM people.profile_ids")
            means = dict(await cursor.fetchall())
    assert "canary" not in left
    assert "ada@example.org" not in left.lower()
    assert "email:grace@example.org" in left
    assert {means.pop(id_) for id_ in merged if merged[id_] == ada.id} | {means.pop(ada.id)} <= {
        ada.id,
        None,
    }
    assert set(means.values()) == {grace.id}


async def told(project: Project) -> set[str]:
    """Whose events a follower has with their reasons, as far as they are memberships, too."""
    async with project.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT profile FROM people.profile_events WHERE reason IS NOT NULL "
            "OR event = 'created' INTERSECT SELECT profile FROM people.segment_members"
        )
        return {profile for (profile,) in await cursor.fetchall()}


async def merges(project: Project) -> dict[str, str]:
    """Which ids a follower knows to have been merged, and why, into which."""
    async with project.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT profile, other FROM people.profile_events "
            "WHERE event = 'merged' AND reason IS NOT NULL"
        )
        return dict(await cursor.fetchall())


async def test_g9_topics_outside_are_told_of_deletions(
    tmp_path: Path,
    database_url: str,
    source_url: str,
    systems: psycopg.AsyncConnection,
    cluster: Cluster,
) -> None:
    """In Debezium's form and with an empty message, so that a compacted topic forgets; a broker
    that does not answer is left to the operator, and holds nothing up."""
    await fill(systems)
    base = settings(tmp_path, database_url, source_url).model_dump(mode="python")
    for source in ("crm", "shop"):
        base["sources"][source]["dsn"] = source_url
    base["publish"] = {"out": {"type": "kafka", "servers": cluster.servers, "prefix": "p"}}
    async with carried(Settings.model_validate(base)) as project:
        await project.caught_up(limit_s=30)
        await wait_for(cluster, "p.public.contacts", 2)
        await wait_for(cluster, "p.public.orders", 2)
    async with opened(Settings.model_validate(base)) as project:
        outcome = await erase(project, ["email:ada@example.org"], reason="request 6")
    assert sum("deletions in out" in one for one in outcome.receipt["limits"]) == 2
    for table, key, whose in (("contacts", 1, "ada"), ("orders", 100, "Ada")):
        found = await asyncio.to_thread(cluster.read, f"p.public.{table}", 4)
        hers = [value for name, value in found if name == {"id": key}]
        assert f"{whose}@example.org" in str(hers[0])
        assert (hers[1]["op"], hers[1]["before"]["id"], hers[1]["after"]) == ("d", key, None)
        assert hers[2] is None
    base["publish"]["out"]["servers"] = "127.0.0.1:1"
    base["publish"]["out"]["options"] = {"message.timeout.ms": "500"}
    async with opened(Settings.model_validate(base)) as project:
        outcome = await erase(project, ["email:grace@example.org"], reason="request 7")
    left = outcome.receipt["left_to_the_operator"]
    assert sum("out could not be told of" in one for one in left) == 2


async def wait_for(cluster: Cluster, topic: str, count: int) -> None:
    async with asyncio.timeout(30):
        while len(await asyncio.to_thread(cluster.read, topic, count)) < count:
            await asyncio.sleep(0.05)
