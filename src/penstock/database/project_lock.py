"""Who is at work on a project database: advisory locks, held by a session of their own.

``penstock run`` holds the project's lock, so that there is one; every worker holds the lock of its
own name, which tells others that it lives, and with all others a share of the lock of the workers,
which whoever must be alone takes as a whole (`hold_project_alone`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import psycopg

from penstock.database.connect import connect, translated
from penstock.database.queries import load_queries
from penstock.errors import ConfigError

_QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
_RETRY_S = 0.05


class ProjectLock:
    """The lock that `hold_project_lock` has taken.

    ``lost`` is set when the session has ended without us: then another process may hold the lock
    by now, and whoever relied on it must stop or take it anew.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.lost = asyncio.Event()
        self._connection = connection
        self._descriptor = connection.fileno()
        # Nothing is ever asked on this connection: what becomes readable is its end.
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_readable)

    def _on_readable(self) -> None:
        try:
            self._connection.pgconn.consume_input()
            alive = self._connection.pgconn.status == psycopg.pq.ConnStatus.OK
        except psycopg.Error:
            alive = False
        if not alive:
            self._unwatch()
            self.lost.set()

    def _unwatch(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._descriptor = -1

    async def release(self) -> None:
        """Let the next one in. Calling it again does nothing."""
        self._unwatch()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()


async def hold_project_lock(
    dsn: str, name: str, *, sharing: str | None = None, patience_s: float = 1
) -> ProjectLock:
    """Take the lock called ``name`` in a project database and hold it until ``release``; and a
    share of the one called ``sharing``.

    Raises a `ConfigError` that says who holds it when it does not become free within
    ``patience_s`` (a process that was killed a moment ago leaves it within milliseconds).
    """
    ourselves = f"penstock {name} pid {os.getpid()} on {socket.gethostname()}"
    connection = await connect(dsn, application_name=ourselves[:63])
    try:
        with translated():
            await connection.execute(_QUERIES["keep_session"])
            await _take(connection, name, patience_s)
            if sharing is not None:
                await _take(connection, sharing, patience_s, "try_share")
    except BaseException:
        await connection.close()
        raise
    return ProjectLock(connection)


@asynccontextmanager
async def hold_project_alone(dsn: str, project: str) -> AsyncIterator[None]:
    """Be the only process that does anything with a project: neither a run nor workers."""
    async with (
        await hold_project_lock(dsn, project),
        await hold_project_lock(dsn, workers_lock(project)),
    ):
        yield


def workers_lock(project: str) -> str:
    """The name of the lock that all workers of a project share."""
    return f"{project} workers"


async def is_project_locked(connection: psycopg.AsyncConnection[Any], project: str) -> bool:
    """Does a process, this one perhaps, work on this project in this database?"""
    for name in (project, workers_lock(project)):
        cursor = await connection.execute(_QUERIES["find_holder"], {"key": lock_key(name)})
        if await cursor.fetchone() is not None:
            return True
    return False


def lock_key(name: str) -> int:
    """The number of a lock."""
    digest = hashlib.sha256(f"penstock.project_lock:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


async def _take(
    connection: psycopg.AsyncConnection[Any], name: str, patience_s: float, how: str = "try_lock"
) -> None:
    key = lock_key(name)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        cursor = await connection.execute(_QUERIES[how], {"key": key})
        if (await cursor.fetchone() or (False,))[0]:
            return
        if loop.time() >= deadline:
            cursor = await connection.execute(_QUERIES["find_holder"], {"key": key})
            raise _taken(name, await cursor.fetchone())
        await asyncio.sleep(_RETRY_S)


def _taken(name: str, holder: tuple[Any, ...] | None) -> ConfigError:
    if holder is None:
        return ConfigError(f"{name!r} was held by another process until now: try again", name=name)
    application, user, client, since, backend = holder
    started = since.strftime("%Y-%m-%d %H:%M:%S %Z") if isinstance(since, datetime) else "unknown"
    return ConfigError(
        f"expected to be the only process that does {name!r} on this database, but "
        f"{application or 'an unnamed session'!r} of user {user!r} from {client or 'this machine'} "
        f"does since {started}: stop it first (its database session is {backend})",
        name=name,
        holder=application,
        backend=backend,
    )
