"""Redis Streams pass the suite of sources, on a real server of Debian's package."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from penstock.clock import SystemClock
from penstock.errors import SourceError
from penstock.records import UNREADABLE, Op
from penstock.sources.base import SourceBatch
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.messages import MessageDecoder, Wanted
from penstock.sources.topics.redis import RedisTransport
from penstock.sources.topics.rows import RowFormat
from penstock.sources.topics.shapes import Shapes
from penstock.sources.topics.source import TopicsSource
from penstock.testing.programs import answers, found, free_port, running
from penstock.testing.sources import SourceSuite, reading
from penstock.testing.topics import TopicSystem

pytestmark = pytest.mark.servers

TOPIC = "srv.public.items"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    program = found("redis-server")
    if program is None:
        reason = "redis-server is not installed: Redis Streams as a source were not verified"
        if os.environ.get("PENSTOCK_TEST_SERVERS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    command = [program, "--port", str(port), "--appendonly", "yes", "--save", "", "--dir", "."]
    with running(command, Path(folder), lambda: answers(port)):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.flushall()
        yield client


def make_source(url: str, *, skip_lost: bool = False) -> TopicsSource:
    clock = SystemClock()
    return TopicsSource(
        "shop",
        RedisTransport(url, ["srv.*"], group="test", clock=clock, skip_lost=skip_lost),
        DebeziumDecoder(Shapes("shop"), Wanted(["public.*"])),
        clock=clock,
        heartbeat_s=0.1,
    )


class RedisSystem(TopicSystem):
    """The scripted table in a stream, as Debezium Server writes it."""

    def __init__(self, client: Redis, url: str) -> None:
        super().__init__(self._add)
        self._client = client
        self._url = url

    async def _add(self, key: bytes | None, value: bytes | None) -> None:
        await self._client.xadd(TOPIC, {key or b"default": value or b"default"})

    def source(self) -> TopicsSource:
        return make_source(self._url)


class TestRedisSource(SourceSuite):
    """The suite."""

    @pytest.fixture
    async def system(self, client: Redis, redis_url: str) -> RedisSystem:
        return RedisSystem(client, redis_url)


async def _first(source: TopicsSource, state: dict[str, str]) -> SourceBatch:
    async with reading(source, state) as batches:
        async for batch in batches:
            if batch.changes:
                return batch
    raise AssertionError("no batch with changes")


async def _read_on(batches: AsyncIterator[SourceBatch]) -> None:
    async for _ in batches:
        pass


async def test_g2_what_was_trimmed_before_it_was_read_is_a_named_error(
    client: Redis, redis_url: str
) -> None:
    """And ``on_gap: continue`` goes on with what is there."""
    system = RedisSystem(client, redis_url)
    await system.write(0)
    state = dict((await _first(make_source(redis_url), {})).state)
    for number in range(1, 9):
        await system.write(number)
    await client.xtrim(TOPIC, maxlen=2, approximate=False)
    with pytest.raises(SourceError, match="removed before they were read"):
        await _first(make_source(redis_url), state)  # type: ignore[arg-type]
    batch = await _first(make_source(redis_url, skip_lost=True), state)  # type: ignore[arg-type]
    assert batch.changes


async def test_g2_what_is_trimmed_while_reading_is_a_named_error(
    client: Redis, redis_url: str
) -> None:
    """The group alone would step over it without a word."""
    system = RedisSystem(client, redis_url)
    await system.write(0)
    async with reading(make_source(redis_url), {}) as batches:
        assert (await anext(batches)).changes
        for number in range(1, 9):
            await system.write(number)
        await client.xtrim(TOPIC, maxlen=2, approximate=False)
        with pytest.raises(SourceError, match="removed before they were read"):
            await _read_on(batches)


async def test_g2_acknowledged_entries_leave_the_pending_list(
    client: Redis, redis_url: str
) -> None:
    """Only what is durable is acknowledged; the rest waits, as people see with XPENDING."""
    system = RedisSystem(client, redis_url)
    for number in range(4):
        await system.write(number)
    source = make_source(redis_url)
    async with reading(source, {}) as batches:
        async for batch in batches:
            if batch.changes:
                assert (await client.xpending(TOPIC, "test"))["pending"] == 4
                await source.acknowledge(batch.state)
                assert (await client.xpending(TOPIC, "test"))["pending"] == 0
                break


async def test_g13_an_entry_that_is_no_envelope_does_not_stop_the_stream(
    client: Redis, redis_url: str
) -> None:
    """It comes as an unreadable record, with its bytes."""
    await client.xadd(TOPIC, {"any": b"\xff\x00"})
    system = RedisSystem(client, redis_url)
    await system.write(0)
    batch = await _first(make_source(redis_url), {})
    assert [change.schema.stream for change in batch.changes] == [UNREADABLE, "public.items"]


async def test_fields_of_an_entry_are_a_row(client: Redis, redis_url: str) -> None:
    """Entries that no connector wrote: a row of texts, with the key that the project names."""
    await client.xadd("orders", {"id": "1", "price": "9.50"})
    clock = SystemClock()
    source = TopicsSource(
        "shop",
        RedisTransport(redis_url, ["orders"], group="test", clock=clock),
        MessageDecoder(RowFormat(), Shapes("shop", keys={"public.orders": ["id"]}), Wanted(["*"])),
        clock=clock,
    )
    (change,) = (await _first(source, {})).changes
    assert (change.schema.stream, change.op) == ("public.orders", Op.UPDATE)
    assert (change.key, change.after) == (("1",), ("1", "9.50"))
