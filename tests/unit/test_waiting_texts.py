"""Texts that wait for an endpoint are seen: how many, since when, why, and when they go again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.properties.test_endpoint_faults import changes_of
from tests.unit.test_process import until

from penstock.log.memory import MemoryLog
from penstock.models.openai import OpenAIEmbedder
from penstock.models.remote import Care
from penstock.operate.status import merged, meters_report, waiting_texts
from penstock.pipelines.base import Tools
from penstock.pipelines.knowledge.chunker import ChunkSettings
from penstock.pipelines.knowledge.pipeline import KnowledgePipeline
from penstock.records import Microseconds
from penstock.runtimes.process import Assignment, Processor
from penstock.stores.memory import MemoryStore
from penstock.telemetry import Meters, PipelineMeter, WaitingTexts
from penstock.testing import fake_openai as fake
from penstock.testing.clock import ManualClock
from penstock.testing.fake_openai import FakeOpenAI

START = Microseconds(1_700_000_000_000_000)


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(dimensions=8) as server:
        yield server


async def test_a_step_that_waits_is_seen_until_it_is_done(endpoint: FakeOpenAI) -> None:
    """The count is of the texts that had no vector; ``since`` stays through all tries."""
    clock = ManualClock(START)
    embedder = OpenAIEmbedder(
        model="m", dimensions=8, api_key="k", base_url=endpoint.base_url, care=Care(clock=clock)
    )
    log, store, meters = MemoryLog(clock), MemoryStore(), Meters()
    await log.create_topic("docs", 1)
    producer = await log.open_producer("docs")
    edits = [("a", 1, "good"), ("b", 1, "good"), ("c", 1, "good")]
    await producer.append("docs", changes_of(edits, 1), state={})
    meter = meters.pipeline("knowledge", "docs")
    pipeline = KnowledgePipeline("knowledge", ("docs",), ChunkSettings())
    processor = Processor(
        Assignment(pipeline, "docs", "docs", 0),
        log,
        store,
        Tools(embedder, store),
        clock=clock,
        meter=meter,
    )
    endpoint.reacts = lambda request: fake.status(429, retry_after="40")
    running = asyncio.create_task(processor.run())
    await until(lambda: 0 in meter.waiting)
    await until(lambda: clock.sleeping > 0)
    first = meter.waiting[0]
    assert (first.texts, first.tries, first.since) == (3, 1, START)
    assert first.next_try == START + 40_000_000
    assert "429" in first.reason

    [report] = json.loads(json.dumps(meters_report(meters)["pipelines"]))
    assert waiting_texts(report, 0) == {
        "texts": 3,
        "since": "2023-11-14T22:13:20+00:00",
        "tries": 1,
        "next_try": "2023-11-14T22:14:00+00:00",
        "reason": first.reason,
    }
    assert waiting_texts(report, 1) is None

    clock.advance(41)
    await until(lambda: meter.waiting[0].tries == 2 and clock.sleeping > 0)
    assert meter.waiting[0].since == START
    endpoint.reacts = None
    clock.advance(41)
    await until(lambda: meter.position > 0)
    await until(lambda: not meter.waiting)
    assert meter.embedded == 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await embedder.close()


def test_waiting_for_something_else_is_not_waiting_for_an_endpoint() -> None:
    """A database that is away has its own sentence."""
    meter = PipelineMeter("knowledge", "docs")
    meter.postponed(0, 5, 1_000_000, 2.0, "busy")
    meter.postponed(0, 3, 2_000_000, 2.0, "busy still")
    assert meter.waiting == {0: WaitingTexts(3, 1_000_000, 2, 4_000_000, "busy still")}
    meter.postponed(1, 1, 2_000_000, 2.0, "busy")
    meter.postponed(0, 0, 3_000_000, 2.0, "the database is away")
    assert list(meter.waiting) == [1]


def test_workers_waiting_texts_stand_side_by_side() -> None:
    """Each has its partitions; a report of an older build has none."""
    reports = []
    for partition in (0, 1):
        meters = Meters()
        meters.pipeline("knowledge", "docs").postponed(partition, 2, 1_000_000, 1.0, "busy")
        reports.append(meters_report(meters))
    older = meters_report(Meters())
    meter = Meters()
    meter.pipeline("knowledge", "docs")
    older = meters_report(meter)
    del older["pipelines"][0]["waiting"]
    [together] = merged([*reports, older])["pipelines"]
    assert [w["partition"] for w in together["waiting"]] == [0, 1]
    [together] = merged([older])["pipelines"]
    assert waiting_texts(together, 0) is None
