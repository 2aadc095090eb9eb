"""The index of the vectors: none while comparing with all is quick, HNSW behind a load after that.

Adding rows to an HNSW index costs several times what building it afterwards costs, so a load that
is large beside what is there drops the index and builds it again. Deleted vectors stay in the graph
and take the place of answers until VACUUM mends it: recall collapses after mass deletions, so they
call for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import psycopg
from psycopg import sql

from penstock.database.connect import translated
from penstock.stores.base import Storage

Connection = psycopg.AsyncConnection[Any]
Deed = Literal["none", "build", "rebuild", "vacuum"]

SMALLEST_INDEXED: Final = 5000
"""Up to so many vectors, comparing with all takes a few milliseconds and misses nothing."""

LARGE_LOAD: Final = 0.5
"""A load that brings at least this share of what is there drops the index first."""

FEWEST_DEAD: Final = 500
DEAD_SHARE: Final = 0.1
"""So many deleted vectors, and so large a share of all, call for VACUUM."""

_LOCK: Final = 7_302_188_553  # one process maintains the index at a time

_MODELS: Final = """
SELECT m.id, m.dimensions,
       (SELECT count(*) FROM penstock.vectors v WHERE v.model = m.id),
       i.indexrelid IS NOT NULL, coalesce(i.indisvalid, false), m.storage
FROM penstock.models m
LEFT JOIN pg_class k ON k.relname = 'vectors_nearest_' || m.id
     AND k.relnamespace = 'penstock'::regnamespace
LEFT JOIN pg_index i ON i.indexrelid = k.oid
ORDER BY m.id
"""
_DEAD: Final = """
SELECT coalesce(max(n_dead_tup), 0)::bigint FROM pg_stat_user_tables
WHERE relid = 'penstock.vectors'::regclass
"""


@dataclass(frozen=True, slots=True)
class IndexState:
    """One model's vectors and their index. ``dead`` are deleted rows of the whole table."""

    model: int
    dimensions: int
    vectors: int
    exists: bool
    valid: bool
    dead: int = 0
    storage: Storage = "halfvec"


def before_bulk(state: IndexState, incoming: int) -> bool:
    """Whether to drop the index before so many vectors are added."""
    return state.exists and incoming >= SMALLEST_INDEXED and incoming >= LARGE_LOAD * state.vectors


def due(state: IndexState) -> Deed:
    """What is to be done now, when no load is running."""
    if state.exists and not state.valid:
        return "rebuild"  # a build was interrupted: writes maintain what no query may use
    if state.vectors <= SMALLEST_INDEXED:
        return "none"
    if not state.exists:
        return "build"
    if state.dead >= max(FEWEST_DEAD, DEAD_SHARE * state.vectors):
        return "vacuum"
    return "none"


async def inspect(connection: Connection) -> list[IndexState]:
    """The state of every model's vectors."""
    with translated():
        [(dead,)] = await (await connection.execute(_DEAD)).fetchall()
        rows = await (await connection.execute(_MODELS)).fetchall()
    return [
        IndexState(model, dimensions, vectors, exists, valid, dead, storage)
        for model, dimensions, vectors, exists, valid, storage in rows
    ]


async def drop_before_bulk(connection: Connection, model: str, incoming: int) -> bool:
    """Drop the model's index if a load of so many vectors makes that worth it."""
    with translated():
        cursor = await connection.execute("SELECT id FROM penstock.models WHERE name = %s", [model])
        row = await cursor.fetchone()
        for state in await inspect(connection):
            if row is not None and state.model == row[0] and before_bulk(state, incoming):
                await _drop(connection, state)
                return True
    return False


async def drop_unused(connection: Connection) -> None:
    """Drop the indexes of models that have no vectors any more."""
    with translated():
        for state in await inspect(connection):
            if state.exists and not state.vectors:
                await _drop(connection, state)


async def maintain(connection: Connection) -> list[tuple[int, Deed]]:
    """Do what is due, model by model; returns (model, deed) of what was done.

    ``connection`` is in autocommit mode and is busy for as long as it takes; reading and writing go
    on meanwhile. Does nothing while another process is at it.
    """
    done: list[tuple[int, Deed]] = []
    with translated():
        [(mine,)] = await (
            await connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        ).fetchall()
        if not mine:
            return done
        try:
            for state in await inspect(connection):
                deed = due(state)
                if deed == "vacuum" and any(kind == "vacuum" for _, kind in done):
                    continue
                if deed != "none":
                    await _do(connection, state, deed)
                    done.append((state.model, deed))
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
    return done


async def _do(connection: Connection, state: IndexState, deed: Deed) -> None:
    if deed == "vacuum":
        await connection.execute("VACUUM (ANALYZE) penstock.vectors")
        return
    if deed == "rebuild":
        await _drop(connection, state)
    if deed == "build" or state.vectors > SMALLEST_INDEXED:
        await _build(connection, state)


def _name(state: IndexState) -> sql.Identifier:
    return sql.Identifier("penstock", f"vectors_nearest_{state.model}")


def _expression(state: IndexState) -> sql.Composed:
    """What is indexed: the numbers, or the signs where that is what is stored."""
    numbers = "(embedding::halfvec({dimensions})) halfvec_cosine_ops"
    signs = "(signs::bit({dimensions})) bit_hamming_ops"
    chosen = sql.SQL(numbers) if state.storage == "halfvec" else sql.SQL(signs)
    return chosen.format(dimensions=sql.Literal(state.dimensions))


async def _drop(connection: Connection, state: IndexState) -> None:
    await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(_name(state)))


async def _build(connection: Connection, state: IndexState) -> None:
    # The graph is built in memory as far as this goes; beyond it building is several times slower.
    needed = state.vectors * (state.dimensions * 2 + 400) // 1024
    memory = min(max(needed, 65_536), 262_144)
    await connection.execute(
        sql.SQL("SET maintenance_work_mem = {}").format(sql.Literal(f"{memory}kB"))
    )
    try:
        await connection.execute(
            sql.SQL(
                "CREATE INDEX CONCURRENTLY {name} ON penstock.vectors USING hnsw"
                " ({expression})"
                " WITH (m = 16, ef_construction = 64) WHERE model = {model}"
            ).format(
                name=sql.Identifier(f"vectors_nearest_{state.model}"),
                expression=_expression(state),
                model=sql.Literal(state.model),
            )
        )
        await connection.execute("ANALYZE penstock.vectors")
    finally:
        await connection.execute("RESET maintenance_work_mem")
