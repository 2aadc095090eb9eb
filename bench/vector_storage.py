"""How vectors are stored: bytes, recall and time of halfvec, int8 and binary, and of shorter ones.

    python bench/vector_storage.py [--chunks 20000] [--dimensions 384] [--questions 200] [--store]

The vectors are made up: normal, with variances that fall as 1 / n^1.2 over turned directions, which
is about how those of text models fall. One database, one run: each kind is a model of its own,
built and asked in turn. ``recall@10`` is against the exact neighbours in fp32 at full length, for
the best 10 of 50 candidates. The last figure is how long writers wait while another model is taken
into use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bench.report import machine
from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.stores.base import (
    ChunkText,
    DocumentVersion,
    Filter,
    ReplaceDocuments,
    Vectors,
    storage_of,
)
from penstock.stores.postgres import vector_index
from penstock.stores.postgres.document_writer import NO_TOKENS, copy_vectors
from penstock.stores.postgres.knowledge import replace_documents
from penstock.stores.postgres.model_registry import PostgresModels
from penstock.stores.postgres.packed import stored_bytes
from penstock.stores.postgres.search import PostgresSnapshotStore

RESULTS = Path(__file__).with_name("results") / "vector_storage.json"
PORTION = 1000


def made_up(count: int, dimensions: int, seed: int) -> Vectors:
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((dimensions, dimensions)))[0]
    spread = np.arange(1, dimensions + 1)[:, None] ** -0.6 * turn
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions)) @ spread
    return unit(vectors)


def unit(vectors: Any) -> Vectors:
    found: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """As a model trained for it would be: the directions that tell most come first."""
    turn = np.linalg.qr(
        np.random.default_rng(2).standard_normal((vectors.shape[1], vectors.shape[1]))
    )[0]
    return unit((vectors @ turn.T)[:, :dimensions])


async def load(pool: Any, vectors: Vectors) -> list[bytes]:
    hashes: list[bytes] = []
    async with pool.connection() as connection:
        for start in range(0, len(vectors), PORTION):
            part = vectors[start : start + PORTION]
            texts = [f"{start + n}" for n in range(len(part))]
            chunks = [
                ChunkText(t, t, blake2b(t.encode(), digest_size=16).digest(), 0, len(t), "", 1)
                for t in texts
            ]
            hashes += [chunk.hash for chunk in chunks]
            versions = [
                DocumentVersion("bench", text, Position(text), Microseconds(1), [chunk])
                for text, chunk in zip(texts, chunks, strict=True)
            ]
            effect = ReplaceDocuments(
                versions, "full", {c.hash: n for n, c in enumerate(chunks)}, part
            )
            async with connection.transaction():
                await replace_documents(connection, effect)
    return hashes


async def ask(pool: Any, name: str, questions: Vectors, exact: Any) -> dict[str, float]:
    store = PostgresSnapshotStore(pool)
    times, shares = [], []
    for number, question in enumerate([*questions[:20], *questions]):
        began = time.perf_counter()
        async with store.snapshot(Principal()) as snapshot:
            hits = await snapshot.candidates(question, None, limit=50, where=Filter(), model=name)
        times.append((time.perf_counter() - began) * 1000)
        if number >= 20:
            best = sorted(hits, key=lambda hit: -hit.similarity)[:10]
            async with store.snapshot(Principal()) as snapshot:
                passages = await snapshot.passages([hit.chunk for hit in best])
            found = {int(passage.key) for passage in passages}
            shares.append(len(found & set(exact[number - 20])) / 10)
    spent = np.array(times[20:])
    return {
        "recall@10": round(float(np.mean(shares)), 4),
        "p50_ms": round(float(np.percentile(spent, 50)), 2),
        "p99_ms": round(float(np.percentile(spent, 99)), 2),
    }


async def measure(dsn: str, chunks: int, dimensions: int, questions: int) -> list[dict[str, Any]]:
    await migrate(dsn)
    pool = await open_pool(dsn, max_size=4)
    vectors, asked = made_up(chunks, dimensions, 3), made_up(questions, dimensions, 4)
    exact = np.argsort(-(asked @ vectors.T), axis=1)[:, :10].tolist()
    half = dimensions // 2
    kinds = {
        "full": (vectors, asked),
        "full#int8": (vectors, asked),
        "full#binary": (vectors, asked),
        "half": (cut(vectors, half), cut(asked, half)),
        "half#int8": (cut(vectors, half), cut(asked, half)),
    }
    results = []
    try:
        hashes = await load(pool, vectors)
        models = PostgresModels(pool, tenant="default")
        for name, (stored, question) in kinds.items():
            id_ = await models.register(name, stored.shape[1])
            async with pool.connection() as connection:
                if name != "full":
                    order = sorted(range(chunks), key=lambda n: hashes[n])
                    keys, rows = [hashes[n] for n in order], stored[order]
                    storage = storage_of(name)
                    await copy_vectors(connection, "default", id_, keys, rows, storage, NO_TOKENS)
                await connection.execute("ANALYZE")
                began = time.perf_counter()
                await vector_index.maintain(connection)
                built = time.perf_counter() - began
                cursor = await connection.execute(
                    "SELECT pg_relation_size(('penstock.vectors_nearest_' || %s)::regclass)", [id_]
                )
                [(index,)] = await cursor.fetchall()
            results.append(
                {
                    "storage": storage_of(name),
                    "dimensions": stored.shape[1],
                    "bytes_per_chunk": stored_bytes(stored.shape[1], storage_of(name)),
                    "index_bytes_per_chunk": round(index / chunks),
                    "index_seconds": round(built, 2),
                    **await ask(pool, name, question, exact),
                }
            )
            print(results[-1], flush=True)
        other = await models.register("full#int8", dimensions)
        began = time.perf_counter()
        assert await models.cut_over(other)
        results.append({"cut_over_ms": round((time.perf_counter() - began) * 1000, 1)})
    finally:
        await pool.close()
    return results


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="penstock-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "server")
        dsn = await server.start()
        try:
            results = await measure(
                dsn, arguments.chunks, arguments.dimensions, arguments.questions
            )
        finally:
            await server.stop()
    return {
        "name": "vector_storage",
        "machine": machine(),
        "chunks": arguments.chunks,
        "questions": arguments.questions,
        "limit": "halfvec at full length, in the same run",
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--store", action="store_true")
    arguments = parser.parse_args()
    found = json.dumps(asyncio.run(run(arguments)), indent=1)
    print(found)
    if arguments.store:
        RESULTS.write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
