"""One sentence of a long document, one shown column, one deleted document."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from penstock.bench.report import Report
from penstock.bench.waiting import until
from penstock.bench.world import World, document, scalar, world, write_documents
from penstock.database.connect import connect
from penstock.telemetry import percentiles

ROUNDS = 20
PARAGRAPHS = 200
MARKED = "SELECT count(*) FROM penstock.chunks WHERE strpos(text, %s) > 0"


async def measure(*, size: int | None, embedder: str) -> Report:
    """``size`` is the number of rounds."""
    report = Report("change")
    rounds = size or ROUNDS
    async with world(embedder=embedder, rows=1000, searched=True) as scene:
        write_documents(scene.documents, 200)
        long = scene.documents / "long.md"
        paragraphs = document(random.Random(5), PARAGRAPHS).split("\n\n")
        write_atomically(long, "\n\n".join(paragraphs))
        async with scene.project.running():
            await scene.project.caught_up()
            await _sentence(scene, report, long, paragraphs, rounds)
            await _column(scene, report, rounds)
            await _delete(scene, report, rounds)
    return report


def write_atomically(path: Path, text: str) -> None:
    """As editors do: beside it, then in its place."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


async def _sentence(
    scene: World, report: Report, long: Path, paragraphs: list[str], rounds: int
) -> None:
    embedded_before = scene.project.embedding_counts()[0]
    times: list[float] = []
    async with await connect(scene.project.dsn) as reader:
        for i in range(rounds):
            mark = f"zq{i}mark"
            edited = list(paragraphs)
            middle = len(edited) // 2
            edited[middle] = edited[middle].replace(".", f". A sentence about {mark} was added.", 1)
            began = time.perf_counter()
            write_atomically(long, "\n\n".join(edited))

            async def seen(mark: str = mark) -> bool:
                return bool(await scalar(reader, MARKED, mark))

            await until(seen)
            times.append((time.perf_counter() - began) * 1000)
    embedded = scene.project.embedding_counts()[0] - embedded_before
    report.add("chunks embedded per edited sentence", embedded / rounds, "chunks", 2)
    report.add_percentiles("edited sentence searchable", percentiles(times).to_dict())


async def _column(scene: World, report: Report, rounds: int) -> None:
    embedded_before = scene.project.embedding_counts()[0]
    times: list[float] = []
    async with (
        await connect(scene.project.dsn) as reader,
        await connect(scene.source_dsn) as source,
    ):
        for i in range(rounds):
            began = time.perf_counter()
            await source.execute("UPDATE accounts SET note = %s WHERE id = 7", [f"n{i}"])

            async def seen(i: int = i) -> bool:
                query = "SELECT note FROM shop.accounts WHERE id = 7"
                return bool(await scalar(reader, query) == f"n{i}")

            await until(seen)
            times.append((time.perf_counter() - began) * 1000)
        await scene.project.caught_up()
    embedded = scene.project.embedding_counts()[0] - embedded_before
    report.add("chunks embedded per shown column changed", embedded / rounds, "chunks")
    report.add_percentiles("shown column visible", percentiles(times).to_dict())


async def _delete(scene: World, report: Report, rounds: int) -> None:
    times: list[float] = []
    names: Callable[[int], str] = "part000/1-{:06d}.md".format
    async with await connect(scene.project.dsn) as reader:
        for i in range(rounds):
            began = time.perf_counter()
            (scene.documents / names(i)).unlink()

            async def gone(i: int = i) -> bool:
                query = (
                    "SELECT count(*) FROM penstock.chunks c JOIN penstock.documents d "
                    "ON d.id = c.document_id WHERE d.key = %s"
                )
                return not await scalar(reader, query, names(i))

            await until(gone)
            times.append((time.perf_counter() - began) * 1000)
    report.add_percentiles("deleted document gone", percentiles(times).to_dict())
