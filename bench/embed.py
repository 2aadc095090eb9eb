"""Texts embedded a second: ours beside sentence-transformers and OpenVINO, in alternating rounds.

    uv run python bench/embed.py --data DATA [--python ST/bin/python | --no-peers] [--texts 400]

DATA is a folder of BEIR sets that holds ``squad2-dev``. All embed the same texts with the same
weights on every core: its paragraphs, cut at sentences into pieces of up to 500 characters, about
70 tokens each. The peers live in an environment of their own: the one whose Python is named, or one
made for the run in a temporary folder with `uv` (torch is large: some minutes). Where it cannot be
had, the bench says so and measures ours alone.

Reported are medians of the rounds, each a ratio within its round; how near the vectors are to those
of sentence-transformers; and what int8 costs in retrieval: hit@1, recall@10 and MRR@10 of exact
search over all paragraphs, for a sample of the questions. Stored in bench/results/embed.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from penstock.bench.report import Report
from penstock.models.base import Vectors
from penstock.models.minilm import MiniLMEmbedder
from penstock.models.minilm_weights import Precision, model_folder

RESULT = Path(__file__).parent / "results" / "embed.json"
ANCHOR = "sentence-transformers fp32"
GOAL = 3.3
PACKAGES = ("torch", "sentence-transformers", "openvino", "nncf")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
ASKED = 2_000


def pieces(texts: list[str], count: int) -> list[str]:
    """Whole sentences joined up to 500 characters."""
    found: list[str] = []
    for text in texts:
        joined = ""
        for sentence in SENTENCE.split(text):
            if joined and len(joined) + len(sentence) + 1 > 500:
                found.append(joined)
                joined = sentence
            else:
                joined = f"{joined} {sentence}" if joined else sentence
        found.append(joined)
    return random.Random(1).sample(found, min(count, len(found)))


class Peers:
    """The child process with the peers; each waits while another is measured."""

    def __init__(self, python: str, texts: list[str], scratch: Path) -> None:
        self._scratch = scratch
        path = scratch / "texts.json"
        path.write_text(json.dumps(texts), encoding="utf-8")
        command = [python, str(Path(__file__).with_name("peer_embedders.py")), str(model_folder())]
        self._process = subprocess.Popen(
            [*command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = self._answer()
        self.engines: list[str] = said["engines"]
        self.missing: str = said["missing"]

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"expected the peers' answer, their process ended: {self.end()}")
        return json.loads(line)

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def seconds(self, name: str) -> tuple[float, float]:
        wall, cpu = self._ask(name)
        return wall, cpu

    def vectors(self, name: str) -> Vectors:
        path = self._scratch / "vectors.npy"
        self._ask(f"{name}\t{path}")
        found: Vectors = np.load(path)
        return found

    def end(self) -> int:
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait(timeout=30)


def environment(folder: Path) -> str | None:
    """A Python with the peers, made with uv; None, and a sentence, if that fails."""
    place = folder / "peers"
    try:
        subprocess.run(["uv", "venv", "-q", str(place)], check=True)
        subprocess.run(
            ["uv", "pip", "install", "-q", "-p", str(place / "bin" / "python"), *PACKAGES],
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no peers are measured: their environment cannot be made ({error})")
        return None
    return str(place / "bin" / "python")


async def rounds(
    ours: Mapping[Precision, MiniLMEmbedder], peers: Peers | None, texts: list[str], count: int
) -> dict[str, list[tuple[float, float]]]:
    """Texts per second and per processor second of each, round by round."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(count):
        for name in peers.engines if peers else []:
            assert peers is not None
            wall, cpu = peers.seconds(name)
            found.setdefault(name, []).append((len(texts) / wall, len(texts) / cpu))
        for precision, model in ours.items():
            began, cpu = time.perf_counter(), time.process_time()
            await model.embed(texts, priority="bulk")
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            found.setdefault(f"ours {precision}", []).append((len(texts) / wall, len(texts) / cpu))
    return found


