"""What keeping answers costs: an answer with and without, appends alone, the audit.

    python bench/ledger.py [QUESTIONS]

Stores its figures in ``bench/results/ledger.json``. The database syncs to disk at every commit.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from penstock.bench.report import Report
from penstock.operate.audit import Auditor
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.records import Microseconds
from penstock.settings import Settings
from penstock.stores.ledger import LedgerItem, NewEntry, new_id

RESULTS = Path(__file__).parent / "results"
DOCUMENTS = 500
WRITERS = 32


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(np.asarray(values), share))


async def measure(questions: int = 200) -> Report:
    report = Report("ledger")
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        (folder / "documents").mkdir()
        for number in range(DOCUMENTS):
            text = (
                f"# Rule {number}\n\nItem {number} may be returned within {number % 90} days.\n\n"
            )
            (folder / "documents" / f"rule{number}.md").write_text(text + "More words. " * 60)
        settings = Settings.model_validate(
            {
                "project": "bench",
                "data": str(folder / "data"),
                "sources": {"documents": {"type": "files", "path": str(folder / "documents")}},
            }
        )
        async with open_project(settings=settings) as project:
            async with project.running():
                await project.caught_up(limit_s=300)
            await _answers(project, report, questions)
            await _appends(project, report)
            await _audit(project, report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


async def _answers(project: Project, report: Report, questions: int) -> None:
    kept = project.answerer()
    ways = {"without": kept.unkept(), "kept": kept}
    times: dict[str, list[float]] = {name: [] for name in ways}
    steps: list[float] = []
    who = Principal("ada")
    for number in range(questions + 10):
        question = f"Within how many days may item {number % DOCUMENTS} be returned?"
        for name, answerer in ways.items():  # in turns: what else the machine does falls on both
            began = time.perf_counter()
            answer = await answerer.answer(question, who, limit=8)
            if number >= 10:
                times[name].append((time.perf_counter() - began) * 1e3)
                steps += [answer.timings_ms["keep"]] if name == "kept" else []
    for share in (10, 50, 99):
        limit = percentile(times["without"], share)
        report.add(f"an answer p{share}", percentile(times["kept"], share), "ms", limit)
        report.add(f"keeping it p{share}", percentile(steps, share), "ms")


def _entry(number: int) -> NewEntry:
    items = [LedgerItem("passage", "x" * 1000 + str(number % 200 + n), "d", "k") for n in range(8)]
    content: dict[str, Any] = {"question": f"question {number}", "text": "an answer" * 20}
    at = Microseconds(number)
    return NewEntry("answer", new_id("answer"), at, {"n": number}, content, Principal("a"), items)


async def _appends(project: Project, report: Report) -> None:
    ledger = project.ledger()
    times = await _bare(project.dsn)
    bare = len(times) * 1e3 / sum(times)
    own = []
    for number in range(300):
        began = time.perf_counter()
        await ledger.append(_entry(100_000 + number))
        own.append((time.perf_counter() - began) * 1e3)
    for share in (10, 50):  # the tenth is what others on this machine disturb least
        report.add(f"one append p{share}", percentile(own, share), "ms", percentile(times, share))
    for writers, each in ((1, 200), (WRITERS, 60)):

        async def write(first: int, each: int = each) -> None:
            for number in range(each):
                await ledger.append(_entry(first + number))

        began = time.perf_counter()
        await asyncio.gather(*(write(n * 1000) for n in range(writers)))
        rate = writers * each / (time.perf_counter() - began)
        report.add(f"appends of {writers} writers", rate, "a second", bare)


async def _bare(dsn: str) -> list[float]:
    """The limit: milliseconds of commits of one small row each, on one connection."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with connection:
        await connection.execute("CREATE TABLE bare (number bigint)")
        times = []
        for number in range(300):
            began = time.perf_counter()
            await connection.execute("INSERT INTO bare VALUES (%s)", [number])
            times.append((time.perf_counter() - began) * 1e3)
        return times


async def _audit(project: Project, report: Report) -> None:
    began = time.perf_counter()
    found = await Auditor(project.pool, project.settings.tenant).verify()
    assert found.sound, found.why
    report.add("entries verified", found.entries / (time.perf_counter() - began), "a second")


def main() -> None:
    report = asyncio.run(measure(*map(int, sys.argv[1:]))).to_dict()
    (RESULTS / "ledger.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
