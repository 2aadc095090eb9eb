"""Under any faults of an endpoint, each chunk is right in the end or visibly waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import FatalError, RetryableError
from penstock.log.memory import MemoryLog
from penstock.models.limits import MemoryReferences
from penstock.models.openai import OpenAIEmbedder
from penstock.models.recent import RecentVectors
from penstock.models.remote import Care
from penstock.pipelines.base import Tools
from penstock.pipelines.knowledge.chunker import ChunkSettings
from penstock.pipelines.knowledge.pipeline import KnowledgePipeline
from penstock.records import Change, Microseconds, Op, Position, document_schema
from penstock.runtimes.process import Assignment, Processor
from penstock.stores.memory import MemoryStore
from penstock.telemetry import PipelineMeter
from penstock.testing import fake_openai as fake
from penstock.testing.clock import SwiftClock
from penstock.testing.fake_openai import FakeOpenAI, Reply, Request

DIMENSIONS = 8
DOCS = document_schema("docs")
NAMES = [f"d{number}.md" for number in range(6)]


def spoil(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Request], Reply]:
    return lambda request: fake.embeddings(request.body, DIMENSIONS, change=change)


def same(value: list[Any]) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda data: [{**entry, "embedding": value} for entry in data]


FAULTS: dict[str, Callable[[Request], Reply | None]] = {
    "429": lambda r: fake.status(429),
    "429 for a while": lambda r: fake.status(429, retry_after="20"),
    "429 until a date": lambda r: Reply(
        429,
        {"retry-after": "Fri, 02 Jan 2026 00:00:09 GMT", "date": "Fri, 02 Jan 2026 00:00:05 GMT"},
    ),
    "500": lambda r: fake.status(500),
    "503": lambda r: fake.status(503),
    "401": lambda r: fake.status(401),
    "400": lambda r: fake.status(400, "no"),
    "html": lambda r: fake.html(),
    "reset": lambda r: fake.reset(),
    "too few": spoil(lambda data: data[:-1]),
    "too many": spoil(lambda data: [*data, data[0]]),
    "reordered": spoil(lambda data: data[::-1]),
    "indexes lost": spoil(lambda data: [{**entry, "index": 0} for entry in data]),
    "wrong dimension": lambda r: fake.embeddings(r.body, DIMENSIONS + 1),
    "zeros": spoil(same([0.0] * DIMENSIONS)),
    "nulls": spoil(same([None] * DIMENSIONS)),
    "nan": lambda r: Reply(pieces=[b'{"data": [{"index": 0, "embedding": [NaN]}]}']),
    "another model": lambda r: fake.embeddings(r.body, DIMENSIONS, weights="b"),
    "another name": lambda r: fake.embeddings(r.body, DIMENSIONS, weights="b", model="b"),
    "one vector for all": spoil(same([1.0] * DIMENSIONS)),
    "shuffled values": spoil(
        lambda data: [
            {**entry, "embedding": data[place - 1]["embedding"]} for place, entry in enumerate(data)
        ]
    ),
    "well": lambda r: None,
}

texts = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.integers(0, 3), st.sampled_from(["fine", "fine", "POISON"])
    ),
    min_size=1,
    max_size=8,
)


def changes_of(edits: list[tuple[str, int, str]], start: int) -> list[Change]:
    found = []
    for number, (name, version, kind) in enumerate(edits, start):
        text = f"{name} says {version} and is {kind}."
        metadata = json.dumps({})
        row = (name, "Title", "text/plain", text, f"h{number}", "1", None, metadata, None)
        position = Position(f"{number:06}")
        found.append(Change(DOCS, Op.CREATE, (name,), position, Microseconds(number), row))
    return found


async def play(edits: list[tuple[str, int, str]], faults: list[str]) -> None:
    clock = SwiftClock()
    async with FakeOpenAI(dimensions=DIMENSIONS) as endpoint:
        waiting = iter(faults)

        def react(request: Request) -> Reply | None:
            fault = next(waiting, None)
            if fault is not None:
                return FAULTS[fault](request)
            poisoned = any("POISON" in text for text in request.texts)
            return fake.status(500) if poisoned else None

        remote = OpenAIEmbedder(
            model="m",
            dimensions=DIMENSIONS,
            api_key="k",
            base_url=endpoint.base_url,
            batch_size=3,
            concurrency=1,
            timeout_s=5,
            care=Care(references=MemoryReferences(), clock=clock),
        )
        await remote.embed(["at first all is well"])
        endpoint.reacts = react
        log, store = MemoryLog(clock), MemoryStore()
        await log.create_topic("docs", 1)
        producer = await log.open_producer("docs")
        await producer.append("docs", changes_of(edits, 1), state={})
        processor = Processor(
            Assignment(
                KnowledgePipeline("knowledge", ("docs",), ChunkSettings()), "docs", "docs", 0
            ),
            log,
            store,
            Tools(RecentVectors(remote), store),
            clock=clock,
            meter=PipelineMeter("knowledge", "docs"),
        )
        failures = 0
        while True:
            try:
                if not await processor.step():
                    break
            except RetryableError as error:
                await clock.sleep(error.retry_after_s or 0.1)
                failures += 1
            except FatalError:
                failures += 1  # told to a person; nothing was stored, and here it is started again
            assert failures < 200
        await remote.close()
    check(edits, store)


def check(edits: list[tuple[str, int, str]], store: MemoryStore) -> None:
    letters = {(letter.change.key[0], letter.change.position) for letter in store.letters}
    last: dict[str, tuple[str, int, str]] = {}
    for number, (name, version, kind) in enumerate(edits, 1):
        text = f"{name} says {version} and is {kind}."
        last[name] = (f"{number:06}", number, text)
    documents = store.documents("docs")
    for name, (position, _, text) in last.items():
        if (name, position) in letters:
            continue  # visibly waiting
        assert documents[name].position == position
        assert text in "".join(chunk.text for chunk in documents[name].chunks or ())
    for document in documents.values():
        for chunk in document.chunks or ():
            vector = store._state.vectors["openai/m/8", chunk.hash]
            right = np.array(fake.direction(chunk.embedded, DIMENSIONS))
            assert np.allclose(vector, right / np.linalg.norm(right), atol=1e-5), chunk.embedded
    for key, position in letters:
        assert key in NAMES
        assert position
    assert orjson.dumps(len(letters))


@given(edits=texts, faults=st.lists(st.sampled_from(sorted(FAULTS)), max_size=12))
@settings(deadline=None, max_examples=60)
def test_g13_each_chunk_is_right_or_visibly_waiting(
    edits: list[tuple[str, int, str]], faults: list[str]
) -> None:
    """Whatever the endpoint does, and in whichever order."""
    asyncio.run(play(edits, faults))
