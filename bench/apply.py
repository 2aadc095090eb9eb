"""How quick changes become rows of a live table, beside the raw COPY of the same rows.

    python bench/apply.py DSN_OF_AN_EMPTY_MIGRATED_DATABASE [ROWS]

Prints JSON: ``{name, results: [{measure, value, unit, limit, ratio}], machine}``; ``limit`` is
COPY of the same rows into a table without our columns.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from itertools import count
from statistics import quantiles
from typing import Any

from penstock.database.connect import open_pool
from penstock.records import UNCHANGED, Change, Column, Microseconds, Op, Position, Row, Schema
from penstock.stores.base import ApplyRows
from penstock.stores.postgres.store import PostgresStore

BATCH = 5000
COLUMNS = (
    Column("id", "bigint", key=True),
    Column("name", "text"),
    Column("price", "numeric(10,2)"),
    Column("seats", "integer"),
    Column("departs_at", "timestamp with time zone"),
    Column("note", "text"),
    Column("open", "boolean"),
)
SCHEMA = Schema("bench", "public.flights", COLUMNS)
NUMBERS = count(1)


def row(key: int) -> Row:
    note = f"{key:080d}"
    return (
        str(key),
        f"flight {key}",
        f"{key % 500}.50",
        "180",
        "2026-11-01 10:00:00+00",
        note,
        "t",
    )


def change(op: Op, key: int, after: Row | None) -> Change:
    position = Position(f"{next(NUMBERS):016X}.00000001")
    return Change(SCHEMA, op, (str(key),), position, Microseconds(1_700_000_000_000_000), after)


def batches(changes: Sequence[Change]) -> list[Sequence[Change]]:
    return [changes[i : i + BATCH] for i in range(0, len(changes), BATCH)]


def workload(name: str, rows: int) -> list[Change]:
    chance = random.Random(1)
    keys = [chance.randrange(rows) for _ in range(rows)]
    if name == "insert":
        return [change(Op.CREATE, key, row(key)) for key in range(rows)]
    if name == "update":
        return [change(Op.UPDATE, key, row(key)) for key in keys]
    if name == "update beside an unchanged column":
        partial = [(*row(key)[:5], UNCHANGED, "t") for key in keys]
        return [change(Op.UPDATE, key, after) for key, after in zip(keys, partial, strict=True)]
    if name == "mixed":
        return [
            change(Op.DELETE, key, None) if i % 10 == 0 else change(Op.UPDATE, key, row(key))
            for i, key in enumerate(keys)
        ]
    return [change(Op.DELETE, key, None) for key in range(rows)]


async def apply(store: PostgresStore, changes: Sequence[Change]) -> None:
    async with store.transaction() as transaction:
        await transaction.apply(ApplyRows(changes))


async def copy_rate(pool: Any, rows: int) -> float:
    async with pool.connection() as connection:
        columns = ", ".join(f'"{c.name}" {c.type}' for c in COLUMNS)
        await connection.execute(f"CREATE TABLE raw ({columns}, PRIMARY KEY (id))")
        start = time.perf_counter()
        for first in range(0, rows, BATCH):
            text = "\n".join("\t".join(map(str, row(key))) for key in range(first, first + BATCH))
            async with connection.cursor().copy("COPY raw FROM STDIN") as copy:
                await copy.write(text + "\n")
        rate = rows / (time.perf_counter() - start)
        await connection.execute("DROP TABLE raw")
    return rate


async def small(store: PostgresStore, size: int, rows: int) -> dict[str, float]:
    chance = random.Random(size)
    inside: list[float] = []
    whole: list[float] = []
    for _ in range(300):
        keys = [chance.randrange(rows) for _ in range(size)]
        changes = [change(Op.UPDATE, key, row(key)) for key in keys]
        start = time.perf_counter()
        async with store.transaction() as transaction:
            began = time.perf_counter()
            await transaction.apply(ApplyRows(changes))
            inside.append((time.perf_counter() - began) * 1000)
        whole.append((time.perf_counter() - start) * 1000)
    cuts = quantiles(inside, n=100)
    return {"p50": cuts[49], "p95": cuts[94], "with commit p50": quantiles(whole, n=2)[0]}


async def main(dsn: str, rows: int) -> None:
    pool = await open_pool(dsn, max_size=2)
    store = PostgresStore(pool)
    results: list[dict[str, Any]] = []
    limit = await copy_rate(pool, rows)
    results.append({"measure": "COPY", "value": round(limit), "unit": "rows/s"})
    for name in ("insert", "update", "update beside an unchanged column", "mixed", "delete"):
        if name == "delete":
            for size in (1, 10):
                for what, value in (await small(store, size, rows)).items():
                    measure = f"{size} changes, {what}"
                    results.append({"measure": measure, "value": round(value, 3), "unit": "ms"})
        parts = batches(workload(name, rows))
        start = time.perf_counter()
        for part in parts:
            await apply(store, part)
        rate = rows / (time.perf_counter() - start)
        results.append(
            {
                "measure": name,
                "value": round(rate),
                "unit": "changes/s",
                "limit": round(limit),
                "ratio": round(rate / limit, 2),
            }
        )
        if name == "mixed":
            await apply(store, workload("insert", rows))
    await pool.close()
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"name": "apply", "results": results, "machine": machine}, indent=1))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50_000))
