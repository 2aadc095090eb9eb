"""The running stream: from the server's packets to batches, with its heartbeat.

Batching is by wake-up: all that has arrived is decoded, and what is complete goes out as soon as
the socket has no more. While the consumer is busy more arrives, so batches grow under load by
themselves and a single change waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass
from typing import Final

from penstock.clock import Clock
from penstock.errors import PenstockError, SourceError, UnavailableError
from penstock.records import Microseconds
from penstock.sources.base import SourceBatch, StateChange
from penstock.sources.mysql.catalogue import Server, fetch_end
from penstock.sources.mysql.changes import Assembler
from penstock.sources.mysql.connections import Session, refusal_error
from penstock.sources.mysql.events import HEADER
from penstock.sources.mysql.gtids import MySQLGtids
from penstock.sources.mysql.positions import FIRST_EVENT, Place
from penstock.sources.mysql.protocol import ERR, OK, broken, decode_refusal, is_end
from penstock.sources.mysql.shapes import Shape
from penstock.sources.mysql.stream import COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID, PacketReader

SHAPE: Final = "shape:"
"""What the name of a table's shape in the source's state begins with."""
_SLICE_BYTES: Final = 32_000
"""How much is decoded before other tasks get a turn: a few milliseconds."""
_GATHER_S: Final = 0.01
"""How long complete transactions may wait for more while the socket has more."""
_SILENCE_S: Final = 10.0
"""How long the server may be silent, at least, before the connection is taken for dead."""
_MOMENTS: Final = 20
"""How many moments are remembered that the stream has not reached."""
_ANSWER_S: Final = 10.0
_BY_GTID: Final = 4
_LARGEST_START: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Moment:
    """All that committed by ``time`` ended by ``place``."""

    time: Microseconds
    place: tuple[int, int, int]


class Capture:
    """One life of the stream. ``start``, then iterate ``batches``, then ``close``."""

    def __init__(
        self,
        catalogue: Session,
        stream: Session,
        source: str,
        assembler: Assembler,
        *,
        on_unclear: Callable[[Collection[str]], None],
        clock: Clock,
        server: Server,
        server_id: int,
        batch_changes: int,
        read_ahead_bytes: int,
        heartbeat_s: float,
        first_state: StateChange,
    ) -> None:
        self._first_state = first_state
        self._catalogue = catalogue
        self._session = stream
        self._source = source
        self._what = f"source {source!r}"
        self.assembler = assembler
        self._on_unclear = on_unclear
        self._clock = clock
        self._server = server
        self._server_id = server_id
        self._batch_changes = batch_changes
        self._heartbeat_s = heartbeat_s
        self._reader = PacketReader(stream, max_bytes=read_ahead_bytes)
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._moments: deque[_Moment] = deque()
        self._packets: deque[bytes] = deque()
        self._as_of = Microseconds(0)
        self._server_time = (0, 0.0)
        self._reported = ""
        self._born = assembler.born
        self._reported_gtids = assembler.gtids.format()
        self._until: tuple[int, int, int] | None = None
        self._interrupted = False

    async def start(self, *, by_gtid: bool = False) -> None:
        """Begin to receive what comes after the assembler's place, or after its GTIDs."""
        period_ns = int(min(self._heartbeat_s, 2.0) * 1e9) or 1_000_000
        names = ("master", "source")
        settings = [f"@{name}_binlog_checksum = @@GLOBAL.binlog_checksum" for name in names]
        settings += [f"@{name}_heartbeat_period = {period_ns}" for name in names]
        if self._server.mariadb:
            settings.append("@mariadb_slave_capability = 4")
        gtids = self.assembler.gtids
        if by_gtid and self._server.mariadb:
            settings += ["@slave_connect_state = %s", "@slave_gtid_strict_mode = 0"]
            await self._session.fetch("SET " + ", ".join(settings), (gtids.format(),))
        else:
            await self._session.fetch("SET " + ", ".join(settings))
        if by_gtid and isinstance(gtids, MySQLGtids):
            await self._reader.start(COM_BINLOG_DUMP_GTID, self._gtid_dump(gtids))
        else:
            await self._reader.start(COM_BINLOG_DUMP, self._dump(by_gtid=by_gtid))
        self._tasks = [asyncio.create_task(self._beat(), name=f"heartbeat {self._source}")]

    def _dump(self, *, by_gtid: bool) -> bytes:
        here = self.assembler.here
        file, offset = ("", FIRST_EVENT) if by_gtid else (here.file, here.offset)
        return (
            offset.to_bytes(4, "little")
            + bytes(2)
            + self._server_id.to_bytes(4, "little")
            + file.encode()
        )

    def _gtid_dump(self, gtids: MySQLGtids) -> bytes:
        encoded = gtids.encode()
        return (
            _BY_GTID.to_bytes(2, "little")
            + self._server_id.to_bytes(4, "little")
            + bytes(4)
            + FIRST_EVENT.to_bytes(8, "little")
            + len(encoded).to_bytes(4, "little")
            + encoded
        )

    async def batches(self, until: Place | None = None) -> AsyncGenerator[SourceBatch]:
        """Batches until `close` or `interrupt`; raises what ends the stream. May be called again.

        With ``until``, ends when all that committed before that place was given, and nothing that
        committed later; call again to go on. Such batches do not speak of time.
        """
        assembler, held = self.assembler, False
        self._until = None if until is None else until.order
        while not held and self._goes_on():
            if not await self._arrived():
                return
            gather_until = self._loop.time() + _GATHER_S
            while self._packets and not held:
                held = self._feed()
                while len(assembler.changes) > self._batch_changes:
                    yield self._whole_batch() if assembler.complete else self._part_batch()
                await asyncio.sleep(0)
                if assembler.complete and self._loop.time() > gather_until:
                    break
                if not self._packets:
                    self._reader.poll()
                    self._packets.extend(self._reader.take())
            batch = self._report()
            if batch is not None:
                yield batch

    def interrupt(self) -> None:
        """Let batches without ``until`` end soon: there is something else to do in between."""
        self._interrupted = True
        self._reader.wake()

    @property
    def ended(self) -> bool:
        """Whether there will be nothing more."""
        return self._reader.ended

    def begin_table(self, stream: str, shape: Shape, starts_at: Place) -> None:
        """A copy of this table as of this place was begun: changes from then on are wanted."""
        self.assembler.begin_table(stream, shape, starts_at)

    async def close(self) -> None:
        """Stop reading; the connections are closed by whoever opened them."""
        self._reader.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    # ------------------------------------------------------------------ reading

    def _goes_on(self) -> bool:
        if self._until is not None:
            return self.assembler.in_transaction or self.assembler.here.order < self._until
        interrupted, self._interrupted = self._interrupted, False
        return not interrupted

    async def _arrived(self) -> bool:
        """Wait for something to do; False when there will be nothing more."""
        if self._packets:
            return True
        await self._reader.wait()
        self._packets.extend(self._reader.take())
        return bool(self._packets) or not self._reader.ended

    def _feed(self) -> bool:
        """Decode a slice of what has come; True when it stopped at the place to stop at."""
        assembler, packets, size = self.assembler, self._packets, 0
        try:
            while packets and size < _SLICE_BYTES:
                if self._until is not None and not self._goes_on():
                    return True
                packet = packets.popleft()
                size += len(packet)
                if packet[:1] != b"\0" or len(packet) <= HEADER:
                    raise self._no_event(packet)
                assembler.feed(packet[1:])
        except PenstockError as error:
            if isinstance(error, SourceError):
                error.facts.setdefault("place", assembler.here.format())
            raise
        if assembler.unclear:
            unclear, assembler.unclear = assembler.unclear, set()
            self._on_unclear(unclear)
        return False

    def _no_event(self, packet: bytes) -> PenstockError:
        if packet[:1] == bytes([ERR]):
            return refusal_error(decode_refusal(packet), self._what)
        if is_end(packet):
            return UnavailableError(
                f"expected the binlog of {self._what} to go on, but the server ended it: it is "
                "stopping, or was told to end our connection"
            )
        assert OK == 0
        return broken("a binlog event", packet)

    # ------------------------------------------------------------------ batches

    def _report(self) -> SourceBatch | None:
        """What is complete, or that time has passed; None when there is nothing to say."""
        if not self.assembler.complete and not self._is_news():
            return None
        batch = self._whole_batch()
        return batch if batch.changes or batch.state or batch.as_of else None

    def _is_news(self) -> bool:
        if self._until is not None:
            return False
        reach = self.assembler.at.order
        return any(moment.place <= reach for moment in self._moments)

    def _part_batch(self) -> SourceBatch:
        """A piece of a transaction that does not fit into one batch: what it says of time and of
        where reading can begin anew comes with its end."""
        changes = self.assembler.take_part(self._batch_changes)
        return SourceBatch(changes, {"position": changes[-1].position})

    def _whole_batch(self) -> SourceBatch:
        """All that is complete (which may be no more than that time has passed)."""
        assembler = self.assembler
        changes = assembler.take_complete()
        state: dict[str, str | None] = {
            SHAPE + stream: None if shape is None else shape.format()
            for stream, shape in assembler.noted.items()
        }
        assembler.noted = {}
        if changes:
            state["position"] = changes[-1].position
        resume = assembler.resume.format()
        if resume != self._reported:
            self._reported = state["place"] = resume
            state.update(self._first_state)
            self._first_state = {}
            if assembler.born != self._born:
                self._born = state["born"] = assembler.born
            gtids = assembler.gtids.format()
            if gtids != self._reported_gtids and not assembler.in_transaction:
                self._reported_gtids = state["gtids"] = gtids
        return SourceBatch(changes, state, self._time())

    def _time(self) -> Microseconds | None:
        """The latest time up to which everything is included; None if it is not news."""
        if self._until is not None:
            return None
        times = [self._as_of]
        committed = self.assembler.committed_at
        if committed is not None:
            # A session may set its time; what is later than now says nothing.
            known, heard = self._server_time
            latest = known + int((self._loop.time() - heard) * 1e6)
            times.append(Microseconds(min(committed, latest)))
        reach = self.assembler.at.order
        while self._moments and self._moments[0].place <= reach:
            times.append(self._moments.popleft().time)
        latest_time = max(times)
        if latest_time == self._as_of:
            return None
        self._as_of = latest_time
        return latest_time

    # ------------------------------------------------------------------ heartbeat

    async def _beat(self) -> None:
        """Find out again and again what time it is in the stream; notice when all is silent."""
        try:
            while not self._reader.ended:
                await self._probe()
                await self._clock.sleep(self._heartbeat_s)
        except PenstockError as error:
            self._reader.fail(error)

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                # Time first: what committed by then lies before the place that is read after.
                rows = await self._catalogue.fetch(
                    "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
                )
                file, offset = await fetch_end(self._catalogue)
        except TimeoutError as error:
            raise UnavailableError(
                f"expected an answer from {self._what} within {_ANSWER_S:.0f} s, got none: "
                "reconnecting"
            ) from error
        silent_s = self._loop.time() - self._reader.heard_at
        if silent_s > max(_SILENCE_S, 3 * self._heartbeat_s) and not self._reader.paused:
            raise UnavailableError(
                f"expected a sign of life on the binlog stream of {self._what}, got none for "
                f"{silent_s:.0f} s: reconnecting"
            )
        time = Microseconds(int(rows[0][0]))
        self._server_time = (time, self._loop.time())
        if len(self._moments) < _MOMENTS:
            place = Place(self.assembler.here.epoch, file, offset)
            self._moments.append(_Moment(time, place.order))
        self._reader.wake()


def start_of(place: Place) -> Place:
    """Where the stream can be begun to reach a place: what lies beyond 4 GiB cannot be named."""
    return place if place.offset <= _LARGEST_START else place._replace(offset=FIRST_EVENT)
