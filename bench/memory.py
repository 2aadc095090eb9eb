"""Does the memory of a running project grow? 500 changes a second, for as long as is asked.

    uv run python bench/memory.py [--minutes 60] [--rate 500] [--store]

`penstock run` is a process of its own, with the default settings, over a PostgreSQL source (ten
changes in each transaction: updates, inserts and deletes, two tables, one of them searched) and a
folder of documents (one is edited each second). Its resident memory is read each second. After the
warm-up, in which caches fill, a line is fitted: its slope, in MB an hour, is the result, with its
standard error, beside the least and the most that was seen. The memory of PostgreSQL's processes is
not in it; that of the workers that read documents is told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg

from penstock.bench.report import Report
from penstock.bench.world import document, scratch_folder
from penstock.database.embedded import EmbeddedPostgres

PROJECT = """
project: memory
data: {folder}/data
server: {{port: 0}}
knowledge: {{embedder: constant}}
sources:
  shop:
    type: postgres
    dsn: {dsn}
    heartbeat: 1s
    tables:
      orders: {{searched: [customer], shown: [total]}}
      lines:
  docs: {{type: files, path: {folder}/docs, heartbeat: 1s}}
"""
SCHEMA = """
CREATE TABLE orders (id integer PRIMARY KEY, customer text NOT NULL, total numeric(10,2) NOT NULL,
    note text, placed timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE lines (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sku text, quantity integer);
INSERT INTO orders SELECT n, 'customer ' || n, n, repeat('x', 80) FROM generate_series(1, 5000) n;
INSERT INTO lines (sku, quantity) SELECT 'sku ' || n, n FROM generate_series(1, 20000) n;
"""
# Ten changes in one transaction; as many rows go as come, so that the tables keep their size.
STEP = """
WITH u AS (UPDATE orders SET total = total + 1 WHERE id BETWEEN %(order)s AND %(order)s + 3),
c AS (UPDATE orders SET customer = customer || '.'
    WHERE id = %(order)s + 4 AND length(customer) < 90),
d AS (DELETE FROM lines WHERE id IN (SELECT id FROM lines ORDER BY id LIMIT 2)),
i AS (INSERT INTO lines (sku, quantity) VALUES ('sku', 1), ('other', 2))
UPDATE lines SET quantity = quantity + 1
WHERE id = (SELECT max(id) - %(line)s FROM lines)
"""
CHANGES = 10
DOCUMENTS = 200
WARM_UP = 1 / 3
WARM_UP_MOST_S = 300.0


def write(folder: Path, number: int, chance: random.Random) -> None:
    path = folder / "docs" / f"{number:04d}.md"
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(f"# Paper {number}\n\n{document(chance, 3)}\n", encoding="utf-8")
    beside.replace(path)


def memory(process: psutil.Process) -> tuple[float, float]:
    """Resident MB of the process, and of its workers, without the database."""
    workers = 0
    for child in process.children(recursive=True):
        try:
            if child.name() != "postgres":
                workers += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return process.memory_info().rss / 1e6, workers / 1e6


def fitted(times: list[float], values: list[float]) -> tuple[float, float]:
    """Slope in units an hour, and its standard error (the samples follow each other closely, so
    that the true uncertainty is larger)."""
    x, y = np.asarray(times) / 3600, np.asarray(values)
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0][0]))


async def drive(
    dsn: str, folder: Path, pid: int, minutes: float, rate: int
) -> tuple[list[tuple[float, float, float]], int]:
    """Make changes at the rate; (seconds, MB, MB of workers) each second, and how many changes."""
    chance = random.Random(1)
    process = psutil.Process(pid)
    samples: list[tuple[float, float, float]] = []
    done = 0
    began = time.monotonic()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while (now := time.monotonic() - began) < minutes * 60:
            values = {"order": chance.randrange(1, 4990), "line": chance.randrange(20)}
            await connection.execute(STEP, values)
            done += CHANGES
            if now >= len(samples):
                samples.append((now, *memory(process)))
                write(folder, chance.randrange(DOCUMENTS), chance)
            await asyncio.sleep(max(0.0, done / rate - (time.monotonic() - began)))
    return samples, done


def lag(file: Path) -> Any:
    """What the project says of itself at the end."""
    found = subprocess.run(
        [sys.executable, "-m", "penstock", "run", "--once", "--json", "-f", str(file)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    return found.returncode


async def measure(minutes: float, rate: int) -> dict[str, Any]:
    report = Report("memory")
    with scratch_folder() as folder:
        (folder / "docs").mkdir()
        for i in range(DOCUMENTS):
            write(folder, i, random.Random(i))
        async with EmbeddedPostgres(folder / "source") as source:
            dsn = source.dsn()
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(SCHEMA)
            file = folder / "penstock.yaml"
            file.write_text(PROJECT.format(folder=folder, dsn=json.dumps(dsn)), encoding="utf-8")
            with (folder / "run.log").open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "penstock", "run", "--quiet", "-f", str(file)],
                    stdout=output, stderr=output,
                )  # fmt: skip
                try:
                    samples, done = await drive(dsn, folder, process.pid, minutes, rate)
                finally:
                    process.send_signal(signal.SIGINT)
                    process.wait(timeout=60)
            report.add("caught up afterwards, exit status", lag(file), "")
    warm = min(minutes * 60 * WARM_UP, WARM_UP_MOST_S)
    steady = [sample for sample in samples if sample[0] >= warm]
    times = [at for at, _, _ in steady]
    own = [value for _, value, _ in steady]
    slope, error = fitted(times, own)
    report.add("changes", done / (minutes * 60), "changes/s", rate)
    report.add("slope of resident memory", slope, "MB/h")
    report.add("standard error of the slope", error, "MB/h")
    report.add("least after the warm-up", min(own), "MB")
    report.add("most after the warm-up", max(own), "MB")
    report.add("slope of the workers", fitted(times, [w for _, _, w in steady])[0], "MB/h")
    found = report.to_dict()
    found["minutes"], found["warm_up_s"] = minutes, warm
    every = max(1, len(samples) // 60)
    found["samples"] = [[round(at), round(mb, 1)] for at, mb, _ in samples[::every]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--store", action="store_true", help="keep it in bench/results")
    chosen = parser.parse_args()
    found = asyncio.run(measure(chosen.minutes, chosen.rate))
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.store:
        (Path(__file__).parent / "results" / "memory.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
