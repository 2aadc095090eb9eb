"""Sharing the work of a project through its database: who lives, and who has what.

Every worker says each second that it lives, and takes what is free up to an equal share; who has
more gives the rest back. What a worker had is free as soon as its session is gone (kill -9 is seen
within a second), or when it has not been heard of for the length of a lease (stopped, or cut off);
then its sessions in the database are ended, so that no lock of theirs stops whoever takes over.
Only the database's clock counts.

All that has a connection of its own: were it the one that pipelines share, those that wait (for a
lock of a worker that was stopped, say) would keep this one from saying that it lives, and one that
stands still would take all others with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool, session_name, translated
from penstock.database.project_lock import (
    ProjectLock,
    hold_project_lock,
    lock_key,
    workers_lock,
)
from penstock.database.queries import load_queries
from penstock.errors import FatalError
from penstock.log.base import Item, Share

LEASE_S: Final = 10.0
BEAT_S: Final = 1.0

logger = structlog.get_logger("penstock.workers")


class Plan(NamedTuple):
    """What one worker takes and what it gives back, to have an equal share."""

    take: list[Item]
    shed: list[Item]


def plan(holders: Mapping[Item, str | None], worker: str, workers: int) -> Plan:
    """By kind: the free ones that are missing to an equal share, and the ones above it."""
    take: list[Item] = []
    shed: list[Item] = []
    for kind in dict.fromkeys(item.kind for item in holders):
        of_kind = {item: held for item, held in holders.items() if item.kind == kind}
        share = -(-len(of_kind) // max(workers, 1))
        mine = [item for item, held in of_kind.items() if held == worker]
        free = [item for item, held in of_kind.items() if held is None]
        shed += mine[share:]
        take += free[: max(0, share - len(mine))]
    return Plan(take, shed)


class LeaseGroup:
    """See `penstock.log.base.Group`."""

    def __init__(
        self,
        dsn: str,
        *,
        project: str,
        worker: str,
        lease_s: float = LEASE_S,
        every_s: float = BEAT_S,
    ) -> None:
        self.every_s = every_s
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None
        self._dsn = dsn
        self._project = project
        self._worker = worker
        self._lease_s = lease_s
        self._sql = load_queries(Path(__file__).with_suffix(".sql"))
        self._session: ProjectLock | None = None
        self._items: tuple[Item, ...] = ()

    async def join(self, items: Sequence[Item]) -> None:
        """See `Group.join`."""
        self._items = tuple(items)
        if self._pool is None:
            self._pool = await open_pool(
                self._dsn,
                max_size=1,
                statement_timeout_s=self._lease_s,
                idle_timeout_s=self._lease_s,
            )
        await self._hold_session()
        await self._run("register", self._named(items))

    async def beat(self) -> Share:
        """See `Group.beat`."""
        await self._hold_session()
        values = {
            "worker": self._worker,
            "session_key": lock_key(self._lock),
            "lease_s": self._lease_s,
            "turn": lock_key(f"{self._project} leases"),
        }
        with translated():
            async with self._connection() as connection, connection.transaction():
                await connection.execute(self._sql["turn"], values)
                gone = await (await connection.execute(self._sql["bury"], values)).fetchall()
                if gone:
                    sessions = [session_name(worker) for (worker,) in gone]
                    await connection.execute(self._sql["end_sessions"], {"sessions": sessions})
                await connection.execute(self._sql["live"], values)
                rows = await (await connection.execute(self._sql["leases"])).fetchall()
                cursor = await connection.execute(self._sql["count_workers"])
                [(workers,)] = await cursor.fetchall()
                holders = self._holders(rows)
                chosen = plan(holders, self._worker, workers)
                if chosen.take:
                    named = self._named(chosen.take)
                    await connection.execute(self._sql["take"], named)
        for (worker,) in gone:
            logger.warning("worker.gone", worker=worker)
        mine = {item for item, held in holders.items() if held == self._worker}
        return Share(frozenset(mine | set(chosen.take)), frozenset(chosen.shed))

    async def release(self, items: Collection[Item]) -> None:
        """See `Group.release`."""
        if items:
            await self._run("release", self._named(list(items)))

    async def leave(self) -> None:
        """See `Group.leave`."""
        session, self._session = self._session, None
        try:
            if session is not None:
                await self._run("leave", {"worker": self._worker})
        finally:
            if session is not None:
                await session.release()
            await self._close()

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    def _connection(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        if self._pool is None:
            raise FatalError("expected a group that was joined: call `join` first")
        return self._pool.connection()

    @property
    def _lock(self) -> str:
        return f"worker {self._worker}"

    async def _hold_session(self) -> None:
        """The session whose end says that this process is gone; taken anew when it was lost."""
        if self._session is not None and self._session.lost.is_set():
            await self._session.release()
            self._session = None
        if self._session is None:
            self._session = await hold_project_lock(
                self._dsn, self._lock, sharing=workers_lock(self._project)
            )

    def _holders(self, rows: Sequence[tuple[str, str, str | None]]) -> dict[Item, str | None]:
        held = {(kind, item): worker for kind, item, worker in rows}
        return {item: held.get((item.kind, _text(item))) for item in self._items}

    def _named(self, items: Sequence[Item]) -> dict[str, object]:
        return {
            "worker": self._worker,
            "kinds": [item.kind for item in items],
            "items": [_text(item) for item in items],
        }

    async def _run(self, name: str, values: Mapping[str, object]) -> None:
        with translated():
            async with self._connection() as connection:
                await connection.execute(self._sql[name], values)


def _text(item: Item) -> str:
    return f"{item.name}:{item.partition}" if item.kind == "partition" else item.name
