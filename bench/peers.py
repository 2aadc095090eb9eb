"""Our load of a folder beside others' loads of the same, in alternation.

    uv run python bench/peers.py [--model constant|minilm] [--files 6000] [--rounds 2]
        [--texts corpus.jsonl] [--environments FOLDER] [--peer langchain ...] [--store]

Peers: LangChain, LlamaIndex, CocoIndex, Pathway, and a bare loop without a framework. All but the
last cut into 500 characters with 50 overlap; all but Pathway, whose index is in memory, write to
the same kind of PostgreSQL, started by the same supervisor with the same settings. With
``--model minilm`` theirs is all-MiniLM-L6-v2 through sentence-transformers, as their users run it,
and ours as we ship it. Ours is measured with their chunks and with its own default.

FOLDER holds an environment for each (``langchain/bin/python`` and so on); those that are missing
are made there, or in a temporary folder, with `uv` (torch is large: some minutes). What cannot be
made is skipped with a sentence. Only ratios within one run count, of wall clock and of processor
time (ours or theirs, and PostgreSQL's). Stored in bench/results/peers_{constant,minilm}.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from penstock.bench.report import Report
from penstock.bench.waiting import until
from penstock.bench.world import document, scalar, scratch_folder
from penstock.cli.app import spare_collector
from penstock.config import parse_settings
from penstock.database.connect import connect
from penstock.database.embedded import EmbeddedPostgres
from penstock.models.minilm_weights import model_folder
from penstock.project import open_project

HERE = Path(__file__).parent
SAME = "{size: 500, overlap: 50, unit: characters, context: false}"
"""The same limits; ours joins short blocks less far, so there are more chunks, and shorter ones."""
MODEL = ("sentence-transformers", "torch")
PACKAGES = {
    "langchain": (
        "langchain-classic", "langchain-postgres", "langchain-text-splitters", "psycopg[binary]",
        "sqlalchemy", "langchain-huggingface",
    ),
    "llamaindex": (
        "llama-index-core", "llama-index-vector-stores-postgres", "psycopg2-binary", "asyncpg",
        "llama-index-embeddings-huggingface",
    ),
    "cocoindex": ("cocoindex", "asyncpg", "numpy"),
    "pathway": ("pathway[xpack-llm]", "numpy"),
}  # fmt: skip
GOALS = {"constant": {"loop": 0.5, "langchain": 10, "llamaindex": 10, "cocoindex": 20},
         "minilm": {"langchain": 3, "llamaindex": 3, "cocoindex": 3, "pathway": 3}}  # fmt: skip
CPU_GOAL_S = 0.25


class LoadError(Exception):
    """A peer did not load."""


class Load(NamedTuple):
    """One load: rates, and processor seconds for a thousand documents."""

    documents_per_s: float
    chunks_per_s: float
    cpu_s: float


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


def servers_cpu() -> float:
    """Processor seconds of the processes below this one, those that have ended included."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found += times.user + times.system + times.children_user + times.children_system
    return found


async def ours(folder: Path, data: Path, files: int, model: str, chunks: str) -> Load:
    """Ours, from a folder to searchable."""
    text = (
        f"project: bench\ndata: {data}\nserver: {{port: 0}}\n"
        f"knowledge: {{embedder: {model}, chunks: {chunks}}}\n"
        f"sources:\n  load: {{type: files, path: {folder}, heartbeat: 500ms}}\n"
    )
    settings = parse_settings(text, file=data.parent / "penstock.yaml", environment={})
    async with open_project(settings=settings) as project:
        await project.embedder().embed(["warm"], priority="bulk")
        began, cpu = time.perf_counter(), time.process_time() + servers_cpu()
        async with project.running(), await connect(project.dsn) as reader:

            async def searchable() -> bool:
                return bool(
                    await scalar(reader, "SELECT count(*) FROM penstock.documents") == files
                )

            await until(searchable, limit_s=3600, every_s=0.02 if model == "constant" else 0.2)
            seconds = time.perf_counter() - began
            cpu = time.process_time() + servers_cpu() - cpu
            found = int(await scalar(reader, "SELECT count(*) FROM penstock.chunks"))
    return Load(files / seconds, found / seconds, cpu / files * 1000)


async def theirs(name: str, python: str, folder: Path, data: Path, model: str) -> Load:
    """The same of a peer, in its own process and environment."""
    server = EmbeddedPostgres(data)
    dsn = await server.start()
    try:
        async with await connect(dsn) as connection:
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        before = servers_cpu()
        script = HERE / f"peer_{name}.py"
        given = "constant" if model == "constant" else str(model_folder())
        done = await asyncio.to_thread(
            subprocess.run, [python, str(script), str(folder), dsn, given], capture_output=True,
            text=True, check=False, env={**os.environ, "TOKENIZERS_PARALLELISM": "true"},
        )  # fmt: skip
        server_s = servers_cpu() - before
    finally:
        await server.stop()
    if done.returncode:
        raise LoadError(f"{name} is not measured: it ended with\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Load(
        found["documents"] / found["seconds"],
        found["chunks"] / found["seconds"],
        (found["cpu_s"] + server_s) / found["documents"] * 1000,
    )


