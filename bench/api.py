"""The API under load: one context after the other, and many at once while changes flow in.

    python bench/api.py [DOCUMENTS] [SECONDS]     default 2,590 documents (20,000 chunks), 20 s
    python bench/api.py memory [MINUTES]          the same load for longer: does memory grow?

The project runs as ``penstock run`` runs it; those who ask are a process of their own, and ask with
a client of a few lines that costs next to nothing. No question is asked twice: what is kept of
questions does not help. Before measuring, the process has answered for a while: its memory is warm.
Beside the times stands what a question costs in processor time, ours and the database's: times
depend on what else the machine does, processor time much less. Stores its figures in
``bench/results/api.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from penstock.bench.report import Report
from penstock.bench.world import World, scalar, sentence, world, write_documents
from penstock.database.connect import connect
from penstock.keys import Scope, mint

RESULTS = Path(__file__).parent / "results"
CHANGES_A_SECOND = 500
AT_ONCE = 8
WARM_S = 40.0
ALONE_P50_MS, ALONE_P99_MS, A_SECOND, FRESH_MS = 12.0, 40.0, 200.0, 150.0
_MOST_A_SECOND = 400


class Client:
    """HTTP over one connection."""

    def __init__(self, url: str, key: str) -> None:
        self._place = url.removeprefix("http://")
        self._head = (
            f"POST /v1/context HTTP/1.1\r\nHost: {self._place}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )

    async def open(self) -> None:
        host, port = self._place.split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))

    async def ask(self, question: str) -> bool:
        """Whether there was a context."""
        body = json.dumps({"question": question}).encode()
        self._writer.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return head.startswith(b"http/1.1 200")

    def close(self) -> None:
        self._writer.close()


async def ask(url: str, key: str, seconds: float, at_once: int, seed: int) -> dict[str, Any]:
    """So many at a time, each one question after the other."""
    took: list[float] = []
    failed = 0
    chance = random.Random(seed)
    questions = iter([sentence(chance) for _ in range(int(seconds * _MOST_A_SECOND) + 1)])
    until = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failed
        client = Client(url, key)
        await client.open()
        while (began := time.perf_counter()) < until:
            failed += not await client.ask(next(questions))
            took.append((time.perf_counter() - began) * 1000)
        client.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(at_once)))
    spent = time.perf_counter() - began
    p50, p99 = np.percentile(took, [50, 99])
    return {
        "asked": len(took),
        "failed": failed,
        "rate": len(took) / spent,
        "p50": float(p50),
        "p99": float(p99),
    }


class Asking:
    """Asks, in a process of its own, and says what it cost."""

    def __init__(self, url: str, key: str, data: Path, server: int | None = None) -> None:
        self._server = psutil.Process(server)
        self._url = url
        self._key = key
        self._data = data
        self._seed = 2

    def memory_mb(self) -> float:
        """Of the process that answers."""
        return self._server.memory_info().rss / 1e6

    def _own(self) -> float:
        times = self._server.cpu_times()
        return times.user + times.system

    def _database(self) -> float:
        """Seconds of processor that the project's database has used."""
        spent = 0.0
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if "postgres" in process.info["name"] and self._data in Path(process.cwd()).parents:
                    times = process.cpu_times()
                    spent += times.user + times.system
        return spent

    async def __call__(self, seconds: float, at_once: int) -> dict[str, Any]:
        self._seed += 1
        ours, database = self._own(), self._database()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "ask", self._url, self._key),
            *(str(seconds), str(at_once), str(self._seed)),
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        found: dict[str, Any] = json.loads(told)
        found["ours"] = (self._own() - ours) / found["asked"] * 1000
        found["database"] = (self._database() - database) / found["asked"] * 1000
        return found


async def flow(scene: World, until: asyncio.Event) -> int:
    """Rows change; returns how many did."""
    chance = random.Random(9)
    made = 0
    async with await connect(scene.source_dsn) as source:
        began = time.perf_counter()
        while not until.is_set():
            await source.execute(
                "UPDATE accounts SET balance = balance + 1 WHERE id BETWEEN %(n)s AND %(n)s + 9",
                {"n": chance.randrange(1, 4990)},
            )
            made += 10
            await asyncio.sleep(max(0.0, began + made / CHANGES_A_SECOND - time.perf_counter()))
    return made


@contextlib.asynccontextmanager
async def running(documents: int) -> AsyncIterator[tuple[World, int]]:
    """A project that runs and is in step, and how many chunks it has."""
    async with world(embedder="minilm", rows=5000) as scene:
        project = scene.project
        write_documents(scene.documents, documents, paragraphs=8)
        async with project.running():
            await project.caught_up(limit_s=3600)
            await project.upkeep()
            async with await connect(project.dsn) as reader:
                chunks = int(await scalar(reader, "SELECT count(*) FROM penstock.chunks"))
            yield scene, chunks


@contextlib.asynccontextmanager
async def served(scene: World) -> AsyncIterator[Asking]:
    """The API in this process."""
    project = scene.project
    token, key = mint("bench", frozenset({Scope.ASK}), project.clock.now())
    await project.keys().add(key)
    async with project.serving() as url:
        yield Asking(url, token, scene.documents.parent / "data")


