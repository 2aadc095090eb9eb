"""The HTTP server."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from penstock.serving.api.app import build
from penstock.serving.api.server import listening, serve
from penstock.telemetry import Meters


async def test_answers_are_not_held_back_by_the_network() -> None:
    """Connections send what they have at once (no Nagle)."""
    listener = listening("127.0.0.1", 0)
    found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(connected, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await found
        writer.close()
        await writer.wait_closed()


async def _told(head: bytes) -> tuple[bytes, dict[str, Any]]:
    """The status line and the body of what a server says to this."""
    application = build(Meters(), list)
    async with serve(application, host="127.0.0.1", port=0) as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        writer.write(head)
        answer = await reader.read()
        writer.close()
    line, _, rest = answer.partition(b"\r\n")
    assert b"application/problem+json" in rest
    return line, json.loads(rest[rest.index(b"{") : rest.rindex(b"}") + 1])


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /healthz?" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 100_000 + b"\r\n", 431),
        (b"GET /healthz\x00 HTTP/1.1\r\nHost: localhost\r\n", 400),
        (b"nothing\r\n", 400),
    ],
    ids=["address", "headers", "no address", "no HTTP"],
)
async def test_a_head_that_is_refused_is_told_as_a_problem(head: bytes, status: int) -> None:
    """Whatever the parser of HTTP thinks of it, the answer has the form of all others."""
    line, told = await _told(head + b"Connection: close\r\n\r\n")
    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert told["status"] == status
    assert told["detail"].startswith("expected ")
