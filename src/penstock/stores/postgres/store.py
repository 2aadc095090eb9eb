"""The store in PostgreSQL: effects, dead letters and the consumer's position in one commit (G2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, assert_never

import psycopg
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.errors import FencedError
from penstock.records import LogPosition, Microseconds, Position, Schema
from penstock.stores.base import (
    DEFAULT_TENANT,
    ApplyEvidence,
    ApplyRows,
    DeadLetter,
    Effect,
    Move,
    Publish,
    ReplaceDocuments,
    SetPermissions,
    TruncateDocuments,
    no_destination,
)
from penstock.stores.postgres import dead_letters, live_tables, permissions, tables
from penstock.stores.postgres.dead_letters import BuriedLetter
from penstock.stores.postgres.live_tables import LiveTable
from penstock.stores.postgres.profiles.matching import Matchers

_QUERIES: Final = load_queries(Path(__file__).with_name("store.sql"))
_PREPARED: Final = 1000
"""Prepared statements for each connection: a few for each live table."""


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How far one consumer is on one partition."""

    consumer: str
    topic: str
    partition: int
    position: LogPosition
    source: str | None
    source_position: Position | None
    as_of: Microseconds | None
    moved_at: Microseconds


class PostgresStore:
    """Live tables, knowledge base, positions and dead letters in one database.

    ``pool`` gives connections in autocommit mode and stays the caller's; ``language`` is that of
    the documents, for the text index.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        *,
        tenant: str = DEFAULT_TENANT,
        language: str = "english",
    ) -> None:
        self._pool = pool
        self._tenant = tenant
        self._language = language
        self._known: tables.Known = {}
        self._matchers = Matchers()
        self._lanes: set[int] = set()

    # ------------------------------------------------------------------ writing

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """Begin; leaving normally commits, leaving with an exception undoes everything."""
        lane = next(number for number in count() if number not in self._lanes)
        self._lanes.add(lane)
        try:
            with translated():
                async with self._pool.connection() as connection:
                    connection.prepared_max = _PREPARED
                    try:
                        async with connection.transaction():
                            yield PostgresTransaction(
                                connection,
                                self._tenant,
                                self._language,
                                f"lane-{lane}",
                                self._known,
                                self._matchers,
                            )
                    except asyncio.CancelledError:
                        # Cut off in a pipeline, the transaction may still be open on the server
                        # without the driver knowing: nobody may write there again.
                        await connection.close()
                        raise
        finally:
            self._lanes.discard(lane)

    async def position(self, consumer: str, topic: str, partition: int) -> LogPosition:
        """How far a consumer is; registers it at 0 (so that retention waits for it)."""
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(_QUERIES["register"], [consumer, topic, partition])
                cursor = await connection.execute(
                    _QUERIES["position"], [consumer, topic, partition]
                )
                row = await cursor.fetchone()
        assert row is not None
        return LogPosition(row[0])

    async def passed(self, consumer: str, topic: str, partition: int) -> Position | None:
        """The latest position of its source that a consumer has passed in a partition."""
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_QUERIES["passed"], [consumer, topic, partition])
                row = await cursor.fetchone()
        return None if row is None else row[0]

    async def known_vectors(
        self, model: str, hashes: Sequence[bytes], head: str = ""
    ) -> set[bytes]:
        """Which of these embedded texts have a stored vector (and tokens of ``head``)."""
        from penstock.stores.postgres import knowledge

        if not hashes:
            return set()
        with translated():
            async with self._pool.connection() as connection:
                return await knowledge.known_vectors(
                    connection, model, hashes, head, tenant=self._tenant
                )

    async def stored_metadata(
        self, source: str, keys: Sequence[str]
    ) -> Mapping[str, tuple[Position, Mapping[str, Any]]]:
        """The position and metadata of stored documents by key."""
        from penstock.stores.postgres import knowledge

        if not keys:
            return {}
        with translated():
            async with self._pool.connection() as connection:
                return await knowledge.stored_metadata(
                    connection, source, keys, tenant=self._tenant
                )

    async def prepare_tables(self, schemas: Sequence[Schema]) -> None:
        """Make the live tables that do not exist yet. Columns of those that do are changed by the
        changes themselves, in the order of the stream."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await tables.prepare(connection, schemas, self._tenant)

    async def prune_tombstones(self, older_than_s: float = 86_400.0) -> int:
        """Forget deleted rows after a while, except where a dead letter may still be tried again.
        Returns how many; changes that are older than these must not come any more."""
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    live_tables.QUERIES["prune_tombstones"], {"older_than_s": older_than_s}
                )
                return cursor.rowcount

    # ------------------------------------------------------------------ looking

    async def consumers(self) -> list[ConsumerState]:
        """All consumers, ordered by name, topic and partition."""
        with translated():
            async with self._pool.connection() as connection:
                cursor = connection.cursor(row_factory=class_row(ConsumerState))
                await cursor.execute(_QUERIES["consumers"])
                return await cursor.fetchall()

    async def live_tables(self, source: str | None = None) -> list[LiveTable]:
        """The live tables of a source, or all; `LiveTable.reread` says which need reading again."""
        with translated():
            async with self._pool.connection() as connection:
                return await live_tables.all_tables(connection, source)

    async def dead_letters(
        self,
        ids: Sequence[int] | None = None,
        *,
        pipeline: str | None = None,
        source: str | None = None,
        limit: int | None = None,
    ) -> list[BuriedLetter]:
        """Dead letters with their changes, newest first."""
        with translated():
            async with self._pool.connection() as connection:
                return await dead_letters.read_letters(
                    connection,
                    self._tenant,
                    ids=ids,
                    pipeline=pipeline,
                    source=source,
                    limit=limit,
                )

    async def drop_letters(self, ids: Sequence[int] | None = None) -> int:
        """Throw dead letters away (None: all); returns how many there were."""
        with translated():
            async with self._pool.connection() as connection:
                return await dead_letters.drop_letters(connection, self._tenant, ids)


