"""Vectors as int8 and as signs: searched by an index of signs, compared again."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import psycopg
import pytest

from penstock.database.connect import open_pool
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.stores.base import (
    ChunkText,
    DocumentVersion,
    Filter,
    ReplaceDocuments,
    Storage,
    Vectors,
)
from penstock.stores.postgres import vector_index
from penstock.stores.postgres.knowledge import replace_documents
from penstock.stores.postgres.packed import (
    bytes_of,
    signs_of,
    turned,
    turned_back,
    unpacked,
)
from penstock.stores.postgres.search import PostgresSnapshotStore

DIMENSIONS = 384
MANY = 1500


def spread() -> Vectors:
    """Some directions tell much and most tell little, as those of texts do."""
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.standard_normal((DIMENSIONS, DIMENSIONS)))[0]
    found: Vectors = (np.arange(1, DIMENSIONS + 1)[:, None] ** -0.6 * turn).astype(np.float32)
    return found


def near(rng: np.random.Generator, count: int) -> Vectors:
    vectors = rng.standard_normal((count, DIMENSIONS)) @ spread()
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def chunk(text: str) -> ChunkText:
    return ChunkText(text, text, blake2b(text.encode(), digest_size=16).digest(), 0, 9, "", 3)


async def fill(connection: Any, storage: Storage, vectors: Vectors, sizes: list[int]) -> None:
    """Commits of these sizes: small ones go as parameters, large ones by COPY."""
    start = 0
    for size in sizes:
        part = vectors[start : start + size]
        chunks = [chunk(f"ferry {start + place}") for place in range(len(part))]
        versions = [
            DocumentVersion(
                source="even" if place % 2 == 0 else "odd",
                key=f"{start + place}",
                position=Position(f"{start:06}"),
                committed_at=Microseconds(1),
                chunks=[each],
            )
            for place, each in enumerate(chunks)
        ]
        effect = ReplaceDocuments(
            versions, f"m#{storage}", {c.hash: i for i, c in enumerate(chunks)}, part
        )
        async with connection.transaction():
            await replace_documents(connection, effect)
        start += size


@pytest.mark.parametrize(("storage", "least", "off"), [("int8", 0.97, 0.02), ("binary", 0.6, 0.3)])
@pytest.mark.parametrize("indexed", [False, True], ids=["all compared", "by index"])
async def test_recall_and_similarity(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    storage: Storage,
    least: float,
    off: float,
    indexed: bool,
) -> None:
    """The ten nearest are mostly those of full precision; similarities are cosines, nearly; a
    filter leaves none out that matches; few and many are stored alike."""
    monkeypatch.setattr(vector_index, "SMALLEST_INDEXED", 500 if indexed else 10**6)
    rng = np.random.default_rng(3)
    vectors = near(rng, MANY)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await fill(connection, storage, vectors, [20, 20, 730, 730])
        await connection.execute("ANALYZE penstock.documents, penstock.chunks, penstock.vectors")
        assert await vector_index.maintain(connection) == ([(1, "build")] if indexed else [])
    pool = await open_pool(database_url, max_size=2)
    try:
        store = PostgresSnapshotStore(pool)
        shares, differences = [], []
        for question in near(rng, 30):
            async with store.snapshot(Principal()) as snapshot:
                hits = await snapshot.candidates(
                    question, None, limit=10, where=Filter(), model=f"m#{storage}"
                )
                odd = await snapshot.candidates(
                    question, None, limit=700, where=Filter(sources=["odd"]), model=f"m#{storage}"
                )
                passages = await snapshot.passages([hit.chunk for hit in hits])
            keys = [int(passage.key) for passage in passages]
            cosines = vectors @ question
            exact = set(np.argsort(-cosines)[:10].tolist())
            shares.append(len(exact & set(keys)) / 10)
            differences += [
                abs(hit.similarity - cosines[key]) for hit, key in zip(hits, keys, strict=True)
            ]
            assert len(odd) == 700
        assert np.mean(shares) >= least
        assert max(differences) < off
    finally:
        await pool.close()


@pytest.mark.parametrize("dimensions", [384, 1536, 192, 50, 7])
def test_turning_keeps_angles(dimensions: int) -> None:
    """Cosines are what they were; vectors with a few large numbers have many middling ones."""
    rng = np.random.default_rng(1)
    vectors = (rng.standard_normal((20, dimensions)) / np.arange(1, dimensions + 1)).astype(
        np.float32
    )
    found = turned(vectors)
    assert np.allclose(found @ found.T, vectors @ vectors.T, atol=1e-4)
    assert np.array_equal(found, turned(vectors))
    assert np.allclose(turned_back(found), vectors, atol=1e-5)


def test_what_is_read_back_compares_with_questions() -> None:
    """A reranker compares stored vectors with the question's, which nobody has turned."""
    vector = near(np.random.default_rng(5), 1)
    length = DIMENSIONS.to_bytes(4, "big")
    assert (unpacked(None, bytes_of(vector)[0], None) @ vector[0]) > 0.999
    assert (unpacked(None, None, length + signs_of(vector)[0]) @ vector[0]) > 0.75
