"""Answers cite what they rest on, or say that there is nothing to cite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import pytest

from penstock.models.base import Message
from penstock.models.extractive import (
    Evidence,
    ExtractiveReader,
    Fact,
    ReadingSettings,
    shown,
    statement,
)
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.answer import ABSTAINED, Answer, Answerer, cited
from penstock.serving.context import Context, ContextBuilder
from penstock.serving.items import ContextRow, RowView
from penstock.stores.base import Hit, LiveRow, SourceAge
from penstock.testing.clock import ManualClock
from penstock.testing.snapshots import ScriptedSnapshots, WordEmbedder, passage

POLICY = (
    "# Cancellation\n\nYou may cancel a flight free of charge up to 24 hours before departure. "
    "Refunds take seven days.\n\n- Hotels are cancelled until six in the evening."
)
DOCUMENT = passage(1, POLICY, start=100, end=100 + len(POLICY), title="Cancellation")
ROW = passage(
    2, "flight PS204 Oslo Lisbon", source="shop", key="flights/PS204", title="Flight PS204",
    stream="public.flights", row_key=("PS204",),
)  # fmt: skip
VALUES = {
    "number": "PS204",
    "origin": "Oslo",
    "destination": "Lisbon",
    "price": Decimal("189.00"),
    "seats": 42,
}
LIVE = LiveRow("shop", "public.flights", ("PS204",), VALUES, Position("9"), Microseconds(5))
VIEW = RowView(searched=("number", "origin", "destination"), title="Flight {number}")
AGES = [
    SourceAge("docs", Microseconds(998_000), None, False),
    SourceAge("shop", Microseconds(999_000), None, False),
]


class ScriptedGenerator:
    """Says what it is told to, and keeps what it was asked."""

    name = "scripted"

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces
        self.messages: Sequence[Message] = ()
        self.closed = False

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        self.messages = messages
        for piece in self._pieces:
            yield piece

    async def close(self) -> None:
        self.closed = True


def answerer(generator: ScriptedGenerator | None = None, *, row_first: bool = False) -> Answerer:
    embedder = WordEmbedder()
    hits = [Hit(1, 0.5, 0.5), Hit(2, 0.6 if row_first else 0.1, 0.6 if row_first else 0.1)]
    snapshots = ScriptedSnapshots(passages=[DOCUMENT, ROW], hits=hits, rows=[LIVE], ages=AGES)
    builder = ContextBuilder(
        snapshots,
        embedder,
        clock=ManualClock(Microseconds(1_000_000)),
        rows={("shop", "public.flights"): VIEW},
    )
    return Answerer(builder, embedder=embedder, generator=generator)


async def test_a_sentence_answers_with_its_place() -> None:
    """The citation is a span of the document: offsets count from the document's beginning."""
    answer = await answerer().answer(
        "Until when can I cancel a flight free of charge?", Principal()
    )
    [citation] = answer.citations
    assert answer.text == (
        "You may cancel a flight free of charge up to 24 hours before departure. [1]"
    )
    assert citation.start is not None
    assert citation.end is not None
    assert POLICY[citation.start - 100 : citation.end - 100] == citation.quote
    assert (citation.source, citation.key, citation.age_ms) == ("docs", "docs/1.md", 2.0)
    assert not answer.abstained
    assert answer.age_ms == 2.0
    assert 0.38 <= answer.score <= 1


async def test_a_row_answers_with_the_columns_asked_for() -> None:
    """What the row is, and one column for each part of the question."""
    answer = await answerer(row_first=True).answer(
        "What is the price of flight PS204 from Oslo to Lisbon and how many seats has it?",
        Principal(),
    )
    [citation] = answer.citations
    assert answer.text == (
        "Flight PS204 (origin Oslo, destination Lisbon): price 189.00, seats 42 [1]"
    )
    assert (citation.kind, citation.columns) == ("row", ("price", "seats"))
    assert (citation.start, citation.end, citation.key) == (None, None, "flights/PS204")
    assert citation.age_ms == 1.0


@pytest.mark.parametrize(
    "question", ["What is the boiling point of tungsten?", "What is the price of flight PS999?"]
)
async def test_what_is_not_there_is_not_answered(question: str) -> None:
    """Neither another subject nor a code that nothing carries."""
    answer = await answerer(row_first=True).answer(question, Principal())
    assert (answer.text, answer.citations, answer.abstained) == (ABSTAINED, (), True)
    assert answer.age_ms == 2.0


