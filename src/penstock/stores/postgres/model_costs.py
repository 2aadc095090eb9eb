"""What language models cost, in the database: for all processes of a project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated

_RESERVE: Final = """
SELECT today, refused, taken
FROM penstock.put_aside(%s, %s::text[], %s::bigint[], %s)
"""
_ADJUST: Final = """
INSERT INTO penstock.model_budgets AS b (tenant, day, key, nanos) VALUES (%s, %s, %s, %s)
ON CONFLICT (tenant, day, key) DO UPDATE SET nanos = b.nanos + excluded.nanos
"""
_SPEND: Final = """
INSERT INTO penstock.model_spending AS s (tenant, day, key, model, requests, failed, input_tokens,
    output_tokens, cached_tokens, nanos, unknown)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant, day, key, model) DO UPDATE
SET requests = s.requests + excluded.requests, failed = s.failed + excluded.failed,
    input_tokens = s.input_tokens + excluded.input_tokens,
    output_tokens = s.output_tokens + excluded.output_tokens,
    cached_tokens = s.cached_tokens + excluded.cached_tokens,
    nanos = s.nanos + excluded.nanos, unknown = s.unknown + excluded.unknown
"""
_COUNT: Final = """
INSERT INTO penstock.model_canaries AS c (tenant, model, requests, errors, judged, good,
    other_requests, other_errors, other_judged, other_good)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant, model) DO UPDATE
SET requests = c.requests + excluded.requests, errors = c.errors + excluded.errors,
    judged = c.judged + excluded.judged, good = c.good + excluded.good,
    other_requests = c.other_requests + excluded.other_requests,
    other_errors = c.other_errors + excluded.other_errors,
    other_judged = c.other_judged + excluded.other_judged,
    other_good = c.other_good + excluded.other_good
RETURNING model, state, reason, requests, errors, judged, good,
    other_requests, other_errors, other_judged, other_good
"""
_DECIDE: Final = """
WITH decided AS (
    INSERT INTO penstock.model_canaries AS c (tenant, model, state, reason)
    VALUES (%s, %s, %s, %s)
    ON CONFLICT (tenant, model) DO UPDATE
    SET state = excluded.state, reason = excluded.reason, changed_at = clock_timestamp(),
        requests = c.requests * (excluded.state <> 'running')::int,
        errors = c.errors * (excluded.state <> 'running')::int,
        judged = c.judged * (excluded.state <> 'running')::int,
        good = c.good * (excluded.state <> 'running')::int,
        other_requests = c.other_requests * (excluded.state <> 'running')::int,
        other_errors = c.other_errors * (excluded.state <> 'running')::int,
        other_judged = c.other_judged * (excluded.state <> 'running')::int,
        other_good = c.other_good * (excluded.state <> 'running')::int
    WHERE %s OR c.state = 'running'
    RETURNING tenant, model, state, reason
)
INSERT INTO penstock.model_canary_events (tenant, model, state, reason) SELECT * FROM decided
"""
_EVENTS: Final = """
SELECT at, state, reason FROM penstock.model_canary_events
WHERE tenant = %s AND model = %s ORDER BY number DESC LIMIT %s
"""
_SPENT: Final = """
SELECT day, key, model, requests, failed, input_tokens, output_tokens, cached_tokens, nanos, unknown
FROM penstock.model_spending WHERE tenant = %s AND day >= %s ORDER BY day, key, model
"""

Amounts = tuple[int, int, int, int, int, int, int]
"""Requests, failed, tokens read, written and kept, billionths, unknown."""


class CanaryRow(NamedTuple):
    """How a new model does."""

    model: str
    state: str
    reason: str
    requests: int
    errors: int
    judged: int
    good: int
    other_requests: int
    other_errors: int
    other_judged: int
    other_good: int


class PostgresModelCosts:
    """Budgets, costs and canaries of one project's database."""

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def reserve(
        self, tenant: str, nanos: int, most: Mapping[str, int | None]
    ) -> date | tuple[str, int]:
        """Put so much aside for every key of ``most``, or for none. Returns the day, or the key
        whose budget does not hold it and what that has taken."""
        keys = sorted(most)
        mosts = [most[key] for key in keys]
        with translated():
            async with self._pool.connection() as connection:
                found = await connection.execute(_RESERVE, [tenant, keys, mosts, nanos])
                row = await found.fetchone()
        assert row is not None
        day, refused, taken = row
        return day if refused is None else (refused, taken)

    async def settle(
        self,
        adjusted: Mapping[tuple[str, str, str], int],
        spent: Mapping[tuple[str, str, str, str], Amounts],
    ) -> None:
        """Correct budgets (by tenant, day, key) and write down what was spent (and by model)."""
        with translated():
            async with (
                self._pool.connection() as connection,
                connection.transaction(),
                connection.cursor() as cursor,
            ):
                # Sorted, as reservations are: two writers never wait for each other crosswise.
                await cursor.executemany(_ADJUST, [(*k, adjusted[k]) for k in sorted(adjusted)])
                await cursor.executemany(_SPEND, [(*k, *spent[k]) for k in sorted(spent)])

    async def spent(self, tenant: str, since: date) -> Sequence[tuple[Any, ...]]:
        """Day, key, model and `Amounts` of each line since a day."""
        with translated():
            async with self._pool.connection() as connection:
                return await (await connection.execute(_SPENT, [tenant, since])).fetchall()

    async def count(
        self, tenant: str, counted: Iterable[tuple[str, *tuple[int, ...]]]
    ) -> list[CanaryRow]:
        """Add what canaries and the others did (requests, errors, judged, good of each); returns
        how all of them stand."""
        rows = []
        with translated():
            async with self._pool.connection() as connection:
                for line in sorted(counted):
                    row = await (await connection.execute(_COUNT, [tenant, *line])).fetchone()
                    assert row is not None
                    rows.append(CanaryRow(*row))
        return rows

    async def decide(
        self, tenant: str, model: str, state: str, reason: str, *, anyway: bool = True
    ) -> None:
        """Set a canary's state; without ``anyway``, only of one that runs."""
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(_DECIDE, [tenant, model, state, reason, anyway])

    async def events(self, tenant: str, model: str, limit: int) -> Sequence[tuple[Any, ...]]:
        """What was decided of a canary, and why, the latest first: when, state, reason."""
        with translated():
            async with self._pool.connection() as connection:
                return await (await connection.execute(_EVENTS, [tenant, model, limit])).fetchall()
