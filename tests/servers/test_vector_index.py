"""The index of the vectors, on a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from penstock.stores.postgres import vector_index
from penstock.stores.postgres.binary_rows import HEADER, TRAILER, vector_rows
from penstock.stores.postgres.vector_index import drop_before_bulk, inspect, maintain

Connection = psycopg.AsyncConnection[Any]


async def fill(connection: Connection, count: int) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(count, 8)).astype(np.float32)
    hashes = [number.to_bytes(16) for number in range(count)]
    await connection.execute("INSERT INTO penstock.models (name, dimensions) VALUES ('m', 8)")
    async with connection.cursor().copy(
        "COPY penstock.vectors (tenant, model, hash, embedding) FROM STDIN (FORMAT binary)"
    ) as copy:
        await copy.write(HEADER + vector_rows("default", 1, hashes, matrix) + TRAILER)


async def test_the_index_is_built_used_and_mended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the load, while others read and write; a load drops it; deletions call for VACUUM."""
    monkeypatch.setattr(vector_index, "SMALLEST_INDEXED", 500)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await fill(connection, 2000)
        assert await maintain(connection) == [(1, "build")]
        assert await maintain(connection) == []
        plan = await (
            await connection.execute(
                "EXPLAIN SELECT hash FROM penstock.vectors WHERE model = 1"
                " ORDER BY embedding::halfvec(8) <=> '[1,2,3,4,5,6,7,8]'::halfvec(8) LIMIT 5"
            )
        ).fetchall()
        assert any("vectors_nearest_1" in line for (line,) in plan)
        await connection.execute(
            "DELETE FROM penstock.vectors WHERE hash < %s", [b"\0" * 14 + b"\3"]
        )
        await connection.execute("SELECT pg_stat_force_next_flush()")
        (state,) = await inspect(connection)
        assert (state.vectors, state.dead, state.valid) == (1232, 768, True)
        assert await maintain(connection) == [(1, "vacuum")]
        assert await drop_before_bulk(connection, "m", 5000)
        assert not await drop_before_bulk(connection, "m", 5000)
        assert await maintain(connection) == [(1, "build")]
