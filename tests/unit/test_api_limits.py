"""How much a key may ask, and what holds around every request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request

from penstock.records import Microseconds
from penstock.serving.api import problems
from penstock.serving.api.attending import Attended
from penstock.serving.api.limits import ADMITTED, Admission, Limit, Limits
from penstock.serving.api.problems import ProblemError
from penstock.serving.api.server import serve
from penstock.serving.api.streams import EventStream


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> Microseconds:
        return Microseconds(int(self.time * 1e6))

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


async def admitted(limits: Limits, key: str) -> Admission:
    admission = Admission()
    await limits.admit({ADMITTED: admission}, key)
    return admission


async def refused(limits: Limits, key: str) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        await admitted(limits, key)
    assert caught.value.status == 429
    return caught.value


async def test_a_key_has_its_rate_and_is_told_when_to_come_back() -> None:
    """A burst, then the rate; another key is not concerned."""
    clock = Hand()
    limits = Limits(clock, key=Limit(rate=2, burst=3))
    left = [(await admitted(limits, "a")).headers["RateLimit"] for _ in range(3)]
    assert left == ['"key";r=2;t=0', '"key";r=1;t=0', '"key";r=0;t=1']
    problem = await refused(limits, "a")
    assert problem.headers["Retry-After"] == "1"
    assert problem.headers["RateLimit-Policy"] == '"key";q=3;w=2'
    assert "expected at most 2 requests a second of this key (3 at once)" in problem.detail
    await admitted(limits, "b")
    clock.time += 0.49
    await refused(limits, "a")
    clock.time += 0.02
    await admitted(limits, "a")
    await refused(limits, "a")


async def test_a_refused_request_takes_nothing() -> None:
    """Whoever asks too often is not locked out for longer."""
    clock = Hand()
    limits = Limits(clock, key=Limit(rate=1, burst=1))
    await admitted(limits, "a")
    for _ in range(50):
        await refused(limits, "a")
    clock.time += 1.0
    await admitted(limits, "a")


async def test_places_come_back_at_the_end_once() -> None:
    """Of a key, and of all keys together."""
    limits = Limits(Hand(), key=Limit(concurrent=2), tenant=Limit(concurrent=3))
    first, _ = await admitted(limits, "a"), await admitted(limits, "a")
    assert "this key at work at once" in (await refused(limits, "a")).detail
    await admitted(limits, "b")
    assert "all keys together" in (await refused(limits, "c")).detail
    first.end()
    first.end()
    await admitted(limits, "c")
    await refused(limits, "d")


async def test_many_keys_are_not_kept_for_ever() -> None:
    """Nor is one forgotten that is at work."""
    limits = Limits(Hand(), key=Limit(concurrent=1))
    await admitted(limits, "kept")
    for number in range(10_100):
        (await admitted(limits, f"key {number}")).end()
    assert len(limits._keys) <= 10_001
    await refused(limits, "kept")


class Slow:
    """Routes that take as long as the test lets them."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.go = asyncio.Event()
        self.app = FastAPI()
        problems.install(self.app)

        @self.app.post("/wait")
        async def wait(request: Request) -> dict[str, bool]:
            await request.body()
            await self._work()
            return {"done": True}

        @self.app.post("/stream")
        async def stream() -> EventStream:
            pieces = self._pieces()
            return EventStream(pieces, pieces)

        @self.app.get("/readyz")
        async def readyz() -> dict[str, bool]:
            return {"here": True}

    async def _work(self) -> None:
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.ended.set()

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await self._work()
        yield b"data: 2\n\n"


async def dropped(address: str, path: str, until: Callable[[], Any]) -> None:
    """Ask, and hang up when something has happened."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    await until()
    writer.close()
    await writer.wait_closed()
    del reader


@pytest.mark.parametrize("path", ["/wait", "/stream"])
async def test_a_client_that_hangs_up_ends_the_work_behind_it(path: str) -> None:
    """Of a stream, and of an answer that has not begun."""
    slow = Slow()
    attended = Attended(slow.app)
    async with serve(attended, host="127.0.0.1", port=0) as address:
        await dropped(address, path, slow.begun.wait)
        await asyncio.wait_for(slow.ended.wait(), 10)
        while attended.working:
            await asyncio.sleep(0)
    assert not slow.go.is_set()


async def test_a_request_has_its_longest_time() -> None:
    """Then it is told so, and its work ends."""
    slow = Slow()
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=Attended(slow.app, limit_s=0.05)),
        base_url="http://localhost",
    ) as client:
        answer = await client.post("/wait")
    assert answer.status_code == 504
    assert "expected an answer within 0.05 s" in answer.json()["detail"]
    assert slow.ended.is_set()


async def test_what_is_at_work_ends_before_the_server_does() -> None:
    """What is new meanwhile is sent elsewhere."""
    slow = Slow()
    attended = Attended(slow.app, drain_s=30)
    async with (
        httpx2.AsyncClient(timeout=30, trust_env=False) as client,
        httpx2.AsyncClient(timeout=30, trust_env=False) as other,
    ):
        served = serve(attended, host="127.0.0.1", port=0)
        address = await served.__aenter__()
        asking = asyncio.ensure_future(client.post(f"{address}/wait"))
        await slow.begun.wait()
        ending = asyncio.ensure_future(served.__aexit__(None, None, None))
        while not attended.draining:
            await asyncio.sleep(0)
        late = await other.post(f"{address}/wait")
        assert (late.status_code, late.json()["code"]) == (503, "ending")
        assert (await other.get(f"{address}/readyz")).status_code == 200
        assert not ending.done()
        slow.go.set()
        assert (await asking).json() == {"done": True}
        await ending


async def test_what_does_not_end_is_cut() -> None:
    """After the time that the settings give it."""
    slow = Slow()
    attended = Attended(slow.app, drain_s=0.05)
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as client:
        async with serve(attended, host="127.0.0.1", port=0) as address:
            asking = asyncio.ensure_future(client.post(f"{address}/wait"))
            await slow.begun.wait()
        await asyncio.gather(asking, return_exceptions=True)
    assert slow.ended.is_set()
