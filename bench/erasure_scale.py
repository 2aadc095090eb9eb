"""What an erasure costs where much is stored: one person, then twenty at once, out of fifty
thousand with an order each, their changes in the log, their profiles and the events of these.

    python bench/erasure_scale.py [PEOPLE]      50000

Stores seconds by step in ``bench/results/erasure_scale.json`` (of 50,000 people or more).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from penstock.bench.report import Report
from penstock.database.embedded import EmbeddedPostgres
from penstock.operate.erasing import erase
from penstock.project import open_project

RESULTS = Path(__file__).parent / "results" / "erasure_scale.json"
KEPT_FROM = 50_000
PROJECT = """
project: scale
database: embedded
server: {{port: 0}}
knowledge: {{embedder: constant}}
sources:
  crm: {{type: postgres, dsn: "{dsn}", tables: [contacts, orders]}}
  people: {{type: profile_events, kind: customer}}
profiles:
  customer:
    tables:
      crm.contacts: {{identifiers: {{email: email}}, traits: {{name: name}}}}
      crm.orders: {{identifiers: {{email: email}}, traits: {{order: what}}}}
"""


def fill(dsn: str, people: int) -> None:
    """A contact and an order for each."""
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute(
            "CREATE TABLE contacts (id int PRIMARY KEY, name text, email text, notes text);"
            "CREATE TABLE orders (id int PRIMARY KEY, email text, what text)"
        )
        for table, columns in (
            ("contacts", "'Person ' || d, 'p' || d || '@example.org', 'notes of person ' || d"),
            ("orders", "'p' || d || '@example.org', 'a lighthouse, number ' || d"),
        ):
            source.execute(
                f"INSERT INTO {table} SELECT n, {columns} FROM generate_series(1, {people}) n, "
                "lpad(n::text, 7, '0') d"
            )


class Steps:
    """How long each step took that an erasure tells of."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._step = "finding the subject"
        self._began = time.monotonic()

    def __call__(self, step: str) -> None:
        now = time.monotonic()
        for begins in ("rewriting", "looking through penstock.", "looking through "):
            if step.startswith(begins) and step != "looking through the log":
                step = "rewriting tables" if begins == "rewriting" else "searching tables"
        spent = self.seconds.get(self._step, 0.0) + now - self._began
        self.seconds[self._step] = round(spent, 2)
        self._step, self._began = step, now


async def measure(folder: Path, people: int) -> dict[str, Any]:
    """Load, then erase."""
    found: dict[str, Any] = {"people": people}
    async with EmbeddedPostgres(folder / "source", settings={"fsync": "off"}) as source:
        fill(source.dsn("postgres"), people)
        (folder / "penstock.yaml").write_text(PROJECT.format(dsn=source.dsn("postgres")))
        began = time.monotonic()
        async with open_project(folder / "penstock.yaml") as project:
            async with project.running():
                await project.caught_up(limit_s=1800)
            async with project.running():  # what happened to profiles meanwhile
                await project.caught_up(limit_s=1800)
            found["load_s"] = round(time.monotonic() - began, 1)
            for name, chosen in (("one", range(7, 8)), ("twenty", range(100, 2100, 100))):
                subjects = [f"email:p{n:07}@example.org" for n in chosen]
                steps, began = Steps(), time.monotonic()
                outcome = await erase(project, subjects, reason="r", progress=steps)
                steps("end")
                found[name] = {
                    "seconds": round(time.monotonic() - began, 1),
                    "steps": steps.seconds,
                    "erased": outcome.holders,
                    "found": outcome.receipt["search"]["found"],
                    "bytes_searched": outcome.receipt["search"]["bytes"],
                }
                print(json.dumps(found[name]), flush=True)
    return found


def main() -> None:
    people = int((sys.argv[1:] or ["50000"])[0])
    folder = Path(tempfile.mkdtemp(prefix="penstock-erasure-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        found = asyncio.run(measure(folder, people))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = Report("erasure_scale")
    one, twenty = found["one"]["seconds"], found["twenty"]["seconds"]
    report.add("one person erased out of so many", one, "s")
    report.add("twenty at once, as a multiple of one", round(twenty / one, 2), "", 20.0)
    if people >= KEPT_FROM:
        RESULTS.write_text(json.dumps({**report.to_dict(), "run": found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
