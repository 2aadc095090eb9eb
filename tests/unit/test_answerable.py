"""Whether there is an answer: signs of what was read, and what they come to."""

from __future__ import annotations

import pytest

from penstock.models.answerable import SIGNS, Calibration, Read, logistic, signs

QUESTION = "Who did not rule Norway before 1066?"
PASSAGE = "Norway was ruled by Harald in 1066. Nothing is known of the year that came first."


def named(question: str = QUESTION, text: str = PASSAGE, title: str = "") -> dict[str, float]:
    return dict(zip(SIGNS, signs(Read(question, title, text, 0.7, 0.5)), strict=True))


def test_what_is_missing_is_a_sign() -> None:
    """Names and numbers in the passage and in its best sentence; a title says what it says."""
    found = named("Did Olaf rule Norway in 1067?")
    assert (found["names"], found["names_missing"], found["names_missing_in_sentence"]) == (2, 1, 1)
    assert (found["numbers"], found["numbers_missing"]) == (1, 1)
    assert named("Did Olaf rule Norway in 1067?", title="Olaf")["names_missing"] == 0
    assert named("Was Norway ruled by Harald?")["missing"] == 0
    found = named("What came first, Norway or Harald?")
    assert (found["extreme_missing"], found["extreme_missing_in_sentence"]) == (0, 1)


def test_a_denial_on_one_side_is_a_sign() -> None:
    found = named()
    assert (found["denied_by_question"], found["denied_by_sentence"], found["denial"]) == (1, 0, 1)
    found = named("Who ruled Norway?", "Norway was never ruled by Olaf.")
    assert (found["denied_by_question"], found["denied_by_sentence"]) == (0, 1)
    found = named(text="Harald did not rule Norway in 1066.")
    assert (found["denied_by_question"], found["denied_by_sentence"]) == (0, 0)


def test_the_opposite_of_a_word_is_a_sign() -> None:
    """Only where the word itself is not there."""
    assert named("Which is the largest fjord?", "The smallest fjord is this.")["reversed"] == 1
    assert named("Which is the largest fjord?", "Largest and smallest are known.")["reversed"] == 0


@pytest.mark.parametrize("text", ["", " ", "\n\n", "…", "# "])
def test_empty_texts_have_signs(text: str) -> None:
    assert len(signs(Read(text, "", text, 0, 0))) == len(SIGNS)


def test_the_probability_is_bounded() -> None:
    """Whatever comes."""
    fitted = Calibration()
    for value in (-1e9, 0.0, 1e9, float("inf")):
        assert 0 < fitted.probability([value] * len(SIGNS)) < 1
    assert logistic(-1e9) < 1e-9
    assert logistic(1e9) > 1 - 1e-9


def test_what_is_shipped_knows_the_obvious() -> None:
    """Everything that is asked for makes an answer likely; nothing of it makes it not."""
    fitted = Calibration()
    question = "When did Harald rule Norway?"
    likely = signs(Read(question, "", "Harald ruled Norway from 1046.", 0.85, 0.9))
    unlikely = signs(Read(question, "", "Tulips flower in spring.", 0.05, 0.0))
    assert fitted.probability(unlikely) < fitted.enough < fitted.probability(likely)


def test_a_filter_says_what_the_question_need_not() -> None:
    """Asked of a document that was named, a question in other words than its text is answered."""
    fitted = Calibration()
    question, text = "How long is it kept?", "We store records for ten years after your last visit."
    anywhere, here = (
        fitted.probability(signs(Read(question, "", text, 0.15, 0.0, restricted)))
        for restricted in (False, True)
    )
    assert anywhere < fitted.enough < here
