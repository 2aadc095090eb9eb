"""Stored fuzzy matching: crowds, interruptions, tenants, plans of hot statements, forgetting."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.errors import ConfigError
from penstock.identity.evidence import Record, RecordKey
from penstock.identity.fuzzy.forgetting import forget_values
from penstock.identity.fuzzy.matcher import FuzzyMatcher
from penstock.identity.fuzzy.model import Model
from penstock.identity.fuzzy.training import train
from penstock.identity.rules import KindRule, Rules, TableRule
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.profiles.matching import SQL as MATCHING
from penstock.stores.postgres.profiles.models import Models, forget_in_models
from penstock.stores.postgres.store import PostgresStore

KIND = "customer"
NAMES = ("given", "surname", "born")
COLUMNS = (
    Column("id", "int", key=True),
    Column("email", "text"),
    *(Column(name, "text") for name in NAMES),
)
TABLE = TableRule(identifiers=(("email", "email"),), fields={name: name for name in NAMES})
RULES = Rules(kinds={"email": KindRule("email")}, tables={("crm", "people"): TABLE})
PARTS = ("ber", "gel", "mann", "stein", "wald", "hof", "bach", "brand", "kel", "ler")

Pool = AsyncConnectionPool[Any]
Person = tuple[str, str, str]


def person(number: int) -> Person:
    chance = random.Random(number)
    return (
        chance.choice(("anna", "maria", "peter", "hans", "julia")),
        "".join(chance.choice(PARTS) for _ in range(3)),
        f"{chance.randint(1940, 2004)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}",
    )


def wrong(who: Person) -> Person:
    return who[0], who[1] + "n", who[2]


@cache
def trained() -> Model:
    people = [person(number) for number in range(300)]
    people += [wrong(one) for one in people[:120]]
    learned = train([dict(zip(NAMES, one, strict=True)) for one in people], ["x"] * 420).model
    return replace(learned, link=5.0)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, max_size=6) as opened:
        async with opened.connection() as connection:
            await declare(connection, "default", KIND, RULES)
        yield opened


def change(key: int, who: Person | None, at: int) -> Change:
    return Change(
        Schema("crm", "people", COLUMNS),
        Op.DELETE if who is None else Op.UPDATE,
        (str(key),),
        Position(f"{at:09}"),
        Microseconds(at),
        None if who is None else (str(key), None, *who),
        transaction=f"t{at}.{key}",
    )


async def take(pool: Pool, changes: Sequence[Change]) -> None:
    async with PostgresStore(pool).transaction() as transaction:
        await transaction.apply(ApplyEvidence(KIND, RULES, changes))


async def one(pool: Pool, statement: str) -> Any:
    async with pool.connection() as connection:
        cursor = await connection.execute(statement.encode())
        [row] = await cursor.fetchall()
    return row if len(row) > 1 else row[0]


async def together(pool: Pool, *keys: int) -> bool:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(DISTINCT profile) FROM penstock.profile_records WHERE key = ANY (%s)",
            [[str(key) for key in keys]],
        )
        [(count,)] = await cursor.fetchall()
    return bool(count == 1)


MATCHES = "SELECT count(*) FROM penstock.profile_matches"


async def test_g10_a_block_that_a_crowd_shares_opens_and_closes(pool: Pool) -> None:
    """A crowd of one name and day compares nobody, in whatever order it comes; what it leaves
    behind is as if it had never been."""
    models = Models(pool, "default", KIND, RULES)
    number = await models.keep(trained(), {}, "test")
    await models.use(number)
    ada = person(7)
    await take(pool, [change(1, ada, 1), change(2, ada, 1)])
    assert await together(pool, 1, 2)
    await take(pool, [change(n, ada, 2) for n in range(100, 600)])
    assert await one(pool, MATCHES) == 0
    assert not await together(pool, 1, 2)
    await take(pool, [change(n, ada, 3) for n in range(600, 700)])
    assert await one(pool, MATCHES) == 0
    await take(pool, [change(n, None, 4) for n in range(100, 700)])
    assert await one(pool, MATCHES) == 1
    assert await together(pool, 1, 2)
    await take(pool, [change(1, None, 5)])
    assert await one(pool, MATCHES) == 0
    assert await one(pool, "SELECT count(DISTINCT record) FROM penstock.profile_blocks") == 1


async def test_an_interrupted_preparation_goes_on_where_it_was(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.stores.postgres.profiles.models._LOT", 10)
    people = [change(n, person(n), 1) for n in range(40)]
    await take(pool, [*people, *(change(100 + n, wrong(person(n)), 1) for n in range(40))])
    models = Models(pool, "default", KIND, RULES)
    number = await models.keep(trained(), {}, "test")

    def kill(count: int) -> None:
        if count == 30:
            raise KeyError

    with pytest.raises(KeyError):
        await models.prepare(number, kill)
    # Meanwhile the stream goes on, on both sides of where it is.
    await take(pool, [change(0, person(500), 2), change(110, None, 2), change(7, person(7), 2)])
    assert not await together(pool, 1, 101)
    assert await models.prepare(number) == 49
    assert await models.use(number) > 60
    assert await together(pool, 1, 101)
    assert not await together(pool, 0, 100)
    interrupted = await one(pool, MATCHES)
    second = await models.keep(trained(), {}, "test")
    await models.prepare(second)
    await models.use(second)
    assert await one(pool, MATCHES) == interrupted
    with pytest.raises(ConfigError, match="expected model 99 to be prepared"):
        await models.prepare(99)
    with pytest.raises(ConfigError, match=f"expected model {second} to be prepared"):
        await models.use(second)


async def test_g7_readers_never_see_weights(pool: Pool) -> None:
    models = Models(pool, "default", KIND, RULES)
    await models.keep(trained(), {}, "test")
    for table in ("profile_models", "profile_blocks", "profile_matches"):
        found = await one(
            pool,
            "SELECT c.relrowsecurity, c.relforcerowsecurity, "
            "has_table_privilege('penstock_reader', c.oid, 'SELECT') "
            f"FROM pg_class c WHERE c.oid = 'penstock.{table}'::regclass",
        )
        assert found == (True, True, False), table


async def test_hot_statements_go_by_indexes_whatever_statistics_say(pool: Pool) -> None:
    names: dict[str, Any] = {"tenant": "default", "kind": KIND, "model": 1}
    numbers = list(range(500))
    asked: dict[str, dict[str, Any]] = {
        "blocks_of": {"record": numbers},
        "in_blocks": {"block": [str(n) for n in numbers], "most": [61] * 500},
        "matches_of": {"record": numbers, "least": 0.0},
        "by_id": {"record": numbers},
    }
    async with pool.connection() as connection:
        for statement, parameters in asked.items():
            cursor = await connection.execute(
                "EXPLAIN " + MATCHING[statement], {**names, **parameters}
            )
            plan = "\n".join(line for (line,) in await cursor.fetchall())
            assert "Seq Scan" not in plan, plan
            for index, by in (
                ("profile_blocks_pkey", "block ="),
                ("profile_blocks_by_record", "record ="),
                ("profile_matches_pkey", "one ="),
                ("profile_matches_by_other", "other ="),
            ):
                for line, below in pairwise(plan.splitlines()):
                    assert index not in line or by in below, plan


async def test_values_are_forgotten_by_stored_weights(pool: Pool) -> None:
    models = Models(pool, "default", KIND, RULES)
    number = await models.keep(trained(), {}, "test")
    await models.use(number)
    assert "maria" in trained().fields[0].shares
    async with pool.connection() as connection, connection.transaction():
        assert await forget_in_models(connection, "default", ["nobody has this"]) == []
        assert await forget_in_models(connection, "other", ["Maria"]) == []
        assert await forget_in_models(connection, "default", ["Maria"]) == [KIND]
    assert "maria" not in await one(pool, "SELECT weights FROM penstock.profile_models")
    await take(pool, [change(1, person(1), 1), change(2, wrong(person(1)), 1)])  # it still works
    assert await together(pool, 1, 2)


def test_words_of_long_texts_are_forgotten() -> None:
    rows = [
        {"text": f"the quick brown fox number {n % 40} jumps over word{n % 30} and thing{n % 7}"}
        for n in range(120)
    ]
    model = train(rows, ["x"] * len(rows)).model
    assert "word3" in model.to_json()
    forgotten = forget_values(model, ["a text with word3 in it"])
    assert "word3" not in forgotten.to_json()
    assert forgotten.version != model.version
    assert forget_values(model, ["elsewhere"]) is model
    left, right = (
        Record(RecordKey("a", "b", str(n)), fields={"text": rows[n]["text"]}) for n in (3, 33)
    )
    FuzzyMatcher(forgotten).score([(left, right)])
