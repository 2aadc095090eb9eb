"""Fuzzy matching from two systems to profiles: learned, reviewed, decided, left; and a way back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from penstock.errors import ConfigError
from penstock.evaluate.identity import Stream
from penstock.evaluate.records import Labelled
from penstock.identity.fuzzy.training import train
from penstock.operate.matching import MatchingDesk
from penstock.operate.profiles import desk
from penstock.operate.replay import replay
from penstock.project import Project
from penstock.settings import Settings
from penstock.stores.postgres.profiles.models import Models

GIVEN = ("anna", "maria", "peter", "hans", "julia", "thomas", "sofia", "lukas", "emma", "jonas")
PARTS = ("ber", "gel", "mann", "stein", "wald", "hof", "bach", "brand", "kel", "ler", "schmid")
COLUMNS = ("given", "surname", "born", "city")
SETTINGS: dict[str, Any] = {
    "customer": {
        "tables": {
            "crm.people": {
                "identifiers": {"email": "email"},
                "traits": {"name": "{given} {surname}", "city": "city"},
            },
            "shop.people": {
                "identifiers": {"email": "email"},
                "traits": {"name": "{given} {surname}", "city": "city"},
            },
        },
        "matching": {
            "compare": {
                "crm.people": {name: name for name in COLUMNS},
                "shop.people": {name: name for name in COLUMNS},
            }
        },
    }
}

Person = tuple[str, str, str, str]


def people(many: int) -> list[tuple[str, Person]]:
    """Everybody once in one system, many also in the other with an error; nobody has an e-mail."""
    chance, found = random.Random(5), []
    for _ in range(many):
        person = (
            chance.choice(GIVEN),
            "".join(chance.choice(PARTS) for _ in range(3)),
            f"{chance.randint(1940, 2004)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}",
            chance.choice(("wien", "graz", "linz", "wels")),
        )
        found.append(("crm", person))
        if chance.random() < 0.6:
            at = chance.randrange(len(person[1]))
            surname = person[1][:at] + person[1][at + 1 :]
            found.append(("shop", (person[0], surname, *person[2:])))
    return found


PEOPLE = people(160)


def settings(folder: Path, database: str, source: str, profiles: Any = SETTINGS) -> dict[str, Any]:
    def captured(schema: str) -> dict[str, Any]:
        tables: dict[str, Any] = {f"{schema}.people": {}}
        return {"type": "postgres", "dsn": source, "heartbeat": 0.1, "tables": tables}

    kinds: dict[str, Any] = json.loads(json.dumps(profiles).replace(".people", ".X.people"))
    kinds = json.loads(
        json.dumps(kinds)
        .replace("crm.X.people", "crm.crm.people")
        .replace("shop.X.people", "shop.shop.people")
    )
    return {
        "project": f"matching{os.getpid()}",
        "database": database,
        "data": str(folder / "data"),
        "knowledge": {"embedder": "constant"},
        "sources": {"crm": captured("crm"), "shop": captured("shop")},
        "profiles": kinds,
    }


@pytest.fixture
async def systems(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        for schema in ("crm", "shop"):
            await connection.execute(
                f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.people (id int PRIMARY KEY, "
                "given text, surname text, born text, city text, email text)"
            )
        for number, (schema, person) in enumerate(PEOPLE):
            await connection.execute(
                f"INSERT INTO {schema}.people VALUES (%s, %s, %s, %s, %s, NULL)", [number, *person]
            )
        yield connection


async def parts(project: Project) -> set[tuple[str, ...]]:
    async with project.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT array_agg(source || '/' || key ORDER BY source, key) "
            "FROM penstock.profile_records WHERE columns IS NOT NULL GROUP BY profile"
        )
        return {tuple(part) for (part,) in await cursor.fetchall()}


async def in_memory(project: Project) -> set[tuple[str, ...]]:
    """What ``penstock eval identity`` makes of the same records, by the same model."""
    rows = tuple(dict(zip(COLUMNS, person, strict=True)) for _, person in PEOPLE)
    sources = tuple(f"{source}.{source}.people" for source, _ in PEOPLE)
    # In the order in which the store gives them.
    at = desk(project)
    models = Models(project.pool, project.settings.tenant, at.kind, at.rules)
    records = await models.records(100_000)
    trained = train(
        [record.fields for record in records],
        [f"{record.key.source}.{record.key.table}" for record in records],
    )
    stored = [one.version for one in await models.all() if one.state == "used"]
    assert stored == [trained.model.version]
    found = await Stream(trained, Labelled(rows, sources, sources, "")).run(1, lambda _: None)
    profiles: dict[int, list[str]] = {}
    for number, ((source, _), profile) in enumerate(zip(PEOPLE, found, strict=True)):
        profiles.setdefault(profile, []).append(f"{source}/{number}")
    return {tuple(sorted(part)) for part in profiles.values()}


async def test_matching_is_learned_used_reviewed_decided_and_left(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    project = Project(Settings.model_validate(settings(tmp_path, database_url, source_url)))
    try:
        await project.start()
        async with project.running():
            await project.caught_up(limit_s=30)
            at = desk(project)
            matching = MatchingDesk(project, at)
            assert len(await parts(project)) == len(PEOPLE)
            dry = await matching.train(by="tester", dry=True)
            assert (dry.number, await matching.models()) == (None, [])
            first = await matching.train(by="tester")
            assert first.learned["version"] == dry.learned["version"]
            learned = await parts(project)
            assert len(PEOPLE) - len(learned) > 60
            assert learned == await in_memory(project)

            # The stream goes on by it: one more comes, is tied, changes and is parted.
            number = next(n for n, (source, _) in enumerate(PEOPLE) if source == "shop")
            person = PEOPLE[number][1]
            async with project.pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT count(*) FROM penstock.profile_matches WHERE weight >= %s",
                    [first.learned["link_from_bits"]],
                )
                [(links,)] = await cursor.fetchall()
            assert links > 60
            tied = await at.one(f"shop/shop.people/{number}")
            assert [r.source for r in tied.records] == ["crm", "shop"]
            explained = await at.explain(*(f"{r.source}/{r.table}/{r.key}" for r in tied.records))
            assert explained.together
            assert "match of weight" in explained.ties[0][2]
            await systems.execute(
                "UPDATE shop.people SET given = 'zoe', surname = 'x', born = '1901-01-01' "
                "WHERE id = %s",
                [number],
            )
            await project.caught_up(limit_s=30)
            assert len((await at.one(f"shop/shop.people/{number}")).records) == 1
            await systems.execute(
                "UPDATE shop.people SET given = %s, surname = %s, born = %s WHERE id = %s",
                [*person[:3], number],
            )
            await project.caught_up(limit_s=30)
            assert await parts(project) == learned

            # Where links begin higher, the others wait for a person.
            await matching.train(by="tester", link=1000.0, possible=0.0)
            assert len(await parts(project)) == len(PEOPLE)
            waiting = await matching.possible(1000)
            assert len(waiting) > 60
            one, other = waiting[0], waiting[1]
            assert one.weight == pytest.approx(sum(r.bits for r in one.reasons), abs=0.01)
            accepted, _ = await at.decide_pair(one.number, one=True, by="tester", reason="called")
            await at.decide_pair(other.number, one=False, by="tester", reason="two people")
            assert (await at.one(one.left)).id == (await at.one(one.right)).id
            assert {one.number, other.number}.isdisjoint(
                pair.number for pair in await matching.possible(1000)
            )
            with pytest.raises(ConfigError, match="pair that waits for a person"):
                await at.decide_pair(other.number, one=True, by="tester", reason="")
            assert [model.state for model in await matching.models()] == ["former", "used"]

            # The way back; what people decided stands under every model.
            await matching.roll_back()
            back = await parts(project)
            assert {p for p in learned - back if len(p) == 2} == {
                tuple(sorted(_name(side) for side in (other.left, other.right)))
            }
        await replay(project, "profiles", position=0)
        async with project.running():
            await project.caught_up(limit_s=30)
            assert await parts(project) == back
            await matching.off()
            assert {p for p in await parts(project) if len(p) > 1} == {
                tuple(sorted(_name(side) for side in (one.left, one.right)))
            }
            await at.revoke(accepted)
            assert len(await parts(project)) == len(PEOPLE)
            assert await matching.possible(10) == []
    finally:
        await project.close()


def _name(record: str) -> str:
    source, _, key = record.split("/")
    return f"{source}/{key}"


async def test_what_is_not_asked_for_or_not_there_is_refused(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    profiles = json.loads(json.dumps(SETTINGS))
    chosen = settings(tmp_path, database_url, source_url, profiles)
    del chosen["profiles"]["customer"]["matching"]
    project = Project(Settings.model_validate(chosen))
    try:
        await project.start()
        matching = MatchingDesk(project, desk(project))
        with pytest.raises(ConfigError, match="expected `matching: true`"):
            await matching.train(by="tester")
        with pytest.raises(ConfigError, match="expected a former model"):
            await matching.roll_back()
    finally:
        await project.close()
    chosen["profiles"]["customer"]["matching"] = {"compare": {"crm.other": {"a": "b"}}}
    with pytest.raises(ValueError, match="expected one of `tables`"):
        Settings.model_validate(chosen)


def penstock(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_says_what_is_missing(
    tmp_path: Path, database_url: str, source_url: str
) -> None:
    file = tmp_path / "penstock.yaml"
    chosen = settings(tmp_path, database_url, source_url)
    file.write_text(yaml.safe_dump(chosen), encoding="utf-8")
    code, _, said = penstock("profiles", "train", "--off", "--rollback", "-f", str(file))
    assert code != 0
    assert "expected one of --dry-run" in said
    code, _, said = penstock("profiles", "train", "-f", str(file))
    assert code != 0
    assert "start `penstock run` once" in said.replace("\n", " ")
    code, shown, _ = penstock("profiles", "review", "-f", str(file), "--json")
    assert (code, json.loads(shown)) == (0, [])
