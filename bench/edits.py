"""What real edits cost, beside whole documents and fixed windows, for several sizes of chunks.

`python bench/edits.py DATA` wants the folder `doc_history` with its three histories. Each goes
through `penstock eval edits` at the default size; the other sizes are counted by the chunker alone.
Prints JSON: `python bench/edits.py DATA > bench/results/edits.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from penstock.bench.report import machine
from penstock.evaluate.edits import evaluate_edits, read_history
from penstock.models.constant import ConstantEmbedder
from penstock.pipelines.knowledge.chunker import Chunker, ChunkSettings, Titled
from penstock.pipelines.knowledge.token_counts import TokenCounts
from penstock.sources.extract import ChildExtractor

HISTORIES = {
    "datasette": ("datasette_docs.jsonl.xz", 0.035),
    "sqlite-utils": ("sqlite_utils_docs.jsonl.xz", 0.027),
    "httpx": ("httpx_docs.jsonl.xz", 0.11),
}
SIZES = (
    ("default", ChunkSettings()),
    ("joined up to all the model reads", ChunkSettings(join_to=1.0)),
    ("128 tokens", ChunkSettings(size=128)),
    ("1,000 characters, overlap 100", ChunkSettings(size=1000, overlap=100, unit="characters")),
)


def share(path: Path, settings: ChunkSettings) -> dict[str, float]:
    """The characters embedded again by edits, as a share of the edited documents."""
    model, extractor = ConstantEmbedder(), ChildExtractor()
    chunker = Chunker(settings, model.max_tokens, TokenCounts().counting(model))
    seen: set[bytes] = set()
    there: set[str] = set()
    embedded = whole = chunks = length = 0
    for event in read_history(path):
        if event.op == "delete":
            there.discard(event.path)
            continue
        found = extractor.extract_plain(event.path, event.text.encode())
        assert found is not None
        cut = chunker.chunk([Titled(found.title or "", found.text)])[0]
        fresh = {chunk.hash: len(chunk.embedded) for chunk in cut if chunk.hash not in seen}
        if event.path in there:
            embedded += sum(fresh.values())
            whole += len(event.text)
        there.add(event.path)
        seen.update(fresh)
        chunks += len(cut)
        length += sum(len(chunk.text) for chunk in cut)
    return {"share": round(embedded / whole, 4), "mean_chunk_characters": round(length / chunks)}


async def measure(data: Path) -> dict[str, Any]:
    """All histories, all sizes."""
    report: dict[str, Any] = {"name": "edits", "histories": {}}
    for name, (file, goal) in HISTORIES.items():
        path = data / "doc_history" / file
        through = await evaluate_edits(path, tell=lambda text: print(text, file=sys.stderr))
        sizes = {what: share(path, settings) for what, settings in SIZES}
        report["histories"][name] = {"goal": goal, "through_the_pipeline": through, "sizes": sizes}
    return {**report, "machine": machine()}


def main() -> None:
    """Print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    print(json.dumps(asyncio.run(measure(parser.parse_args().data)), indent=2))


if __name__ == "__main__":
    main()
