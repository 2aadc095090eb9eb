"""The source of pushed documents passes the suite of sources, as it is pushed to in its own process
and as it is through another one. What the system "holds" is what its sender knows: it sends again,
under the same idempotency key, what was not answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping

import pytest

from penstock.errors import UnavailableError
from penstock.records import DOCUMENTS, Row, Schema
from penstock.sources.documents.patterns import Patterns
from penstock.sources.extract import ChildExtractor, Extracted
from penstock.sources.push import Parcel, Pushed, PushSource
from penstock.testing.sources import RowName, SourceSuite


class PlainExtractor(ChildExtractor):
    """Reads Markdown without a child process."""

    async def extract(self, name: str, data: bytes) -> Extracted:
        """What `extract_plain` gives."""
        read = self.extract_plain(name, data)
        assert read is not None
        return read


class Editor:
    """Sends one document after the other, each once. ``packed``: as another process does."""

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed
        self._notes: dict[str, str] = {}
        self._outbox: dict[str, Pushed] = {}
        self._number = 0
        self._changed = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    def source(self) -> PushSource:
        source = self._made()
        if self._sending is not None:
            self._sending.cancel()
        self._sending = asyncio.create_task(self._send_to(source))
        return source

    def _made(self) -> PushSource:
        return PushSource(
            "notes", Patterns(["**/*"], []), extractor=PlainExtractor(), heartbeat_s=0.05
        )

    async def write(self, number: int) -> None:
        key = f"{number % 7}.md"
        content = None if number % 10 == 9 else f"# note {number}"
        if content is None:
            self._notes.pop(key, None)
        else:
            self._notes[key] = content
        self._number += 1
        text = None if content is None else content.encode()
        self._outbox[f"k{self._number}"] = Pushed(key, text)
        self._changed.set()
        await asyncio.sleep(0)

    async def contents(self) -> Mapping[RowName, Hashable]:
        return {(DOCUMENTS, (key,)): note for key, note in self._notes.items()}

    def image(self, schema: Schema, row: Row) -> Hashable:
        return row[schema.index("text")]

    async def _send_to(self, source: PushSource) -> None:
        """Begins one after the other, and does not wait for an answer before the next."""
        sending: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                for once, document in list(self._outbox.items()):
                    if once not in sending:
                        work = self._deliver(source, once, document, sending)
                        sending[once] = asyncio.create_task(work)
                await self._changed.wait()
        finally:
            tasks = list(sending.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(
        self,
        source: PushSource,
        once: str,
        document: Pushed,
        sending: dict[str, asyncio.Task[None]],
    ) -> None:
        try:
            await self._send(source, once, document)
        except UnavailableError:
            await asyncio.sleep(0.01)
            sending.clear()  # all that is left is sent again, in order
            self._changed.set()
        else:
            del self._outbox[once]

    async def _send(self, source: PushSource, once: str, document: Pushed) -> None:
        if self._packed:
            written = (await self._made().pack([document])).to_bytes()
            await source.put(Parcel.from_bytes(written), once=once)
        else:
            await source.push([document], once=once)

    async def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)


class TestPushSource(SourceSuite):
    """The behaviours of any source, pushed to directly."""

    @pytest.fixture
    async def system(self) -> AsyncIterator[Editor]:
        editor = Editor(packed=False)
        yield editor
        await editor.close()


class TestPushSourceFromElsewhere(SourceSuite):
    """The same for what another process has read."""

    @pytest.fixture
    async def system(self) -> AsyncIterator[Editor]:
        editor = Editor(packed=True)
        yield editor
        await editor.close()
