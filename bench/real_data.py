"""A real database and the real history of a documentation, through everything, compared at the end.

`python bench/real_data.py DATA` wants the folder with `sql/neon/pagila.sql` (or another dump as
`--dump`) and `doc_history/httpx_docs.jsonl.xz`. It loads the dump into a source database,
writes the project file with `penstock init --postgres`, starts `penstock run`, replays the history
into the folder while rows change too, and prints what `penstock verify` finds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

from penstock.bench.report import machine
from penstock.bench.world import scratch_folder
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.installation import find_installation


def penstock(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of ours, in the project's folder."""
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def load_dump(dsn: str, dump: Path) -> str:
    """Load an SQL file with psql; returns what it complained about."""
    done = subprocess.run(
        [str(find_installation().program("psql")), "-q", "-X", "-d", dsn, "-f", str(dump)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr


def replay(history: Path, folder: Path, source: psycopg.Connection[Any]) -> tuple[int, int]:
    """Write the history into the folder, and change a row now and then; counts of both."""
    chance = random.Random(4)
    documents = rows = 0
    with lzma.open(history, "rt", encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            path = folder / event["path"]
            if event["op"] == "delete":
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(event["text"], encoding="utf-8")
            documents += 1
            if chance.random() < 0.5:
                source.execute(
                    "UPDATE film SET rental_rate = rental_rate + 0.01, "
                    "description = description || '.' WHERE film_id = %s",
                    [chance.randrange(1, 1001)],
                )
                rows += 1
    return documents, rows


async def measure(data: Path, dump: Path) -> dict[str, Any]:
    """Run it all; ``differences`` must be 0."""
    with scratch_folder() as folder:
        server = EmbeddedPostgres(folder / "source")
        dsn = await server.start()
        complaints = load_dump(dsn, dump)
        project = folder / "project"
        project.mkdir()
        environment = {**os.environ, "SOURCE_DSN": dsn}
        os.environ.update(environment)
        made = penstock(project, "init", "--documents", "docs", "--postgres", "${SOURCE_DSN}")
        checked = penstock(project, "check", "--json")
        began = time.monotonic()
        first = penstock(project, "run", "--once", "--json")
        seconds = time.monotonic() - began
        running = subprocess.Popen(
            [sys.executable, "-m", "penstock", "run", "--quiet"], cwd=project, env=environment
        )
        try:
            with psycopg.connect(dsn, autocommit=True) as source:
                history = data / "doc_history" / "httpx_docs.jsonl.xz"
                documents, rows = replay(history, project / "docs", source)
            verified = penstock(project, "verify", "--json")
            answer = penstock(project, "ask", "How do I set a timeout on a request?", "--json")
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=60)
        dropped = penstock(project, "drop", "--yes", "--json")
        await server.stop()
        report = json.loads(verified.stdout) if verified.stdout else {"error": verified.stderr}
        return {
            "name": "real_data",
            "dump_complaints": complaints[-500:],
            "init": made.returncode or "ok",
            "init_error": made.stderr[-500:],
            "errors_of_check": [
                f"{f['subject']}: {f['message']}"
                for f in json.loads(checked.stdout or '{"findings": []}')["findings"]
                if f["level"] == "error"
            ],
            "first_load_s": round(seconds, 1),
            "first_load_error": first.stderr[-1500:] if first.returncode else "",
            "documents_replayed": documents,
            "rows_changed": rows,
            "differences": report.get("differences", report),
            "compared": {f"{p['source']} {p['what']}": p["compared"] for p in report["sources"]},
            "waiting": sum(part["waiting"] for part in report["sources"]),
            "named": [name for part in report["sources"] for name in part["named"]][:10],
            "answer": json.loads(answer.stdout)["text"] if answer.stdout else answer.stderr,
            "dropped": len(json.loads(dropped.stdout)["removed"])
            if dropped.stdout
            else dropped.stderr,
            "machine": machine(),
        }


def main() -> int:
    """Print the result as JSON; exit with 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dump", type=Path)
    wanted = parser.parse_args()
    dump = wanted.dump or wanted.data / "sql" / "neon" / "pagila.sql"
    result = asyncio.run(measure(wanted.data, dump))
    print(json.dumps(result, indent=2))
    return 0 if result["differences"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