class PostgresTransaction:
    """One commit. ``lane`` names a row of counters that no transaction at the same time uses."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        tenant: str,
        language: str,
        lane: str,
        known: tables.Known,
        matchers: Matchers,
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._language = language
        self._lane = lane
        self._matchers = matchers
        self._tables = tables.TableWriter(connection, tenant, known)

    async def apply(self, effect: Effect) -> None:
        """Do one effect. Raises `BadRecordError` when the data itself is refused."""
        if isinstance(effect, ApplyRows):
            await self._tables.apply(effect.changes)
            return
        if isinstance(effect, Publish):
            raise no_destination(effect)
        from penstock.stores.postgres import knowledge
        from penstock.stores.postgres.profiles import writing as profiles

        with translated():
            if isinstance(effect, ReplaceDocuments):
                await knowledge.replace_documents(
                    self._connection,
                    effect,
                    tenant=self._tenant,
                    writer=self._lane,
                    language=self._language,
                )
            elif isinstance(effect, TruncateDocuments):
                await knowledge.truncate_documents(
                    self._connection, effect, tenant=self._tenant, writer=self._lane
                )
            elif isinstance(effect, SetPermissions):
                await permissions.set_entries(self._connection, effect.entries, tenant=self._tenant)
            elif isinstance(effect, ApplyEvidence):
                await profiles.apply_evidence(
                    self._connection, effect, tenant=self._tenant, matchers=self._matchers
                )
            else:
                assert_never(effect)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep records that could not be processed, with their reasons."""
        with translated():
            await dead_letters.bury(self._connection, letters, self._tenant)

    async def drop_letters(self, ids: Sequence[int]) -> int:
        """Take away letters whose changes this transaction has brought home."""
        with translated():
            return await dead_letters.drop_letters(self._connection, self._tenant, ids)

    async def move(self, step: Move) -> None:
        """Record how far the consumer is. `FencedError` when another process has moved it."""
        with translated():
            cursor = await self._connection.execute(
                _QUERIES["move"],
                {
                    "consumer": step.consumer,
                    "topic": step.topic,
                    "partition": step.partition,
                    "expected": step.expected,
                    "to": step.to,
                    "source": step.source,
                    "as_of": step.as_of,
                    "position": step.position,
                },
                prepare=True,
            )
        if cursor.rowcount != 1:
            raise FencedError(
                f"expected the consumer {step.consumer!r} at {step.expected} of partition "
                f"{step.partition} of {step.topic!r}, but it was moved meanwhile: another process "
                "runs the same pipeline; stop one of the two",
                consumer=step.consumer,
                topic=step.topic,
                partition=step.partition,
                expected=step.expected,
            )
