"""From a question to its assembled context, the question's embedding included."""

from __future__ import annotations

import random
import time

from penstock.bench.report import Report
from penstock.bench.world import sentence, world
from penstock.telemetry import percentiles

CHUNKS = 20_000
QUESTIONS = 300


async def measure(*, size: int | None, embedder: str) -> Report:
    """``size`` is the number of chunks."""
    report = Report("query")
    chance = random.Random(3)
    async with world(embedder=embedder, documents=False, loaded=(size or CHUNKS) // 2) as scene:
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
        report.add_percentiles("question to context", percentiles(times).to_dict())
        report.add_percentiles("of it the embedding", percentiles(embedding[20:]).to_dict())
    return report
