"""What a measurement prints: a value, beside what the machine itself can do."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Report:
    """The results of one bench. ``limit`` is the same work without us, measured in the same run;
    ``ratio`` is our value against it, as a share of the limit for rates and as a multiple for
    times."""

    name: str
    results: list[dict[str, Any]] = field(default_factory=list)

    def add(self, measure: str, value: float | None, unit: str, limit: float | None = None) -> None:
        """One figure; the ratio is computed when there is a limit."""
        ratio = round(value / limit, 3) if value is not None and limit else None
        self.results.append(
            {
                "measure": measure,
                "value": None if value is None else round(value, 3),
                "unit": unit,
                "limit": None if limit is None else round(limit, 3),
                "ratio": ratio,
            }
        )

    def add_percentiles(self, measure: str, found: dict[str, Any]) -> None:
        """The 50th, 95th and 99th of some milliseconds."""
        for name in ("p50", "p95", "p99"):
            self.add(f"{measure} {name}", found[name], "ms")

    def to_dict(self) -> dict[str, Any]:
        """As ``penstock bench --json`` prints it."""
        return {"name": self.name, "results": self.results, "machine": machine()}


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
