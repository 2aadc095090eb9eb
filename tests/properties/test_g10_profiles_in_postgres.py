"""G10 in PostgreSQL: random histories end in the answer that a batch gives, in any batches."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.database.connect import open_pool
from penstock.identity.components import ignored, resolve
from penstock.identity.reading import record_key, record_of
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.pipelines.profiles import ProfilesPipeline
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
    Unchanged,
)
from penstock.sources.profile_events.rows import IDS, Happened, changes_of
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.profiles.reading import PostgresProfiles
from penstock.stores.postgres.store import PostgresStore

from .histories import examples

COLUMNS = (
    Column("id", "integer", key=True),
    Column("email", "text"),
    Column("phone", "text"),
    Column("note", "text"),
    Column("name", "text"),
)
NAMES = tuple(column.name for column in COLUMNS)
TOOLS: Any = None  # this pipeline asks nothing
kinds = count(1)

TABLE = TableRule(
    identifiers=(("email", "email"), ("phone", "phone")), traits={"name": "name", "mail": "email"}
)
RULES = Rules(
    kinds={
        "email": KindRule("email", shared_by_at_most=3, priority=2),
        "phone": KindRule("text", shared_by_at_most=4, per_profile_at_most=2),
    },
    traits={"name": TraitRule("longest"), "mail": TraitRule("union")},
    tables={("crm", "public.people"): TABLE, ("shop", "public.people"): TABLE},
    largest=6,
)
SCHEMAS = {source: Schema(source, "public.people", COLUMNS) for source in ("crm", "shop")}
ACTIONS = st.tuples(
    st.sampled_from(
        ["put", "put", "put", "touch", "touch", "move", "trade", "return", "delete", "truncate"]
    ),
    st.sampled_from(["crm", "shop"]),
    st.integers(0, 5),
    st.integers(0, 5),
    st.sampled_from([None, "N/A", "e1@x.org", "e2@x.org", "e3@x.org"]),
    st.sampled_from([None, "-", "p1", "p2", "p3", "p4"]),
    st.sampled_from([None, "Ada", "Ada Lovelace"]),
)


class Source:
    """Tables, and the changes that a capture of them would send."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Row]] = {"crm": {}, "shop": {}}
        self.changes: list[Change] = []
        self.after: list[dict[str, dict[str, Row]]] = []
        """The rows after each action, and how many changes there were by then."""
        self.ends: list[int] = []

    def do(self, action: tuple[Any, ...]) -> None:
        verb, source, one, other, email, phone, name = action
        rows, key, to = self.rows[source], str(one), str(other)
        there, free = key in rows, to not in rows
        if verb == "put":
            row = (key, email, phone, "n" * 9, name)
            self._send(source, Op.UPDATE if there else Op.CREATE, key, row)
            rows[key] = row
        elif verb == "touch" and there:
            sent = (key, UNCHANGED, phone, UNCHANGED, UNCHANGED)
            self._send(source, Op.UPDATE, key, sent)
            rows[key] = (key, rows[key][1], phone, *rows[key][3:])
        elif verb == "move" and there and free:
            self._send(source, Op.UPDATE, to, (to, *rows[key][1:3], UNCHANGED, rows[key][4]), key)
            rows[to] = (to, *rows.pop(key)[1:])
        elif verb == "trade" and there and not free and key != to:
            before = rows[key], rows[to]
            rows[key], rows[to] = (key, *before[1][1:]), (to, *before[0][1:])
            self._send(source, Op.UPDATE, to, rows[to], key, whole=before[0])
            self._send(source, Op.UPDATE, key, rows[key], to, whole=before[1], same=True)
        elif verb == "return" and there and free:
            away = (to, *rows[key][1:])
            self._send(source, Op.UPDATE, to, away, key, whole=rows[key])
            self._send(source, Op.UPDATE, key, rows[key], to, whole=away, same=True)
        elif verb == "delete" and there:
            self._send(source, Op.DELETE, key, None)
            del rows[key]
        elif verb == "truncate" and one == 0:
            self._send(source, Op.TRUNCATE, None, None)
            rows.clear()
        self.after.append({name: dict(held) for name, held in self.rows.items()})
        self.ends.append(len(self.changes))

    def wanted(self, changes: int) -> list[tuple[str, ...]]:
        """Who is who after so many changes, worked out from the rows that there are."""
        rows = self.after[bisect_right(self.ends, changes) - 1]
        records = [
            record_of(
                record_key(SCHEMAS[source], (key,)),
                {name: str(v) for name, v in zip(NAMES, row, strict=True) if v is not None},
                RULES,
                position=Position(""),
                committed_at=Microseconds(0),
            )
            for source, held in rows.items()
            for key, row in held.items()
        ]
        parts = resolve(records, RULES, ignored=ignored(records, RULES)).parts
        return sorted(tuple(sorted(f"{key.source}/{key.key}" for key in part)) for part in parts)

    def _send(
        self,
        source: str,
        op: Op,
        key: str | None,
        after: Row | None,
        old: str | None = None,
        *,
        whole: Row | None = None,
        same: bool = False,
    ) -> None:
        number = len(self.changes) + 1
        self.changes.append(
            Change(
                SCHEMAS[source],
                op,
                () if key is None else (key,),
                Position(f"{number:08}"),
                Microseconds(number),
                after,
                whole or ((old, None, None, None, None) if old else None),
                (old,) if old else None,
                f"t{number - same}",
            )
        )


