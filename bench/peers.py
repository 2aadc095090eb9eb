"""Our load of a folder beside LangChain's, in alternation, with a constant-time embedder.

    uv venv lc && uv pip install -p lc/bin/python langchain-classic langchain-postgres \\
        langchain-text-splitters "psycopg[binary]" sqlalchemy numpy
    uv run python bench/peers.py --langchain lc/bin/python [--texts corpus.jsonl] [--files 12000]

Both cut into 500 characters with 50 overlap and write to the same kind of PostgreSQL, started by
the same supervisor with the same settings, through the same files. Ours is also measured with its
own default of whole paragraphs. Only ratios within one run count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from penstock.bench.report import Report
from penstock.bench.waiting import until
from penstock.bench.world import document, scalar, scratch_folder
from penstock.config import parse_settings
from penstock.database.connect import connect
from penstock.database.embedded import EmbeddedPostgres
from penstock.project import open_project

SAME = "{size: 500, overlap: 50, unit: characters, context: false}"


def write_corpus(folder: Path, files: int, texts: Path | None) -> None:
    """So many files: the paragraphs of a BEIR corpus, repeated as often as it takes, or made up."""
    chance = random.Random(3)
    found: list[str] = []
    if texts is not None:
        lines = texts.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line)["text"] for line in lines]
    for number in range(files):
        place = folder / f"part{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        text = found[number % len(found)] if found else document(chance, 2)
        (place / f"{number:06d}.md").write_text(f"Copy {number}. {text}", encoding="utf-8")


async def ours(folder: Path, data: Path, files: int, chunks: str) -> tuple[float, float]:
    """Documents and chunks per second from a folder to searchable."""
    text = (
        f"project: bench\ndata: {data}\nserver: {{port: 0}}\n"
        f"knowledge: {{embedder: constant, chunks: {chunks}}}\n"
        f"sources:\n  load: {{type: files, path: {folder}, heartbeat: 500ms}}\n"
    )
    settings = parse_settings(text, file=data.parent / "penstock.yaml", environment={})
    async with open_project(settings=settings) as project:
        await project.embedder().embed(["warm"], priority="bulk")
        began = time.perf_counter()
        async with project.running(), await connect(project.dsn) as reader:

            async def searchable() -> bool:
                return bool(
                    await scalar(reader, "SELECT count(*) FROM penstock.documents") == files
                )

            await until(searchable, limit_s=3600, every_s=0.01)
            seconds = time.perf_counter() - began
            found = int(await scalar(reader, "SELECT count(*) FROM penstock.chunks"))
    return files / seconds, found / seconds


async def theirs(python: str, folder: Path, data: Path) -> tuple[float, float]:
    """The same of LangChain, in its own process and environment."""
    server = EmbeddedPostgres(data)
    dsn = await server.start()
    try:
        async with await connect(dsn) as connection:
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        script = Path(__file__).with_name("peer_langchain.py")
        done = await asyncio.to_thread(
            subprocess.run, [python, str(script), str(folder), dsn], capture_output=True, text=True,
            check=True,
        )  # fmt: skip
    finally:
        await server.stop()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found["documents"] / found["first_s"], found["chunks"] / found["first_s"]


async def measure(python: str, files: int, texts: Path | None, rounds: int) -> Report:
    """Medians over the rounds; the limit beside our figures is LangChain's."""
    report = Report("peers")
    with scratch_folder() as scratch:
        folder = scratch / "documents"
        write_corpus(folder, files, texts)
        found: dict[str, list[tuple[float, float]]] = {"same": [], "default": [], "langchain": []}
        for turn in range(rounds):
            found["same"].append(await ours(folder, scratch / f"same{turn}", files, SAME))
            found["default"].append(await ours(folder, scratch / f"default{turn}", files, "{}"))
            found["langchain"].append(await theirs(python, folder, scratch / f"langchain{turn}"))
    rates = {
        name: (median(a for a, _ in each), median(b for _, b in each))
        for name, each in found.items()
    }
    documents, chunks = rates["langchain"]
    report.add("same chunks", rates["same"][0], "documents/s", documents)
    report.add("same chunks", rates["same"][1], "chunks/s", chunks)
    report.add("our default chunks", rates["default"][0], "documents/s", documents)
    return report


def main() -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--langchain", required=True, help="A Python that has LangChain.")
    parser.add_argument("--texts", type=Path, help="A BEIR corpus.jsonl; made-up text without.")
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=2)
    wanted = parser.parse_args()
    report = asyncio.run(measure(wanted.langchain, wanted.files, wanted.texts, wanted.rounds))
    print(json.dumps(report.to_dict(), indent=2))


if __name__ == "__main__":
    main()
