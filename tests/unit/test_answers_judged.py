"""An answer of the pipeline is compared with what its question expects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from penstock.errors import UnavailableError
from penstock.evaluate.answers import Failed, Judged, Price, answer_all, judge, judgeable, summary
from penstock.evaluate.dataset import Query
from penstock.models.base import Message, Usage
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.answer import Answer, Answerer
from penstock.serving.context import ContextBuilder
from penstock.stores.base import Hit, LiveRow
from penstock.testing.clock import ManualClock
from penstock.testing.snapshots import ScriptedSnapshots, WordEmbedder, passage

DOCUMENT = passage(1, "You may cancel up to 24 hours before departure.", key="refunds.md")
ROW = passage(
    2, "flight PS204 Oslo", source="shop", key="flights/PS204", title="Flight PS204",
    stream="public.flights", row_key=("PS204",),
)  # fmt: skip
LIVE = LiveRow(
    "shop", "public.flights", ("PS204",), {"number": "PS204", "seats": 42},
    Position("9"), Microseconds(5),
)  # fmt: skip


class MeteredWords:
    """Says what it is told to, and what that took."""

    name = "metered"

    def __init__(self, text: str, *usages: Usage) -> None:
        self._text, self._usages = text, usages

    def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        raise AssertionError("a generator that can tell what it takes is asked to")

    async def metered(
        self, messages: Sequence[Message], told: Callable[[Usage], None]
    ) -> AsyncIterator[str]:
        yield self._text
        for usage in self._usages:
            told(usage)

    async def close(self) -> None:
        pass


def answerer(text: str, *usages: Usage) -> Answerer:
    snapshots = ScriptedSnapshots(
        passages=[DOCUMENT, ROW], hits=[Hit(1, 0.5, 0.5), Hit(2, 0.4, 0.4)], rows=[LIVE], ages=[]
    )
    builder = ContextBuilder(snapshots, WordEmbedder(), clock=ManualClock(Microseconds(1)))
    return Answerer(builder, embedder=WordEmbedder(), generator=MeteredWords(text, *usages))


async def said(text: str, *usages: Usage) -> Answer:
    return await answerer(text, *usages).answer("Until when can I cancel?", Principal())


CANCEL = Query("q", "Until when can I cancel?", {"refunds.md": 1}, answers=("24 hours",),
               answerable=True)  # fmt: skip


async def test_what_an_answer_took_is_kept_and_priced() -> None:
    """The last report counts: some endpoints say it again and again, growing. 1,000 tokens read at
    2 a million and 50 written at 10."""
    answer = await said("Up to 24 hours before [1].", Usage(1000, 1), Usage(1000, 50))
    assert answer.usage == Usage(1000, 50)
    assert answer.to_dict()["usage"] == {"input_tokens": 1000, "output_tokens": 50}
    judged = judge(CANCEL, answer, Price(2, 10))
    assert judged.cost == pytest.approx(0.0025)
    assert judged.measures["citation_recall"] == judged.measures["grounded"] == 1.0
    assert judge(CANCEL, answer).cost is None
    assert judge(CANCEL, await said("Yes [1]."), Price(2, 10)).cost is None


async def test_a_statement_may_stand_in_a_cited_row() -> None:
    """By the row's values; a passage that is not cited does not count."""
    seats = Query("q", "How many seats?", {"flights/PS204": 1}, answerable=True)
    found = judge(seats, await said("PS204 has 42 seats [2].")).measures
    assert (found["grounded"], found["citation_precision"]) == (1.0, 1.0)
    assert found["exact"] is None
    found = judge(seats, await said("You may cancel up to 24 hours before departure [2].")).measures
    assert found["grounded"] == 0.0


class Failing(Answerer):
    """Has an answer to some questions only."""

    def __init__(self, *, fails: str) -> None:
        self._fails = fails

    async def answer(self, question: str, principal: Principal, **_: Any) -> Answer:
        if question in self._fails:
            raise UnavailableError(f"expected an answer to {question}")
        return await said("24 hours [1].")


async def test_a_question_that_fails_costs_the_others_nothing() -> None:
    """It is counted, and in no figure; a failure at the start is raised."""
    told: list[str] = []
    queries = [Query(text, text, {}, answers=("24 hours",), answerable=True) for text in "abcdefgh"]

    async def asked(fails: str) -> list[Judged | Failed]:
        return await answer_all(
            queries, Failing(fails=fails), told.append, principal=Principal(), limit=8
        )

    found = await asked("bdefh")
    figures = summary(found)
    assert (figures["questions"], figures["failed"]) == (8, 5)
    assert figures["answers"]["exact"] == 1.0
    assert found[1].to_dict()["failed"] == "expected an answer to b"
    assert told[0] == "question b failed: expected an answer to b"
    with pytest.raises(UnavailableError):
        await asked("a")


async def test_after_five_failures_in_a_row_the_rest_is_not_asked() -> None:
    """What was answered before is kept: it may have cost money."""
    told: list[str] = []
    queries = [Query(text, text, {}, answers=("24 hours",), answerable=True) for text in "abcdefgh"]
    found = await answer_all(
        queries, Failing(fails="bcdef"), told.append, principal=Principal(), limit=8
    )
    assert [one.query.id for one in found if isinstance(one, Judged)] == ["a"]
    assert found[-1] == Failed(queries[-1], "not asked")
    assert told[-1] == "5 in a row failed: the other 2 are not asked"


async def test_figures_of_several_answers() -> None:
    """Means are over the questions that have the measure."""
    queries = [
        CANCEL,
        Query("n", "Who won the cup?", {}, answerable=False),
        Query("u", "Is it so?", {}),
    ]
    asked = judgeable(queries)
    assert [query.id for query in asked] == ["q", "n"]
    told: list[str] = []
    judged = await answer_all(
        asked, answerer("24 hours [1].", Usage(10, 10)), told.append,
        principal=Principal(), limit=8, price=Price(0, 1e6),
    )  # fmt: skip
    found: dict[str, Any] = summary(judged)
    assert found["answers"]["exact"] == 0.5
    assert found["answers"]["citation_precision"] == 1.0
    assert found["abstention"] == {
        "f1": 0.0, "precision": 0.0, "recall": 0.0, "answerable_refused": 0.0,
    }  # fmt: skip
    assert found["cost"] == {
        "per_question": 10.0, "questions_known": 2, "input_tokens": 20, "output_tokens": 20,
    }  # fmt: skip
    assert (found["questions"], found["answerable"], found["unanswerable"]) == (2, 1, 1)
    assert told == ["answered 2 of 2 questions"]
    assert "abstention" not in summary(judged[:1])
