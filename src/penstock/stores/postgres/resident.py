"""The part of a knowledge base that a process keeps in memory, and how it knows that it is whole.

Only what never changes is kept: vectors by chunk, texts and vectors of tokens by chunk and hash,
posting lists by term and block. Which of it exists, may be seen and is wanted is asked in the
snapshot of each question; so memory that is behind costs a look, never a wrong answer.

Chunks are only ever added, under numbers that a sequence gives out in transactions that have a
number of their own by then. Every number up to a mark is *settled* once all transactions that were
at work when the mark was read have ended: no chunk below it can appear any more. A snapshot asks
for the chunks above the mark and learns what memory lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from penstock.clock import Clock, SystemClock
from penstock.database.connect import translated
from penstock.errors import PenstockError
from penstock.stores.postgres.arrays import numbers_literal
from penstock.stores.postgres.candidates import Lists
from penstock.stores.postgres.nearby import Halves, Nearby, stored_bytes
from penstock.stores.postgres.recent import Recent

logger = structlog.get_logger("penstock.memory")

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]

MEGABYTE: Final = 1_000_000
DEFAULT_MEGABYTES: Final = 256
_REFRESH_S: Final = 1.0
_AGAIN_S: Final = 10.0
"""How long after a failure, or a size that does not fit, it is not tried again."""
_SWEEP_S: Final = 60.0
_PAGE: Final = 1000
_MOST_UNSETTLED: Final = 5000
"""While a long transaction keeps more chunks than this from being settled, the database looks."""
MOST_NEWS: Final = 500
"""Of more chunks than this that memory lacks, a question does not wait: the database looks."""

_MARK: Final = """
SELECT last_value, (SELECT coalesce(sum(chunks), 0)::bigint FROM penstock.text_statistics
                    WHERE tenant = %s) FROM penstock.chunks_id_seq
"""
_OPEN: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
_HORIZON: Final = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       to_regclass('penstock.chunks')::oid::bigint
"""
_ADDED: Final = """
SELECT c.id, v.embedding FROM penstock.chunks c
LEFT JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = %(model)s AND v.hash = c.hash
WHERE c.tenant = %(tenant)s AND c.id > %(after)s ORDER BY c.id LIMIT %(limit)s
"""
_ALIVE: Final = """
SELECT coalesce(string_agg(int8send(id), ''), '') FROM penstock.chunks WHERE tenant = %s
"""
_HEAD: Final = 4
"""Bytes before the numbers of a halfvec in its binary form."""


@dataclass(frozen=True, slots=True)
class Near:
    """All vectors of one model in memory, as of a moment. Whoever asks takes it *before* opening a
    snapshot: what the snapshot has and ``index`` has not, then stands above ``settled``."""

    model: int
    index: Nearby
    settled: int
    incarnation: int
    recent: set[int] = field(default_factory=set)
    """Chunks above ``settled`` that are in the index."""

    def add(self, chunks: Sequence[int], halves: Halves) -> None:
        """Take in what a snapshot had besides."""
        self.index.add(chunks, halves)
        self.recent.update(chunk for chunk in chunks if chunk > self.settled)


@dataclass(frozen=True, slots=True)
class Content:
    """What a chunk says, and its hash: by both together it is told."""

    hash: bytes
    heading: str
    text: str


