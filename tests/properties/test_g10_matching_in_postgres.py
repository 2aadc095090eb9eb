"""G10 with fuzzy matches: a random history in PostgreSQL ends in what a computation from the
beginning gives, for one model: the same matches, the same profiles."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.database.connect import open_pool
from penstock.identity.components import ignored, resolve
from penstock.identity.evidence import Match, RecordKey
from penstock.identity.fuzzy.matcher import FuzzyMatcher
from penstock.identity.fuzzy.model import Model
from penstock.identity.fuzzy.training import train
from penstock.identity.reading import record_of
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.profiles.models import Models
from penstock.stores.postgres.store import PostgresStore

from .histories import examples

COLUMNS = (
    Column("id", "integer", key=True),
    *(Column(name, "text") for name in ("email", "given", "surname", "born")),
)
FIELDS = {name: name for name in ("given", "surname", "born")}
TABLE = TableRule(identifiers=(("email", "email"),), traits={"name": "surname"}, fields=FIELDS)
RULES = Rules(
    kinds={"email": KindRule("email", shared_by_at_most=3)},
    traits={"name": TraitRule("longest")},
    tables={("crm", "people"): TABLE, ("shop", "people"): TABLE},
    largest=6,
)
SCHEMAS = {source: Schema(source, "people", COLUMNS) for source in ("crm", "shop")}
GIVEN = ("anna", "maria", "peter", "hans", "julia", "thomas")
SURNAMES = ("berger", "hofstein", "waldmann", "kellerbach", "schmidler", "brandwald")
kinds = count(1)

Said = tuple[str | None, ...]


@cache
def trained() -> Model:
    """Of people with errors, learned once. Where blocks are small, they open and close often."""
    chance, rows = random.Random(3), []
    for number in range(300):
        row = {
            "given": chance.choice(GIVEN),
            "surname": chance.choice(SURNAMES) + chance.choice(("", "er", "ing", "au")),
            "born": f"19{number % 60 + 30}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}",
        }
        rows.append(row)
        if chance.random() < 0.5:
            rows.append({**row, "surname": row["surname"] + "n", "born": row["born"]})
    return train(rows, ["x"] * len(rows)).model


def model(most: int, *, once: bool) -> Model:
    """Thresholds so low that nearly all that share a name are tied, so that ties come and go."""
    return replace(trained(), link=-2.0, possible=-6.0, block_at_most=most, one_per_source=once)


ROWS = st.tuples(
    st.sampled_from([None, None, None, "e1@x.org", "e2@x.org"]),
    st.sampled_from(["anna", "anne", "peter", None]),
    st.sampled_from(["hofstein", "hofstein", "hofstien", "berger"]),
    st.sampled_from(["1950-03-04", "1950-03-05", None]),
)
STEPS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["crm", "shop"]), st.integers(0, 7), st.one_of(st.none(), ROWS, ROWS)
        ),
        min_size=1,
        max_size=9,
    ),
    min_size=1,
    max_size=7,
)


class History:
    """What the tables hold, and the changes that made it so."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Said] = {}
        self.clock = count(1)

    def changes(self, steps: Sequence[tuple[str, int, Said | None]]) -> list[Change]:
        found = []
        for source, number, said in steps:
            key, at = str(number), next(self.clock)
            if said is None:
                self.rows.pop((source, key), None)
            else:
                self.rows[source, key] = said
            found.append(
                Change(
                    SCHEMAS[source],
                    Op.DELETE if said is None else Op.UPDATE,
                    (key,),
                    Position(f"{at:08}"),
                    Microseconds(at),
                    None if said is None else (key, *said),
                    transaction=f"t{at}",
                )
            )
        return found

    def answer(self, chosen: Model) -> tuple[list[tuple[str, ...]], dict[tuple[str, str], float]]:
        """Profiles and matches, from the beginning."""
        matcher = FuzzyMatcher(chosen)
        records = {
            key: record_of(
                RecordKey(key[0], "people", key[1]),
                dict(
                    zip(("id", "email", "given", "surname", "born"), (key[1], *said), strict=True)
                ),
                RULES,
                position=Position("1"),
                committed_at=Microseconds(1),
            )
            for key, said in self.rows.items()
        }
        blocks: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for key, record in records.items():
            for block in matcher.blocks(record.fields):
                blocks[block].append(key)
        pairs = {
            pair
            for members in blocks.values()
            if len(members) <= chosen.block_at_most
            for pair in combinations(sorted(members), 2)
        }
        scored: list[Match] = [
            match
            for match in matcher.score([(records[a], records[b]) for a, b in sorted(pairs)])
            if match.weight >= chosen.possible
        ]
        rules = replace(RULES, once_per_table=chosen.one_per_source)
        there = list(records.values())
        found = resolve(
            there,
            rules,
            ignored=ignored(there, rules),
            matches=[match for match in scored if match.weight >= chosen.link],
        )
        parts = sorted(tuple(sorted(f"{k.source}/{k.key}" for k in part)) for part in found.parts)
        weights = {
            (f"{m.left.source}/{m.left.key}", f"{m.right.source}/{m.right.key}"): m.weight
            for m in scored
        }
        return parts, weights