async def parts(connection: psycopg.AsyncConnection[Any], kind: str) -> list[tuple[str, ...]]:
    cursor = await connection.execute(
        "SELECT profile, source || '/' || key FROM penstock.profile_records "
        "WHERE kind = %s AND columns IS NOT NULL ORDER BY 2",
        [kind],
    )
    found: dict[str, list[str]] = defaultdict(list)
    for profile, key in await cursor.fetchall():
        assert profile is not None
        found[profile].append(key)
    return sorted(map(tuple, found.values()))


async def consistent(connection: psycopg.AsyncConnection[Any], kind: str) -> None:
    """Results agree with each other: profiles with their records, bearers with identifiers."""
    cursor = await connection.execute(
        "SELECT p.id, p.records, p.resting, (SELECT count(*) FROM penstock.profile_records r "
        "WHERE r.kind = p.kind AND r.profile = p.id) FROM penstock.profiles p WHERE kind = %s",
        [kind],
    )
    for id_, records, resting, found in await cursor.fetchall():
        assert (records, resting) == (found, found == 0), id_
    cursor = await connection.execute(
        "(SELECT identifier, record FROM penstock.profile_bearers WHERE kind = %(kind)s EXCEPT "
        "SELECT unnest(identifiers), id FROM penstock.profile_records WHERE kind = %(kind)s) "
        "UNION ALL (SELECT unnest(identifiers), id FROM penstock.profile_records "
        "WHERE kind = %(kind)s EXCEPT "
        "SELECT identifier, record FROM penstock.profile_bearers WHERE kind = %(kind)s)",
        {"kind": kind},
    )
    assert await cursor.fetchall() == []


async def followed(connection: psycopg.AsyncConnection[Any], kind: str) -> None:
    """Whoever follows the events knows what every id means, as one who asks does."""
    cursor = await connection.execute(
        "SELECT number, 0, event, profile, other, detail::text, 0 FROM penstock.profile_events "
        "WHERE kind = %s ORDER BY number",
        [kind],
    )
    means: dict[str, str | None] = {}
    for row in await cursor.fetchall():
        for change in changes_of("people", kind, Happened(*row)):
            if change.schema.stream == IDS:
                id_, profile = change.value("id"), change.value("profile")
                assert isinstance(id_, str)
                assert not isinstance(profile, Unchanged)
                means[id_] = profile
    reading = PostgresProfiles(connection, "default", kind)
    for id_ in means:
        now: str | None = id_
        while now is not None and means[now] != now:
            now = means[now]
        found = await reading.profile(id_)
        assert now == (None if found is None else found.id)


async def carried(url: str, history: Source, cuts: Sequence[int]) -> None:
    """Into the store, cut between any transactions, with each stretch done again after the next."""
    kind = f"k{next(kinds)}"
    changes = history.changes
    async with await open_pool(url) as pool:
        store = PostgresStore(pool)
        async with pool.connection() as connection:
            await declare(connection, "default", kind, RULES)
        before: Sequence[Change] = ()
        for start, end in zip((0, *cuts), (*cuts, len(changes)), strict=True):
            stretch = changes[start:end]
            for part in (stretch, [*before, *stretch]):
                for source in ("crm", "shop"):
                    pipeline = ProfilesPipeline((source,), {kind: RULES}, source)
                    own = [change for change in part if change.schema.source == source]
                    outcome = await pipeline.compute(own, TOOLS)
                    async with store.transaction() as transaction:
                        for effect in outcome.effects:
                            await transaction.apply(effect)
            before = stretch
            async with pool.connection() as connection:
                assert await parts(connection, kind) == history.wanted(end)
                await consistent(connection, kind)
                await followed(connection, kind)


@given(st.lists(ACTIONS, min_size=1, max_size=25), st.lists(st.integers(0, 24), max_size=4))
@pytest.mark.timeout(240 if examples(0) == 0 else 3600)  # making a failure small takes long
@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_g10_histories_in_postgres(
    database_url: str, actions: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    source = Source()
    for action in actions:
        source.do(action)
    ends = sorted(set(source.ends[:-1]) - {0, len(source.changes)})
    chosen = sorted({ends[cut % len(ends)] for cut in cuts}) if ends else []
    asyncio.run(carried(database_url, source, chosen))
