"""From a question to its assembled context, the question's embedding included."""

from __future__ import annotations

import random
import time

from penstock.bench.report import Report
from penstock.bench.world import scalar, sentence, world
from penstock.database.connect import connect
from penstock.telemetry import percentiles

CHUNKS = 20_000
QUESTIONS = 300
CHUNKS_PER_DOCUMENT = 1.35


async def measure(*, size: int | None, embedder: str) -> Report:
    """``size`` is the number of chunks."""
    report = Report("query")
    chance = random.Random(3)
    async with world(
        embedder=embedder, documents=False, loaded=int((size or CHUNKS) / CHUNKS_PER_DOCUMENT)
    ) as scene:
        project = scene.project
        async with project.running():
            await project.caught_up()
            await project.upkeep()
        questions = [sentence(chance).lower().rstrip(".") + "?" for _ in range(QUESTIONS + 20)]
        times, embedding = [], []
        for i, question in enumerate(questions):
            began = time.perf_counter()
            await project.embedder().embed([question + " "], priority="query")
            embedding.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            await project.context(question)
            if i >= 20:
                times.append((time.perf_counter() - began) * 1000)
        async with await connect(project.dsn) as reader:
            chunks = await scalar(reader, "SELECT count(*) FROM penstock.chunks")
        report.add("chunks", chunks, "chunks")
        report.add_percentiles("question to context", percentiles(times).to_dict())
        report.add_percentiles("of it the embedding", percentiles(embedding[20:]).to_dict())
    return report
