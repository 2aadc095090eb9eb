"""Texts in flight are embedded once, and nobody waits for less urgent work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from penstock.errors import UnavailableError
from penstock.models.base import Priority, Vectors
from penstock.models.constant import ConstantEmbedder
from penstock.models.recent import RecentVectors


class GatedEmbedder(ConstantEmbedder):
    """Records what it is asked, and answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.open = asyncio.Event()
        self.fails = False

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        self.asked.append(list(texts))
        await self.open.wait()
        if self.fails:
            self.fails = False
            raise UnavailableError("the model is away")
        return await super().embed(texts, priority=priority)


async def test_g5_a_text_that_two_want_at_once_is_computed_once() -> None:
    """The second caller waits for the first; both get the right rows, in their own order."""
    inner = GatedEmbedder()
    recent = RecentVectors(inner)
    first = asyncio.create_task(recent.embed(["a", "b"], priority="bulk"))
    second = asyncio.create_task(recent.embed(["c", "b", "c"], priority="bulk"))
    await asyncio.sleep(0)
    inner.open.set()
    one, two = await asyncio.gather(first, second)
    assert inner.asked == [["a", "b"], ["c"]]
    expected = await ConstantEmbedder().embed(["a", "b", "c"])
    np.testing.assert_array_equal(one, expected[[0, 1]])
    np.testing.assert_array_equal(two, expected[[2, 1, 2]])


async def test_g5_what_was_embedded_just_now_is_remembered() -> None:
    """A third batch with the same text asks the model nothing; what is long ago is forgotten."""
    inner = GatedEmbedder()
    inner.open.set()
    recent = RecentVectors(inner, most=2)
    await recent.embed(["a", "b"])
    await recent.embed(["b", "a"])
    assert inner.asked == [["a", "b"]]
    await recent.embed(["c"])
    await recent.embed(["a"])
    assert inner.asked == [["a", "b"], ["c"], ["a"]]


async def test_a_live_change_does_not_wait_for_a_load() -> None:
    """What a load is computing is computed again for who is more urgent."""
    inner = GatedEmbedder()
    recent = RecentVectors(inner)
    load = asyncio.create_task(recent.embed(["a"], priority="bulk"))
    await asyncio.sleep(0)
    live = asyncio.create_task(recent.embed(["a"], priority="live"))
    await asyncio.sleep(0)
    assert inner.asked == [["a"], ["a"]]
    inner.open.set()
    await asyncio.gather(load, live)


async def test_the_failure_of_another_caller_is_not_ours() -> None:
    """Who waited for a text that failed elsewhere computes it."""
    inner = GatedEmbedder()
    inner.fails = True
    recent = RecentVectors(inner)
    first = asyncio.create_task(recent.embed(["a"]))
    await asyncio.sleep(0)
    second = asyncio.create_task(recent.embed(["a"]))
    await asyncio.sleep(0)
    inner.open.set()
    with pytest.raises(UnavailableError):
        await first
    assert (await second).shape == (1, 384)
    assert inner.asked == [["a"], ["a"]]
