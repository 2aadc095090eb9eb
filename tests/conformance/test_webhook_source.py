"""The webhook source passes the suite of sources. What the system "holds" is what its sender knows:
it sends everything again that was not answered with 2xx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping

import pytest

from penstock.records import DOCUMENTS, Row, Schema
from penstock.sources.documents.patterns import Patterns
from penstock.sources.formats.declared import DeclaredStream
from penstock.sources.webhook import DocumentPayloads, RowPayloads, WebhookSource
from penstock.testing.sources import RowName, SourceSuite
from penstock.testing.webhooks import SECRET, Outbox

ORDERS = DeclaredStream("orders", ("id",), (("id", "bigint"), ("note", "text")))


class Shop:
    """A sender of orders."""

    def __init__(self) -> None:
        self._outbox = Outbox()
        self._orders: dict[str, str] = {}
        self._sending: list[asyncio.Task[None]] = []

    def source(self) -> WebhookSource:
        payloads = RowPayloads("shop", {"orders": ORDERS})
        source = WebhookSource("shop", payloads, [SECRET], heartbeat_s=0.05)
        for task in self._sending:
            task.cancel()
        self._sending.append(asyncio.create_task(self._outbox.send_to(source)))
        return source

    async def write(self, number: int) -> None:
        key = str(number % 7)
        if number % 10 == 9:
            self._orders.pop(key, None)
            self._outbox.add("orders", {"op": "delete", "id": int(key)})
        else:
            self._orders[key] = f"note {number}"
            self._outbox.add("orders", [{"id": int(key), "note": f"note {number}", "more": {}}])
        await asyncio.sleep(0)

    async def contents(self) -> Mapping[RowName, Hashable]:
        return {("orders", (key,)): note for key, note in self._orders.items()}

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[schema.index("note")]

    async def close(self) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


class Editor:
    """A sender of documents."""

    def __init__(self) -> None:
        self._outbox = Outbox()
        self._notes: dict[str, str] = {}
        self._sending: list[asyncio.Task[None]] = []

    def source(self) -> WebhookSource:
        payloads = DocumentPayloads("notes", Patterns(["**/*"], []))
        source = WebhookSource("notes", payloads, [SECRET], heartbeat_s=0.05)
        for task in self._sending:
            task.cancel()
        self._sending.append(asyncio.create_task(self._outbox.send_to(source)))
        return source

    async def write(self, number: int) -> None:
        path = f"{number % 7}.md"
        if number % 10 == 9:
            self._notes.pop(path, None)
            self._outbox.add("", {"op": "delete", "path": path})
        else:
            self._notes[path] = f"# note {number}"
            self._outbox.add("", {"path": path, "text": f"# note {number}"})
        await asyncio.sleep(0)

    async def contents(self) -> Mapping[RowName, Hashable]:
        return {(DOCUMENTS, (path,)): note for path, note in self._notes.items()}

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[schema.index("text")]

    async def close(self) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


class TestWebhookDocumentsSource(SourceSuite):
    """The behaviours of any source, of documents."""

    @pytest.fixture
    async def system(self) -> AsyncIterator[Editor]:
        editor = Editor()
        yield editor
        await editor.close()


class TestWebhookSource(SourceSuite):
    """The behaviours of any source."""

    @pytest.fixture
    async def system(self) -> AsyncIterator[Shop]:
        shop = Shop()
        yield shop
        await shop.close()
