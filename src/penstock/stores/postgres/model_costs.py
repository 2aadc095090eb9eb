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
INSERT INTO penstock.model_canaries AS c (tenant, model, requests, errors, other_requests,
    other_errors)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant, model) DO UPDATE
SET requests = c.requests + excluded.requests, errors = c.errors + excluded.errors,
    other_requests = c.other_requests + excluded.other_requests,
    other_errors = c.other_errors + excluded.other_errors
RETURNING model, state, requests, errors, other_requests, other_errors, reason
"""
_DECIDE: Final = """
INSERT INTO penstock.model_canaries AS c (tenant, model, state, reason) VALUES (%s, %s, %s, %s)
ON CONFLICT (tenant, model) DO UPDATE
SET state = excluded.state, reason = excluded.reason, changed_at = clock_timestamp(),
    requests = CASE excluded.state WHEN 'running' THEN 0 ELSE c.requests END,
    errors = CASE excluded.state WHEN 'running' THEN 0 ELSE c.errors END,
    other_requests = CASE excluded.state WHEN 'running' THEN 0 ELSE c.other_requests END,
    other_errors = CASE excluded.state WHEN 'running' THEN 0 ELSE c.other_errors END
WHERE %s OR c.state = 'running'
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
    requests: int
    errors: int
    other_requests: int
    other_errors: int
    reason: str


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
        self, tenant: str, counted: Iterable[tuple[str, int, int, int, int]]
    ) -> list[CanaryRow]:
        """Add requests and errors of canaries and of the others; returns how all of them stand."""
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
