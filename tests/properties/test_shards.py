"""Streams whose shards split, merge and are forgotten: each key's records come in order, once, from
wherever reading is resumed; what was forgotten unread is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import SourceError
from penstock.records import Microseconds
from penstock.sources.shards import Lineage, Page, Shard, ShardReader

KEYS = 8
PAGE = 3


class Stream:
    """Shards that hold ranges of keys; a record is its key and a number."""

    def __init__(self, draw: Random) -> None:
        self._draw = draw
        self._parents: dict[str, tuple[str, ...]] = {}
        self._records: dict[str, list[tuple[int, int]]] = {}
        self._closed: set[str] = set()
        self._ranges: dict[str, range] = {}
        self._numbers = self._made = 0
        self._open(range(KEYS), ())

    def _open(self, keys: range, parents: tuple[str, ...]) -> None:
        self._made += 1
        name = f"{self._draw.randrange(1000):03d}-{self._made}"  # names say no order
        self._parents[name] = parents
        self._records[name] = []
        self._ranges[name] = keys

    def live(self) -> list[str]:
        found = [name for name in self._parents if name not in self._closed]
        return sorted(found, key=lambda name: self._ranges[name].start)

    def write(self) -> None:
        key = self._draw.randrange(KEYS)
        name = next(name for name in self.live() if key in self._ranges[name])
        self._numbers += 1
        self._records[name].append((key, self._numbers))

    def reshard(self) -> None:
        live = self.live()
        place = self._draw.randrange(len(live))
        name, keys = live[place], self._ranges[live[place]]
        if self._draw.random() < 0.5 and len(keys) > 1:
            middle = keys.start + len(keys) // 2
            self._closed.add(name)
            self._open(range(keys.start, middle), (name,))
            self._open(range(middle, keys.stop), (name,))
        elif place + 1 < len(live):
            other = live[place + 1]
            self._closed |= {name, other}
            self._open(range(keys.start, self._ranges[other].stop), (name, other))

    def forget(self, name: str) -> None:
        """Retention takes a closed shard."""
        del self._parents[name], self._records[name]

    def closed(self) -> list[str]:
        return [name for name in self._parents if name in self._closed]

    async def shards(self) -> Sequence[Shard]:
        return [Shard(name, parents) for name, parents in self._parents.items()]

    async def iterator(self, shard: str, after: str) -> str:
        return after or "0"

    async def page(self, shard: str, iterator: str) -> Page | None:
        if self._draw.random() < 0.1:
            return None  # too old
        records = [r for r in self._records[shard] if r[1] > int(iterator)][:PAGE]
        last = str(records[-1][1]) if records else None
        after = last or iterator
        more = any(r[1] > int(after) for r in self._records[shard])
        ended = shard in self._closed and not more
        return Page(records, last, None if ended else after, behind=more, until=Microseconds(1))


def happen(stream: Stream, draw: Random) -> None:
    """Some records, perhaps a split or a merge."""
    for _ in range(draw.randrange(4)):
        stream.write()
    if draw.random() < 0.15:
        stream.reshard()


def state_of(state: dict[str, str], news: dict[str, str | None]) -> None:
    for name, value in news.items():
        if value is None:
            state.pop(name, None)
        else:
            state[name] = value


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_g1_g2_each_key_in_order_and_once_whatever_the_shards_do(seed: int) -> None:
    draw = Random(seed)
    stream = Stream(draw)
    state: dict[str, str] = {}
    got: list[tuple[int, int]] = []

    async def run() -> None:
        reader, lineage = None, Lineage(state)
        for turn in range(120):
            if turn < 80:
                happen(stream, draw)
            if reader is None or draw.random() < 0.1:  # as after a restart
                lineage = Lineage(dict(state))
                reader = ShardReader(stream, lineage)
            if draw.random() < 0.3:
                reader.relist()
            found = await reader.round(Microseconds(2))
            got.extend(found.records)
            state_of(state, lineage.take_news())
            done = [name for name in stream.closed() if state.get(f"shard:{name}") == "done"]
            if done and draw.random() < 0.3:
                stream.forget(draw.choice(done))

    asyncio.run(run())
    for key in range(KEYS):
        numbers = [number for k, number in got if k == key]
        assert numbers == sorted(numbers)
    assert sorted(number for _, number in got) == list(range(1, stream._numbers + 1))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_g2_a_shard_that_was_forgotten_unread_is_a_gap(seed: int) -> None:
    draw = Random(seed)
    stream = Stream(draw)
    state: dict[str, str] = {}

    async def read_a_little() -> None:
        lineage = Lineage(dict(state))
        await ShardReader(stream, lineage).round(Microseconds(2))
        state_of(state, lineage.take_news())

    asyncio.run(read_a_little())
    for _ in range(10):
        stream.write()
    stream.reshard()
    for _ in range(5):
        stream.write()
    lost = [name for name in stream.closed() if state.get(f"shard:{name}") != "done"]
    if lost:
        stream.forget(lost[0])
        with pytest.raises(SourceError, match="it is gone"):
            asyncio.run(read_a_little())
    else:
        with suppress(SourceError):
            asyncio.run(read_a_little())


def test_a_shard_that_came_and_went_unseen_is_a_gap() -> None:
    """A child whose parent nobody has seen: what the parent held is lost."""
    lineage = Lineage({"shard:a": "done", "shard:b": "7"})
    with pytest.raises(SourceError, match="shard lost"):
        lineage.see([Shard("b"), Shard("c", ("lost",))])
    fresh = Lineage({})
    fresh.see([Shard("c", ("long-ago",))])
    assert fresh.readable() == ["c"]
