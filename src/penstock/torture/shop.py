"""The source of a campaign: a database server with a shop in it, that can be broken and asked.

A shop says of itself what is true (rows, columns, the ledger that its triggers keep); nothing here
knows what Penstock has made of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from penstock.database.embedded import EmbeddedPostgres
from penstock.database.queries import load_queries
from penstock.torture.ledger import Place
from penstock.torture.proxy import Proxy
from penstock.torture.workload import Pace, Session

Connection = psycopg.AsyncConnection[Any]
Kind = Literal["postgres", "mariadb"]
Hashes = Mapping[tuple[str, ...], tuple[int, str]]

KEYS: Final = {
    "orders": ("id",),
    "lines": ("order_id", "line"),
    "pairs": ("code",),
    "pulse": ("id",),
}
"""The tables of a shop, with their keys."""
PULSES: Final = 16
"""So many rows are written to see whether the stream is alive: some in every partition."""
TABLES_YAML: Final = """
    tables:
      orders: {searched: [customer, note], shown: [total]}
      pairs: {searched: [label]}
      lines:
      pulse:
"""
_SQL: Final = load_queries(Path(__file__).with_name("source.sql"))
_SLOT: Final = "penstock_torture_shop"
_COLUMNS: Final = """
SELECT column_name::text FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = %s ORDER BY column_name
"""
_CONFIRMED: Final = """
SELECT confirmed_flush_lsn - '0/0'::pg_lsn, active FROM pg_replication_slots WHERE slot_name = %s
"""
_REPUBLISH: Final = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_publication_tables
               WHERE pubname = 'penstock_torture_shop' AND tablename = 'lines') THEN
        ALTER PUBLICATION penstock_torture_shop DROP TABLE lines;
        ALTER PUBLICATION penstock_torture_shop ADD TABLE lines;
    END IF;
END $$
"""
_TAKE_SENDERS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND application_name LIKE 'penstock%'
"""


class Confirmed(NamedTuple):
    """What the source was told that it may forget, and whether somebody still reads it."""

    place: int
    read: bool


class Shop(Protocol):
    """See above. ``stream`` names a table as changes name it; ``proxy`` is the way to it."""

    kind: Kind
    proxy: Proxy

    async def begin(self) -> None:
        """Make it and fill it."""

    async def start(self) -> None:
        """Start the server, if it does not run."""

    def kill(self) -> None:
        """SIGKILL of the server."""

    def signal(self, number: signal.Signals) -> None:
        """To the server and all its processes."""

    async def end(self) -> None:
        """Stop it all."""

    def project(self) -> str:
        """The source in the project file, but for its tables."""

    def session(self, number: int, seed: int, pace: Pace, large: int) -> Session:
        """A client that changes rows."""

    async def beat(self, beat: int) -> None:
        """One more sign of life in all rows of ``pulse``. Raises `OSError` when it is away."""

    def stream(self, table: str) -> str: ...

    async def columns(self, table: str) -> list[str]: ...

    async def hashes(self, table: str, columns: Sequence[str]) -> Hashes:
        """By key: version and digest of the columns as text."""

    async def texts(self, table: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """Keys, and columns that are searched."""

    async def ledger(self) -> tuple[dict[Place, int], int]:
        """What it says of itself: versions by key, and how many changes there were."""

    async def confirmed(self) -> Confirmed | None:
        """What it may forget, where it is told."""

    async def send_away(self) -> None:
        """End the sessions of our processes."""

    async def lose(self) -> str:
        """What the stream needs is gone; returns a word that the error about it must have."""


async def connect(dsn: str) -> Connection:
    """A connection of the campaign's own, past the proxies."""
    return await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, connect_timeout=5, application_name="torture"
    )


def port_of(dsn: str) -> int:
    """Where a PostgreSQL server listens."""
    return int(str(conninfo_to_dict(dsn)["port"]))


def through(dsn: str, proxy: Proxy) -> str:
    """The same server by way of a proxy."""
    given = conninfo_to_dict(dsn)
    return (
        f"postgresql://{given['user']}:{given['password']}@127.0.0.1:{proxy.port}/{given['dbname']}"
    )


def kill_server(server: EmbeddedPostgres) -> None:
    """SIGKILL of a database server; its other processes notice and end."""
    pid = server.server_pid()
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def signal_server(server: EmbeddedPostgres, number: signal.Signals) -> None:
    """To a database server and all its processes. Those that were stopped are continued, also when
    the server was killed meanwhile and they are nobody's children: they would hold its memory."""
    pid = server.server_pid()
    found = _tree(pid) if pid is not None else []
    if number == signal.SIGSTOP:
        _STOPPED[server] = found
    elif number == signal.SIGCONT:
        found += [process for process in _STOPPED.pop(server, []) if process not in found]
    _send(found, number)


