"""What the model gateway adds to a call of a model: beside a bare HTTP client, in turns.

    uv run python bench/gateway.py [--rounds 300]

A fake endpoint in a process of its own streams ten words, 2 ms apart, as OpenAI does. The same
request is sent by a bare client that reads the stream's lines and parses them, by the gateway with
all that it does (chain, breaker, lane, coalescing, believing), and by the gateway that keeps costs
and budgets in PostgreSQL as well. Each round asks all three, in an order of chance; reported are
medians of the differences within a round. Stored in bench/results/gateway.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx2

from penstock.bench.report import Report
from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.models.base import Who
from penstock.models.endpoint import Endpoint
from penstock.models.gateway.account import Account, Budgets, MemoryAccount
from penstock.models.gateway.base import Completion, Request, Turn
from penstock.models.gateway.endpoint import Defaults, EndpointModel
from penstock.models.gateway.gateway import Gateway
from penstock.models.gateway.guarded import GuardedModel
from penstock.models.gateway.openai import OpenAIDialect
from penstock.models.gateway.prices import SetPrice
from penstock.stores.postgres.model_costs import PostgresModelCosts
from penstock.testing.fake_models import openai_chat
from penstock.testing.fake_openai import FakeOpenAI, Reply
from penstock.wiring.spending import StoredAccount

RESULT = Path(__file__).parent / "results" / "gateway.json"
MOST_MS, MOST_FIRST_MS = 3.0, 5.0
WORDS = ["word "] * 10
USAGE = {"prompt_tokens": 2000, "completion_tokens": 10}
PROMPT = "What the policy says of refunds, at some length. " * 200
Timed = tuple[float, float]
"""Milliseconds until the first word, and until the end."""


async def serve() -> None:
    """The endpoint, until it is ended."""
    async with FakeOpenAI() as endpoint:
        good = openai_chat(*WORDS, usage=USAGE)
        endpoint.reacts = lambda _: Reply(good.status, good.headers, good.pieces, 0.002)
        print(endpoint.base_url, flush=True)
        while True:
            endpoint.requests.clear()
            await asyncio.sleep(1)


async def direct(client: httpx2.AsyncClient, url: str, text: str) -> Timed:
    """The bare client."""
    began, first = time.perf_counter(), 0.0
    body = {
        "model": "m", "stream": True, "max_tokens": 800, "temperature": 0,
        "messages": [{"role": "user", "content": text}],
    }  # fmt: skip
    async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content") and not first:
                    first = time.perf_counter()
    return (first - began) * 1e3, (time.perf_counter() - began) * 1e3


async def through(gateway: Gateway, text: str) -> Timed:
    """The gateway."""
    began, first = time.perf_counter(), 0.0
    async for piece in gateway.stream(Request((Turn("user", text),)), Who(key="k")):
        if not first:
            first = time.perf_counter()
        last = piece
    assert isinstance(last, Completion)
    assert last.text == "".join(WORDS)
    return (first - began) * 1e3, (time.perf_counter() - began) * 1e3


def opened(url: str, account: Account, budgets: Budgets) -> Gateway:
    """A gateway over the endpoint."""
    clock = SystemClock()
    endpoint = Endpoint(url, "k", timeout_s=30, connections=64, max_bytes=1_000_000)
    model = EndpointModel(
        "m", OpenAIDialect("m"), endpoint,
        defaults=Defaults(800, 0.0), pricing=SetPrice(1, 10), clock=clock,
    )  # fmt: skip
    guarded = GuardedModel(model, account=account, clock=clock, budgets=budgets)
    return Gateway({"m": guarded}, ("m",), account=account)


async def rounds(ways: dict[str, Callable[[str], Awaitable[Timed]]], count: int) -> dict[str, Any]:
    """The times of each way, round by round; the first tenth is not counted."""
    found: dict[str, list[Timed]] = {name: [] for name in ways}
    order = list(ways)
    for number in range(count + count // 10):
        random.shuffle(order)
        for name in order:
            timed = await ways[name](f"{PROMPT} {number} {name}")
            if number >= count // 10:
                found[name].append(timed)
    return found


async def measured(url: str, dsn: str, count: int) -> Report:
    """All three."""
    await migrate(dsn)
    pool = await open_pool(dsn)
    async with pool, httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        budgets = Budgets(per_tenant=1e6, per_key=1e6)
        plain = opened(url, MemoryAccount(SystemClock()), Budgets())
        stored = opened(
            url, StoredAccount(PostgresModelCosts(pool), "default", SystemClock()), budgets
        )
        found = await rounds(
            {
                "direct": lambda text: direct(client, url, text),
                "gateway": lambda text: through(plain, text),
                "gateway, budgets in PostgreSQL": lambda text: through(stored, text),
            },
            count,
        )
        await plain.close()
        await stored.close()
    return reported(found)


def reported(found: dict[str, list[Timed]]) -> Report:
    """Medians, and the medians of the differences within a round."""
    report = Report("gateway")
    bare = found.pop("direct")
    report.add("direct: the whole, p50", median(whole for _, whole in bare), "ms")
    for name, times in found.items():
        for part, label, most in ((0, "first word", MOST_FIRST_MS), (1, "the whole", MOST_MS)):
            ours, theirs = [t[part] for t in times], [t[part] for t in bare]
            report.add(f"{name}: {label}, p50", median(ours), "ms", median(theirs))
            added = [a - b for a, b in zip(ours, theirs, strict=True)]
            report.add(f"{name}: added to {label}, median", median(added), "ms", most)
            report.add(f"{name}: added to {label}, p90", quantiles(added, n=10)[-1], "ms", most)
    return report


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """A database of its own."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "server")
    try:
        await postgres.start()
        yield postgres.dsn("postgres")
    finally:
        await postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def main(count: int) -> None:
    """Measure and store."""
    served = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert served.stdout is not None
        url = served.stdout.readline().strip()
        async with database() as dsn:
            report = await measured(url, dsn, count)
    finally:
        served.terminate()
        served.wait()
    RESULT.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    for line in report.results:
        print(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    asyncio.run(serve() if given.serve else main(given.rounds))
