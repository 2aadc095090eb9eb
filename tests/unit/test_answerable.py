"""Whether there is an answer: signs of what was read, and what they come to."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from penstock.models.answerable import SIGNS, Calibration, Read, signs

QUESTION = "Who did not rule Norway before 1066?"
PASSAGE = "Norway was ruled by Harald in 1066."


def read(question: str = QUESTION, passage: str = PASSAGE, sentence: str = PASSAGE) -> Read:
    return Read(
        question, passage, sentence, 1.2, 0.3, 0.7, 0.5, 0.6, 0.8,
        {"rule": 0.25, "norway": 0.25, "1066": 0.5},
        frozenset({"norway", "rule"}), frozenset({"norway"}),
    )  # fmt: skip


def named(values: list[float]) -> dict[str, float]:
    return dict(zip(SIGNS, values, strict=True))


def test_what_is_missing_is_a_sign() -> None:
    """Names, numbers and the rarest word, in the passage and in the sentence."""
    found = named(signs(read(sentence="Harald ruled it.")))
    assert (found["held"], found["sentence_held"]) == (0.5, 0.25)
    assert (found["rarest_missing"], found["rarest_missing_in_sentence"]) == (0.5, 0.5)
    assert (found["names"], found["names_missing"], found["names_missing_in_sentence"]) == (1, 0, 1)
    assert (found["numbers"], found["numbers_missing"]) == (1, 0)
    assert found["numbers_missing_in_sentence"] == 1
    assert found["extreme_missing"] == 1  # before


def test_a_denial_on_one_side_is_a_sign() -> None:
    found = named(signs(read()))
    assert (found["denied_by_question"], found["denied_by_sentence"]) == (1, 0)
    found = named(signs(read("Who ruled Norway?", sentence="Nobody else, and never Olaf.")))
    assert (found["denied_by_question"], found["denied_by_sentence"]) == (0, 1)
    found = named(signs(read(sentence="It wasn't Olaf.")))
    assert (found["denied_by_question"], found["denied_by_sentence"]) == (0, 0)


def test_empty_texts_have_signs() -> None:
    nothing = Read("", "", "", 0, 0, 0, 0, 0, 0, {}, frozenset(), frozenset())
    assert set(signs(nothing)) == {0.0}


def test_the_probability_is_that_of_the_regression(tmp_path: Path) -> None:
    """Bounded, whatever comes."""
    file = tmp_path / "fitted.json"
    weights = dict.fromkeys(SIGNS, 0.0) | {"sentence": 2.0}
    file.write_bytes(orjson.dumps({"enough": 0.4, "constant": -1.0, "weights": weights}))
    fitted = Calibration(file)
    values = [0.0] * len(SIGNS)
    values[SIGNS.index("sentence")] = 0.5
    assert fitted.probability(values) == pytest.approx(0.5)
    assert 0 <= fitted.probability([-1e9] * len(SIGNS)) < 1e-9
    assert 1 >= fitted.probability([1e9] * len(SIGNS)) > 1 - 1e-9


def test_what_is_shipped_knows_the_obvious() -> None:
    """Something about everything makes an answer likely; nothing about anything makes it not."""
    fitted = Calibration()
    likely = signs(
        Read(
            "When did Harald rule Norway?", "Harald ruled Norway from 1046.",
            "Harald ruled Norway from 1046.", 1.6, 0.5, 0.85, 0.9, 0.85, 0.85,
            {"harald": 0.4, "rule": 0.3, "norway": 0.3},
            frozenset({"harald", "rule", "norway"}), frozenset({"harald", "rule", "norway"}),
        )
    )  # fmt: skip
    unlikely = signs(
        Read(
            "When did Harald rule Norway?", "Tulips flower in spring.", "Tulips flower in spring.",
            0.3, 0.0, 0.05, 0.0, 0.1, 0.05,
            {"harald": 0.4, "rule": 0.3, "norway": 0.3}, frozenset(), frozenset(),
        )
    )  # fmt: skip
    assert fitted.probability(unlikely) < fitted.enough < fitted.probability(likely)
