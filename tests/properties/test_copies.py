"""A copy beside the stream, broken off anywhere while others write, ends as if it never was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.clock import SystemClock
from penstock.records import UNCHANGED, Change, Key, Op, Row
from penstock.sources.base import SourceBatch
from penstock.sources.postgres.limits import PostgresLimits
from penstock.sources.postgres.source import PostgresSource

TABLE: Final = "CREATE TABLE t (id bigint PRIMARY KEY, v numeric, large text, pad text)"
ROWS: Final = 400
DEADLINE_S: Final = 30.0
# One block at a time, so that a copy can be broken off in many places.
LIMITS: Final = PostgresLimits(chunk_blocks=1, chunk_s=0.0, copy_tables=1)

# Large values are stored apart, and an update beside one leaves it out of the stream.
WRITES: Final[dict[str, LiteralString]] = {
    "insert": "INSERT INTO t VALUES (%(new)s, %(n)s, %(large)s, repeat('p', 300))",
    "change": "UPDATE t SET v = %(n)s WHERE id %% 37 = %(some)s",
    "flood": "UPDATE t SET v = %(n)s",
    "enlarge": "UPDATE t SET large = %(large)s WHERE id %% 41 = %(some)s",
    "move": "UPDATE t SET id = id + 100000 + %(n)s WHERE id %% 97 = %(some)s",
    "delete": "DELETE FROM t WHERE id %% 53 = %(some)s",
    "rewrite": "VACUUM FULL t",
    "alter": "ALTER TABLE t ALTER v TYPE numeric(20, %(places)s)",
    "empty": "TRUNCATE t",
    "refill": "INSERT INTO t SELECT g, 0, %(large)s, repeat('p', 300) "
    "FROM generate_series(1, 200) g ON CONFLICT DO NOTHING",
}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(WRITES)), st.integers(0, 30)),
        st.tuples(st.just("read"), st.integers(1, 6)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("copy again"), st.just(0)),
    ),
    min_size=4,
    max_size=25,
)


class Target:
    """What the log and a live table would hold; checks what is promised on the way."""

    def __init__(self) -> None:
        self.state: dict[str, str] = {}
        self.rows: dict[Key, Row] = {}
        self._newest: dict[Key, str] = {}
        self._last = ""

    def take(self, changes: Sequence[Change], state: dict[str, str | None]) -> None:
        for change in changes:
            if change.op is Op.TRUNCATE:
                self.rows = {
                    k: r for k, r in self.rows.items() if self._newest[k] > change.position
                }
                continue
            assert change.position > self._last, "positions must increase"
            self._last = change.position
            self._apply(change)
        for name, value in state.items():
            if value is None:
                self.state.pop(name, None)
            else:
                self.state[name] = value

    def _apply(self, change: Change) -> None:
        before = self.rows.pop(change.old_key or change.key, None)
        self._newest[change.key] = change.position
        if change.after is None:
            return
        if UNCHANGED in change.after:
            assert before is not None, f"{change} leaves out values of a row that never came"
            self.rows[change.key] = tuple(
                old if value is UNCHANGED else value
                for old, value in zip(before, change.after, strict=True)
            )
        else:
            self.rows[change.key] = change.after


async def play(dsn: str, steps: Sequence[tuple[str, int]]) -> None:
    target, number = Target(), 0
    shop = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with shop:
        # The tests' server commits without waiting for its log; here a commit is sent at once.
        await shop.execute("SET synchronous_commit = on")
        await shop.execute("DROP TABLE IF EXISTS t")
        await shop.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, v numeric, large text, pad text)"
        )
        await shop.execute("ALTER TABLE t ALTER large SET STORAGE EXTERNAL")
        await shop.execute(
            "INSERT INTO t SELECT g, 0, repeat('l', CASE WHEN g %% 3 = 0 THEN 3000 ELSE 3 END), "
            "repeat('p', 300) FROM generate_series(1, %s) g",
            [ROWS],
        )
        source = PostgresSource(
            "copies", dsn, ["t"], clock=SystemClock(), heartbeat_s=0.02,
            max_batch_changes=20, limits=LIMITS,
        )  # fmt: skip
        try:
            batches = source.read({})
            for what, count in steps:
                number += 1
                if what == "read":
                    for _ in range(count):
                        async with asyncio.timeout(DEADLINE_S):
                            batch = await anext(batches)
                        target.take(batch.changes, dict(batch.state))
                        await source.acknowledge(batch.state)
                elif what == "kill":
                    await batches.aclose()
                    batches = source.read(dict(target.state))
                elif what == "copy again":
                    await source.reread_streams(["public.t"])
                else:
                    values = {
                        "n": number, "new": 200_000 + number, "some": count,
                        "large": str(number % 10) * 3000, "places": 1 + number % 9,
                    }  # fmt: skip
                    await write(shop, WRITES[what], values)
            async with aclosing(batches):
                await in_step(shop, source, batches, target)
        finally:
            await source.drop()


async def write(
    shop: psycopg.AsyncConnection, statement: LiteralString, values: dict[str, object]
) -> None:
    if statement.startswith("ALTER"):
        await psycopg.AsyncClientCursor(shop).execute(statement, values)
        return
    async with asyncio.timeout(DEADLINE_S):  # nobody waits for what a copy holds
        await shop.execute(statement, values if "%" in statement else None)


async def in_step(
    shop: psycopg.AsyncConnection,
    source: PostgresSource,
    batches: AsyncIterator[SourceBatch],
    target: Target,
) -> None:
    """Read until what the target holds is what the source holds."""
    cursor = await shop.execute("SELECT id::text, v::text, large, pad FROM t")
    wanted = {(row[0],): tuple(row) for row in await cursor.fetchall()}
    async with asyncio.timeout(DEADLINE_S):
        while target.rows != wanted or "table:public.t" not in target.state:
            batch = await anext(batches)
            target.take(batch.changes, dict(batch.state))
            await source.acknowledge(batch.state)


@pytest.mark.timeout(300)  # each example is a real source with several lives
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_g1_g2_a_copy_resumed_from_anywhere_equals_one_never_stopped(
    source_url: str, steps: list[tuple[str, int]]
) -> None:
    """Whatever is written between and in chunks, and wherever our process is killed."""
    asyncio.run(play(source_url, steps))
