"""The API under load: one context after the other, and many at once while changes flow in.

    python bench/api.py [DOCUMENTS] [SECONDS]     default 4,000 documents (some 20,000 chunks), 20 s

The project runs as ``penstock run`` runs it, in one process; those who ask are another. Stores its
figures in ``bench/results/api.json``.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

from penstock.bench.report import Report
from penstock.bench.world import World, scalar, sentence, world, write_documents
from penstock.database.connect import connect
from penstock.keys import Scope, mint
from penstock.serving.api.server import serve

RESULT = Path(__file__).parent / "results" / "api.json"
CHANGES_A_SECOND = 500
AT_ONCE = 8
ALONE_P50_MS, ALONE_P99_MS, A_SECOND, FRESH_MS = 12.0, 40.0, 200.0, 150.0


async def ask(url: str, key: str, seconds: float, at_once: int) -> dict[str, Any]:
    """So many at a time, each one question after the other."""
    took: list[float] = []
    failed = 0
    chance = random.Random(3)
    questions = [sentence(chance) for _ in range(300)]
    until = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failed
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
            while (began := time.perf_counter()) < until:
                body = {"question": questions[len(took) % len(questions)]}
                answer = await client.post(f"{url}/v1/context", json=body, timeout=30)
                failed += answer.status_code != 200
                took.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(at_once)))
    spent = time.perf_counter() - began
    p50, p99 = np.percentile(took, [50, 99])
    rate = len(took) / spent
    return {"failed": failed, "rate": rate, "p50": float(p50), "p99": float(p99)}


async def asked(url: str, key: str, seconds: float, at_once: int) -> dict[str, Any]:
    """The same, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "ask", url, key, str(seconds), str(at_once)),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    found: dict[str, Any] = json.loads(told)
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


async def measure(documents: int, seconds: float) -> Report:
    """All of it."""
    report = Report("api")
    async with world(embedder="minilm", rows=5000) as scene:
        project = scene.project
        write_documents(scene.documents, documents, paragraphs=8)
        async with project.running():
            await project.caught_up(limit_s=3600)
            async with await connect(project.dsn) as reader:
                chunks = int(await scalar(reader, "SELECT count(*) FROM penstock.chunks"))
            report.add("chunks", chunks, "chunks")
            token, key = mint("bench", frozenset({Scope.ASK}), project.clock.now())
            await project.keys().add(key)
            async with serve(project.application(), host="127.0.0.1", port=0) as url:
                await asked(url, token, 3, 1)
                await figures(report, scene, url, token, seconds)
    return report


async def figures(report: Report, scene: World, url: str, token: str, seconds: float) -> None:
    """Alone; many at once; many at once while changes flow."""
    project = scene.project
    alone = await asked(url, token, seconds, 1)
    report.add("/v1/context alone p50", alone["p50"], "ms", ALONE_P50_MS)
    report.add("/v1/context alone p99", alone["p99"], "ms", ALONE_P99_MS)
    many = await asked(url, token, seconds, AT_ONCE)
    report.add(f"/v1/context, {AT_ONCE} at once", many["rate"], "requests/s", A_SECOND)
    project.meters.clear_freshness()
    over = asyncio.Event()
    before = psutil.Process().memory_info().rss
    flowing = asyncio.create_task(flow(scene, over))
    beside = await asked(url, token, seconds, AT_ONCE)
    over.set()
    made = await flowing
    await project.caught_up()
    grown = (psutil.Process().memory_info().rss - before) / 1e6
    report.add("changes beside", made / seconds, "changes/s", CHANGES_A_SECOND)
    report.add("/v1/context beside changes", beside["rate"], "requests/s", A_SECOND)
    report.add("/v1/context beside changes p99", beside["p99"], "ms")
    rows = project.freshness().get("rows", {})
    report.add("freshness of rows beside questions p95", rows.get("p95"), "ms", FRESH_MS)
    report.add("memory grown meanwhile", grown, "MB")
    failed = alone["failed"] + many["failed"] + beside["failed"]
    report.add("requests that failed", failed, "requests")


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        address, secret, lasting, clients = sys.argv[2:]
        print(json.dumps(asyncio.run(ask(address, secret, float(lasting), int(clients)))))
    else:
        given = [*map(int, sys.argv[1:]), *(4000, 20)[len(sys.argv) - 1 :]]
        made = asyncio.run(measure(*given))
        RESULT.write_text(json.dumps(made.to_dict(), indent=2) + "\n", encoding="utf-8")
        for line in made.results:
            print(line)
