"""Near repetitions are left out, the recent comes first, the text around is shown: if asked."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError
from penstock.records import Microseconds
from penstock.serving.retrieval import retrieve, widened
from penstock.serving.shaping import Shaping, by_recency, joined, without_near_duplicates
from penstock.stores.base import Hit, Passage
from penstock.testing.snapshots import ScriptedSnapshots, passage

DAY = 86_400_000_000
BAGGAGE = (
    "Every passenger may take one piece of hand luggage of up to 8 kg into the cabin, and it must "
    "fit under the seat in front. It is not weighed at the gate."
)


def test_a_copy_with_a_small_edit_is_left_out() -> None:
    copy = BAGGAGE.replace("Every passenger", "Each passenger")
    found = without_near_duplicates([passage(1, BAGGAGE), passage(2, copy)], 0.7)
    assert [p.chunk for p in found] == [1]


@pytest.mark.parametrize(
    ("old", "new"), [("8 kg", "10 kg"), ("is not weighed", "is weighed"), ("gate.", "bus stop.")]
)
def test_what_says_another_thing_stays(old: str, new: str) -> None:
    """A number or a denial is a small edit and a large difference; so are enough other words."""
    other = passage(2, BAGGAGE.replace(old, new))
    assert len(without_near_duplicates([passage(1, BAGGAGE), other], 0.99)) == 2
    if "gate" not in old:
        assert len(without_near_duplicates([passage(1, BAGGAGE), other], 0.1)) == 2


def test_rows_are_never_repetitions() -> None:
    rows = [passage(n, BAGGAGE, stream="public.t", row_key=(str(n),)) for n in (1, 2)]
    assert without_near_duplicates(rows, 0.5) == rows


def test_what_is_recent_comes_first_among_equals() -> None:
    """By half of its share at the half-life; an old passage that fits much better stays ahead."""
    now = Microseconds(1000 * DAY)

    def aged(chunk: int, days: int, score: float) -> Passage:
        return passage(chunk, "x", committed_at=Microseconds(now - days * DAY), score=score)

    found = by_recency([aged(1, 400, 1.0), aged(2, 0, 0.9), aged(3, -1, 0.5)], now, 100.0)
    assert [p.chunk for p in found] == [2, 1, 3]
    assert found[0].score == pytest.approx(0.9)
    assert by_recency([aged(1, 100, 1.0)], now, 100.0)[0].score == pytest.approx(0.85)
    assert [p.chunk for p in by_recency([aged(1, 400, 1.5), aged(2, 0, 0.9)], now, 100.0)] == [1, 2]


def test_joined_chunks_keep_their_offsets() -> None:
    """Gaps are white space, what overlaps is there once."""
    document = "First part.\n\nSecond part, longer.  Third."
    spans = [(0, 11), (13, 33), (26, 34), (35, 41)]
    text, start, end = joined([(document[a:b], a, b) for a, b in spans])
    assert (start, end) == (0, 41)
    assert text.split() == document.split()
    assert [text.index(word) for word in ("Second", "Third")] == [13, 35]
    assert joined([("abc", 7, 10)]) == ("abc", 7, 10)


async def test_passages_are_shown_with_their_neighbours() -> None:
    """What another passage then holds already is left out; rows have no neighbours."""
    parts = [
        passage(n, text, document=1, start=10 * n, end=10 * n + len(text))
        for n, text in enumerate(("zero", "one", "two", "three"))
    ]
    row = passage(9, "row", stream="public.t", row_key=("1",))
    store = ScriptedSnapshots(passages=[*parts, row])
    found = await widened([parts[1], row, parts[0]], store, 1)
    assert [(p.chunk, p.start, p.end) for p in found] == [(1, 0, 23), (9, 0, 3)]
    assert found[0].text.split() == ["zero", "one", "two"]


async def test_a_search_looks_further_where_passages_fall_away() -> None:
    """Never fewer than asked for, while there are others."""
    copies = [passage(n, BAGGAGE.replace("Every", f"{'Each' * n}")) for n in range(1, 20)]
    other = passage(30, "Sports equipment travels in the hold.")
    hits = [Hit(p.chunk, 0.9, 0.5) for p in copies] + [Hit(30, 0.1, 0.1)]
    store = ScriptedSnapshots(passages=[*copies, other], hits=hits)
    found = await retrieve(store, "q", store.vector, limit=2, shape=Shaping(near_duplicates=0.7))
    assert [p.chunk for p in found.passages] == [1, 30]


@pytest.mark.parametrize(
    "wrong",
    [{"near_duplicates": 0}, {"near_duplicates": 1.1}, {"recency_days": 0}, {"neighbours": 6}],
)
def test_what_makes_no_sense_is_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Shaping(**wrong)  # type: ignore[arg-type]