def signal_tree(pid: int, number: signal.Signals) -> None:
    """To a process and all that it has started."""
    _send(_tree(pid), number)


_STOPPED: Final[WeakKeyDictionary[EmbeddedPostgres, list[psutil.Process]]] = WeakKeyDictionary()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


async def hashes(connection: Connection, schema: str, table: str, columns: Sequence[str]) -> Hashes:
    """See `Shop.hashes`; the same for live tables."""
    statement = sql.SQL("SELECT version, md5(concat_ws('|', {})), {} FROM {}").format(
        sql.SQL(", ").join(
            sql.SQL("coalesce({}::text, '<null>')").format(sql.Identifier(name)) for name in columns
        ),
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(n)) for n in KEYS[table]),
        sql.Identifier(schema, table),
    )
    cursor = await connection.execute(statement)
    return {tuple(key): (version, digest) for version, digest, *key in await cursor.fetchall()}


class PostgresShop:
    """A shop on PostgreSQL."""

    kind: Kind = "postgres"

    def __init__(self, folder: Path) -> None:
        self.proxy = Proxy(replication=True)
        self.dsn = ""
        self._server = EmbeddedPostgres(folder / "source")

    async def begin(self) -> None:
        await self.start()
        await self.proxy.open(port_of(self.dsn))
        async with await connect(self.dsn) as connection:
            for name in ("ledger", "tables", "fill"):
                await connection.execute(_SQL[name].encode())

    async def start(self) -> None:
        self.dsn = await self._server.ensure_running()
        self.proxy.upstream = port_of(self.dsn)

    def kill(self) -> None:
        kill_server(self._server)

    def signal(self, number: signal.Signals) -> None:
        signal_server(self._server, number)

    async def end(self) -> None:
        await self.proxy.close()
        await self._server.stop()

    def project(self) -> str:
        dsn = json.dumps(through(self.dsn, self.proxy))
        return f"    type: postgres\n    dsn: {dsn}\n    heartbeat: 500ms"

    def session(self, number: int, seed: int, pace: Pace, large: int) -> Session:
        return Session(number, seed, pace, lambda: self.dsn, large)

    async def beat(self, beat: int) -> None:
        try:
            async with await connect(self.dsn) as connection:
                await connection.execute("UPDATE pulse SET beat = %s", [beat])
        except psycopg.Error as error:
            raise ConnectionError(str(error)) from error

    def stream(self, table: str) -> str:
        return f"public.{table}"

    async def columns(self, table: str) -> list[str]:
        return [name for (name,) in await self._all(_COLUMNS, table)]

    async def hashes(self, table: str, columns: Sequence[str]) -> Hashes:
        async with await connect(self.dsn) as connection:
            return await hashes(connection, "public", table, columns)

    async def texts(self, table: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
        [key] = KEYS[table]
        return await self._all(f"SELECT {key}::text, {', '.join(columns)} FROM {table}")

    async def ledger(self) -> tuple[dict[Place, int], int]:
        rows = await self._all("SELECT stream, key, version, gone FROM torture.ledger")
        return (
            {(stream, tuple(key)): version for stream, key, version, _ in rows},
            sum(version + gone for _, _, version, gone in rows),
        )

    async def confirmed(self) -> Confirmed | None:
        rows = await self._all(_CONFIRMED, _SLOT)
        return Confirmed(rows[0][0], rows[0][1]) if rows and rows[0][0] is not None else None

    async def send_away(self) -> None:
        await self._all(_TAKE_SENDERS)

    async def delay(self, length_s: float) -> None:
        """The senders stand still; a table leaves the publication and comes back at once, after
        which nobody can say what was not published: it is copied again."""
        senders = [pid for (pid,) in await self._all("SELECT pid FROM pg_stat_replication")]
        _signal_all(senders, signal.SIGSTOP)
        try:
            await self._all(_REPUBLISH)
            await asyncio.sleep(length_s)
        finally:
            _signal_all(senders, signal.SIGCONT)

    async def lose(self) -> str:
        """The slot is dropped."""
        async with await connect(self.dsn) as connection:
            until = time.monotonic() + 20
            while True:
                await connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                    "WHERE slot_name = %s AND active_pid IS NOT NULL",
                    [_SLOT],
                )
                try:
                    await connection.execute(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                        "WHERE slot_name = %s",
                        [_SLOT],
                    )
                except psycopg.errors.ObjectInUse:
                    if time.monotonic() > until:
                        raise
                    await asyncio.sleep(0.01)
                else:
                    return "slot"

    async def _all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        async with await connect(self.dsn) as connection:
            cursor = await connection.execute(statement.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []
