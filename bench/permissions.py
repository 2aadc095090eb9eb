"""Permissions: the whole matrix, what they cost a query, how soon one revoked is gone.

    python bench/permissions.py matrix [QUERIES] [SEED]    20 users, 50 groups, 2,000 documents;
                                                           5 seeds of 10,000 queries are kept
    python bench/permissions.py latency                    with lists and without, in one run
    python bench/permissions.py revoke                     from the commit to the next query

Each stores its figures in ``bench/results/permissions-NAME.json``.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from penstock.bench.report import Report
from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.principals import Principal
from penstock.project import Project
from penstock.settings import Settings
from penstock.stores.base import Filter
from penstock.stores.postgres.permissions import declare
from penstock.stores.postgres.search import PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore
from penstock.stores.postgres.upkeep import Upkeep
from penstock.testing.knowledge import store
from penstock.testing.permission_matrix import DECLARED, PermissionMatrix, Size
from penstock.testing.permissions import LISTS, MEMBERS

RESULTS = Path(__file__).parent / "results"


@asynccontextmanager
async def server(**settings: str) -> AsyncIterator[EmbeddedPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "server", settings=settings)
    try:
        await postgres.start()
        yield postgres
    finally:
        await postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(np.asarray(values), share))


# --------------------------------------------------------------------------- the matrix


async def matrix(queries: int = 10_000, seed: int = 1) -> Report:
    report = Report("permissions-matrix")
    size = Size(users=20, groups=50, documents=2000, folders=40)
    async with server() as postgres:
        dsn = postgres.dsn("postgres")
        await migrate(dsn)
        pool = await open_pool(dsn, max_size=5)
        writer, reader = PostgresStore(pool), PostgresSnapshotStore(pool)
        await writer.prepare_tables([MEMBERS, LISTS])
        await declare(pool, DECLARED, tenant="default")
        world = PermissionMatrix(writer, reader, random.Random(seed), size)
        await world.fill()
        began = time.monotonic()
        for number in range(0, queries, 100):
            await world.change()
            for _ in range(25):
                await asyncio.gather(*(world.ask() for _ in range(4)))
            if number % 5000 == 4900:
                print(f"{number + 100} {world.tally} {time.monotonic() - began:.0f} s", flush=True)
        seconds = time.monotonic() - began
        await pool.close()
    tally = world.tally
    for name in ("users", "groups", "documents"):
        report.add(name, getattr(size, name), name)
    report.add("seed", seed, "")
    report.add("queries", tally.queries, "queries")
    report.add("changes between them", tally.changes, "changes")
    report.add("hits", tally.hits, "documents")
    report.add("answers without a hit", tally.empty, "queries")
    report.add("foreign hits", tally.foreign, "documents", None)
    report.add("answers with fewer than could be had", tally.missing, "queries")
    report.add("seconds", seconds, "s")
    return report


# --------------------------------------------------------------------------- latency

CHUNKS = 20_000
TENTHS = tuple(f"tenth{n}" for n in range(10))
KINDS = (
    ("open", Principal("ada")),
    ("a tenth", Principal("ada", TENTHS[1:2])),
    ("half", Principal("ada", TENTHS[:5])),
    ("all, in 50 groups", Principal("ada", (*TENTHS, *(f"g{n}" for n in range(40))))),
    ("1 %", Principal("ada", ("one",))),
)


async def latency() -> Report:
    """20,000 chunks with 384 numbers each; a list of four groups each, of 200 different lists."""
    report = Report("permissions-latency")
    async with server() as postgres:
        found: dict[tuple[str, str], list[float]] = {}
        worlds = {}
        for kind in ("open", "lists"):
            await _create(postgres, kind)
            worlds[kind] = await _searched(postgres.dsn(kind), lists=kind == "lists")
        questions = [_question(seed) for seed in range(60)]
        # In turns, so that whatever else the machine does falls on all alike.
        for round_ in range(6):
            for name, principal in KINDS:
                reader = worlds["open" if name == "open" else "lists"]
                for mode in ("both", "vector"):
                    times = found.setdefault((name, mode), [])
                    for vector, words in questions[round_ * 10 :][:10]:
                        began = time.perf_counter()
                        async with reader.snapshot(principal) as snapshot:
                            hits = await snapshot.candidates(
                                vector,
                                words if mode == "both" else None,
                                limit=50,
                                where=Filter(),
                                model="bench",
                            )
                            await snapshot.passages([hit.chunk for hit in hits[:12]])
                        times.append((time.perf_counter() - began) * 1e3)
                        assert len(hits) >= min(50, CHUNKS // 100), (name, mode, len(hits))
        for (name, mode), times in found.items():
            for share in (50, 99):
                limit = percentile(found["open", mode], share)
                report.add(f"{name}, {mode}, p{share}", percentile(times, share), "ms", limit)
    return report


def _question(seed: int) -> tuple[Any, str]:
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=384).astype(np.float32)
    words = [f"w{n}" for n in rng.integers(0, 400, 4)]
    return vector / np.linalg.norm(vector), " ".join(words)


async def _searched(dsn: str, *, lists: bool) -> PostgresSnapshotStore:
    from penstock.records import Microseconds, Position
    from penstock.stores.base import ChunkText, DocumentVersion, ReplaceDocuments

    await migrate(dsn)
    pool = await open_pool(dsn, max_size=2)
    writer = PostgresStore(pool)
    rng = np.random.default_rng(7)
    for start in range(0, CHUNKS, 2000):
        versions, vectors = [], {}
        matrix = rng.normal(size=(2000, 384)).astype(np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        for row in range(2000):
            number = start + row
            text = f"{number} " + " ".join(f"w{n}" for n in rng.integers(0, 400, 40))
            hash_ = number.to_bytes(16, "big")
            vectors[hash_] = row
            allow = [
                f"group:tenth{number % 10}",
                *(f"group:g{(number % 20) + 40 + n}" for n in range(3)),
            ]
            if number % 100 == 0:
                allow[0] = "group:one"
            versions.append(
                DocumentVersion(
                    "docs", f"{number}.md", Position("1"), Microseconds(1),
                    [ChunkText(text, text, hash_, 0, len(text), "", 40)],
                    allow=allow if lists else None, deny=["group:out"] if lists else [],
                )
            )  # fmt: skip
        await store(writer, ReplaceDocuments(versions, "bench", vectors, matrix))
    await Upkeep(pool, store=writer, tenant="default").everything("bench")
    return PostgresSnapshotStore(pool)


# --------------------------------------------------------------------------- revoking


async def revoke(rounds: int = 40) -> Report:
    """A row deleted in PostgreSQL, a file rewritten: how long until the next query obeys."""
    report = Report("permissions-revoke")
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    (folder / "docs/hr").mkdir(parents=True)
    for number in range(500):
        (folder / f"docs/hr/{number}.md").write_text(f"The river number {number}.")
    (folder / "docs/hr.acl.yaml").write_text("allow: [group:hr]\n")
    async with server(wal_level="logical") as postgres:
        for name in ("project", "source"):
            await _create(postgres, name)
        async with await psycopg.AsyncConnection.connect(
            postgres.dsn("source"), autocommit=True
        ) as source:
            await source.execute(
                "CREATE TABLE members (team text, login text, PRIMARY KEY (team, login))"
            )
            project = Project(_revoking(folder, postgres))
            try:
                await project.start()
                async with project.running():
                    await project.caught_up()
                    times = await _rounds(project, source, folder / "docs/hr.acl.yaml", rounds)
            finally:
                await project.close()
    shutil.rmtree(folder, ignore_errors=True)
    for name, taken in times.items():
        report.add(f"{name}, p50", percentile(taken, 50), "ms")
        report.add(f"{name}, worst of {rounds}", max(taken), "ms", 1000)
    return report


async def _create(postgres: EmbeddedPostgres, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(
        postgres.dsn("postgres"), autocommit=True
    ) as connection:
        await connection.execute(f"CREATE DATABASE {name}".encode())


def _revoking(folder: Path, postgres: EmbeddedPostgres) -> Settings:
    docs = {"type": "files", "path": str(folder / "docs"), "permissions": "sidecars"}
    rows = {"type": "postgres", "dsn": postgres.dsn("source"), "tables": {"members": {}}}
    return Settings.model_validate(
        {
            "project": "revoke",
            "database": postgres.dsn("project"),
            "data": str(folder / "data"),
            "knowledge": {"embedder": "constant"},
            "groups": [
                {"source": "directory", "table": "members", "group": "team", "user": "login"}
            ],
            "sources": {"docs": docs, "directory": rows},
        }
    )


async def _rounds(
    project: Project, source: psycopg.AsyncConnection[Any], sidecar: Path, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds from the commit, or the end of the write, to the first query that obeys."""

    async def until(count: int) -> float:
        began = time.monotonic()
        while True:
            context = await project.context(
                "river", limit=5, mode="text", principal=Principal("ada")
            )
            if len(context.items) == count:
                return (time.monotonic() - began) * 1e3
            assert time.monotonic() - began < 30

    async def row(statement: str) -> None:
        await source.execute(statement.encode())

    async def file(text: str) -> None:
        sidecar.write_text(text)

    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, action, argument, count in (
            ("given by a row", row, "INSERT INTO members VALUES ('hr', 'ada')", 5),
            ("revoked by a file over 500 documents", file, "allow: [group:b]\n", 0),
            ("given by a file over 500 documents", file, "allow: [group:hr]\n", 5),
            ("revoked by a row", row, "DELETE FROM members", 0),
        ):
            await action(argument)
            times.setdefault(name, []).append(await until(count))
    return times


def _joined(file: Path, report: dict[str, Any]) -> dict[str, Any]:
    """The runs of other seeds stay; the sums are over all."""

    def figure(run: dict[str, Any], name: str) -> float:
        return next(r["value"] for r in run["results"] if r["measure"] == name)

    runs = json.loads(file.read_text())["runs"] if file.exists() else []
    runs = [run for run in runs if figure(run, "seed") != figure(report, "seed")] + [report]
    summed = ("queries", "hits", "foreign hits", "answers with fewer than could be had")
    return {
        "name": report["name"],
        "sums": {name: sum(figure(run, name) for run in runs) for name in summed},
        "runs": runs,
    }


def main() -> None:
    name, *arguments = sys.argv[1:] or ["matrix"]
    measure = {"matrix": matrix, "latency": latency, "revoke": revoke}[name]
    report = asyncio.run(measure(*map(int, arguments))).to_dict()
    file = RESULTS / f"{report['name']}.json"
    if name == "matrix":
        report = _joined(file, report)
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
