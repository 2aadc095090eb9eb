"""The benches by name."""

from __future__ import annotations

import importlib
from typing import Any

DEFAULTS = {"freshness": "minilm", "load": "constant", "query": "minilm", "change": "minilm"}


async def run_bench(name: str, *, size: int | None, embedder: str | None) -> dict[str, Any]:
    """Run one bench and return its report as JSON."""
    module = importlib.import_module(f"penstock.bench.{name}")
    report = await module.measure(size=size, embedder=embedder or DEFAULTS.get(name, "constant"))
    found: dict[str, Any] = report.to_dict()
    return found