class Resident:
    """Memory of one tenant's knowledge base, for any number of snapshots at a time."""

    def __init__(
        self,
        pool: Pool,
        tenant: str,
        *,
        megabytes: int = DEFAULT_MEGABYTES,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self._tenant = tenant
        self._clock = clock or SystemClock()
        most = megabytes * MEGABYTE
        self._most_vectors = most // 4
        self.texts: Recent[int, Content] = Recent(most // 8, self._clock)
        self.tokens: Recent[tuple[str, str, bytes], bytes] = Recent(most // 2, self._clock)
        self.lists: Lists = Recent(most // 8, self._clock)
        self._near: Near | None = None
        self._marks: list[tuple[int, int]] = []
        self._next = 0.0
        self._swept = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def near(self) -> Near | None:
        """The vectors of a model, if they are all here."""
        near = self._near
        return None if near is None or len(near.recent) > _MOST_UNSETTLED else near

    def wanted(self, model: int, dimensions: int) -> None:
        """The vectors of this model are asked for: bring them in step, behind the caller."""
        if self._clock.monotonic() >= self._next and self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refreshed(model, dimensions))

    def forget(self) -> None:
        """Let go of everything: the database is another one."""
        self._near = None
        self._marks.clear()
        for part in (self.texts, self.tokens, self.lists):
            part.clear()

    async def close(self) -> None:
        """Stop what is under way."""
        task, self._refreshing = self._refreshing, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def refreshed(self, model: int, dimensions: int) -> Near | None:
        """As `wanted`, waiting for it."""
        await self.close()
        await self._refresh(model, dimensions)
        return self.near

    async def _refreshed(self, model: int, dimensions: int) -> None:
        try:
            await self._refresh(model, dimensions)
        except PenstockError as error:
            self._next = self._clock.monotonic() + _AGAIN_S
            logger.warning("memory.behind", reason=str(error))
        finally:
            self._refreshing = None

    async def _refresh(self, model: int, dimensions: int) -> None:
        self._next = self._clock.monotonic() + _REFRESH_S
        with translated():
            async with self._pool.connection() as connection:
                # First the mark, then the snapshot: who drew a number up to it is at work by then.
                cursor = await connection.execute(_MARK, [self._tenant], prepare=True)
                [(mark, chunks)] = await cursor.fetchall()
                if chunks * stored_bytes(dimensions) > self._most_vectors:
                    self._near = None
                    self._next = self._clock.monotonic() + _AGAIN_S
                    return
                async with connection.transaction():
                    await connection.execute(_OPEN)
                    await self._read(connection, model, dimensions, mark, chunks)

    async def _read(
        self,
        connection: psycopg.AsyncConnection[Any],
        model: int,
        dimensions: int,
        mark: int,
        chunks: int,
    ) -> None:
        """Bring everything in step with one snapshot."""
        cursor = await connection.execute(_HORIZON, prepare=True)
        [(at_work, begun, incarnation)] = await cursor.fetchall()
        near = self._near
        if near is None or near.model != model or near.incarnation != incarnation:
            if near is not None and near.incarnation != incarnation:
                self.forget()
            near = Near(model, Nearby(dimensions), 0, incarnation)
        elif mark < near.settled:
            self.forget()  # numbers are given out again: an older state of the database
            near = Near(model, Nearby(dimensions), 0, incarnation)
        if not await self._take_in(connection, near):
            self._near = None  # some have no vector of this model yet
            self._next = self._clock.monotonic() + _AGAIN_S
            return
        if len(near.index) > chunks and self._clock.monotonic() - self._swept >= _SWEEP_S:
            near = await self._sweep(connection, near)
        self._marks.append((mark, begun))
        settled = max([near.settled, *(m for m, end in self._marks if end <= at_work)])
        self._marks = [(m, end) for m, end in self._marks if end > at_work]
        recent = {chunk for chunk in near.recent if chunk > settled}
        self._near = Near(model, near.index, settled, incarnation, recent)

    async def _take_in(self, connection: psycopg.AsyncConnection[Any], near: Near) -> bool:
        """Add what is above the mark and lacks; False where a chunk has no vector."""
        after = near.settled
        while True:
            cursor = await connection.execute(
                _ADDED,
                {"model": near.model, "tenant": self._tenant, "after": after, "limit": _PAGE},
                prepare=True,
                binary=True,
            )
            rows = await cursor.fetchall()
            if any(embedding is None for _, embedding in rows):
                return False
            near.add([chunk for chunk, _ in rows], halves_of([stored for _, stored in rows]))
            if len(rows) < _PAGE:
                return True
            after = rows[-1][0]

    async def _sweep(self, connection: psycopg.AsyncConnection[Any], near: Near) -> Near:
        """Let go of the vectors of chunks that are gone."""
        self._swept = self._clock.monotonic()
        cursor = await connection.execute(_ALIVE, [self._tenant], binary=True)
        [(alive,)] = await cursor.fetchall()
        ids = np.frombuffer(alive, ">i8").astype(np.int64)
        index = near.index.only(ids)
        recent = {chunk for chunk in near.recent if chunk in index}
        return Near(near.model, index, near.settled, near.incarnation, recent)


class Residents:
    """The memory of each tenant that asks here; of a few."""

    def __init__(self, pool: Pool, *, megabytes: int, clock: Clock | None = None) -> None:
        self._pool = pool
        self._megabytes = megabytes
        self._clock = clock
        self._of: dict[str, Resident] = {}

    def of(self, tenant: str) -> Resident | None:
        """A tenant's; None where nothing is kept."""
        if not self._megabytes:
            return None
        if tenant not in self._of and len(self._of) < 1:
            self._of[tenant] = Resident(
                self._pool, tenant, megabytes=self._megabytes, clock=self._clock
            )
        return self._of.get(tenant)

    async def close(self) -> None:
        """Stop what is under way."""
        for resident in self._of.values():
            await resident.close()


def halves_of(stored: Sequence[bytes]) -> Halves:
    """Vectors from what the database sends of them in binary form."""
    if not stored:
        return np.empty((0, 0), np.float16)
    rows = np.frombuffer(b"".join(stored), np.uint8).reshape(len(stored), -1)[:, _HEAD:]
    return np.ascontiguousarray(rows).view(">f2").astype(np.float16)


def known_above(near: Near) -> Mapping[str, Any]:
    """What a snapshot is told to ask for what memory lacks."""
    return {"settled": near.settled, "known": numbers_literal(near.recent), "most": MOST_NEWS + 1}
