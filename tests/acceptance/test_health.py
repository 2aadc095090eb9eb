"""Health and metrics over HTTP, as a probe and Prometheus ask for them."""

from __future__ import annotations

import httpx2

from penstock.serving.api.app import build
from penstock.serving.api.server import serve
from penstock.telemetry import METRICS, Meters


async def test_the_endpoint_says_whether_it_is_ready() -> None:
    """`/healthz` lives, `/readyz` is 503 with the reasons or 200, `/metrics` has every metric."""
    meters = Meters()
    meters.source("shop").state = "running"
    pipeline = meters.pipeline("tables", "shop")
    pipeline.freshness.add([5.0])
    problems = ["shop is waiting: the server is away"]
    async with (
        serve(build(meters, lambda: problems), host="127.0.0.1", port=0) as address,
        httpx2.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        waiting = await client.get("/readyz")
        assert (waiting.status_code, waiting.json()["problems"]) == (503, problems)
        problems.clear()
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        page = (await client.get("/metrics")).text
        assert [name for name in METRICS if name not in page] == []
        assert 'penstock_source_up{source="shop"} 1.0' in page