async def stored(
    connection: psycopg.AsyncConnection[Any], kind: str
) -> tuple[list[tuple[str, ...]], dict[tuple[str, str], float]]:
    cursor = await connection.execute(
        "SELECT array_agg(source || '/' || key) FROM penstock.profile_records "
        "WHERE kind = %s AND columns IS NOT NULL GROUP BY profile",
        [kind],
    )
    parts = sorted(tuple(sorted(part)) for (part,) in await cursor.fetchall())
    cursor = await connection.execute(
        "SELECT a.source || '/' || a.key, b.source || '/' || b.key, m.weight "
        "FROM penstock.profile_matches m JOIN penstock.profile_records a ON a.id = m.one "
        "JOIN penstock.profile_records b ON b.id = m.other WHERE m.kind = %s AND m.model IN "
        "(SELECT number FROM penstock.profile_models WHERE kind = m.kind AND state = 'used')",
        [kind],
    )
    return parts, {(one, other): weight for one, other, weight in await cursor.fetchall()}


async def carried(
    url: str, steps: Sequence[Sequence[Any]], begin: int, most: int, *, once: bool
) -> None:
    kind, history, chosen = f"f{next(kinds)}", History(), model(most, once=once)
    async with await open_pool(url) as pool:
        store, models = PostgresStore(pool), Models(pool, "default", kind, RULES)
        async with pool.connection() as connection:
            await declare(connection, "default", kind, RULES)

        async def take(changes: Sequence[Change]) -> None:
            async with store.transaction() as transaction:
                await transaction.apply(ApplyEvidence(kind, RULES, changes))

        number = None
        for place, step in enumerate(steps):
            if place == begin % len(steps):  # kept before this step, so that it goes beside it
                number = await models.keep(chosen, {}, "test")
            changes = history.changes(step)
            await take(changes)
            await take(changes[: len(changes) // 2])  # done again: nothing
            if place == begin % len(steps):
                assert number is not None
                await models.prepare(number)
                await models.use(number)
            if number is not None:
                async with pool.connection() as connection:
                    assert await stored(connection, kind) == history.answer(chosen)
        other = model(most + 2, once=not once)
        second = await models.keep(other, {}, "test")
        await models.prepare(second)
        await models.use(second)
        async with pool.connection() as connection:
            assert await stored(connection, kind) == history.answer(other)
        await models.use(None)
        async with pool.connection() as connection:
            parts, matches = await stored(connection, kind)
        assert (parts, matches) == (history.answer(replace(chosen, link=999.0))[0], {})


@given(STEPS, st.integers(0, 6), st.integers(2, 6), st.booleans())
@pytest.mark.timeout(240 if examples(0) == 0 else 3600)  # making a failure small takes long
@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_g10_matches_in_postgres_are_those_of_a_batch(
    database_url: str, steps: list[list[Any]], begin: int, most: int, once: bool
) -> None:
    asyncio.run(carried(database_url, steps, begin, most, once=once))


def test_the_model_ties_some_and_leaves_some_to_people() -> None:
    """Otherwise the histories would test nothing."""
    history, chosen = History(), model(9, once=False)
    history.changes(
        [
            ("crm", 1, (None, "anna", "hofstein", "1950-03-04")),
            ("shop", 1, (None, "anna", "hofstien", "1950-03-04")),
            ("shop", 2, (None, "peter", "berger", "1961-11-30")),
        ]
    )
    parts, matches = history.answer(chosen)
    assert parts == [("crm/1", "shop/1"), ("shop/2",)]
    assert ("crm/1", "shop/1") in matches
