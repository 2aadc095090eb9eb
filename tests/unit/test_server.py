"""The HTTP server."""

from __future__ import annotations

import asyncio
import socket

from penstock.serving.api.server import listening


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
