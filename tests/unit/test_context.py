"""A context is read at one moment and says how old each part is."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

import pytest

from penstock.errors import ConfigError, RetryableError, UnavailableError
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.context import ContextBuilder
from penstock.serving.items import ContextRow, RowView
from penstock.serving.values import jsonable, plain
from penstock.stores.base import Hit, LiveRow, Passage, SourceAge
from penstock.testing.clock import ManualClock
from penstock.testing.snapshots import ScriptedSnapshots, WordEmbedder, passage

NOW = 1_000_000_000
ROW = passage(
    2, "number PS1", source="shop", key="flights/PS1", title="Flight PS1 (old)",
    stream="public.flights", row_key=("PS1",),
)  # fmt: skip
LIVE = LiveRow(
    "shop",
    "public.flights",
    ("PS1",),
    {"number": "PS1", "price": Decimal("129.00"), "seats": 42, "secret": "x"},
    Position("9"),
    Microseconds(5),
)
VIEW = RowView(searched=("number",), shown=("price", "seats"), title="Flight {number} {nothing}")


def builder(snapshots: ScriptedSnapshots, embedder: WordEmbedder | None = None) -> ContextBuilder:
    return ContextBuilder(
        snapshots,
        embedder or WordEmbedder(),
        clock=ManualClock(Microseconds(NOW)),
        rows={("shop", "public.flights"): VIEW},
    )


async def test_g6_the_model_is_asked_before_the_snapshot_opens() -> None:
    """And everything else is read inside that one snapshot, for those who ask."""
    snapshots = ScriptedSnapshots(passages=[passage(1, "one"), ROW], rows=[LIVE])
    embedder = WordEmbedder(snapshots.events)
    await builder(snapshots, embedder).context("q?", Principal("ada", ("bo",), "t"))
    assert snapshots.events == [
        "embed query",
        "open t user:ada,group:bo",
        "candidates",
        "passages",
        "rows",
        "ages",
        "close",
    ]
    snapshots.events.clear()
    await builder(snapshots, embedder).context("q?", Principal(), mode="text")
    assert "embed query" not in snapshots.events


async def test_row_passages_are_replaced_by_the_present_row() -> None:
    """With shown and searched columns only, and the title made of present values; a row that is
    gone is not shown, whatever was indexed of it."""
    snapshots = ScriptedSnapshots(
        passages=[passage(1, "one"), ROW], hits=[Hit(1, 0.1, 0.1), Hit(2, 0.9, 0.9)], rows=[LIVE]
    )
    context = await builder(snapshots).context("q?", Principal())
    row, document = context.items
    assert isinstance(row, ContextRow)
    assert isinstance(document, Passage)
    assert row.values == {"number": "PS1", "price": Decimal("129.00"), "seats": 42}
    assert (row.title, row.key, row.searched) == (
        "Flight PS1 {nothing}",
        "flights/PS1",
        ("number",),
    )
    assert row.version == LIVE.version
    assert row.score == pytest.approx(1.8)
    assert context.rows == [row]
    assert context.passages == [document]
    gone = ScriptedSnapshots(passages=[passage(1, "one"), ROW])
    assert [p.chunk for p in (await builder(gone).context("q?", Principal())).passages] == [1]
    assert (await builder(gone).context("q?", Principal())).rows == []


async def test_each_source_says_how_old_it_is() -> None:
    """The age counts from what the source had committed; a clock that runs ahead gives no negative
    age; unknown stays unknown."""
    snapshots = ScriptedSnapshots(
        ages=[
            SourceAge("a", Microseconds(NOW - 2_500), Position("1"), False),
            SourceAge("b", Microseconds(NOW + 9_000), None, True),
            SourceAge("c", None, None, False),
        ]
    )
    context = await builder(snapshots).context("q?", Principal())
    assert [(s.source, s.age_ms, s.loading) for s in context.sources] == [
        ("a", 2.5, False),
        ("b", 0.0, True),
        ("c", None, False),
    ]
    assert context.age_ms("a") == 2.5
    assert context.age_ms("nowhere") is None


async def test_a_context_can_be_written_as_json() -> None:
    """All of it, exact numbers as texts and times in ISO 8601."""
    snapshots = ScriptedSnapshots(
        passages=[passage(1, "one", metadata={"n": float("nan")}), ROW],
        rows=[LIVE],
        ages=[SourceAge("shop", Microseconds(NOW), Position("1"), False)],
    )
    written = json.loads(
        json.dumps((await builder(snapshots).context("q?", Principal())).to_dict())
    )
    assert written["taken_at"] == "1970-01-01T00:16:40+00:00"
    assert written["rows"][0]["values"]["price"] == "129.00"
    assert written["sources"][0]["age_ms"] == 0.0
    assert written["passages"][0]["committed_at"] == "1970-01-01T00:00:00.000001+00:00"
    assert set(written["timings_ms"]) == {"embed", "search", "read", "total"}


async def test_a_table_that_changes_meanwhile_is_read_again() -> None:
    """In a new snapshot, a few times; a database that cannot be reached is not asked again."""

    class Altered(ScriptedSnapshots):
        errors: ClassVar[list[Exception]] = []

        async def rows(self, wanted: Sequence[Passage]) -> list[LiveRow]:
            if self.errors:
                raise self.errors.pop()
            return await super().rows(wanted)

    snapshots = Altered(passages=[ROW], rows=[LIVE])
    snapshots.errors.extend([RetryableError("altered"), RetryableError("altered")])
    assert len((await builder(snapshots).context("q?", Principal())).rows) == 1
    assert snapshots.events.count("open default ") == 3
    for errors in ([RetryableError("altered")] * 3, [UnavailableError("gone")]):
        snapshots.errors.extend(errors)
        with pytest.raises(RetryableError):
            await builder(snapshots).context("q?", Principal())
        assert snapshots.errors == []


@pytest.mark.parametrize("question", ["", " \n", "\x00", "x" * 20_001])
async def test_what_is_no_question_is_refused(question: str) -> None:
    """Before anything is embedded or opened, with a reason."""
    snapshots = ScriptedSnapshots()
    with pytest.raises(ConfigError, match="expected a question"):
        await builder(snapshots).context(question, Principal())
    assert snapshots.events == []


async def test_the_limit_counts_passages_and_rows_together() -> None:
    """And broken characters in a question are no obstacle."""
    many = [passage(i, f"text {i}") for i in range(1, 30)]
    context = await builder(ScriptedSnapshots(passages=many)).context(
        "a\ud800b\x00c", Principal(), limit=3
    )
    assert len(context.items) == 3
    assert context.question == "a?b c"


def test_values_are_shown_as_people_write_them() -> None:
    """And kept exactly in JSON."""
    moment = dt.datetime(2026, 12, 1, 8, 30, tzinfo=dt.UTC)
    shown = [
        plain(v) for v in (None, True, Decimal("1.50"), moment, moment.date(), b"\x01", [1, 2])
    ]
    assert shown == [
        "", "yes", "1.50", "2026-12-01 08:30:00+00:00", "2026-12-01", "\\x01", "1, 2",
    ]  # fmt: skip
    assert jsonable({"a": [Decimal("1.10"), moment, float("inf"), {"b": b"\xff"}]}) == {
        "a": ["1.10", "2026-12-01T08:30:00+00:00", "inf", {"b": "\\xff"}]
    }


@pytest.mark.parametrize("limit", [0, -1, 1001, 10_000])
async def test_a_limit_that_makes_no_sense_is_refused(limit: int) -> None:
    """Before anything is embedded or read."""
    snapshots = ScriptedSnapshots(passages=[passage(1, "one")])
    with pytest.raises(ConfigError, match="expected a limit from 1 to 1000"):
        await builder(snapshots).context("q", Principal(), limit=limit)
    assert snapshots.events == []
