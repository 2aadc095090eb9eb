"""The embedded PostgreSQL, shared by all our processes that use one data directory.

Everybody who uses the server holds a shared lock on ``users.lock``; starting and stopping happens
under an exclusive lock on ``start.lock``. Who leaves last, and can therefore lock ``users.lock``
exclusively, stops the server. The kernel releases the locks of a process that is killed, and a
server that was left behind is adopted by whoever comes next.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from penstock.database.cluster import Cluster
from penstock.database.connect import translated
from penstock.database.server import PostgresServer, Running
from penstock.errors import ConfigError, PenstockError, UnavailableError


class EmbeddedPostgres:
    """A PostgreSQL of our own in ``data_dir``, started when needed and stopped by its last user.

    ``settings`` are server settings beside ours; ``port`` None means any free one, kept from then
    on. Two objects (in one process or several) over one folder share one server; the settings of
    the one that starts it hold.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        database: str = "penstock",
        start_timeout_s: float = 120,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.database = database
        self._timeout_s = start_timeout_s
        self._given_up = threading.Event()
        self._server = PostgresServer(
            Cluster(self.data_dir),
            settings=settings or {},
            port=port,
            start_timeout_s=start_timeout_s,
            given_up=self._given_up,
        )
        self._users_lock: int | None = None

    async def start(self) -> str:
        """Join the users of the server, start it if it does not run, and return the DSN.

        Cancelled in the middle, it leaves again before it returns.
        """
        self._given_up.clear()
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._given_up.set()
            with suppress(PenstockError):
                await starting
            await self.stop()
            raise

    async def ensure_running(self) -> str:
        """Start the server again if it has died; returns the DSN, which seldom changes: the port
        is kept, unless somebody else has taken it in the meantime. Quick when the server lives."""
        return await self.start()

    async def stop(self) -> None:
        """Leave; the last one to leave stops the server and waits for its end. Calling it
        again does nothing."""
        stopping = asyncio.ensure_future(asyncio.to_thread(self._stop))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await asyncio.wait([stopping])
            raise

    def server_pid(self) -> int | None:
        """The process of the server, if it lives."""
        running = self._server.running()
        return None if running is None else running.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def dsn(self, database: str | None = None) -> str:
        """How to connect to a database of the running server. Holds the password."""
        running = self._server.running()
        if running is None:
            raise UnavailableError(f"the database server over {self.data_dir} does not run")
        return self._server.dsn(running, database or self.database)

    def _start(self) -> str:
        running = self._server.running() if self._users_lock is not None else None
        if running is not None and running.ready:
            return self._server.dsn(running, self.database)
        self._make_folder()
        with self._start_lock():
            if self._users_lock is None:
                self._users_lock = self._open_lock("users.lock")
                fcntl.flock(self._users_lock, fcntl.LOCK_SH)
            try:
                running = self._server.start()
                self._make_database(running)
            except PenstockError as error:
                if isinstance(error, UnavailableError) and not self._given_up.is_set():
                    self._release()  # it may be recovering: whoever comes next waits on
                else:
                    self._leave()
                raise
            return self._server.dsn(running, self.database)

    def _stop(self) -> None:
        if self._users_lock is None:
            return
        with self._start_lock():
            self._leave()

    def _leave(self) -> None:
        """Stop the server when nobody else uses it; expects the lock on starting."""
        assert self._users_lock is not None
        try:
            fcntl.flock(self._users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others use it
        else:
            self._server.stop()
        finally:
            self._release()

    def _release(self) -> None:
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def _make_folder(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make the folder {self.data_dir} for the database: {error.strerror}; "
                "choose another one",
                path=str(self.data_dir),
            ) from error

    def _open_lock(self, name: str) -> int:
        path = self.data_dir / name
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot open {path}: {error.strerror}; run as the owner of that folder or choose "
                "another data directory",
                path=str(path),
            ) from error

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        descriptor = self._open_lock("start.lock")
        try:
            deadline = time.monotonic() + self._timeout_s
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise UnavailableError(
                            f"another process has been starting or stopping the database in "
                            f"{self.data_dir} for {self._timeout_s:.0f} seconds: end it or wait"
                        ) from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def _make_database(self, running: Running) -> None:
        with (
            translated(),
            psycopg.connect(self._server.dsn(running, "postgres"), autocommit=True) as connection,
        ):
            if connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [self.database]
            ).fetchone():
                return
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