def add_rates(report: Report, rates: Mapping[str, list[tuple[float, float]]]) -> None:
    """Medians, and the median of the ratios to the anchor of the same round."""
    anchors = rates.get(ANCHOR)
    for name, each in rates.items():
        report.add(name, median(wall for wall, _ in each), "texts/s")
        report.add(name, median(cpu for _, cpu in each), "texts per processor second")
        if anchors and name != ANCHOR:
            pairs = list(zip(each, anchors, strict=True))
            goal = GOAL if name == "ours int8" else None
            for place, of in enumerate(("", " (processor seconds)")):
                ratios = [ours[place] / theirs[place] for ours, theirs in pairs]
                report.add(f"{name} / {ANCHOR}{of}", median(ratios), "x", goal)


def add_cosines(report: Report, name: str, one: Vectors, other: Vectors) -> None:
    """Mean and smallest."""
    cosines = (one * other).sum(axis=1)
    report.add(f"cosine of {name}, mean", float(cosines.mean()), "", 0.99)
    report.add(f"cosine of {name}, min", float(cosines.min()), "")


async def retrieval(model: MiniLMEmbedder, data: Path) -> dict[str, float]:
    """Exact search with vectors alone, in percent."""
    lines = (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    corpus = [json.loads(line) for line in lines]
    place = {one["_id"]: number for number, one in enumerate(corpus)}
    lines = (data / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    questions = {one["_id"]: one["text"] for one in map(json.loads, lines)}
    [path, *_] = sorted((data / "qrels").glob("*.tsv"))
    judged = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    pairs = [(q, place[d]) for q, d, value in judged if int(value) > 0 and q in questions]
    asked = random.Random(2).sample(pairs, min(ASKED, len(pairs)))
    stored = await model.embed([one["text"] for one in corpus], priority="bulk")
    vectors = await model.embed([questions[question] for question, _ in asked], priority="bulk")
    scores = vectors @ stored.T
    wanted = scores[np.arange(len(asked)), [document for _, document in asked]]
    ranks = (scores > wanted[:, None]).sum(axis=1) + 1
    return {
        "hit@1": 100 * float((ranks == 1).mean()),
        "recall@10": 100 * float((ranks <= 10).mean()),
        "MRR@10": 100 * float(np.where(ranks <= 10, 1 / ranks, 0).mean()),
    }


async def measure(data: Path, python: str | None, count: int, turns: int) -> Report:
    """Rates first, then fidelity."""
    report = Report("embed")
    lines = (data / "squad2-dev" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = pieces([json.loads(line)["text"] for line in lines], count)
    ours = {precision: MiniLMEmbedder(precision=precision) for precision in PRECISIONS}
    for model in ours.values():
        await model.embed(texts[:32], priority="bulk")
    report.add("tokens of a text", sum(ours["fp32"].count_tokens(texts)) / len(texts), "tokens")
    with tempfile.TemporaryDirectory() as scratch:
        peers = Peers(python, texts, Path(scratch)) if python else None
        add_rates(report, await rounds(ours, peers, texts, turns))
        vectors = {p: await model.embed(texts, priority="bulk") for p, model in ours.items()}
        exact = vectors["fp32"]
        if peers is not None:
            if peers.missing:
                print(f"OpenVINO is not measured: {peers.missing}")
            exact = peers.vectors(ANCHOR)
            add_cosines(report, "ours fp32", vectors["fp32"], exact)
            for name in peers.engines[1:]:
                add_cosines(report, name, peers.vectors(name), exact)
            peers.end()
        add_cosines(report, "ours int8", vectors["int8"], exact)
    found = {p: await retrieval(model, data / "squad2-dev") for p, model in ours.items()}
    for name, value in found["int8"].items():
        report.add(f"squad2-dev, vectors alone, {name}: int8", value, "%", found["fp32"][name])
    for model in ours.values():
        await model.close()
    chosen = MiniLMEmbedder().precision
    report.add(f"chosen on this processor: {chosen}", None, "")
    return report


def main() -> None:
    """Print the report and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="A folder of BEIR sets.")
    parser.add_argument("--python", help="A Python that has the peers.")
    parser.add_argument("--no-peers", action="store_true", help="Measure ours alone.")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", action="store_true", help="write bench/results/embed.json")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        python = None if wanted.no_peers else wanted.python or environment(Path(scratch))
        report = asyncio.run(measure(wanted.data, python, wanted.texts, wanted.rounds))
    found = json.dumps(report.to_dict(), indent=2)
    print(found)
    if wanted.store:
        RESULT.write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
