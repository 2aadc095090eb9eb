"""The events of one kind of profile, read as a source: their numbers are the positions.

Whoever writes in a kind holds its lock until it has committed, and takes the numbers of its events
meanwhile: of one kind they become visible in their order, so that reading from a number on gives
everything once (G2). Numbers are not dense: another kind, or a transaction that was rolled back,
has those between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Final

import psycopg

from penstock.clock import Clock, SystemClock
from penstock.database.connect import connect, translated
from penstock.errors import SourceError
from penstock.sources.base import Finding, SourceBatch, State, StateChange
from penstock.sources.profile_events.rows import STREAMS, Happened, changes_of

_CHANNEL: Final = "penstock_profiles"
_MOST: Final = 2000
_FOLLOW: Final = """
INSERT INTO penstock.profile_followers (tenant, kind) VALUES (%(tenant)s, %(kind)s)
ON CONFLICT DO NOTHING
"""
# Before a topic followed them, both tables had numbers of their own, so that one may stand in both:
# what was read last is a number and a part.
_READ: Final = """
(SELECT number, 0, event, profile, other, detail::text,
        (extract(epoch FROM happened_at) * 1000000)::bigint
 FROM penstock.profile_events
 WHERE tenant = %(tenant)s AND kind = %(kind)s AND number > %(number)s
 ORDER BY number LIMIT %(most)s)
UNION ALL
(SELECT number, 1, event, profile, segment, '{}', happened_at
 FROM penstock.profile_member_events
 WHERE tenant = %(tenant)s AND kind = %(kind)s AND number > %(number)s - 1 + %(part)s
 ORDER BY number LIMIT %(most)s)
ORDER BY 1, 2 LIMIT %(most)s
"""


class ProfileEventsSource:
    """``dsn`` gives the address of the project's database, which may change while it restarts."""

    def __init__(
        self,
        name: str,
        dsn: Callable[[], str],
        *,
        tenant: str,
        kind: str,
        streams: Collection[str] = STREAMS,
        clock: Clock | None = None,
        heartbeat_s: float = 5.0,
    ) -> None:
        self.name = name
        self._dsn = dsn
        self._names = {"tenant": tenant, "kind": kind}
        self._kind = kind
        self._streams = frozenset(streams)
        self._clock = clock or SystemClock()
        self._heartbeat_s = heartbeat_s

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        at = self._place(state)
        connection = await connect(self._dsn(), application_name=f"penstock {self.name}")
        try:
            with translated():
                await connection.execute(f"LISTEN {_CHANNEL}".encode())
                await connection.execute(_FOLLOW, self._names)
            while True:
                now = self._clock.now()  # all that was committed by now is in what is read below
                read = await self._happened(connection, *at)
                if read:
                    at = read[-1].number, read[-1].part
                whole = len(read) < _MOST
                yield SourceBatch(
                    [
                        change
                        for one in read
                        for change in changes_of(self.name, self._kind, one)
                        if change.schema.stream in self._streams
                    ],
                    {"after": f"{at[0]}.{at[1]}"} if read else {},
                    now if whole else None,
                )
                if whole:
                    await self._wait(connection)
        finally:
            await connection.close()

    def _place(self, state: State) -> tuple[int, int]:
        """The number and part that were read last."""
        number, _, part = state.get("after", "0.1").partition(".")
        try:
            return int(number), int(part)
        except ValueError as error:
            raise SourceError(
                f"expected a number in the state of {self.name!r}, got {state['after']!r}: it was "
                "written by something else"
            ) from error

    async def _happened(
        self, connection: psycopg.AsyncConnection[Any], number: int, part: int
    ) -> list[Happened]:
        named = {**self._names, "number": number, "part": part, "most": _MOST}
        with translated():
            cursor = await connection.execute(_READ, named)
            return [Happened(*row) for row in await cursor.fetchall()]

    async def _wait(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Until something happened, or it is time to say that nothing did."""
        with translated():
            async for _ in connection.notifies(timeout=self._heartbeat_s, stop_after=1):
                pass

    async def acknowledge(self, state: StateChange) -> None:
        """Events stay where they are."""

    async def close(self) -> None:
        """The connection is the reading's."""

    async def check(self) -> Sequence[Finding]:
        """Nothing can be amiss that the project's database does not say itself."""
        return [Finding(self.name, "ok", f"what happens to profiles of the kind {self._kind}")]
