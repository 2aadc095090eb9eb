"""Documents on their way, in the project's database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.stores.pushes import Mail, Sent

_QUERIES: Final = load_queries(Path(__file__).with_name("pushes.sql"))
CHANNEL: Final = "penstock_pushes"
"""Where it is told that something was sent."""


class PostgresPushes:
    """See `penstock.stores.pushes.PushStore`."""

    def __init__(
        self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], *, tenant: str
    ) -> None:
        self._pool = pool
        self._tenant = tenant

    async def send(self, source: str, once: str | None, parcel: bytes, wait_s: float) -> int:
        """See `PushStore.send`."""
        values = {"source": source, "once": once, "parcel": parcel, "seconds": wait_s}
        [(number,)] = await self._run("send", **values)
        return int(number)

    async def look(self, number: int) -> Sent | None:
        """See `PushStore.look`."""
        rows = await self._run("look", id=number)
        return Sent(*rows[0]) if rows else None

    async def withdraw(self, number: int) -> bool:
        """See `PushStore.withdraw`."""
        return bool(await self._run("withdraw", id=number))

    async def forget(self, number: int) -> None:
        """See `PushStore.forget`."""
        await self._run("forget", id=number)

    async def take(self, sources: Sequence[str], limit: int) -> Sequence[Mail]:
        """See `PushStore.take`."""
        rows = await self._run("take", sources=list(sources), limit=limit)
        return sorted(Mail(*row) for row in rows)

    async def settle(self, number: int, answer: dict[str, Any]) -> None:
        """See `PushStore.settle`."""
        await self._run("settle", id=number, answer=Jsonb(answer))

    async def prune(self) -> None:
        """Take away what nobody came back for."""
        await self._run("prune")

    async def _run(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    _QUERIES[query], {"tenant": self._tenant, **values}
                )
                return [] if cursor.description is None else await cursor.fetchall()
