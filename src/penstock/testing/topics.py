"""A scripted table that Debezium would send through a topic, for the suite of sources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any

from penstock.records import Change, Row, Schema
from penstock.testing.debezium import message
from penstock.testing.sources import RowName

Send = Callable[[bytes | None, bytes | None], Awaitable[None]]
STREAM = "public.items"


class TopicSystem:
    """Writes of `penstock.testing.sources.SourceSystem` as Debezium's messages; ``send`` takes key
    and value. Every delete is followed by a tombstone, every seventh write comes twice."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._rows: dict[int, str] = {}

    async def write(self, number: int) -> None:
        """Create, update, or delete one of seven rows."""
        item = number % 7
        key = {"id": item}
        if number % 5 == 4 and item in self._rows:
            before = self._row(item)
            del self._rows[item]
            deletion = message("d", key, before=before)
            await self._send(*deletion)
            await self._send(deletion[0], None)
            return
        fresh = item not in self._rows
        self._rows[item] = f"write {number}"
        sent = message("c" if fresh else "u", key, after=self._row(item))
        for _ in range(2 if number % 7 == 6 else 1):
            await self._send(*sent)

    async def contents(self) -> Mapping[RowName, Hashable]:
        """The rows as they are now."""
        return {(STREAM, (str(item),)): text for item, text in self._rows.items()}

    def image(self, schema: Schema, row: Row) -> Hashable:
        """What a row says."""
        return row[schema.index("name")]

    def partition(self, change: Change) -> Hashable:
        """The partition in a position."""
        return change.position.split("-", 3)[3]

    def _row(self, item: int) -> dict[str, Any]:
        return {"id": item, "name": self._rows[item], "note": None}