@contextlib.asynccontextmanager
async def served_beside(scene: World) -> AsyncIterator[Asking]:
    """The API in ``penstock serve``: who captures and who answers do not share an interpreter."""
    folder = scene.documents.parent
    token, key = mint("beside", frozenset({Scope.ASK}), scene.project.clock.now())
    await scene.project.keys().add(key)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock.cli", "serve", "--file", str(folder / "penstock.yaml")),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    url = (await process.stdout.readuntil(b"http://") + await process.stdout.readline()).decode()
    try:
        yield Asking(
            f"http://{url.split('http://')[1].strip()}", token, folder / "data", process.pid
        )
    finally:
        process.terminate()
        await process.wait()


async def beside_changes(
    scene: World, work: Callable[[], Awaitable[dict[str, Any]]]
) -> tuple[dict[str, Any], int]:
    """What is found while rows change, and how many did."""
    scene.project.meters.clear_freshness()
    over = asyncio.Event()
    flowing = asyncio.create_task(flow(scene, over))
    found = await work()
    over.set()
    made = await flowing
    await scene.project.caught_up()
    return found, made


async def figures(report: Report, scene: World, asking: Asking, seconds: float) -> None:
    """Alone; many at once; many at once while changes flow."""
    await asking(WARM_S, AT_ONCE)
    alone = await asking(seconds, 1)
    report.add("/v1/context alone p50", alone["p50"], "ms", ALONE_P50_MS)
    report.add("/v1/context alone p99", alone["p99"], "ms", ALONE_P99_MS)
    many = await asking(seconds, AT_ONCE)
    report.add(f"/v1/context, {AT_ONCE} at once", many["rate"], "requests/s", A_SECOND)
    report.add("processor time of one, ours", many["ours"], "ms")
    report.add("processor time of one, the database's", many["database"], "ms")
    before = asking.memory_mb()
    beside, made = await beside_changes(scene, lambda: asking(seconds, AT_ONCE))
    report.add("changes beside", made / seconds, "changes/s", CHANGES_A_SECOND)
    report.add("/v1/context beside changes", beside["rate"], "requests/s", A_SECOND)
    report.add("/v1/context beside changes p50", beside["p50"], "ms")
    report.add("/v1/context beside changes p99", beside["p99"], "ms")
    rows = scene.project.freshness().get("rows", {})
    report.add("freshness of rows beside questions p95", rows.get("p95"), "ms", FRESH_MS)
    report.add("memory grown meanwhile", asking.memory_mb() - before, "MB")
    failed = alone["failed"] + many["failed"] + beside["failed"]
    report.add("requests that failed", failed, "requests")


async def measure(documents: int, seconds: float) -> Report:
    """All of it."""
    report = Report("api")
    async with running(documents) as (scene, chunks):
        report.add("chunks", chunks, "chunks")
        async with served(scene) as asking:
            await figures(report, scene, asking, seconds)
        async with served_beside(scene) as asking:
            await asking(WARM_S, AT_ONCE)
            alone = await asking(seconds, 1)
            beside, _ = await beside_changes(scene, lambda: asking(seconds, AT_ONCE))
            rows = scene.project.freshness().get("rows", {})
            by_itself = "served by a process of its own"
            report.add(f"{by_itself}: alone p50", alone["p50"], "ms", ALONE_P50_MS)
            report.add(f"{by_itself}: alone p99", alone["p99"], "ms", ALONE_P99_MS)
            report.add(f"{by_itself}: beside changes", beside["rate"], "requests/s", A_SECOND)
            report.add(f"{by_itself}: beside changes p99", beside["p99"], "ms")
            report.add(f"{by_itself}: freshness p95", rows.get("p95"), "ms", FRESH_MS)
            failed = alone["failed"] + beside["failed"]
            report.add(f"{by_itself}: requests that failed", failed, "requests")
    return report


async def measure_memory(documents: int, minutes: float) -> Report:
    """A fit through the memory of the process, read once a minute, after the first three."""
    report = Report("api_memory")
    async with running(documents) as (scene, _), served(scene) as asking:
        await asking(WARM_S, AT_ONCE)
        sizes: list[tuple[float, float]] = []
        began = time.monotonic()

        async def work() -> dict[str, Any]:
            found: dict[str, Any] = {"asked": 0, "failed": 0}
            while (minute := (time.monotonic() - began) / 60) < minutes:
                sizes.append((minute, asking.memory_mb()))
                told = await asking(60, AT_ONCE)
                found = {name: found[name] + told[name] for name in found}
            sizes.append(((time.monotonic() - began) / 60, asking.memory_mb()))
            return found

        found, made = await beside_changes(scene, work)
        late = np.array([pair for pair in sizes if pair[0] >= 3])
        slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * 60
        report.add("minutes", sizes[-1][0], "min")
        report.add("questions", found["asked"], "requests")
        report.add("requests that failed", found["failed"], "requests")
        report.add("changes beside", made, "changes")
        report.add("memory at first", sizes[0][1], "MB")
        report.add("memory at the end", sizes[-1][1], "MB")
        report.add("memory grows after three minutes", slope, "MB/h")
    return report


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        address, secret, *numbers = sys.argv[2:]
        lasting, clients, first = (float(number) for number in numbers)
        print(json.dumps(asyncio.run(ask(address, secret, lasting, int(clients), int(first)))))
    else:
        if sys.argv[1:2] == ["memory"]:
            made = asyncio.run(
                measure_memory(2590, float(sys.argv[2] if len(sys.argv) > 2 else 12))
            )
        else:
            given = [*map(int, sys.argv[1:]), *(2590, 20)[len(sys.argv) - 1 :]]
            made = asyncio.run(measure(*given))
        target = RESULTS / f"{made.name}.json"
        target.write_text(json.dumps(made.to_dict(), indent=2) + "\n", encoding="utf-8")
        for line in made.results:
            print(line)
