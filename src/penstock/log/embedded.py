"""The log in PostgreSQL: one row for each append and partition, as bytes of the codec.

What is appended to a partition in one call is one row, whatever its size, and so is read as one.
A row's bytes are limited by PostgreSQL (`MAX_PAYLOAD`): a larger append is refused before anything
is written. The head of a partition is a row that an append locks until its commit, so positions
become visible in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.types.numeric import Int4, Int8
from psycopg_pool import AsyncConnectionPool

from penstock.clock import Clock
from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.errors import BadRecordError, ConfigError, DamagedError, FatalError, FencedError
from penstock.log.appending import Part, merged, refused, values_of
from penstock.log.base import PartitionInfo
from penstock.log.codec import Codec, Encoded
from penstock.log.group_commit import Append, GroupCommit, Refused
from penstock.log.notices import Listener
from penstock.log.partitions import parted
from penstock.log.recent import BYTES_PER_CHANGE, Recent, Stored, joined
from penstock.log.refusals import check_kept, cut_off, damaged, no_topic, other_partitions
from penstock.log.tail import tail
from penstock.log.waiters import Waiters
from penstock.records import Batch, Change, LogPosition, Microseconds

MAX_PAYLOAD: Final = 512 * 2**20
"""The most bytes that one append may take in one partition, encoded."""

RECHECK_S: Final = 30.0
"""A reader looks this often even if nothing wakes it: a network can lose a message silently."""

_INLINE_CHANGES: Final = 1000  # more are encoded in a thread, so that the loop goes on
_COMPRESS_FROM: Final = 64 * 1024

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


class _Topic(NamedTuple):
    tenant: str
    partitions: int
    log: str


class EmbeddedLog:
    """Topics in the tables of one project database.

    ``pool`` has connections in autocommit mode and stays open when the log is closed; ``dsn`` is
    for one more connection that listens. ``cache_bytes`` bounds what is kept decoded in memory.
    """

    def __init__(
        self,
        pool: Pool,
        dsn: str,
        *,
        clock: Clock,
        tenant: str = "default",
        cache_bytes: int = 64 * 2**20,
        compress_from: int | None = _COMPRESS_FROM,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._tenant = tenant
        self._codec = Codec(compress_from=compress_from)
        self._sql = load_queries(Path(__file__).with_suffix(".sql"))
        self._topics: dict[str, _Topic] = {}
        self._recent = Recent(cache_bytes)
        self._waiters = Waiters()
        self._commits = GroupCommit(self._store)
        self._listener = Listener(
            dsn, clock, on_connected=self._waiters.wake_all, on_notice=self._heard
        )

    # ------------------------------------------------------------------ topics

    async def create_topic(self, topic: str, partitions: int = 1) -> None:
        """See `Log.create_topic`."""
        values = {"topic": topic, "tenant": self._tenant, "partitions": partitions}
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(self._sql["create_topic"], values)
                await connection.execute(self._sql["create_partitions"], values)
        self._topics.pop(topic, None)
        found = await self._topic(topic)
        if found.tenant != self._tenant:
            raise ConfigError(
                f"expected the topic {topic!r} to belong to tenant {self._tenant!r}, it belongs to "
                f"{found.tenant!r}: choose another name",
                topic=topic,
            )
        if found.log != "embedded":
            raise ConfigError(
                f"expected the topic {topic!r} to be in this database, it is in {found.log}: set "
                "`log` back to what it was, or begin anew with `penstock drop` and `penstock run`",
                topic=topic,
            )
        if found.partitions != partitions:
            raise other_partitions(topic, partitions, found.partitions)

    async def drop_topic(self, topic: str) -> None:
        """See `Log.drop_topic`; the positions of its consumers go with it."""
        await self._fetch("drop_topic", {"topic": topic})
        self._forget(topic)

    async def describe(self, topic: str | None = None) -> Sequence[PartitionInfo]:
        """See `Log.describe`."""
        rows = await self._fetch("describe", {"topic": topic, "tenant": self._tenant})
        return [PartitionInfo(*row) for row in rows]

    async def trim(
        self, topic: str, *, before: Microseconds | None = None, max_bytes: int | None = None
    ) -> int:
        """See `Log.trim`; ``max_bytes`` is for all partitions of the topic together."""
        if before is None and max_bytes is None:
            return 0
        values = {"topic": topic, "before": before, "max_bytes": max_bytes}
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(self._sql["trim"], values)
                cuts = await cursor.fetchall()
                for partition, first, _ in cuts:
                    where = {"topic": topic, "partition": partition, "first": first}
                    await connection.execute(self._sql["move_first"], where)
        for partition, first, _ in cuts:
            self._recent.trim(topic, partition, first)
        return sum(records for _, _, records in cuts)

    def forget_content(self) -> None:
        """Keep nothing decoded in memory: what is stored was changed in place (an erasure)."""
        self._recent.clear()

    # ------------------------------------------------------------------ writing

    async def open_producer(self, name: str) -> EmbeddedProducer:
        """See `Log.open_producer`."""
        ((epoch,),) = await self._fetch("open_producer", {"producer": name})
        # After the epoch is committed nobody before us can change the state any more.
        rows = await self._fetch("producer_state", {"producer": name})
        return EmbeddedProducer(self, name, epoch, dict(rows))

    async def append(self, append: Append) -> FatalError | None:
        """One step of a producer; returns why it was refused. Only producers call this."""
        return await self._commits.append(append)

    async def parted(
        self, topic: str, changes: Sequence[Change], as_of: Microseconds | None
    ) -> Mapping[int, Sequence[Change]]:
        """Which partition of a topic gets which changes. Only producers call this."""
        return parted(changes, as_of, (await self._topic(topic)).partitions)

    async def _store(self, appends: Sequence[Append]) -> Refused | None:
        """Some appends in one transaction, if all of them can be stored."""
        try:
            parts = [
                Part(topic, partition, changes, await self._encode(changes), as_of)
                for (topic, partition), (changes, as_of) in merged(appends).items()
            ]
        except FatalError as error:
            if len(appends) > 1:
                raise  # which of them it was is found one by one
            return Refused({appends[0]: error})
        values = values_of(appends, parts, self._clock.now())
        ((mine, there, firsts, lasts, _),) = await self._fetch("append", values)
        if len(mine) < len(appends) or len(there) < len(parts):
            found = refused(appends, parts, mine, there)
            for append in found.reasons:
                self._forget(append.topic)
            return found
        for part, first, last in zip(parts, firsts, lasts, strict=True):
            size = part.encoded.size * 2 + len(part.changes) * BYTES_PER_CHANGE
            streams = frozenset(part.encoded.streams)
            stored = Stored(first, last, tuple(part.changes), streams, part.as_of, size)
            self._recent.put(part.topic, part.partition, stored)
            self._waiters.advance((part.topic, part.partition), last)
        return None

    async def _encode(self, changes: Sequence[Change]) -> Encoded:
        if not changes:
            return Encoded(b"", (), 0)
        if len(changes) <= _INLINE_CHANGES:
            encoded = self._codec.encode(changes)
        else:
            encoded = await asyncio.to_thread(self._codec.encode, changes)
        if len(encoded.payload) > MAX_PAYLOAD:
            raise FatalError(
                f"expected at most {MAX_PAYLOAD} bytes in one append, got {len(encoded.payload)} "
                f"for {len(changes)} changes: append fewer at a time, or leave out the largest "
                "values",
                size=len(encoded.payload),
            )
        return encoded

    # ------------------------------------------------------------------ reading

    async def read(
        self,
        topic: str,
        partition: int,
        after: LogPosition,
        *,
        max_changes: int = 5000,
        streams: frozenset[str] | None = None,
    ) -> Batch | None:
        """See `Log.read`."""
        recent = self._recent.read(topic, partition, after, max_changes, streams)
        if recent is not None:
            return recent
        values = {
            "topic": topic,
            "partition": Int4(partition),
            "after": Int8(after),
            "max_changes": Int8(max_changes),
            "streams": None if streams is None else sorted(streams),
        }
        rows = await self._fetch("read", values, binary=True)
        if not rows:
            raise no_topic(topic, partition)
        check_kept(topic, partition, after, rows[0][0], rows[0][1])
        if rows[0][2] is None:
            return None
        pieces = []
        for row in rows:
            try:
                changes = self._decode(topic, partition, row, streams, after)
            except DamagedError as error:
                why = str(error.facts["why"])
                raise damaged(topic, partition, row[2], row[3], why) from error
            pieces.append((row[3], changes, row[5]))
            if len(changes) > _INLINE_CHANGES:
                await asyncio.sleep(0)
        return joined(pieces, after)

    def _decode(
        self,
        topic: str,
        partition: int,
        row: tuple[Any, ...],
        streams: frozenset[str] | None,
        after: LogPosition,
    ) -> Sequence[Change]:
        _, _, first, last, of, as_of, payload = row
        held = frozenset(of)
        if payload is None and held:
            return ()  # nothing of the streams that were asked for
        inside = first <= after  # resuming in the middle of an append
        whole = inside or streams is None or held <= streams
        if not whole:
            return self._codec.decode(payload, streams).changes
        changes: Sequence[Change] = ()
        size = 0
        if payload is not None:
            decoded = self._codec.decode(payload)
            changes, size = tuple(decoded.changes), decoded.size
        size = size * 2 + len(changes) * BYTES_PER_CHANGE
        if len(changes) != (last - first + 1 if held else 0):
            raise DamagedError("", why=f"it has {len(changes)} changes")
        stored = Stored(first, last, changes, held, as_of, size)
        if inside:
            return stored.since(after).of(streams)
        self._recent.put(topic, partition, stored)
        return stored.changes

    async def wait(self, topic: str, partition: int, after: LogPosition) -> None:
        """See `Log.wait`."""
        key = (topic, partition)
        future = self._waiters.register(key, after)
        try:
            self._listener.start()
            if not future.done() and self._listener.connected and not self._waiters.knows(key):
                connections = self._listener.connections
                _, last = await self._head(topic, partition)
                if connections == self._listener.connections:
                    self._waiters.advance(key, last)
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await future
        finally:
            self._waiters.unregister(key, future)

    async def seek(self, topic: str, partition: int, time: Microseconds) -> LogPosition:
        """See `Log.seek`."""
        values = {"topic": topic, "partition": partition, "time": time}
        rows = await self._fetch("seek", values)
        if not rows:
            raise no_topic(topic, partition)
        return LogPosition(rows[0][0])

    def tail(self, topic: str, after: LogPosition | None = None) -> AsyncIterator[Batch]:
        """See `TailableLog.tail`."""
        return tail(self, topic, after)

    async def close(self) -> None:
        """See `Log.close`; the pool stays open, it belongs to whoever made it."""
        self._waiters.close()
        await self._listener.close()

    # ------------------------------------------------------------------ inside

    async def _topic(self, topic: str) -> _Topic:
        known = self._topics.get(topic)
        if known is None:
            rows = await self._fetch("topic", {"topic": topic})
            if not rows:
                raise no_topic(topic)
            known = self._topics[topic] = _Topic(*rows[0])
        return known

    async def _head(self, topic: str, partition: int) -> tuple[LogPosition, LogPosition]:
        rows = await self._fetch("head", {"topic": topic, "partition": Int4(partition)})
        if not rows:
            raise no_topic(topic, partition)
        return rows[0][0], rows[0][1]

    async def _fetch(
        self, name: str, values: Mapping[str, object], *, binary: bool = False
    ) -> list[tuple[Any, ...]]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = connection.cursor(binary=binary)
                await cursor.execute(self._sql[name], values, prepare=True)
                return await cursor.fetchall()

    def _heard(self, topic: str, partition: int, last: LogPosition) -> None:
        if partition < 0:
            self._forget(topic)
        else:
            self._waiters.advance((topic, partition), last)

    def _forget(self, topic: str) -> None:
        self._topics.pop(topic, None)
        self._recent.forget(topic)
        self._waiters.forget(topic)


class EmbeddedProducer:
    """The one writer of a name. After an append that failed it must be opened again: whether the
    step happened is then in the state that is read."""

    def __init__(self, log: EmbeddedLog, name: str, epoch: int, state: Mapping[str, str]) -> None:
        self.name = name
        self.state = state
        self._log = log
        self._epoch = epoch
        self._over: FatalError | None = None
        self._turn = asyncio.Lock()

    async def append(
        self,
        topic: str,
        changes: Sequence[Change],
        *,
        state: Mapping[str, str | None] | None = None,
        as_of: Microseconds | None = None,
    ) -> None:
        """See `Producer.append`."""
        async with self._turn:
            if self._over is not None:
                raise self._over
            parts = await self._log.parted(topic, changes, as_of)
            append = Append(self.name, self._epoch, topic, len(changes), parts, state or {}, as_of)
            # Until the database has answered, even a cancelled step may have happened.
            self._over = cut_off(self.name)
            refusal = await self._step(append)
            self._over = refusal if isinstance(refusal, FencedError) else None
            if refusal is not None:
                raise refusal

    async def _step(self, append: Append) -> FatalError | None:
        try:
            return await self._log.append(append)
        except (BadRecordError, UnicodeEncodeError) as error:
            # The changes are bytes by now: what is refused is in the state.
            raise FatalError(
                f"expected an append of {self.name!r} that the database can store, it refused: "
                f"{error} (the state must be text without NUL and broken Unicode)",
                producer=self.name,
            ) from error
