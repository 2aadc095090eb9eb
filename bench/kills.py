"""Kill everything at random moments, and compare at the end.

`python bench/kills.py --kills 50` starts a source database and a folder of documents, keeps
changing both, runs `penstock run` as a process of its own, and kills with SIGKILL, at random points
of the load and of the changes: our process, the project's database, the source's database, or all
of them at once. Then everything is brought in step once more and `penstock verify` compares every
row, every document and every chunk. One row is then falsified, to see that it can fail.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from penstock.bench.world import document, scratch_folder, sentence
from penstock.database.embedded import EmbeddedPostgres

SCHEMA = """
CREATE TABLE orders (
    id integer PRIMARY KEY, customer text NOT NULL, total numeric(10,2) NOT NULL, note text,
    placed timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE lines (
    order_id integer, line integer, sku text, quantity integer, PRIMARY KEY (order_id, line));
"""
PROJECT = """
project: kills
data: {folder}/data
server: {{port: 0}}
knowledge: {{embedder: constant}}
sources:
  shop:
    type: postgres
    dsn: {dsn}
    heartbeat: 500ms
    tables:
      orders: {{searched: [customer, note], shown: [total]}}
      lines:
  docs: {{type: files, path: {folder}/docs, heartbeat: 500ms}}
"""
TARGETS = ("process", "process", "database", "database", "both", "source", "everything")
ALTERATIONS = (
    "ADD COLUMN IF NOT EXISTS colour text DEFAULT 'red'",
    "ADD COLUMN IF NOT EXISTS size integer",
    "DROP COLUMN IF EXISTS colour",
    "DROP COLUMN IF EXISTS size, ADD COLUMN size integer DEFAULT 5",
)
ROWS = 3000
DOCUMENTS = 400


class Campaign:
    """One campaign: the world, what changes it, and what is killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.source = EmbeddedPostgres(folder / "source")
        self.file = folder / "penstock.yaml"
        self.dsn = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.changes = 0
        self.kills: dict[str, int] = {}
        self.log = (folder / "run.log").open("wb")

    async def begin(self) -> None:
        """A world with something to load."""
        self.dsn = await self.source.start()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(SCHEMA)
            connection.execute(
                "INSERT INTO orders SELECT n, 'customer ' || n, n, 'note ' || n "
                f"FROM generate_series(1, {ROWS}) n"
            )
            connection.execute(
                "INSERT INTO lines SELECT n, l, 'sku ' || n, l "
                f"FROM generate_series(1, {ROWS}) n, generate_series(1, 2) l"
            )
        (self.folder / "docs").mkdir()
        for i in range(DOCUMENTS):
            self._write(i)
        self.file.write_text(
            PROJECT.format(folder=self.folder, dsn=json.dumps(self.dsn)), encoding="utf-8"
        )

    def _write(self, number: int) -> None:
        path = self.folder / "docs" / f"{number:04d}.md"
        text = f"# Paper {number}\n\n{document(self.chance, 3)}\n\n{sentence(self.chance)}\n"
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)

    def start(self) -> None:
        """Start our process, if it does not run."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock", "run", "--quiet", "-f", str(self.file)],
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
            )

    def kill(self, target: str) -> None:
        """SIGKILL, and nothing else."""
        if target in {"process", "both", "everything"} and self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._count("process", done=True)
        if target in {"database", "both", "everything"}:
            self._count("database", done=_kill_server(self.folder / "data" / "database"))
        if target in {"source", "everything"}:
            self._count("source", done=_kill_server(self.folder / "source"))

    def _count(self, what: str, *, done: bool) -> None:
        name = what if done else f"{what}: did not run"
        self.kills[name] = self.kills.get(name, 0) + 1

    async def change(self, seconds: float) -> None:
        """Change rows and documents for a while; a source that is away is started again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                self.dsn = await self.source.ensure_running()
                with psycopg.connect(self.dsn, autocommit=True) as connection:
                    while time.monotonic() < until:
                        self._change_rows(connection)
                        self._change_document()
                        await asyncio.sleep(0.002)
            except psycopg.OperationalError:
                await asyncio.sleep(0.05)

    def _change_rows(self, connection: psycopg.Connection[Any]) -> None:
        chance = self.chance
        number = chance.randrange(1, 2 * ROWS)
        self.changes += 1
        with connection.transaction():
            match chance.randrange(12):
                case 0 | 1 | 2 | 3 | 4:
                    connection.execute(
                        "UPDATE orders SET total = total + 1 WHERE id = %s", [number]
                    )
                case 5 | 6:
                    connection.execute(
                        "INSERT INTO orders (id, customer, total, note) VALUES (%s, %s, 1, %s) "
                        "ON CONFLICT (id) DO UPDATE SET note = excluded.note",
                        [number, f"customer {number}", "x" * chance.randrange(1, 5000)],
                    )
                case 7 | 8:
                    connection.execute(
                        "INSERT INTO lines SELECT %s, l, 'again', l FROM generate_series(1, 3) l "
                        "ON CONFLICT DO NOTHING",
                        [number + 1],
                    )
                    connection.execute("DELETE FROM orders WHERE id = %s", [number])
                    connection.execute("DELETE FROM lines WHERE order_id = %s", [number])
                case 9:
                    connection.execute(
                        "UPDATE orders SET id = %s WHERE id = %s AND NOT EXISTS "
                        "(SELECT FROM orders WHERE id = %s)",
                        [number + 10_000, number, number + 10_000],
                    )
                case 10:
                    connection.execute(
                        "UPDATE lines SET quantity = quantity + 1 WHERE order_id BETWEEN %s AND %s",
                        [number, number + 200],
                    )
                case _ if chance.random() < 0.02:
                    connection.execute("TRUNCATE lines")
                case _ if chance.random() < 0.03:
                    connection.execute(
                        f"ALTER TABLE {chance.choice(('orders', 'lines'))} "
                        + chance.choice(ALTERATIONS)
                    )

    def _change_document(self) -> None:
        if self.chance.random() < 0.2:
            self._write(self.chance.randrange(DOCUMENTS))
        elif self.chance.random() < 0.02:
            path = self.folder / "docs" / f"{self.chance.randrange(DOCUMENTS):04d}.md"
            path.unlink(missing_ok=True)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of ours, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "penstock", *arguments, "-f", str(self.file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    async def end(self) -> None:
        """Leave nothing running."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=30)
        await self.source.stop()
        self.log.close()


def _kill_server(folder: Path) -> bool:
    pid = EmbeddedPostgres(folder).server_pid()
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


async def campaign(kills: int, seed: int) -> dict[str, Any]:
    """Run it; ``differences`` and ``tracebacks`` must be 0 and ``control`` must not."""
    with scratch_folder() as folder:
        play = Campaign(folder, seed)
        await play.begin()
        try:
            for _ in range(kills):
                play.start()
                await play.change(play.chance.uniform(0.3, 4.0))
                play.kill(play.chance.choice(TARGETS))
            await play.change(0.5)
            play.start()
            began = time.monotonic()
            await play.change(1.0)
            if play.process is not None:
                play.process.send_signal(signal.SIGINT)
                play.process.wait(timeout=60)
            once = play.command("run", "--once", "--json")
            seconds = time.monotonic() - began
            verified = play.command("verify", "--json")
            report = json.loads(verified.stdout) if verified.stdout else {"error": verified.stderr}
            control = await _control(play)
        finally:
            await play.end()
        return {
            "name": "kills",
            "kills": play.kills,
            "changes": play.changes,
            "seed": seed,
            "in_step_after_s": round(seconds, 1),
            "once": once.returncode if once.returncode == 0 else once.stderr[-2000:],
            "differences": report.get("differences", report),
            "compared": {
                f"{part['source']} {part['what']}".strip(): part["compared"]
                for part in report.get("sources", [])
            },
            "named": [name for part in report.get("sources", []) for name in part["named"]][:10],
            "control": control,
            "tracebacks": (folder / "run.log").read_text(errors="replace").count("Traceback"),
            "machine": machine(),
        }


async def _control(play: Campaign) -> int:
    """Falsify one row of a live table: the comparison must find it."""
    server = EmbeddedPostgres(play.folder / "data" / "database")
    dsn = await server.start()
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "UPDATE shop.orders SET total = total + 1 "
                "WHERE id = (SELECT min(id) FROM shop.orders)"
            )
        return int(json.loads(play.command("verify", "--json").stdout)["differences"])
    finally:
        await server.stop()


def main() -> int:
    """Print the result as JSON; exit with 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    result = asyncio.run(campaign(wanted.kills, wanted.seed))
    print(json.dumps(result, indent=2))
    well = (result["differences"], result["control"], result["tracebacks"]) == (0, 1, 0)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
