"""Reading packets from the server as they come: rows of a table, or the binlog.

The driver has connected and authenticated; from then on its socket is read here, on the event loop.
What was read and not taken is bounded: above the limit the socket is left alone until the consumer
has caught up, so that a slow consumer slows the server and memory stays flat.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from penstock.errors import PenstockError, UnavailableError
from penstock.sources.mysql.connections import Session
from penstock.sources.mysql.protocol import Framer

COM_QUERY: Final = 0x03
COM_BINLOG_DUMP: Final = 0x12
COM_BINLOG_DUMP_GTID: Final = 0x1E
_CHUNK: Final = 1 << 18


class PacketReader:
    """Packets that the server sends as an answer to one command, in order.

    Use by one task: ``wait`` until there is something, ``take`` it. ``stop`` before the connection
    is used for anything else.
    """

    def __init__(self, session: Session, *, max_bytes: int = 4_000_000) -> None:
        self._session = session
        # Reading ourselves is the point of taking the driver's socket; it has no public name.
        self._socket: socket.socket = session.connection._sock  # type: ignore[attr-defined] # noqa: SLF001
        self._what = session.what
        self._max_bytes = max_bytes
        self._framer = Framer()
        self._packets: list[bytes] = []
        self._bytes = 0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self.heard_at = self._loop.time()
        self.ended = False
        self.error: PenstockError | None = None

    async def start(self, command: int, payload: bytes) -> None:
        """Send the command and begin to read."""
        body = bytes([command]) + payload
        packet = len(body).to_bytes(3, "little") + b"\0" + body
        try:
            await asyncio.to_thread(self._socket.sendall, packet)
            self._socket.settimeout(0)
        except OSError as error:
            raise self._lost(error) from error
        self._resume()
        self._readable()

    def take(self) -> list[bytes]:
        """All that was read; raises what ended the stream once nothing is left before it."""
        packets, self._packets, self._bytes = self._packets, [], 0
        if not packets and self.error is not None:
            raise self.error
        if not self.ended:
            self._resume()
            if not packets:
                self._changed.clear()
        return packets

    def poll(self) -> None:
        """Read what the socket has at this moment without waiting for the event loop."""
        if not self.ended and self._bytes <= self._max_bytes:
            self._readable()

    async def wait(self) -> None:
        """Return when there is something to take, at the end, or after ``wake``."""
        await self._changed.wait()

    def wake(self) -> None:
        """End the waiting (from the same event loop)."""
        self._changed.set()

    def stop(self) -> None:
        """Leave the socket alone for good."""
        self._pause()
        self.ended = True
        self._changed.set()

    def release(self, timeout_s: float | None) -> None:
        """The answer is read to its end: the driver may use the connection again."""
        self.stop()
        self._socket.settimeout(timeout_s)

    def fail(self, error: PenstockError) -> None:
        """End the stream with this error once what was read before is taken."""
        if self.error is None:
            self.error = error
        self.stop()

    @property
    def paused(self) -> bool:
        """Whether the socket is left alone because too much was not taken."""
        return not self._reading and not self.ended

    def _resume(self) -> None:
        if not self._reading:
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._reading = True
            if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
                self._loop.call_soon(self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._socket.fileno())
            self._reading = False

    def _readable(self) -> None:
        if self.ended:
            return
        try:
            while True:
                data = self._socket.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                self.heard_at = self._loop.time()
                packets = self._framer.feed(data)
                if packets:
                    self._packets += packets
                    self._changed.set()
                self._bytes += len(data)
                if self._bytes > self._max_bytes:
                    # A packet that is not complete is read on, however large: there is no way past.
                    if self._packets:
                        self._pause()
                    return
                if len(data) < _CHUNK and not isinstance(self._socket, ssl.SSLSocket):
                    return
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError as error:
            self.fail(self._lost(error))

    def _lost(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"lost the connection to {self._what} ({error}): it is opened again"
        )
