"""Looking into the log from outside: what is in it, and how far the source's position is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import psycopg

from penstock.log.codec import Codec
from penstock.torture.ledger import Judge, Note

Connection = psycopg.AsyncConnection[Any]

_BATCHES: Final = """
SELECT last_position, payload FROM penstock.log_batches
WHERE topic = 'shop' AND partition = %s AND last_position > %s ORDER BY last_position LIMIT 200
"""
_COPIES: Final = """
SELECT number, stream, begins, at FROM torture.copies
WHERE partition = %s AND number > %s ORDER BY number
"""
_HELD: Final = """
SELECT value::pg_lsn - '0/0'::pg_lsn FROM penstock.producer_state
WHERE producer = 'shop' AND name = 'lsn'
"""


class Eye(Protocol):
    """Reads a log for those who judge it. A new log needs a new eye."""

    async def follow(self, target: Connection, judges: Sequence[Judge]) -> None:
        """Hand over what has come since, to the judge of each partition."""

    async def held(self, target: Connection) -> int | None:
        """The source's place (of PostgreSQL) that the log holds."""

    def forget(self) -> None:
        """The log was taken away, and begins anew."""

    async def close(self) -> None: ...


class EmbeddedEye:
    """The log in the project's database; witnesses there note when copies begin and end."""

    def __init__(self) -> None:
        self._codec = Codec()
        self._noted: dict[int, int] = {}

    async def follow(self, target: Connection, judges: Sequence[Judge]) -> None:
        for judge in judges:
            await self._follow(target, judge)

    async def _follow(self, target: Connection, judge: Judge) -> None:
        number = judge.partition
        while True:
            cursor = await target.execute(_BATCHES, [number, judge.at])
            rows = await cursor.fetchall()
            cursor = await target.execute(_COPIES, [number, self._noted.get(number, 0)])
            for noted, stream, begins, at in await cursor.fetchall():
                self._noted[number] = noted
                judge.note(Note(stream, begins=begins, at=at))
            for last, payload in rows:
                changes = [] if payload is None else self._codec.decode(payload).changes
                judge.take(last, last, changes)
            if not rows:
                return

    async def held(self, target: Connection) -> int | None:
        row = await (await target.execute(_HELD)).fetchone()
        return None if row is None else int(row[0])

    def forget(self) -> None:
        self._noted.clear()

    async def close(self) -> None:
        return
