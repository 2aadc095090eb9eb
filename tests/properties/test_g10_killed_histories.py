"""G10 in PostgreSQL with everything at once: rows come, change and go, people decide and take it
back, batches come again, and the connection of a writer is killed before it has committed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.identity.evidence import Decision, RecordKey
from penstock.identity.graph import RecordChange
from penstock.stores.postgres.profiles.deciding import Deciding
from penstock.stores.postgres.profiles.facts import Evidence
from penstock.stores.postgres.profiles.graph import PostgresGraph
from penstock.stores.postgres.profiles.kinds import declare

from .histories import examples
from .test_g10_identity_histories import RULES, STEPS, History, check, decision

Connection = psycopg.AsyncConnection[Any]
Work = Callable[[Connection], Coroutine[Any, Any, object]]
kinds = count(1)


class Stored:
    """One kind of profile in a database, written as the loops and the commands write it."""

    def __init__(self, pool: AsyncConnectionPool[Connection], kind: str) -> None:
        self._pool = pool
        self._kind = kind

    async def take(self, changes: Sequence[RecordChange], *, killed: bool) -> None:
        async def work(connection: Connection) -> None:
            graph = PostgresGraph(connection, "default", self._kind, RULES)
            await graph.open()
            evidence = Evidence(connection, "default", self._kind, RULES, graph)
            await evidence.incorporate(changes)
            await evidence.note(())

        await self._do(work, killed=killed)

    async def decide(self, said: Decision, *, killed: bool) -> None:
        async def work(connection: Connection) -> None:
            number = await Deciding(connection, "default", self._kind, RULES).decide(
                said.verb, said.left, said.right, identifier=said.identifier, by="me", reason="so"
            )
            assert number == said.number

        await self._do(work, killed=killed)

    async def revoke(self, number: int, *, killed: bool) -> None:
        async def work(connection: Connection) -> None:
            await Deciding(connection, "default", self._kind, RULES).revoke(number)

        await self._do(work, killed=killed)

    async def _do(self, work: Work, *, killed: bool) -> None:
        """Once; where it is killed, all is written but the commit, and then it is done again."""
        if killed:
            with pytest.raises(psycopg.OperationalError):  # noqa: PT012 - any of them may notice
                async with self._pool.connection() as connection, connection.transaction():
                    await work(connection)
                    async with self._pool.connection() as other:
                        await other.execute(
                            "SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid]
                        )
                    await connection.execute("SELECT 1")
        async with self._pool.connection() as connection, connection.transaction():
            await work(connection)

    async def parts(self) -> list[tuple[RecordKey, ...]]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT profile, source, stream, key FROM penstock.profile_records "
                "WHERE kind = %s AND columns IS NOT NULL",
                [self._kind],
            )
            found: dict[str, list[RecordKey]] = defaultdict(list)
            for profile, *key in await cursor.fetchall():
                assert profile is not None
                found[profile].append(RecordKey(*key))
        return sorted(tuple(sorted(part)) for part in found.values())


async def carried(url: str, steps: Sequence[Any], kills: set[int]) -> None:
    kind, history = f"h{next(kinds)}", History()
    async with await open_pool(url, max_size=2) as pool:
        stored = Stored(pool, kind)
        async with pool.connection() as connection:
            await declare(connection, "default", kind, RULES)
        for place, step in enumerate(steps):
            killed = place in kills
            if isinstance(step, list):
                await history.rows(step)
                await stored.take(history.done[-1], killed=killed)
                if place % 2:  # and one that came before comes again
                    await stored.take(history.done[place % len(history.done)], killed=False)
            elif step[0] == "revoke":
                present = sorted(said.number for said in history.graph.decisions())
                await history.take(step)
                if present:
                    await stored.revoke(present[step[1] % len(present)], killed=killed)
            else:
                await history.take(step)
                await stored.decide(decision(history.numbers, step), killed=killed)
            check(history.graph)  # against the batch
            assert await stored.parts() == history.graph.partition()


@given(STEPS, st.sets(st.integers(0, 13), max_size=2))
@pytest.mark.timeout(240 if examples(0) == 0 else 3600)  # making a failure small takes long
@settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_g10_killed_histories_end_in_the_answer_of_a_batch(
    database_url: str, steps: list[Any], kills: set[int]
) -> None:
    asyncio.run(carried(database_url, steps, kills))
