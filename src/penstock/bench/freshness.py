"""From commit to visible while changes flow: rows, documents, and both during a bulk load."""

from __future__ import annotations

import asyncio
import random
import time

from penstock.bench.change import write_atomically
from penstock.bench.report import Report
from penstock.bench.world import (
    World,
    document,
    scalar,
    sentence,
    world,
    write_documents,
)
from penstock.database.connect import connect

PER_SECOND = 100
SECONDS = 20
LOADED = 3000


async def measure(*, size: int | None, embedder: str) -> Report:
    """``size`` is the number of seconds that changes flow."""
    report = Report("freshness")
    seconds = size or SECONDS
    async with world(embedder=embedder, rows=5000) as scene:
        paragraphs = _small_folder(scene)
        async with scene.project.running():
            await scene.project.caught_up()
            await _flow(scene, paragraphs, seconds)
            await scene.project.caught_up()
            for kind, found in scene.project.freshness().items():
                report.add_percentiles(f"{kind}, {PER_SECOND} changes a second", found)
    idle_rate = await _load(report, embedder, flowing=False)
    busy_rate = await _load(report, embedder, flowing=True)
    report.add("bulk load while changes flow", busy_rate, "chunks/s", idle_rate)
    return report


def _small_folder(scene: World) -> list[str]:
    """Three hundred short documents and a long one, whose paragraphs are returned."""
    write_documents(scene.documents, 300)
    paragraphs = document(random.Random(5), 200).split("\n\n")
    write_atomically(scene.documents / "long.md", "\n\n".join(paragraphs))
    return paragraphs


async def _load(report: Report, embedder: str, *, flowing: bool) -> float:
    """Chunks per second of a first load, with or without changes beside it."""
    async with world(embedder=embedder, rows=5000, loaded=LOADED) as scene:
        paragraphs = _small_folder(scene)
        project = scene.project
        began = time.perf_counter()
        async with project.running():
            flow = None
            while (await project.ages()).get("load") is None:
                ages = await project.ages()
                if flow is None and flowing and ages.get("docs") and ages.get("shop"):
                    flow = asyncio.create_task(_flow(scene, paragraphs, 3600))
                await asyncio.sleep(0.05)
            seconds = time.perf_counter() - began
            if flow is not None:
                for kind, found in project.freshness().items():
                    report.add_percentiles(f"{kind}, during a bulk load", found)
                flow.cancel()
                await asyncio.gather(flow, return_exceptions=True)
            async with await connect(project.dsn) as reader:
                query = (
                    "SELECT count(*) FROM penstock.chunks c JOIN penstock.documents d "
                    "ON d.id = c.document_id WHERE d.source = 'load'"
                )
                return int(await scalar(reader, query)) / seconds


async def _flow(scene: World, paragraphs: list[str], seconds: float) -> None:
    """Nine rows to one sentence of a long document."""
    chance = random.Random(9)
    scene.project.meters.clear_freshness()
    async with await connect(scene.source_dsn) as source:
        began = time.perf_counter()
        i = 0
        while time.perf_counter() - began < seconds:
            if i % 10 == 9:
                edited = list(paragraphs)
                edited[chance.randrange(len(edited))] += " " + sentence(chance)
                write_atomically(scene.documents / "long.md", "\n\n".join(edited))
            else:
                await source.execute(
                    "UPDATE accounts SET balance = balance + 1 WHERE id = %s",
                    [chance.randrange(1, 5001)],
                )
            i += 1
            await asyncio.sleep(max(0.0, began + i / PER_SECOND - time.perf_counter()))
