"""Vectors in memory, and what is kept of late."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.stores.postgres.nearby import Halves, Nearby, stored_bytes
from penstock.stores.postgres.recent import KEPT_S, Recent
from penstock.testing.clock import ManualClock


def vectors(count: int, dimensions: int = 100, seed: int = 1) -> Halves:
    chance = np.random.default_rng(seed)
    middles = chance.normal(size=(20, dimensions))
    found = middles[chance.integers(0, 20, count)] + chance.normal(size=(count, dimensions))
    halves: Halves = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)
    return halves


def test_few_vectors_are_compared_exactly() -> None:
    """In order, with the cosine of what is stored, whatever came in which portion."""
    halves = vectors(700)
    index = Nearby(100)
    index.add(list(range(1000, 1300)), halves[:300])
    index.add(list(range(1200, 1700)), halves[200:])  # some are there already
    asked = vectors(1, seed=2)[0].astype(np.float32)
    whole = halves.astype(np.float32)
    cosines = whole @ asked / np.linalg.norm(whole, axis=1) / np.linalg.norm(asked)
    best = np.argsort(-cosines, kind="stable")[:25]
    found = index.nearest(asked, 25)
    assert [chunk for chunk, _ in found] == (best + 1000).tolist()
    assert [cosine for _, cosine in found] == pytest.approx(cosines[best].tolist(), abs=1e-6)
    assert index.similarities(asked, [1000, 5, 1699]) == pytest.approx(
        [cosines[0], 0.0, cosines[699]], abs=1e-6
    )
    assert len(index) == 700


def test_of_many_vectors_nearly_all_of_the_nearest_are_found() -> None:
    """The first look is at signs only; what it lets through is compared exactly."""
    halves = vectors(20_000, 384)
    index = Nearby(384)
    index.add(list(range(20_000)), halves)
    whole = halves.astype(np.float32)
    hits = 0
    chance = np.random.default_rng(3)
    for about in whole[:2000:200]:  # something that is like a text, as questions are
        asked = about + chance.normal(size=384).astype(np.float32) * 0.03
        best = set(np.argsort(-(whole @ asked))[:50].tolist())
        hits += len(best & {chunk for chunk, _ in index.nearest(asked, 50)})
    assert hits >= 0.95 * 500


def test_what_is_gone_is_left_out_of_a_copy() -> None:
    """The one that others still search stays as it is."""
    halves = vectors(50)
    index = Nearby(100)
    index.add(list(range(50)), halves)
    fewer = index.only(np.arange(10, 20))
    assert sorted(chunk for chunk, _ in fewer.nearest(halves[0].astype(np.float32), 50)) == list(
        range(10, 20)
    )
    assert len(index.nearest(halves[0].astype(np.float32), 50)) == 50
    fewer.add([7], halves[7:8])
    assert 7 in fewer
    assert fewer.nearest(halves[7].astype(np.float32), 1)[0][0] == 7
    assert Nearby(100).nearest(halves[0].astype(np.float32), 5) == []
    assert index.only(np.empty(0, np.int64)).nearest(halves[0].astype(np.float32), 5) == []


def test_what_a_vector_takes_is_counted() -> None:
    """Halves, bytes, signs, a scale, a length and a number."""
    assert stored_bytes(384) == 768 + 384 + 48 + 16


def test_what_is_kept_is_bounded_in_bytes() -> None:
    """What was not used for longest goes first."""
    recent: Recent[str, int] = Recent(100, ManualClock())
    for number, name in enumerate("abcd"):
        recent.put(name, number, 30)
        recent.get("a")
    assert (recent.get("a"), recent.get("b"), recent.get("d")) == (0, None, 3)
    assert recent.bytes == 90
    recent.put("a", 9, 20)
    assert (recent.get("a"), recent.bytes) == (9, 80)
    recent.put("huge", 1, 1000)
    assert (len(recent), recent.bytes) == (0, 0)


def test_what_is_not_used_is_let_go_of() -> None:
    """What was erased in the database does not stay here for ever."""
    clock = ManualClock()
    recent: Recent[str, int] = Recent(1000, clock)
    recent.put("a", 1, 10)
    recent.put("b", 2, 10)
    clock.advance(KEPT_S / 2)
    recent.get("a")
    clock.advance(KEPT_S / 2)
    recent.put("c", 3, 10)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)
