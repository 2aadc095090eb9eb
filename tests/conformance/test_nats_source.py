"""NATS JetStream passes the suite of sources, on a real server of Debian's package."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext

from penstock.clock import SystemClock
from penstock.errors import SourceError, UnavailableError
from penstock.sources.base import SourceBatch
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.messages import Wanted
from penstock.sources.topics.nats import NatsTransport
from penstock.sources.topics.shapes import Shapes
from penstock.sources.topics.source import TopicsSource
from penstock.testing.programs import answers, found, free_port, running
from penstock.testing.sources import SourceSuite, reading
from penstock.testing.topics import TopicSystem

pytestmark = pytest.mark.servers

STREAM, SUBJECT = "shop", "srv.public.items"


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("nats"), free_port()
    program = found("nats-server")
    if program is None:
        reason = "nats-server is not installed: NATS JetStream as a source was not verified"
        if os.environ.get("PENSTOCK_TEST_SERVERS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    command = [program, "-js", "-sd", "store", "-a", "127.0.0.1", "-p", str(port)]
    with running(command, Path(folder), lambda: answers(port)):
        yield f"nats://127.0.0.1:{port}"


@pytest.fixture
async def jetstream(nats_url: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    for info in await jetstream.streams_info():
        await jetstream.delete_stream(str(info.config.name))
    await jetstream.add_stream(name=STREAM, subjects=["srv.>"])
    yield jetstream
    await client.close()


def make_source(url: str, *, skip_lost: bool = False) -> TopicsSource:
    clock = SystemClock()
    return TopicsSource(
        "shop",
        NatsTransport(url, [STREAM], group="test", clock=clock, skip_lost=skip_lost),
        DebeziumDecoder(Shapes("shop", keys={"public.items": ["id"]}), Wanted(["public.*"])),
        clock=clock,
        heartbeat_s=0.1,
    )


class NatsSystem(TopicSystem):
    """The scripted table in a stream, as Debezium Server writes it: without keys or tombstones."""

    def __init__(self, jetstream: JetStreamContext, url: str) -> None:
        super().__init__(self._publish)
        self._jetstream = jetstream
        self._url = url

    async def _publish(self, key: bytes | None, value: bytes | None) -> None:
        if value is not None:
            await self._jetstream.publish(SUBJECT, value)

    def source(self) -> TopicsSource:
        return make_source(self._url)


class TestNatsSource(SourceSuite):
    """The suite."""

    @pytest.fixture
    async def system(self, jetstream: JetStreamContext, nats_url: str) -> NatsSystem:
        return NatsSystem(jetstream, nats_url)


async def _first(source: TopicsSource, state: dict[str, str]) -> SourceBatch:
    async with reading(source, state) as batches:
        async for batch in batches:
            if batch.changes:
                return batch
    raise AssertionError("no batch with changes")


async def test_g2_what_was_purged_before_it_was_read_is_a_named_error(
    jetstream: JetStreamContext, nats_url: str
) -> None:
    """And ``on_gap: continue`` goes on with what is there."""
    system = NatsSystem(jetstream, nats_url)
    await system.write(0)
    state = dict((await _first(make_source(nats_url), {})).state)
    for number in range(1, 9):
        await system.write(number)
    await jetstream.purge_stream(STREAM, keep=2)
    with pytest.raises(SourceError, match="removed before they were read"):
        await _first(make_source(nats_url), state)  # type: ignore[arg-type]
    assert (await _first(make_source(nats_url, skip_lost=True), state)).changes  # type: ignore[arg-type]


async def test_g2_only_what_is_durable_is_acknowledged(
    jetstream: JetStreamContext, nats_url: str
) -> None:
    """The consumer in NATS shows how far that is."""
    system = NatsSystem(jetstream, nats_url)
    for number in range(4):
        await system.write(number)
    source = make_source(nats_url)
    async with reading(source, {}) as batches:
        async for batch in batches:
            if batch.changes:
                info = await jetstream.consumer_info(STREAM, "test")
                assert info.num_ack_pending == 4
                await source.acknowledge(batch.state)
                await source.close()
                info = await jetstream.consumer_info(STREAM, "test")
                assert info.num_ack_pending == 0
                break


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    """Which the loop waits for."""
    with pytest.raises(UnavailableError, match="expected NATS to answer"):
        await _first(make_source(f"nats://127.0.0.1:{free_port()}"), {})
