"""Conversations in the project's database."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.principals import Principal
from penstock.records import Microseconds
from penstock.stores.ledger import Told, canonical, owner_hash
from penstock.stores.sessions import Step, Turn

_QUERIES: Final = load_queries(Path(__file__).with_name("sessions.sql"))


class PostgresSessions:
    """See `penstock.stores.sessions.SessionStore`. ``key`` gives the tenant's, as the ledger has
    it."""

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        key: Callable[[], Awaitable[bytes]],
        *,
        tenant: str,
    ) -> None:
        self._pool = pool
        self._key = key
        self._tenant = tenant

    async def begin(self, session: str, who: Principal, now: Microseconds) -> None:
        """See `SessionStore.begin`."""
        await self._run("begin", session=session, owner=await self._owner(who), now=now)

    async def turns(self, session: str, who: Principal, limit: int) -> Sequence[Turn] | None:
        """See `SessionStore.turns`."""
        if "\x00" in session:
            return None
        owner = await self._owner(who)
        rows, _ = await self._run("turns", session=session, owner=owner, limit=limit)
        if not rows:
            return None
        return [Turn(*row) for row in rows if row[0] is not None]

    async def add(self, session: str, who: Principal, turn: Turn) -> bool:
        """See `SessionStore.add`."""
        _, count = await self._run(
            "add",
            session=session,
            owner=await self._owner(who),
            said=turn.said,
            asked=turn.asked,
            answer=turn.answer,
            at=turn.at,
        )
        return count == 1

    async def fill(
        self, session: str, who: Principal, form: str, now: Microseconds, step: Step
    ) -> bool:
        """See `SessionStore.fill`."""
        if "\x00" in session:
            return False
        values: dict[str, Any] = {
            "tenant": self._tenant, "session": session, "owner": await self._owner(who),
            "form": form, "now": now,
        }  # fmt: skip
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(_QUERIES["locked"].encode(), values)
                row = await cursor.fetchone()
                if row is None:
                    return False
                values["filled"] = canonical(step(json.loads(row[0] or "{}")))
                await connection.execute(_QUERIES["fill"].encode(), values)
        return True

    async def end(self, session: str, who: Principal) -> bool:
        """See `SessionStore.end`."""
        if "\x00" in session:
            return False
        _, count = await self._run("end", session=session, owner=await self._owner(who))
        return count == 1

    async def expire(self, before: Microseconds) -> int:
        """Forget those that nobody went on with since; returns how many."""
        _, count = await self._run("expire", before=before)
        return count

    async def forget(self, subject: Told) -> int:
        """Erase a user's conversations, turns that mention a value, and turns whose answer was
        erased in the ledger (so that comes first); returns how many turns."""
        turns = 0
        if subject.user is not None:
            rows, _ = await self._run(
                "forget_owner", owner=await self._owner(Principal(subject.user))
            )
            turns = int(rows[0][0])
        values = [value for value in subject.values if value.strip()]
        _, count = await self._run("forget_turns", values=values)
        told = [canonical(value)[1:-1] for value in values]  # as JSON has it
        await self._run("forget_forms", values=told)
        return turns + count

    async def _owner(self, who: Principal) -> bytes:
        return owner_hash(await self._key(), who)

    async def _run(self, name: str, **values: object) -> tuple[list[tuple[Any, ...]], int]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    _QUERIES[name].encode(), {"tenant": self._tenant, **values}
                )
                rows = await cursor.fetchall() if cursor.description else []
                return rows, cursor.rowcount
