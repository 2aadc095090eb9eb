"""Reading a COPY from the server as it comes: rows of a table, or the replication stream.

libpq does the protocol; the event loop says when there is something to read. What was read and not
taken is bounded: above the limit the socket is left alone until the consumer has caught up, so that
a slow consumer slows the server and memory stays flat. Keepalives are answered all the same.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import Final

import psycopg
from psycopg import generators, pq

from penstock.errors import PenstockError, UnavailableError
from penstock.sources.postgres.connections import translate

DATA: Final = ord("w")
KEEPALIVE: Final = ord("k")
DATA_START: Final = 25
"""Where the message begins in a piece of WAL data: after the tag, two LSNs and a time."""
_KEEPALIVE_LENGTH: Final = 18
_uint64 = Struct(">Q").unpack_from
_status = Struct(">cQQQqB").pack


class CopyReader:
    """Pieces of a COPY that the server sends, in order.

    Use by one task: ``wait`` until there is something, ``take`` it. ``stop`` before the connection
    is used for anything else.
    """

    def __init__(
        self, connection: psycopg.AsyncConnection, what: str, *, max_bytes: int = 4_000_000
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._what = what
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._descriptor = -1
        self._ending = False
        self.ended = False
        self.error: PenstockError | None = None

    async def start(self, command: bytes, expected: pq.ExecStatus) -> None:
        """Send the command and begin to read."""
        try:
            self._pgconn.send_query(command)
            results = await self._connection.wait(generators.execute(self._pgconn))
        except psycopg.Error as error:
            raise translate(error, self._what) from error
        if results[-1].status != expected:
            failure = psycopg.errors.error_from_result(
                results[-1], encoding=self._connection.info.encoding
            )
            raise translate(failure, self._what) from failure
        self._pgconn.nonblocking = 1
        self._descriptor = self._pgconn.socket
        self._resume()
        # What came together with the answer is read already: the socket will not tell of it.
        self._readable()

    def take(self) -> list[bytes]:
        """All that was read; raises what ended the stream once nothing is left before it."""
        pieces, self._pieces, self._bytes = self._pieces, [], 0
        if not pieces and self.error is not None:
            raise self.error
        if not self.ended:
            self._resume()
            if not pieces:
                self._changed.clear()
        return pieces

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
            self._loop.add_reader(self._descriptor, self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._descriptor)
            self._reading = False

    def _readable(self) -> None:
        pieces, get, size, length = self._pieces, self._pgconn.get_copy_data, 0, 0
        try:
            self._pgconn.consume_input()
            if self._ending:
                self._end()
                return
            while True:
                length, data = get(1)
                if length <= 0:
                    break
                pieces.append(bytes(data))
                size += length
                if length == _KEEPALIVE_LENGTH and data[0] == KEEPALIVE:
                    self._answer(pieces[-1])
            if length < 0:
                self._ending = True
                self._end()
        except psycopg.Error as error:
            self.fail(translate(error, self._what))
            return
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._pause()
        if size:
            self._changed.set()

    def _answer(self, keepalive: bytes) -> None:
        """A keepalive came (only the replication stream has them)."""

    def _end(self) -> None:
        """The COPY is over, or broke off: the result says which, once it has arrived."""
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None or result.status == pq.ExecStatus.COPY_IN:
                # COPY_IN: our direction of a COPY BOTH is still open, the server's is not.
                self._pgconn.nonblocking = 0
                self._ended()
                return
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = psycopg.errors.error_from_result(
                    result, encoding=self._connection.info.encoding
                )
                self.fail(translate(error, self._what))
                return

    def _ended(self) -> None:
        self.stop()


class ReplicationStream(CopyReader):
    """The replication stream with its way back: what was received and what is durable here."""

    def __init__(
        self, connection: psycopg.AsyncConnection, what: str, *, max_bytes: int = 4_000_000
    ) -> None:
        super().__init__(connection, what, max_bytes=max_bytes)
        self.durable = 0
        self.heard_at = self._loop.time()
        self._writing = False

    def confirm(self, lsn: int, *, ask: bool = False) -> None:
        """All that ended by ``lsn`` is durable here: the server may forget it. ``ask`` for a sign
        of life in return."""
        self.durable = max(self.durable, lsn)
        if self.ended:
            return
        # What is "written" is given as what is durable: while it is behind, the server tells
        # by itself how far the stream is, as soon as there is nothing more to send.
        status = _status(b"r", self.durable, self.durable, self.durable, 0, ask)
        try:
            self._pgconn.put_copy_data(status)
            self._flush()
        except psycopg.Error as error:
            self.fail(translate(error, self._what))

    def _flush(self) -> None:
        if self._writing:
            self._loop.remove_writer(self._descriptor)
            self._writing = False
        if self._pgconn.flush():
            self._loop.add_writer(self._descriptor, self._flush_later)
            self._writing = True

    def _flush_later(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self.fail(translate(error, self._what))

    def stop(self) -> None:
        super().stop()
        if self._writing:
            self._loop.remove_writer(self._descriptor)
            self._writing = False

    def _readable(self) -> None:
        self.heard_at = self._loop.time()
        super()._readable()

    def _answer(self, keepalive: bytes) -> None:
        if keepalive[_KEEPALIVE_LENGTH - 1]:
            self.confirm(self.durable)

    def _ended(self) -> None:
        self.fail(
            UnavailableError(
                f"expected the replication stream of {self._what} to go on, but the server ended "
                "it: it is stopping, or was told to end our connection"
            )
        )


def wal_end(keepalive: bytes) -> int:
    """How far the server has sent everything, as a keepalive says."""
    lsn: int = _uint64(keepalive, 1)[0]
    return lsn
