"""Follow-up questions: which lean on the one before, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from penstock.errors import UnavailableError
from penstock.models.base import Message, Usage, Written
from penstock.serving.followups import FollowUps, compressed, joined, leans

CANCEL = "Until when can a flight be cancelled free of charge?"


@pytest.mark.parametrize(
    "question",
    [
        "And for hotels?", "What about hotels?", "And with children?", "How much is it?",
        "Can they be changed as well?", "Why?", "Und für Hotels?", "Was kostet das dort?",
        "Is the same true of the second?", "Does that apply to hotels?", "Is parking free there?",
        "How long does it take to be paid back?", "Which is the cheaper of the first?",
    ],
)  # fmt: skip
def test_what_leans_on_the_question_before_is_put_behind_it(question: str) -> None:
    assert leans(question)
    assert joined(question, [CANCEL]) == f"{CANCEL} {question}"


@pytest.mark.parametrize(
    "question",
    [
        CANCEL, "How much luggage may a traveller take?", "Where is the office of Acme in Berlin?",
        "What does flight LH 400 cost and when does it leave?", "Wie viel Gepäck ist frei?",
        "Is there parking at the hotel?", "Gibt es Parkplätze am Hotel?",
        "Is it possible to cancel a flight free of charge?", "May I take one bag of 23 kilograms?",
        "What is the fee that applies to hotels?", "Which seats are in the first class?",
    ],
)  # fmt: skip
def test_what_stands_for_itself_stays_word_for_word(question: str) -> None:
    assert not leans(question)
    assert joined(question, [CANCEL]) == question


def test_a_chain_of_leaning_questions_goes_back_to_the_one_that_stands() -> None:
    assert joined("And with children?", [CANCEL, "And for hotels?"]) == (
        f"{CANCEL} And for hotels? And with children?"
    )
    assert joined("Why?", ["Other topic entirely, please", CANCEL]) == f"{CANCEL} Why?"
    assert joined("Why?", []) == "Why?"
    assert joined("Why?", ["x" * 3000]) == "Why?"


def test_history_is_compressed_within_its_budget() -> None:
    """The latest whole, older ones by their names and numbers, then nothing; never none at all."""
    count = len
    before = ["Tell me all about Acme and order 4711, please", CANCEL]
    assert compressed(before, 1000, count) == before
    assert compressed(before, len(CANCEL) + 20, count) == ["Tell Acme 4711", CANCEL]
    assert compressed(before, len(CANCEL), count) == [CANCEL]
    assert compressed(before, 10, count) == [CANCEL[:20]]
    assert compressed([], 10, count) == []


class Words:
    """A writer that says what it is told to say."""

    name = "words"

    def __init__(self, value: object) -> None:
        self.value = value
        self.asked: list[Sequence[Message]] = []

    async def write(self, messages: Sequence[Message], shape: Mapping[str, Any]) -> Written:
        self.asked.append(messages)
        if isinstance(self.value, Exception):
            raise self.value
        return Written(self.value, Usage(1, 10, 5, None))

    async def close(self) -> None:
        """Nothing is open."""


async def test_a_generator_rewrites_from_questions_alone() -> None:
    wanted = "Until when can a hotel be cancelled free of charge?"
    writer = Words({"question": f" {wanted}\n"})
    standing = await FollowUps(writer).standing("And for hotels?", [CANCEL])
    assert standing.question == wanted
    assert standing.usage == Usage(1, 10, 5, None)
    told = writer.asked[0][1].content
    assert CANCEL in told
    assert "And for hotels?" in told
    assert (await FollowUps(writer).standing("First?", [])).usage is None


@pytest.mark.parametrize(
    "value",
    [
        UnavailableError("it is away"), {"question": ""}, {"question": 7}, "nonsense", None,
        {"question": "Is order 4712 paid?"}, {"question": "Is it paid?"},
        {"question": "x" * 5000},
    ],
)  # fmt: skip
async def test_what_a_generator_may_not_change_is_told_by_rule(value: object) -> None:
    """It is away, writes nonsense, invents a number or loses one: the rule, and a note."""
    standing = await FollowUps(Words(value)).standing("Is it paid, 4711?", [CANCEL])
    assert standing.question == f"{CANCEL} Is it paid, 4711?"
    assert standing.note is not None
