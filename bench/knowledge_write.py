"""How quickly documents become chunks, and chunks are stored: chunker, pipeline and write side.

    python bench/knowledge_write.py [--documents 6000] [--slice 2000] [--words 115] [--dsn DSN]

The texts are made up: a paragraph of about 800 characters in each document. The embedder takes
constant time. Without a DSN (of a fresh database) an embedded PostgreSQL is started for the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.models.constant import ConstantEmbedder
from penstock.pipelines.base import Outcome, Tools
from penstock.pipelines.knowledge.chunker import Chunker, ChunkSettings, Titled
from penstock.pipelines.knowledge.pipeline import KnowledgePipeline
from penstock.records import Change, Microseconds, Op, Position, document_schema
from penstock.stores.base import ReplaceDocuments
from penstock.stores.postgres.merging import merge_postings
from penstock.stores.postgres.store import PostgresStore

SCHEMA = document_schema("bench")
PARAGRAPHS = 200


def texts(count: int, length: int) -> list[str]:
    """Words as common as in a language: the n-th takes a share of 1/n."""
    rng = random.Random(1)
    letters = "etaoinshrdlucm"
    words = ["".join(rng.choices(letters, k=rng.randrange(2, 11))) for _ in range(20_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    found = []
    for _ in range(count):
        chosen = rng.choices(words, weights, k=length)
        sentences = (" ".join(chosen[at : at + 15]).capitalize() for at in range(0, length, 15))
        found.append(". ".join(sentences) + ".")
    return found


def change(key: str, number: int, text: str | None) -> Change:
    after = None
    if text is not None:
        after = (key, f"Title {key}", "text/plain", text, f"{number:064}", "800", None, "{}", None)
    op = Op.DELETE if text is None else Op.CREATE
    return Change(SCHEMA, op, (key,), Position(f"{number:08}"), Microseconds(0), after)


def result(measure: str, value: float, unit: str) -> dict[str, Any]:
    return {"measure": measure, "value": round(value, 2), "unit": unit}


def chunker_rate(documents: Sequence[str], embedder: ConstantEmbedder) -> dict[str, Any]:
    chunker = Chunker(ChunkSettings(), embedder.max_tokens, embedder.count_tokens)
    titled = [Titled(f"Title {number}", text) for number, text in enumerate(documents)]

    def once() -> float:
        start = time.perf_counter()
        chunks = sum(map(len, chunker.chunk(titled)))
        return chunks / (time.perf_counter() - start)

    return result("chunker", median(once() for _ in range(5)), "chunks/s")


class Bench:
    """One database to write to."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.embedder = ConstantEmbedder()
        self.pipeline = KnowledgePipeline("bench", ("bench",), ChunkSettings())
        self.number = 0

    async def compute(self, changes: Sequence[Change]) -> Outcome:
        return await self.pipeline.compute(changes, Tools(self.embedder, self.store))

    async def apply(self, outcome: Outcome) -> int:
        async with self.store.transaction() as transaction:
            for effect in outcome.effects:
                await transaction.apply(effect)
        return sum(
            len(version.chunks or ())
            for effect in outcome.effects
            if isinstance(effect, ReplaceDocuments)
            for version in effect.documents
        )

    def next(self, key: str, text: str | None) -> Change:
        self.number += 1
        return change(key, self.number, text)

    async def load(self, documents: Sequence[str], slice_: int) -> list[dict[str, Any]]:
        changes = [self.next(f"d{number}", text) for number, text in enumerate(documents)]
        chunks, computing, applying, cpu = 0, 0.0, 0.0, 0.0
        for at in range(0, len(changes), slice_):
            start = time.perf_counter()
            outcome = await self.compute(changes[at : at + slice_])
            computed, used = time.perf_counter(), time.process_time()
            chunks += await self.apply(outcome)
            applying += time.perf_counter() - computed
            cpu += time.process_time() - used
            computing += computed - start
        return [
            result("pipeline", chunks / computing, "chunks/s"),
            result("write side", chunks / applying, "chunks/s"),
            result("write side, processor time here", cpu / chunks * 1e6, "us/chunk"),
            result("pipeline and write side", chunks / (computing + applying), "chunks/s"),
        ]

    async def edits(self, paragraphs: list[str]) -> list[dict[str, Any]]:
        """One sentence in the middle of a long document, again and again; then its deletion."""
        computing, applying, embedded = [], [], []
        for number in range(40):
            paragraphs[PARAGRAPHS // 2] += f" Edit number {number}." if number else ""
            edit = self.next("long", "\n\n".join(paragraphs))
            start = time.perf_counter()
            outcome = await self.compute([edit])
            computed = time.perf_counter()
            await self.apply(outcome)
            if number > 5:
                computing.append((computed - start) * 1e3)
                applying.append((time.perf_counter() - computed) * 1e3)
                embedded.append(outcome.embedded)
        outcome = await self.compute([self.next("long", None)])
        start = time.perf_counter()
        await self.apply(outcome)
        return [
            result("edit, pipeline p50", median(computing), "ms"),
            result("edit, write side p50", median(applying), "ms"),
            result("edit, write side best", min(applying), "ms"),
            result("edit, chunks embedded, most", max(embedded), "chunks"),
            result("deletion", (time.perf_counter() - start) * 1e3, "ms"),
        ]

    async def merge(self, pool: Any) -> dict[str, Any]:
        start, after = time.perf_counter(), ""
        async with pool.connection() as connection:
            while True:
                merged = await merge_postings(connection, after=after)
                after = merged.after
                if not (merged.blocks or after):
                    break
        return result("merging the text index", (time.perf_counter() - start) * 1e3, "ms")


async def measure(dsn: str, documents: int, slice_: int, words: int) -> list[dict[str, Any]]:
    await migrate(dsn)
    made = texts(documents + PARAGRAPHS, words)
    pool = await open_pool(dsn)
    try:
        bench = Bench(PostgresStore(pool))
        results = [chunker_rate(made, bench.embedder)]
        results += await bench.load(made[:documents], slice_)
        results.append(await bench.merge(pool))
        results += await bench.edits(made[documents:])
        return results
    finally:
        await pool.close()


async def on_embedded(folder: Path, run: Callable[[str], Any]) -> list[dict[str, Any]]:
    server = EmbeddedPostgres(folder / "server")
    await server.start()
    try:
        found: list[dict[str, Any]] = await run(server.dsn("postgres"))
        return found
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--slice", type=int, default=2000)
    parser.add_argument("--words", type=int, default=115, help="of each document")
    parser.add_argument("--dsn")
    chosen = parser.parse_args()

    async def run(dsn: str) -> list[dict[str, Any]]:
        return await measure(dsn, chosen.documents, chosen.slice, chosen.words)

    if chosen.dsn:
        results = asyncio.run(run(chosen.dsn))
    else:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir="/tmp") as folder:
            Path(folder).chmod(0o755)
            results = asyncio.run(on_embedded(Path(folder), run))
    print(json.dumps({"name": "knowledge_write", "results": results}, indent=1))


if __name__ == "__main__":
    main()
