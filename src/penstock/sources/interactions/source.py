"""The ledger of answers, read as a source: its numbers are the positions.

What is appended there is committed before anybody is told of it, and numbers become visible in
their order, so that reading from a number on gives everything once (G2). An erasure takes the rows
away again (G4).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import psycopg

from penstock.clock import Clock, SystemClock
from penstock.database.connect import connect, translated
from penstock.records import Change
from penstock.sources.base import Finding, SourceBatch, State, StateChange
from penstock.sources.interactions.rows import KINDS, Told, change_of, removals

_CHANNEL: Final = "penstock_ledger"
_MOST: Final = 500
_READ: Final = """
SELECT e.number, e.id, e.kind, e.at, e.facts, c.state, c.body, c.about
FROM penstock.ledger_entries e JOIN penstock.ledger_contents c USING (tenant, number)
WHERE e.tenant = %s AND e.number > %s AND e.kind = ANY (%s) ORDER BY e.number LIMIT %s
"""
_ERASED: Final = """
SELECT number, id, kind FROM penstock.ledger_entries
WHERE tenant = %s AND number = ANY (%s) ORDER BY number
"""


class InteractionsSource:
    """``dsn`` gives the address of the project's database, which may change while it restarts."""

    def __init__(
        self,
        name: str,
        dsn: Callable[[], str],
        *,
        tenant: str,
        clock: Clock | None = None,
        heartbeat_s: float = 5.0,
    ) -> None:
        self.name = name
        self._dsn = dsn
        self._tenant = tenant
        self._clock = clock or SystemClock()
        self._heartbeat_s = heartbeat_s

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        number = int(state.get("number", "0"))
        connection = await connect(self._dsn(), application_name=f"penstock {self.name}")
        try:
            with translated():
                await connection.execute(f"LISTEN {_CHANNEL}".encode())
                await connection.execute("SELECT penstock.follow_ledger(%s)", [self._tenant])
            while True:
                now = self._clock.now()  # all that was committed by now is in what is read below
                told = await self._told(connection, number)
                changes = [
                    change for one in told for change in await self._changes(connection, one)
                ]
                if told:
                    number = told[-1].number
                whole = len(told) < _MOST
                yield SourceBatch(
                    changes,
                    {"number": str(number)} if told else {},
                    now if whole else None,
                )
                if whole:
                    await self._wait(connection)
        finally:
            await connection.close()

    async def _told(self, connection: psycopg.AsyncConnection[Any], after: int) -> list[Told]:
        with translated():
            cursor = await connection.execute(_READ, [self._tenant, after, list(KINDS), _MOST])
            return [Told(*row) for row in await cursor.fetchall()]

    async def _changes(
        self, connection: psycopg.AsyncConnection[Any], told: Told
    ) -> Sequence[Change]:
        if told.kind != "erasure":
            change = change_of(self.name, told)
            return [] if change is None else [change]
        numbers = json.loads(told.facts).get("redacted", [])
        with translated():
            cursor = await connection.execute(_ERASED, [self._tenant, numbers])
            erased = await cursor.fetchall()
        return removals(self.name, told, erased)

    async def _wait(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Until something was appended, or it is time to say that nothing was."""
        with translated():
            async for _ in connection.notifies(timeout=self._heartbeat_s, stop_after=1):
                pass

    async def acknowledge(self, state: StateChange) -> None:
        """The ledger keeps entries by its own rule."""

    async def close(self) -> None:
        """The connection is the reading's."""

    async def check(self) -> Sequence[Finding]:
        """Nothing can be amiss that the project's database does not say itself."""
        return [Finding(self.name, "ok", "questions, answers and feedback of this project")]
