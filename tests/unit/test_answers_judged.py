"""An answer of the pipeline is compared with what its question expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from penstock.errors import UnavailableError
from penstock.evaluate.answers import Failed, Judged, answer_all, judge, judgeable, summary
from penstock.evaluate.dataset import Query
from penstock.models.base import Message, Usage, Written
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
    """Writes what it is told to, and says what that took."""

    name = "metered"

    def __init__(self, text: str, usage: Usage, item: int) -> None:
        self._text, self._usage, self._item = text, usage, item

    async def write(self, messages: Sequence[Message], shape: Mapping[str, Any]) -> Written:
        return Written({"statements": [{"text": self._text, "items": [self._item]}]}, self._usage)

    async def close(self) -> None:
        pass


NOTHING = Usage()


def answerer(text: str, usage: Usage, item: int = 1) -> Answerer:
    snapshots = ScriptedSnapshots(
        passages=[DOCUMENT, ROW], hits=[Hit(1, 0.5, 0.5), Hit(2, 0.4, 0.4)], rows=[LIVE], ages=[]
    )
    builder = ContextBuilder(snapshots, WordEmbedder(), clock=ManualClock(Microseconds(1)))
    return Answerer(builder, embedder=WordEmbedder(), generator=MeteredWords(text, usage, item))


async def said(text: str, usage: Usage = NOTHING, item: int = 1) -> Answer:
    return await answerer(text, usage, item).answer("Until when can I cancel?", Principal())


CANCEL = Query("q", "Until when can I cancel?", {"refunds.md": 1}, answers=("24 hours",),
               answerable=True)  # fmt: skip


async def test_what_an_answer_took_is_kept_and_priced() -> None:
    """As its generator says."""
    answer = await said("Up to 24 hours before.", Usage(1, 1000, 50, 0.0025))
    assert answer.to_dict()["usage"] == {
        "requests": 1, "input_tokens": 1000, "output_tokens": 50, "cost": 0.0025,
        "cached_tokens": None, "estimated": False,
    }  # fmt: skip
    judged = judge(CANCEL, answer)
    assert judged.cost == pytest.approx(0.0025)
    assert judged.measures["citation_recall"] == judged.measures["grounded"] == 1.0
    unknown = await said("Up to 24 hours before.", Usage(1, 1000, 50))
    assert judge(CANCEL, unknown).cost is None


async def test_a_statement_may_stand_in_a_cited_row() -> None:
    """By the row's values; a passage that is not cited does not count."""
    seats = Query("q", "How many seats?", {"flights/PS204": 1}, answerable=True)
    found = judge(seats, await said("PS204 has 42 seats.", item=2)).measures
    assert (found["grounded"], found["citation_precision"]) == (1.0, 1.0)
    assert found["exact"] is None
    found = judge(
        seats, await said("You may cancel up to 24 hours before departure.", item=2)
    ).measures
    assert found["grounded"] == 0.0


class Failing(Answerer):
    """Has an answer to some questions only."""

    def __init__(self, *, fails: str) -> None:
        self._fails = fails

    async def answer(self, question: str, principal: Principal, **_: Any) -> Answer:
        if question in self._fails:
            raise UnavailableError(f"expected an answer to {question}")
        return await said("24 hours.")


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
        asked, answerer("24 hours", Usage(1, 10, 10, 10.0)), told.append,
        principal=Principal(), limit=8,
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
