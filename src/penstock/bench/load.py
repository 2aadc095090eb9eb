"""Documents from a folder to searchable, and the same again when nothing changed.

With the constant embedder this is the engine's own work; its limit is a bare COPY of the same
chunks and vectors. With a real model the limit is the model's raw rate on the same texts.
"""

from __future__ import annotations

import time

import numpy as np

from penstock.bench.report import Report
from penstock.bench.waiting import until
from penstock.bench.world import World, scalar, world
from penstock.database.connect import connect
from penstock.stores.base import Vectors

FILES = {"constant": 12_000, "minilm": 3_000}
SAMPLE = 2_000


async def measure(*, size: int | None, embedder: str) -> Report:
    """``size`` is the number of files."""
    report = Report("load")
    files = size or FILES.get(embedder, 1_200)
    async with world(embedder=embedder, documents=False, loaded=files) as scene:
        await scene.project.embedder().embed(["warm"], priority="bulk")
        began = time.perf_counter()
        async with scene.project.running(), await connect(scene.project.dsn) as reader:

            async def searchable() -> bool:
                query = "SELECT count(*) FROM penstock.documents"
                return bool(await scalar(reader, query) == files)

            await until(searchable, limit_s=3600, every_s=0.01)
            seconds = time.perf_counter() - began
            await scene.project.caught_up()
        async with await connect(scene.project.dsn) as reader:
            chunks = int(await scalar(reader, "SELECT count(*) FROM penstock.chunks"))
        limit = await (_raw_copy(scene) if embedder == "constant" else _raw_model(scene))
        report.add("documents", files / seconds, "documents/s")
        report.add("chunks searchable", chunks / seconds, "chunks/s", limit)
        began = time.perf_counter()
        async with scene.project.running():
            await scene.project.caught_up()
            report.add("nothing changed, again", time.perf_counter() - began, "s")
    return report


async def _texts(scene: World, limit: int) -> list[str]:
    """Some chunks as the model read them: their heading before the text."""
    async with await connect(scene.project.dsn) as reader:
        cursor = await reader.execute(
            "SELECT heading || chr(10) || text FROM penstock.chunks LIMIT %s", [limit]
        )
        return [row[0] for row in await cursor.fetchall()]


async def _raw_model(scene: World) -> float:
    """Chunks per second of the model alone."""
    texts = await _texts(scene, SAMPLE)
    model = scene.project.embedder()
    await model.embed(texts[:64], priority="bulk")
    best = 0.0
    for _ in range(2):  # the machine's own noise should not make the limit look lower
        began = time.perf_counter()
        await model.embed(texts, priority="bulk")
        best = max(best, len(texts) / (time.perf_counter() - began))
    return best


async def _raw_copy(scene: World) -> float:
    """Chunks per second of one binary COPY of texts and vectors into a table without indexes."""
    texts = await _texts(scene, 50_000)
    vectors: Vectors = np.zeros((len(texts), 384), np.float32)
    vectors[:, 0] = 1
    rows = [
        b"\x00\x02"
        + len(text.encode()).to_bytes(4, "big")
        + text.encode()
        + (772).to_bytes(4, "big")
        + b"\x01\x80\x00\x00"
        + vector.astype(">f2").tobytes()
        for text, vector in zip(texts, vectors, strict=True)
    ]
    async with await connect(scene.project.dsn) as writer:
        await writer.execute("CREATE TABLE public.bench (text text, embedding halfvec)")
        began = time.perf_counter()
        async with (
            writer.cursor() as cursor,
            cursor.copy("COPY public.bench FROM STDIN (FORMAT binary)") as copy,
        ):
            await copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8))
            for start in range(0, len(rows), 1000):
                await copy.write(b"".join(rows[start : start + 1000]))
            await copy.write(b"\xff\xff")
        seconds = time.perf_counter() - began
        await writer.execute("DROP TABLE public.bench")
    return len(texts) / seconds
