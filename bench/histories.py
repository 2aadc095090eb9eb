"""How many random histories of identities end in the answer of a batch.

    python bench/histories.py [HISTORIES]      default 2,000 of each property

Runs the properties of G10 (rows that come, change and go, in any order and batches, decisions of
people, replays, connections that are killed, fuzzy matches), each with so many histories that it
draws anew, and counts those that held. Stores the counts in ``bench/results/histories.json``; what
a property finds is printed, made small.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from penstock.bench.report import Report

ROOT = Path(__file__).parent.parent
PROPERTIES = (
    ("in memory, decisions of people among them, after each step",
     "test_g10_identity_histories.py::test_g10_every_history_ends_in_the_answer_of_a_batch"),
    ("in memory, in any order and batches, some twice",
     "test_g10_identity_histories.py::test_g10_order_and_batches_do_not_count"),
    ("in PostgreSQL, decisions, replays and killed connections, after each step",
     "test_g10_killed_histories.py::test_g10_killed_histories_end_in_the_answer_of_a_batch"),
    ("in PostgreSQL, keys that move, truncates, replays",
     "test_g10_profiles_in_postgres.py::test_g10_histories_in_postgres"),
    ("in PostgreSQL, fuzzy matches, two models",
     "test_g10_matching_in_postgres.py::test_g10_matches_in_postgres_are_those_of_a_batch"),
)  # fmt: skip
_COUNTS = re.compile(r"(\d+) passing, (\d+) failing")


def tried(test: str, histories: int) -> tuple[int, int, float]:
    """How many held and failed, and the seconds that it took."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "--hypothesis-show-statistics", f"tests/properties/{test}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PENSTOCK_HISTORIES": str(histories)},
    )  # fmt: skip
    counts = [(int(a), int(b)) for a, b in _COUNTS.findall(done.stdout)]
    failed = sum(b for _, b in counts)
    if done.returncode:
        print(done.stdout[-20_000:], file=sys.stderr)
        failed = max(1, failed)
    return sum(a for a, _ in counts), failed, time.perf_counter() - began


def main() -> None:
    histories = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    report, broken = Report("histories"), 0
    for name, test in PROPERTIES:
        held, failed, seconds = tried(test, histories)
        broken += failed
        report.add(f"{name}: held", held, "histories", histories)
        report.add(f"{name}: failed", failed, "histories")
        report.add(f"{name}: took", seconds, "s")
        print(name, held, failed, round(seconds), flush=True)
        text = json.dumps(report.to_dict(), indent=2) + "\n"  # what is there, should it be stopped
        (ROOT / "bench" / "results" / "histories.json").write_text(text, encoding="utf-8")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
