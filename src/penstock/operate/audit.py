"""Whether the ledger is as it was written: every entry is worked out anew."""

from __future__ import annotations

import json
from typing import Any, Final

from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.errors import ConfigError
from penstock.stores.ledger import Audit, LedgerItem, chained, content_hash, item_hash
from penstock.stores.postgres.ledger import QUERIES

_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


class _BrokenError(Exception):
    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.number = number


class Auditor:
    """Looks at one tenant's ledger, in one snapshot."""

    def __init__(self, pool: AsyncConnectionPool[Any], tenant: str) -> None:
        self._pool = pool
        self._tenant = tenant
        self._redacted: set[int] = set()
        self._said_redacted: set[int] = set()
        self._checkpoints: set[tuple[int, str]] = set()
        self._expected: tuple[int, str] | None = None
        self._count = 0

    async def verify(self, expected: str | None = None) -> Audit:
        """Work out the chain. ``expected`` is ``NUMBER:HASH`` of an entry, from an earlier look
        and kept elsewhere: only that shows a ledger that was written anew as a whole."""
        self._expected = None if expected is None else _parsed(expected)
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_SNAPSHOT)
                cursor = await connection.execute(
                    QUERIES["head"].encode(), {"tenant": self._tenant}
                )
                head = await cursor.fetchone()
                if head is None:
                    return Audit(0, 0, 0, "", 0)
                last, hashed, trimmed, trimmed_hash, key = head
                shown = f"{last}:{bytes(hashed).hex()}"
                try:
                    await self._walk(connection, bytes(key), trimmed, bytes(trimmed_hash))
                    self._end(last, bytes(hashed), trimmed, bytes(trimmed_hash))
                except _BrokenError as broken:
                    return Audit(
                        self._count, trimmed + 1, last, shown, len(self._redacted),
                        broken.number, str(broken),
                    )  # fmt: skip
        return Audit(self._count, trimmed + 1, last, shown, len(self._redacted))

    async def _walk(self, connection: Any, key: bytes, number: int, before: bytes) -> None:
        self._number, self._before = number, before
        while True:
            cursor = await connection.execute(
                QUERIES["chain"].encode(), {"tenant": self._tenant, "after": self._number}
            )
            rows = await cursor.fetchall()
            if not rows:
                return
            used: dict[bytes, int] = {}
            for row in rows:
                self._entry(row, used)
            await self._items(connection, key, used)

    def _entry(self, row: tuple[Any, ...], used: dict[bytes, int]) -> None:
        number, name, kind, at, facts, content, before, hashed, state, salt, body = row
        if number != self._number + 1:
            raise _BrokenError(self._number + 1, "it is missing")
        if bytes(before) != self._before:
            raise _BrokenError(number, "it was not written after the entry before it")
        if chained(self._before, number, facts, bytes(content)) != bytes(hashed):
            raise _BrokenError(number, "it is not as it was written")
        said = json.loads(facts)
        if (said.get("id"), said.get("kind"), said.get("at")) != (name, kind, at):
            raise _BrokenError(number, "its id, kind or time is not what was written")
        self._content(number, state, salt, body, bytes(content), used)
        if self._expected is not None and self._expected[0] == number:
            self._expect(number, bytes(hashed))
        if kind == "erasure":
            self._said_redacted.update(said.get("redacted", ()))
        if kind == "checkpoint":
            self._checkpoints.add((said["number"], said["hash"]))
        self._number, self._before = number, bytes(hashed)
        self._count += 1

    def _expect(self, number: int, hashed: bytes) -> None:
        assert self._expected is not None
        if self._expected[1] != hashed.hex():
            raise _BrokenError(number, "its hash is not the one that was expected")
        self._expected = None

    def _content(
        self,
        number: int,
        state: str | None,
        salt: Any,
        body: str | None,
        hashed: bytes,
        used: dict[bytes, int],
    ) -> None:
        if state is None:
            raise _BrokenError(number, "its content is missing")
        if state == "redacted":
            self._redacted.add(number)
            return
        if state == "hashed":
            return
        if body is None or salt is None or content_hash(bytes(salt), body) != hashed:
            raise _BrokenError(number, "its content is not as it was written")
        for name in json.loads(body).get("items", ()):
            used.setdefault(bytes.fromhex(name), number)

    async def _items(self, connection: Any, key: bytes, used: dict[bytes, int]) -> None:
        """All that entries used is there, and as it was."""
        cursor = await connection.execute(
            QUERIES["items"].encode(), {"tenant": self._tenant, "hashes": list(used)}
        )
        sound = {
            bytes(row[0])
            for row in await cursor.fetchall()
            if item_hash(key, LedgerItem(row[1], row[4], row[2], row[3])) == bytes(row[0])
        }
        broken = [number for name, number in used.items() if name not in sound]
        if broken:
            raise _BrokenError(min(broken), "an item of its context is missing or was changed")

    def _end(self, last: int, hashed: bytes, trimmed: int, trimmed_hash: bytes) -> None:
        if (self._number, self._before) != (last, hashed):
            raise _BrokenError(self._number + 1, f"entries up to {last} are missing")
        unsaid = sorted(self._redacted - self._said_redacted)
        if unsaid:
            raise _BrokenError(unsaid[0], "its content is gone and no erasure says so")
        if trimmed and (trimmed, trimmed_hash.hex()) not in self._checkpoints:
            raise _BrokenError(trimmed + 1, f"no checkpoint says that {trimmed} entries ended")
        if self._expected is not None and self._expected[0] > trimmed:
            raise _BrokenError(self._expected[0], "it was expected and is not there")
        if self._expected is not None and self._expected[0] == trimmed:
            self._expect(trimmed, trimmed_hash)


def _parsed(expected: str) -> tuple[int, str]:
    number, colon, hashed = expected.partition(":")
    if not (colon and number.isdecimal() and len(hashed) == 64):
        raise ConfigError(
            f"expected NUMBER:HASH as `penstock audit verify` prints it, got {expected!r}"
        )
    return int(number), hashed.lower()


def shown(audit: Audit) -> dict[str, Any]:
    """As JSON shows it."""
    return {
        "sound": audit.sound,
        "entries": audit.entries,
        "first": audit.first,
        "last": audit.last,
        "head": audit.head,
        "redacted": audit.redacted,
        "broken": audit.broken,
        "why": audit.why,
    }
