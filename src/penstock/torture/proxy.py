"""A TCP proxy that does to a connection what networks do: cut it, slow it, leave it half open.

Before a source it can also make PostgreSQL deliver again what was delivered already, as it does
after a crash: from `hold_back` on, confirmations go on with the position of the beginning, and the
next stream starts where the server stands instead of where the client asks.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeAlias

Manner: TypeAlias = Literal["through", "slow", "bytewise", "silent"]

_PIECE = 64 * 1024
_SLOW_S = 0.05
_LAST_WORDS_S = 0.5
_PROTOCOL_3 = 3
_START = re.compile(rb"(START_REPLICATION SLOT .* LOGICAL )[0-9A-Fa-f]+/[0-9A-Fa-f]+")
_LSNS = struct.Struct(">QQQ")


class Proxy:
    """Passes connections on to ``upstream`` in the manner that is set; connect to ``port``."""

    def __init__(self, *, replication: bool = False) -> None:
        self.upstream = 0
        self.port = 0
        self.manner: Manner = "through"
        self.held: int | None = None
        self.resent = 0
        self._replication = replication
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    async def open(self, upstream: int) -> None:
        """Listen on a free port of the loopback address."""
        self.upstream = upstream
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)

    def cut(self, *, reset: bool = False) -> None:
        """End all connections; with ``reset`` as a machine does that knows nothing of them."""
        for link in list(self._links):
            link.cut(reset=reset)

    def forget(self) -> None:
        """What is open now stays open towards the client and is never answered again; the server is
        told that it ended. New connections work."""
        for link in list(self._links):
            link.forget()

    def hold_back(self) -> None:
        """Keep confirmations from the server, and have it send again from there."""
        self.held = 0

    def let_go(self) -> None:
        """Confirmations pass on as they come."""
        self.held = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            writer.close()
            return
        link = _Link(self, task, (reader, writer), (up_reader, up_writer))
        self._links.add(link)
        try:
            await link.run(_Frontend(self) if self._replication else None)
        finally:
            self._links.discard(link)

    async def pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Some bytes, in the present manner."""
        if self.manner == "bytewise":
            for place in range(len(data)):
                writer.write(data[place : place + 1])
                await writer.drain()
                if place % 64 == 0:
                    await asyncio.sleep(0)
                if not self._is_bytewise():
                    writer.write(data[place + 1 :])
                    break
        else:
            if self.manner == "slow":
                await asyncio.sleep(_SLOW_S)
            writer.write(data)
        await writer.drain()

    def _is_bytewise(self) -> bool:
        return self.manner == "bytewise"


class _Link:
    """One connection and the one behind it."""

    def __init__(
        self,
        proxy: Proxy,
        task: asyncio.Task[None],
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.task = task
        self._proxy = proxy
        self._client = client
        self._server = server
        self._forgotten = False
        self._over = asyncio.Event()
        for _, writer in (client, server):
            found = writer.get_extra_info("socket")
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self, frontend: _Frontend | None) -> None:
        """Both directions, until one of them ends."""
        ways = [
            asyncio.ensure_future(self._way(self._client[0], self._server[1], frontend)),
            asyncio.ensure_future(self._way(self._server[0], self._client[1], None)),
        ]
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait([*ways, over], return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                # What a client has sent before its end arrives, as it would without us.
                await asyncio.wait([ways[0]], timeout=_LAST_WORDS_S)
            if self._forgotten:
                self._server[1].close()
                await over
        finally:
            for task in (*ways, over):
                task.cancel()
            await asyncio.gather(*ways, over, return_exceptions=True)
            for _, writer in (self._client, self._server):
                writer.close()

    async def _way(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        frontend: _Frontend | None,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                while self._proxy.manner == "silent":
                    await asyncio.sleep(0.02)
                if frontend is not None:
                    data = frontend.rewritten(data)
                await self._proxy.pass_on(data, writer)

    def cut(self, *, reset: bool) -> None:
        if reset:
            for _, writer in (self._client, self._server):
                linger = struct.pack("ii", 1, 0)
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                writer.transport.abort()
        self._forgotten = False
        self._over.set()

    def forget(self) -> None:
        self._forgotten = True
        self._server[1].close()


class _Frontend:
    """What a client sends to PostgreSQL, message by message, with positions rewritten."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._rest = b""
        self._started = False

    def rewritten(self, data: bytes) -> bytes:
        """The whole messages in what has come so far."""
        data, out, at = self._rest + data, [], 0
        while True:
            # Before the session begins messages have a length and no letter.
            head = 1 if self._started else 0
            if len(data) < at + head + 4:
                break
            end = at + head + int.from_bytes(data[at + head : at + head + 4])
            if len(data) < end:
                break
            message = data[at:end]
            if self._started:
                message = self._message(message)
            elif int.from_bytes(message[4:6]) == _PROTOCOL_3:
                self._started = True
            out.append(message)
            at = end
        self._rest = data[at:]
        return b"".join(out)

    def _message(self, message: bytes) -> bytes:
        proxy = self._proxy
        if proxy.held is None:
            return message
        if message[:1] == b"d" and message[5:6] == b"r":
            if not proxy.held:
                proxy.held = _LSNS.unpack_from(message, 6)[1]
            held = proxy.held
            return message[:6] + _LSNS.pack(held, held, held) + message[6 + _LSNS.size :]
        if message[:1] == b"Q" and b"START_REPLICATION" in message:
            text = _START.sub(rb"\g<1>0/0", message[5:])
            proxy.resent += 1
            return b"Q" + (len(text) + 4).to_bytes(4) + text
        return message


def rewritten_frontend(proxy: Proxy) -> Callable[[bytes], bytes]:
    """What ``proxy`` makes of the bytes that one client sends, piece by piece."""
    return _Frontend(proxy).rewritten