async def test_a_models_marks_become_citations() -> None:
    """Numbered in the order of use; marks of items that there are not are removed; the quote is the
    sentence that the statement is like."""
    generator = ScriptedGenerator(
        "Refunds take seven", " days [2], [7]. Price 189.00 [1", "]. Again [2][99]. Both [1, 2]!"
    )
    answer = await answerer(generator, row_first=True).answer(
        "How long do refunds take?", Principal()
    )
    assert answer.text == (
        "Refunds take seven days [1],. Price 189.00 [2]. Again [1]. Both [2][1]!"
    )
    first, second = answer.citations
    assert (first.number, first.quote) == (1, "Refunds take seven days.")
    assert first.start == 100 + POLICY.index("Refunds")
    assert (second.kind, second.columns, second.quote) == ("row", ("price",), "price 189.00")
    assert answer.generator == "scripted"
    assert "number=" in generator.messages[1].content


async def test_a_model_that_says_so_has_abstained() -> None:
    """And so has one that cites nothing."""
    for text in (ABSTAINED, "I think it is 5."):
        answer = await answerer(ScriptedGenerator(text)).answer("How much?", Principal())
        assert answer.abstained
        assert answer.text == text


async def test_answers_come_piece_by_piece() -> None:
    """The last thing that comes is the whole answer; a model that does not stop is stopped."""
    pieces = [p async for p in answerer(ScriptedGenerator("a ", "b [1]")).stream("q?", Principal())]
    assert pieces[:3] == ["a ", "b ", "[1]"]  # word by word: see penstock.serving.containment
    assert isinstance(pieces[3], Answer)
    endless = ScriptedGenerator(*["x" * 1000] * 1000)
    pieces = [p async for p in answerer(endless).stream("q?", Principal())]
    assert len(pieces) < 30
    ours = answerer(endless)
    await ours.close()
    assert endless.closed


async def test_an_answer_can_be_written_as_json() -> None:
    answer = await answerer().answer(
        "Until when can I cancel a flight free of charge?", Principal()
    )
    written = json.loads(json.dumps(answer.to_dict()))
    assert written["text"] == answer.text
    assert written["citations"][0]["start"] == answer.citations[0].start
    assert written["age_ms"] == 2.0
    assert written["sources"][0]["age_ms"] == 2.0
    assert {"embed", "search", "read", "answer", "total"} == set(written["timings_ms"])


def test_marks_without_an_item_leave_no_trace() -> None:
    """Also where there is nothing at all to cite."""
    empty = Context("q", (), (), Microseconds(0))
    assert cited(empty, "So it is [1] [2, 3]. [x] [12345678901]") == ("So it is. [x]", ())


async def test_the_reader_reads_only_what_it_is_given() -> None:
    """No evidence, no score; empty texts and headings are nothing to cite."""
    reader = ExtractiveReader(WordEmbedder(), settings=ReadingSettings(threshold=0))
    assert (await reader.read("q?", [])).score == 0
    assert (await reader.read("river", [Evidence("t", 1.0, "# River\n\n---")])).found == ()
    twice = Evidence("t", 1.0, "The river is long. The river is long. The river is wide.")
    found = (await reader.read("Is the river long?", [twice])).found
    assert [f.text for f in found][:1] == ["The river is long."]
    assert len([f for f in found if f.text == "The river is long."]) == 1


def test_a_row_is_shown_by_name_then_by_what_was_asked() -> None:
    """Long and empty values are no part of a name."""
    row = Evidence(
        "Hotel 1",
        1.0,
        facts=(
            Fact("city", "Oslo", True), Fact("about", "x" * 50, True), Fact("roomsLeft", "3"),
            Fact("price_eur", ""), Fact("stars", "4"),
        ),
    )  # fmt: skip
    assert shown(row, ["roomsLeft"]) == "Hotel 1 (city Oslo): rooms left 3"
    assert shown(row, []) == "Hotel 1 (city Oslo): rooms left 3, stars 4"
    assert statement(row).startswith("Hotel 1: city Oslo, about xxx")


def test_a_context_row_is_frozen() -> None:
    row = ContextRow("a", "b", "c", (), "t", {}, (), Position("1"), Microseconds(1))
    with pytest.raises(AttributeError):
        row.title = "u"  # type: ignore[misc]