def environments(names: list[str], folder: Path, model: str) -> dict[str, str]:
    """The Python of each peer's environment; it is made if it is not there."""
    found: dict[str, str] = {}
    for name in names:
        python = folder / name / "bin" / "python"
        if name == "loop":
            found[name] = sys.executable
            continue
        try:
            if not python.exists():
                wanted = (*PACKAGES[name], *(MODEL if model != "constant" else ()))
                subprocess.run(["uv", "venv", "-q", str(folder / name)], check=True)
                install = ["uv", "pip", "install", "-q", "-p", str(python), *wanted]
                # Copies: LlamaIndex refuses files with several names.
                subprocess.run(install, check=True, env={**os.environ, "UV_LINK_MODE": "copy"})
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} is not measured: its environment cannot be made ({error})")
            shutil.rmtree(folder / name, ignore_errors=True)
            continue
        found[name] = str(python)
    return found


async def rounds(wanted: argparse.Namespace, scratch: Path) -> dict[str, list[Load]]:
    """All of them in each round, and before the first a small load of ours, for what is imported
    and learnt late."""
    pythons = environments(wanted.peer, wanted.environments or scratch, wanted.model)
    folder, small = scratch / "documents", scratch / "few"
    write_corpus(folder, wanted.files, wanted.texts)
    write_corpus(small, 20, wanted.texts)
    await ours(small, scratch / "warm", 20, wanted.model, SAME)
    spare_collector()  # as the program does when it starts
    found: dict[str, list[Load]] = {}
    for turn in range(wanted.rounds):
        for name, chunks in (("same chunks", SAME), ("default chunks", "{}")):
            data = scratch / f"ours{turn}{name[:4]}"
            load = await ours(folder, data, wanted.files, wanted.model, chunks)
            found.setdefault(f"ours, {name}", []).append(load)
        for name, python in list(pythons.items()):
            data = scratch / f"{name}{turn}"
            try:
                load = await theirs(name, python, folder, data, wanted.model)
            except LoadError as error:
                print(error, file=sys.stderr)
                del pythons[name]
                found.pop(name, None)
            else:
                found.setdefault(name, []).append(load)
        print(f"round {turn + 1}: {({name: each[-1] for name, each in found.items()})}",
              file=sys.stderr)  # fmt: skip
    return found


def summary(found: dict[str, list[Load]], model: str) -> Report:
    """Medians; beside ours, medians of the ratios of the same round, with what is asked for."""
    report = Report(f"peers, {model}")
    for name, each in found.items():
        limit = CPU_GOAL_S if name.startswith("ours") and model == "constant" else None
        report.add(name, median(load.documents_per_s for load in each), "documents/s")
        report.add(name, median(load.chunks_per_s for load in each), "chunks/s")
        cpu = median(load.cpu_s for load in each)
        report.add(name, cpu, "processor seconds for 1,000 documents", limit)
    for name, each in found.items():
        if name.startswith("ours"):
            continue
        for kind in ("same chunks", "default chunks"):
            pairs = list(zip(found[f"ours, {kind}"], each, strict=True))
            goal = GOALS[model].get(name)
            ratio = median(one.documents_per_s / other.documents_per_s for one, other in pairs)
            report.add(f"ours, {kind} / {name}, documents", ratio, "x", goal)
            ratio = median(one.chunks_per_s / other.chunks_per_s for one, other in pairs)
            report.add(f"ours, {kind} / {name}, chunks", ratio, "x", goal)
            ratio = median(other.cpu_s / one.cpu_s for one, other in pairs)
            report.add(f"{name} / ours, {kind}, processor time", ratio, "x")
    return report


def main() -> None:
    """Print the report and store it."""
    names = ["loop", *PACKAGES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(GOALS), default="constant")
    parser.add_argument("--texts", type=Path, help="A BEIR corpus.jsonl; made-up text without.")
    parser.add_argument("--files", type=int)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--environments", type=Path, help="Where their environments are or go.")
    parser.add_argument("--peer", action="append", choices=names, help="Only this; repeatable.")
    parser.add_argument("--store", action="store_true", help="Write it to bench/results.")
    wanted = parser.parse_args()
    wanted.peer = wanted.peer or names
    if wanted.model != "constant":
        wanted.peer = [name for name in wanted.peer if name != "loop"]
    wanted.files = wanted.files or (6_000 if wanted.model == "constant" else 300)
    with scratch_folder() as scratch:
        found = asyncio.run(rounds(wanted, scratch))
    text = json.dumps(summary(found, wanted.model).to_dict(), indent=2)
    print(text)
    if wanted.store:
        place = HERE / "results" / f"peers_{wanted.model}.json"
        place.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
