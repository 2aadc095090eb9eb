"""From a question to its assembled context, the question's embedding included."""

from __future__ import annotations

import random
import time

from penstock.bench.report import Report
from penstock.bench.world import scalar, sentence, world
from penstock.database.connect import connect
from penstock.principals import Principal
from penstock.serving.context import ContextBuilder
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
        plain = ContextBuilder(project.snapshots, project.embedder(), clock=project.clock)
        asked = {"as it is": project.contexts(), "not reranked": plain}
        times: dict[str, list[float]] = {name: [] for name in asked}
        embedding = []
        # In turn, each with questions of its own: the vectors of questions are remembered.
        for i in range(QUESTIONS + 20):
            began = time.perf_counter()
            await project.embedder().embed([_question(chance)], priority="query")
            embedding.append((time.perf_counter() - began) * 1000)
            for name, builder in asked.items():
                question = _question(chance)
                began = time.perf_counter()
                await builder.context(question, Principal())
                if i >= 20:
                    times[name].append((time.perf_counter() - began) * 1000)
        async with await connect(project.dsn) as reader:
            chunks = await scalar(reader, "SELECT count(*) FROM penstock.chunks")
        report.add("chunks", chunks, "chunks")
        plainly = percentiles(times["not reranked"])
        report.add_percentiles("question to context", percentiles(times["as it is"]).to_dict())
        report.add_percentiles("the same, not reranked", plainly.to_dict())
        report.add_percentiles("of it the embedding", percentiles(embedding[20:]).to_dict())
    return report


def _question(chance: random.Random) -> str:
    return sentence(chance).lower().rstrip(".") + "?"
