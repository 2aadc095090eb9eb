"""The knowledge store at size: loading, indexing, querying, and recall after mass deletions, beside
a bare pgvector table in the same run.

    python bench/knowledge_store.py [--chunks 200000] [--queries 100] [--output FILE]

Vectors are made up in clusters and texts of words as common as in a language. "bare" is a table of
halfvec with an HNSW index (m 16, ef_construction 64, ef_search 100), asked without filter, text or
permissions. Recall is of the ten nearest, against comparing with all. The question's embedding is
not part of the times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.stores.base import ChunkText, DocumentVersion, Filter, ReplaceDocuments
from penstock.stores.postgres import vector_index
from penstock.stores.postgres.candidates import as_text
from penstock.stores.postgres.knowledge import collect_garbage
from penstock.stores.postgres.merging import MergeSettings, merge_postings
from penstock.stores.postgres.reconcile import find_faults
from penstock.stores.postgres.search import PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore

DIMENSIONS = 384
PER_DOCUMENT = 10
WORDS = 40
MODEL = "bench"
EVERYBODY = Principal()
DELETED = 0.75


class World:
    """Chunks with vectors and texts; chunk n belongs to document n // 10."""

    def __init__(self, chunks: int) -> None:
        rng = np.random.default_rng(1)
        centres = rng.normal(size=(max(20, chunks // 500), DIMENSIONS)).astype(np.float32)
        places = rng.integers(len(centres), size=chunks)
        self.matrix = self._units(centres[places], rng)
        self.questions = self._units(centres[rng.integers(len(centres), size=1000)], rng)
        letters = random.Random(1)
        names = ["".join(letters.choices("etaoinshrdlucm", k=7)) for _ in range(20_000)]
        shares = 1 / (np.arange(len(names)) + 3)
        self._words = np.array(names)
        self._shares = shares / shares.sum()
        self._rng = rng
        self.documents = chunks // PER_DOCUMENT

    @staticmethod
    def _units(centres: Any, rng: Any) -> Any:
        vectors = centres + 0.8 * rng.normal(size=centres.shape).astype(np.float32)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return units.astype(np.float16).astype(np.float32)

    def text(self, words: int = WORDS) -> str:
        return " ".join(self._rng.choice(self._words, size=words, p=self._shares))

    def nearest(self, question: Any, alive: Any) -> set[int]:
        """The ten nearest of those that are alive."""
        similarity = np.where(alive, self.matrix @ question, -2)
        best = np.argpartition(-similarity, 10)[:10]
        return set(best[similarity[best] > -2].tolist())

    def version(self, number: int, position: int, *, deleted: bool = False) -> DocumentVersion:
        chunks = []
        for place in range(PER_DOCUMENT):
            chunk = number * PER_DOCUMENT + place
            text = "" if deleted else self.text()
            digest = chunk.to_bytes(16, "big")
            chunks.append(ChunkText(text, text, digest, place, place + 1, "", WORDS))
        return DocumentVersion(
            "bench",
            f"d{number}",
            Position(f"{position:08}"),
            Microseconds(position),
            None if deleted else chunks,
            title=f"Document {number}",
            metadata={"group": number % 100},
        )


class Bench:
    def __init__(self, pool: Any, world: World, queries: int) -> None:
        self.pool = pool
        self.world = world
        self.queries = queries
        self.store = PostgresStore(pool)
        self.snapshots = PostgresSnapshotStore(pool)
        self.results: list[dict[str, Any]] = []
        self.chunk_of: dict[int, int] = {}
        self.alive = np.ones(len(world.matrix), bool)

    def note(self, measure: str, value: float, unit: str) -> None:
        self.results.append({"measure": measure, "value": round(float(value), 4), "unit": unit})
        print(f"{measure}: {value:.4g} {unit}", flush=True)

    async def load(self) -> None:
        start = time.perf_counter()
        making = 0.0
        for first in range(0, self.world.documents, 500):
            began = time.perf_counter()
            numbers = range(first, min(first + 500, self.world.documents))
            versions = [self.world.version(number, 1) for number in numbers]
            rows = range(first * PER_DOCUMENT, (numbers[-1] + 1) * PER_DOCUMENT)
            hashes = {row.to_bytes(16, "big"): place for place, row in enumerate(rows)}
            matrix = self.world.matrix[rows.start : rows.stop]
            making += time.perf_counter() - began
            async with self.store.transaction() as transaction:
                await transaction.apply(ReplaceDocuments(versions, MODEL, hashes, matrix))
        spent = time.perf_counter() - start - making
        self.note("load", len(self.world.matrix) / spent, "chunks/s")
        async with self.pool.connection() as connection:
            start, after = time.perf_counter(), ""
            while True:
                settings = MergeSettings(fresh_blocks=1)
                merged = await merge_postings(connection, after=after, settings=settings)
                after = merged.after
                if not (merged.blocks or after):
                    break
            self.note("merging the text index", time.perf_counter() - start, "s")
            start = time.perf_counter()
            await vector_index.maintain(connection)
            spent = time.perf_counter() - start
            self.note("building the vector index", len(self.world.matrix) / spent, "rows/s")
            await connection.execute("VACUUM ANALYZE")
            cursor = await connection.execute("SELECT id, hash FROM penstock.chunks")
            self.chunk_of = {i: int.from_bytes(h, "big") for i, h in await cursor.fetchall()}

    async def bare(self, connection: Any) -> None:
        await connection.execute(
            f"CREATE TABLE bare AS SELECT id, embedding::halfvec({DIMENSIONS}) AS embedding"
            " FROM penstock.chunks JOIN penstock.vectors USING (tenant, model, hash)"
        )
        await connection.execute("SET maintenance_work_mem = '262144kB'")
        start = time.perf_counter()
        await connection.execute(
            "CREATE INDEX ON bare USING hnsw (embedding halfvec_cosine_ops)"
            " WITH (m = 16, ef_construction = 64)"
        )
        spent = time.perf_counter() - start
        self.note("bare: building the index", len(self.world.matrix) / spent, "rows/s")
        await connection.execute("ANALYZE bare")

    async def ask_bare(self, connection: Any, when: str) -> None:
        await connection.execute("SET hnsw.ef_search = 100")

        async def ask(question: Any, _: int) -> list[int]:
            cursor = await connection.execute(
                f"SELECT id FROM bare ORDER BY embedding <=> %s::halfvec({DIMENSIONS}) LIMIT 10",
                [as_text(question)],
                prepare=True,
            )
            return [row[0] for row in await cursor.fetchall()]

        await self._ask(f"bare, {when}", ask, None)

    async def ask_ours(self, when: str, *, hybrid: bool, filtered: bool) -> None:
        async def ask(question: Any, number: int) -> list[int]:
            where = Filter(metadata={"group": number % 100}) if filtered else Filter()
            text = self.world.text(6) if hybrid else None
            async with self.snapshots.snapshot(EVERYBODY) as snapshot:
                hits = await snapshot.candidates(question, text, limit=50, where=where, model=MODEL)
            best = sorted(hits, key=lambda hit: -hit.similarity)
            return [hit.chunk for hit in best[:10]]

        kind = ("hybrid" if hybrid else "vector") + (", 1 % filter" if filtered else "")
        await self._ask(f"{kind}, {when}", ask, 100 if filtered else None)

    async def _ask(
        self, name: str, ask: Callable[[Any, int], Awaitable[Sequence[int]]], groups: int | None
    ) -> None:
        times, found, all_there = [], 0, 0
        group = np.arange(len(self.alive)) // PER_DOCUMENT % 100
        for number in range(-10, self.queries):
            question = self.world.questions[number]
            start = time.perf_counter()
            chunks = await ask(question, number)
            spent = time.perf_counter() - start
            if number < 0:
                continue  # warming up
            times.append(spent * 1e3)
            alive = self.alive if groups is None else self.alive & (group == number % groups)
            wanted = self.world.nearest(question, alive)
            all_there += len(wanted)
            found += len(wanted & {self.chunk_of[chunk] for chunk in chunks})
        self.note(f"{name}: p50", np.percentile(times, 50), "ms")
        self.note(f"{name}: p99", np.percentile(times, 99), "ms")
        self.note(f"{name}: recall@10", found / all_there, "share")

    async def delete(self, connection: Any) -> None:
        numbers = np.random.default_rng(2).permutation(self.world.documents)
        gone = sorted(numbers[: int(DELETED * self.world.documents)].tolist())
        for first in range(0, len(gone), 500):
            versions = [self.world.version(n, 2, deleted=True) for n in gone[first : first + 500]]
            empty = np.empty((0, DIMENSIONS), np.float32)
            async with self.store.transaction() as transaction:
                await transaction.apply(ReplaceDocuments(versions, MODEL, {}, empty))
        self.alive = ~np.isin(np.arange(len(self.alive)) // PER_DOCUMENT, gone)
        dead = [chunk for chunk, place in self.chunk_of.items() if not self.alive[place]]
        await connection.execute("DELETE FROM bare WHERE id = ANY(%s)", [dead])

    async def all(self, connection: Any) -> None:
        await self.load()
        start = time.perf_counter()
        faults = await find_faults(self.pool)
        self.note("reconcile: looking at everything", time.perf_counter() - start, "s")
        self.note("reconcile: faults", faults.total, "faults")
        await self.bare(connection)
        await self.ask_bare(connection, "all there")
        for hybrid in (False, True):
            for filtered in (False, True):
                await self.ask_ours("all there", hybrid=hybrid, filtered=filtered)
        await self.delete(connection)
        await self.ask_bare(connection, "75 % deleted")
        for filtered in (False, True):
            await self.ask_ours("75 % deleted", hybrid=False, filtered=filtered)
        while await collect_garbage(connection, keep=timedelta(0)):
            pass
        await self.ask_ours("75 % deleted, vectors collected", hybrid=False, filtered=False)
        await connection.execute("SELECT pg_stat_force_next_flush()")
        await connection.execute("SELECT 1")
        start = time.perf_counter()
        deeds = await vector_index.maintain(connection)
        self.note(f"upkeep ({deeds[0][1] if deeds else 'none'})", time.perf_counter() - start, "s")
        await self.ask_ours("75 % deleted, after upkeep", hybrid=False, filtered=False)
        await self.ask_ours("75 % deleted, after upkeep", hybrid=True, filtered=True)


async def measure(chunks: int, queries: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "server")
        await server.start()
        try:
            dsn = server.dsn("postgres")
            await migrate(dsn)
            pool = await open_pool(dsn, max_size=4)
            bench = Bench(pool, World(chunks), queries)
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            async with connection:
                await bench.all(connection)
            await pool.close()
            return bench.results
        finally:
            await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    results = asyncio.run(measure(chosen.chunks, chosen.queries))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    report = {
        "name": "knowledge_store",
        "command": f"python bench/knowledge_store.py --chunks {chosen.chunks}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {load:.1f} at the start",
        "chunks": chosen.chunks,
        "results": results,
    }
    if chosen.output:
        chosen.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
