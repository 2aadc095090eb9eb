"""Scores are fused into one order, and nothing is shown twice."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError
from penstock.principals import Principal
from penstock.serving.retrieval import distinct, fuse, retrieve
from penstock.stores.base import Filter, Hit
from penstock.stores.postgres.conditions import conditions, like, unsendable
from penstock.testing.snapshots import ScriptedSnapshots, passage


def test_the_score_is_the_sum_of_both_parts() -> None:
    """By vector, by words or both; equals in the order of their chunks."""
    hits = [Hit(3, 0.5, 0.2), Hit(1, 0.4, 0.5), Hit(2, 0.4, 0.5), Hit(4, 0.9, 0.0)]
    assert [h.chunk for h, _ in fuse(hits)] == [1, 2, 4, 3]
    assert [s for _, s in fuse(hits)] == pytest.approx([0.9, 0.9, 0.9, 0.7])
    assert [h.chunk for h, _ in fuse(hits, "vector")] == [4, 3, 1, 2]
    assert [h.chunk for h, _ in fuse(hits, "text")] == [1, 2, 3]


def test_repetitions_are_left_out() -> None:
    """The same words elsewhere, and what lies inside a better passage of the same document."""
    best = passage(1, "The river.  Rises", document=1, start=0, end=40)
    again = passage(2, "the RIVER rises", document=2)
    inside = passage(3, "Rises", document=1, start=12, end=17)
    other = passage(4, "The river falls", document=2)
    row = passage(5, "the river rises", stream="public.rivers", row_key=("1",))
    assert [p.chunk for p in distinct([best, again, inside, other, row])] == [1, 4, 5]


async def test_passages_carry_their_scores() -> None:
    """In the order of the score, each with its parts; the search that a mode leaves out is not
    asked for."""
    store = ScriptedSnapshots(
        passages=[passage(1, "one"), passage(2, "two")],
        hits=[Hit(1, 0.3, 0.1), Hit(2, 0.5, 0.2)],
    )
    async with store.snapshot(Principal()) as snapshot:
        found = await retrieve(snapshot, "q", store.vector, model="m")
        assert [(p.chunk, p.similarity, p.text_score) for p in found.passages] == [
            (2, 0.5, 0.2),
            (1, 0.3, 0.1),
        ]
        assert found.passages[0].score == pytest.approx(0.7)
        assert (found.reranked, found.note) == (None, None)
        await retrieve(snapshot, "q", store.vector, mode="vector")
        await retrieve(snapshot, "q", None, mode="text")
        assert store.asked == [(True, "q"), (True, None), (False, "q")]
        with pytest.raises(ConfigError, match="expected the question's vector"):
            await retrieve(snapshot, "q", None)


def test_globs_become_patterns() -> None:
    """Only * and ? have a meaning; NUL can match nothing."""
    assert like("a/*_100%?\\") == r"a/%\_100\%_\\"
    assert unsendable(Filter(metadata={"a": {"b": ["\x00"]}}))
    assert unsendable(Filter(sources=["a\x00"]))
    assert not unsendable(Filter(path="a", metadata={"a": 1}))


def test_conditions_name_only_what_is_filtered() -> None:
    """Deleted documents never count; values are bound, not written."""
    text, values = conditions(Filter())
    assert text.as_string(None) == "AND d.deleted_at IS NULL"
    assert values == {}
    text, values = conditions(Filter(sources=["a"], path="b", title="c", kind="row"))
    assert text.as_string(None).count("AND") == 5
    assert values == {"sources": ["a"], "path": "b", "title": "c"}
