"""What models are asked and what they gave at first, over all processes of a project."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated

_RESERVE: Final = """
WITH counted AS (
    INSERT INTO penstock.model_usage AS u (model, day, requests, characters, tokens)
    SELECT %(model)s, (clock_timestamp() AT TIME ZONE 'UTC')::date,
           %(requests)s, %(characters)s, %(tokens)s
    WHERE %(priority)s OR (%(characters)s <= coalesce(%(most_characters)s, %(characters)s)
                           AND %(tokens)s <= coalesce(%(most_tokens)s, %(tokens)s))
    ON CONFLICT (model, day) DO UPDATE
    SET requests = u.requests + excluded.requests,
        characters = u.characters + excluded.characters, tokens = u.tokens + excluded.tokens
    WHERE %(priority)s
       OR (u.characters + excluded.characters
               <= coalesce(%(most_characters)s, u.characters + excluded.characters)
           AND u.tokens + excluded.tokens
               <= coalesce(%(most_tokens)s, u.tokens + excluded.tokens))
    RETURNING model
), paced AS (
    INSERT INTO penstock.model_pace AS p (model, request_at, token_at)
    SELECT model, clock_timestamp() + %(request_s)s * interval '1 second',
           clock_timestamp() + %(token_s)s * interval '1 second' FROM counted
    WHERE %(request_s)s + %(token_s)s > 0
    ON CONFLICT (model) DO UPDATE
    SET request_at = greatest(p.request_at, clock_timestamp())
                     + %(request_s)s * interval '1 second',
        token_at = greatest(p.token_at, clock_timestamp()) + %(token_s)s * interval '1 second'
    RETURNING extract(epoch FROM request_at - clock_timestamp()) - %(request_s)s,
              extract(epoch FROM token_at - clock_timestamp()) - %(token_s)s
)
SELECT count(*), coalesce((SELECT greatest(p.a, p.b) FROM paced p (a, b)), 0)::float8 FROM counted
"""
_SETTLE: Final = """
UPDATE penstock.model_usage
SET requests = greatest(requests + %(requests)s, 0),
    characters = greatest(characters + %(characters)s, 0), tokens = greatest(tokens + %(tokens)s, 0)
WHERE model = %(model)s AND day = (clock_timestamp() AT TIME ZONE 'UTC')::date
"""
_TODAY: Final = """
SELECT requests, characters, tokens FROM penstock.model_usage
WHERE model = %s AND day = (clock_timestamp() AT TIME ZONE 'UTC')::date
"""
_RECALL: Final = "SELECT probe FROM penstock.model_references WHERE model = %s"
_REMEMBER: Final = """
INSERT INTO penstock.model_references (model, probe) VALUES (%s, %s) ON CONFLICT DO NOTHING
"""

Counts = tuple[int, int, int]
"""Requests, characters, tokens."""


class PostgresModelUsage:
    """Counts by model and day, and the probes' vectors."""

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def reserve(
        self,
        model: str,
        use: Counts,
        *,
        most: tuple[int | None, float | None] = (None, None),
        takes_s: tuple[float, float] = (0.0, 0.0),
        priority: bool = False,
    ) -> float | None:
        """Count a request, unless the day would have more than ``most`` (characters, tokens): then
        None. Returns how far its turn is away, in seconds."""
        requests, characters, tokens = use
        most_characters, most_tokens = most
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    _RESERVE,
                    {
                        "model": model,
                        "requests": requests,
                        "characters": characters,
                        "tokens": tokens,
                        "priority": priority,
                        "most_characters": most_characters,
                        "most_tokens": None if most_tokens is None else int(most_tokens),
                        "request_s": takes_s[0],
                        "token_s": takes_s[1],
                    },
                )
                [(counted, wait)] = await cursor.fetchall()
        return max(0.0, wait) if counted else None

    async def settle(self, model: str, difference: Counts) -> None:
        """Correct the day's counts by this much."""
        requests, characters, tokens = difference
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(
                    _SETTLE,
                    {
                        "model": model,
                        "requests": requests,
                        "characters": characters,
                        "tokens": tokens,
                    },
                )

    async def today(self, model: str) -> Counts:
        """What was counted today."""
        with translated():
            async with self._pool.connection() as connection:
                row = await (await connection.execute(_TODAY, [model])).fetchone()
        return (0, 0, 0) if row is None else (row[0], row[1], row[2])

    async def recall(self, name: str) -> bytes | None:
        """The probe's vector under this name."""
        with translated():
            async with self._pool.connection() as connection:
                row = await (await connection.execute(_RECALL, [name])).fetchone()
        return None if row is None else bytes(row[0])

    async def remember(self, name: str, vector: bytes) -> bytes:
        """Keep it, unless there is one already; returns the one that is kept."""
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(_REMEMBER, [name, vector])
        return await self.recall(name) or vector

    async def forget(self, name: str) -> None:
        """Take the next answer for what the model gives."""
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(
                    "DELETE FROM penstock.model_references WHERE model = %s", [name]
                )
