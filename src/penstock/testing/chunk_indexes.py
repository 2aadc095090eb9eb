"""The conformance suite of second stores: what `penstock.stores.chunk_index.ChunkIndex` promises.

Derive from `ChunkIndexSuite` in a test module and write the fixture ``index`` (fresh and empty).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from penstock.errors import FatalError
from penstock.stores.base import Filter
from penstock.stores.chunk_index import SPAN, ChunkIndex, ChunkRow, Gone, Range, facts_of

DIMENSIONS = 16


def direction(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A unit vector; neighbours in number are neighbours in direction."""
    vector = np.zeros(DIMENSIONS, np.float32)
    vector[0], vector[1] = np.cos(number / 100), np.sin(number / 100)
    return vector


def row(
    chunk: int,
    *,
    version: int = 1,
    at: int | None = None,
    tenant: str = "default",
    key: str = "a/b.md",
    title: str = "T",
    kind: str = "document",
    metadata: Sequence[tuple[str, object]] = (),
    digest: int = 7,
    model: int = 1,
    source: str = "docs",
) -> ChunkRow:
    """A chunk to write."""
    facts = facts_of(dict(metadata))
    vector = direction(chunk if at is None else at)
    return ChunkRow(chunk, version, digest, tenant, model, source, key, title, kind, facts, vector)


async def find(
    index: ChunkIndex, at: int = 0, *, limit: int = 10, where: Filter | None = None, model: int = 1
) -> list[int]:
    """The nearest in the tenant ``default``, after a refresh."""
    await index.refresh()
    return await index.nearest(
        direction(at), tenant="default", model=model, limit=limit, where=where or Filter()
    )


class ChunkIndexSuite:
    """Every second store passes these."""

    async def test_the_nearest_come_first_and_no_more_than_asked_for(
        self, index: ChunkIndex
    ) -> None:
        await index.prepare(DIMENSIONS)
        await index.prepare(DIMENSIONS)
        await index.write([row(n) for n in range(1, 40)], [])
        assert await find(index, 5, limit=3) in ([5, 4, 6], [5, 6, 4])
        assert await find(index, 39, limit=2) == [39, 38]

    async def test_vectors_of_another_length_are_refused(self, index: ChunkIndex) -> None:
        await index.prepare(DIMENSIONS)
        with pytest.raises(FatalError, match="vectors of 17"):
            await index.prepare(DIMENSIONS + 1)

    async def test_g2_writing_again_and_writing_late_change_nothing(
        self, index: ChunkIndex
    ) -> None:
        """A follower that was killed does everything again; one that slept comes late."""
        await index.prepare(DIMENSIONS)
        for _ in range(2):
            await index.write([row(1, version=5, digest=50), row(2, version=5)], [])
        await index.write([row(1, version=4, digest=40, at=90)], [])
        await index.refresh()
        assert await index.digests("default", 0) == {1: 50, 2: 7}
        await index.write([], [Gone(1, 6), Gone(2, 4), Gone(99, 1)])
        await index.write([], [Gone(1, 6)])
        await index.refresh()
        assert await index.digests("default", 0) == {2: 7}
        assert await find(index, 1) == [2]

    async def test_a_newer_version_takes_the_place_of_the_older(self, index: ChunkIndex) -> None:
        await index.prepare(DIMENSIONS)
        await index.write([row(1, title="old"), row(2)], [])
        await index.write([row(1, version=2, title="new", digest=8)], [])
        assert await find(index, where=Filter(title="old")) == []
        assert await find(index, where=Filter(title="new")) == [1]
        assert await index.ranges("default") == {0: Range(2, 15)}

    async def test_filters_hold_while_it_searches(self, index: ChunkIndex) -> None:
        """One that few match still gives all of these, however far away they are."""
        await index.prepare(DIMENSIONS)
        far = [
            row(901, source="mail"),
            row(902, key="x/y*z.md"),
            row(903, title='A "quoted" title\'s'),
            row(904, kind="row"),
            row(905, metadata=[("year", 2026), ("draft", True), ("n", None)]),
            row(906, metadata=[("year", "2026"), ("tags", ["a"])]),
            row(907, metadata=[("year", 2026.0)]),
        ]
        await index.write([row(n, key=f"k/{n}.md") for n in range(1, 300)], [])
        await index.write(far, [])
        for where, wanted in (
            (Filter(sources=("mail",)), {901}),
            (Filter(sources=()), set()),
            (Filter(path="x/*"), {902}),
            (Filter(path="x/y?z.m*"), {902}),
            (Filter(path="x/y*z.md"), {902}),
            (Filter(title='A "quoted" title\'s'), {903}),
            (Filter(kind="row"), {904}),
            (Filter(metadata={"year": 2026}), {905, 907}),
            (Filter(metadata={"year": "2026"}), {906}),
            (Filter(metadata={"draft": True, "n": None}), {905}),
            (Filter(metadata={"none": "such"}), set()),
        ):
            assert set(await find(index, where=where, limit=5)) == wanted, where

    async def test_tenants_and_models_do_not_see_each_other(self, index: ChunkIndex) -> None:
        await index.prepare(DIMENSIONS)
        await index.write([row(1), row(2, tenant="other"), row(3, model=2)], [])
        assert await find(index) == [1]
        assert await find(index, model=2) == [3]
        assert await index.ranges("other") == {0: Range(1, 7)}
        assert await index.digests("other", 0) == {2: 7}

    async def test_ranges_count_and_sum(self, index: ChunkIndex) -> None:
        """Sums are exact, however large."""
        await index.prepare(DIMENSIONS)
        assert await _empty(index)
        large = 2**31 - 1
        await index.write([row(SPAN + n, digest=large - n) for n in range(100)], [])
        await index.write([row(1), row(17 * SPAN)], [])
        await index.refresh()
        assert await index.ranges("default") == {
            0: Range(1, 7),
            1: Range(100, 100 * large - 4950),
            17: Range(1, 7),
        }
        assert await index.digests("default", 17) == {17 * SPAN: 7}

    async def test_it_may_be_closed_twice(self, index: ChunkIndex) -> None:
        await index.prepare(DIMENSIONS)
        await index.close()
        await index.close()


async def _empty(index: ChunkIndex) -> bool:
    await index.refresh()
    return not await index.ranges("default") and not await find(index)
