"""The embedder alone: rate, latency under load, time to load, memory. Prints one JSON object.

    uv run python bench/embed_latency.py [--texts 600]

Texts are pieces of Python's own help, about 72 tokens each. Only ratios within one run count: rates
are given by wall clock and by the processor time that the threads took, which a busy machine
changes less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from penstock.bench.report import machine
from penstock.models.base import Priority, Vectors
from penstock.models.minilm import MiniLMEmbedder
from penstock.models.minilm_weights import Precision
from penstock.telemetry import percentiles

TOKENS = 72
COLD = """
import asyncio, pathlib, time
began = time.perf_counter()
from penstock.models.minilm import MiniLMEmbedder
imported = time.perf_counter()
async def main():
    embedder = MiniLMEmbedder(precision={precision!r})
    await embedder.embed(["the first question"], priority="query")
    await embedder.close()
asyncio.run(main())
status = pathlib.Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
print(imported - began, time.perf_counter() - imported, peak)
"""


def pieces(embedder: MiniLMEmbedder, count: int) -> list[str]:
    """Texts of about the wanted number of tokens."""
    words = " ".join(" ".join(text.split()) for _, text in sorted(topics.items())).split(" ")
    found: list[str] = []
    start, length = 0, 40
    while len(found) < count:
        text = " ".join(words[start : start + length])
        tokens = embedder.count_tokens([text])[0]
        length = max(5, min(120, round(length * (TOKENS - 2) / max(tokens, 1))))
        start = (start + length) % (len(words) - 200)
        found.append(f"{len(found)} {text}")
    return found


async def rate(embedder: MiniLMEmbedder, texts: Sequence[str]) -> dict[str, float]:
    """Texts a second, the best of three."""
    await embedder.embed(texts[:32], priority="bulk")
    best: dict[str, float] = {"chunks_per_s": 0.0, "chunks_per_cpu_s": 0.0}
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        await embedder.embed(texts, priority="bulk")
        found = {
            "chunks_per_s": len(texts) / (time.perf_counter() - wall),
            "chunks_per_cpu_s": len(texts) / (time.process_time() - cpu),
        }
        best = {name: round(max(best[name], found[name]), 1) for name in best}
    return best


async def latency(
    embedder: MiniLMEmbedder, priority: Priority, when: str, asked: int = 100
) -> dict[str, Any]:
    """Milliseconds of one short text, asked again and again with a pause."""
    taken = []
    for number in range(asked):
        text = f"what does the journey number {number} to the {priority} harbour cost {when}"
        began = time.perf_counter()
        await embedder.embed([text], priority=priority)
        taken.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.004)
    return percentiles(taken).to_dict()


async def under_load(embedder: MiniLMEmbedder, texts: Sequence[str]) -> dict[str, Any]:
    """Latencies while a load runs, and how much of its rate the load keeps."""
    found: dict[str, Any] = {}
    for priority in ("query", "live"):
        load = asyncio.ensure_future(embedder.embed([*texts] * 20, priority="bulk"))
        await asyncio.sleep(0.1)
        found[priority] = await latency(embedder, priority, "later")
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    return found


def cold(precision: Precision) -> dict[str, float]:
    """A process of its own: import, load, first vector, peak memory."""
    command = [sys.executable, "-c", COLD.format(precision=precision)]
    runs = []
    for _ in range(3):
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        runs.append([float(value) for value in out.split()])
    imported, loaded, peak = np.array(runs).min(axis=0)
    return {"import_s": round(imported, 3), "load_s": round(loaded, 3), "peak_rss_mb": peak}


async def measure(count: int) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {"machine": machine()}
    vectors: dict[str, Vectors] = {}
    for precision in ("fp32", "int8"):
        for threads in (1, 2, 4):
            embedder = MiniLMEmbedder(precision=precision, threads=threads)
            texts = pieces(embedder, count)
            found[f"{precision}, {threads} threads"] = await rate(embedder, texts)
            if threads == 2:
                vectors[precision] = await embedder.embed(texts, priority="bulk")
                found[f"{precision}, idle"] = {
                    priority: await latency(embedder, priority, "now")
                    for priority in ("query", "live")
                }
                found[f"{precision}, under load"] = await under_load(embedder, texts)
                began = time.perf_counter()
                embedder.count_tokens(texts)
                found["count_tokens, texts/s"] = round(len(texts) / (time.perf_counter() - began))
            await embedder.close()
        found[f"{precision}, cold"] = cold(precision)
    cosines = (vectors["fp32"] * vectors["int8"]).sum(axis=1)
    found["cosine"] = {
        "mean": round(float(cosines.mean()), 5),
        "min": round(float(cosines.min()), 5),
    }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=600)
    print(json.dumps(asyncio.run(measure(parser.parse_args().texts)), indent=2))
