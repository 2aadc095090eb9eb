"""Measures of answers against cases worked out by hand."""

from __future__ import annotations

import pytest

from penstock.evaluate.answer_metrics import (
    Cited,
    Expected,
    abstention,
    citation_precision,
    citation_recall,
    exact,
    f1,
    groundedness,
    holds,
    measures,
    normalised,
    without_marks,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('The  Beatles\' album, "Abbey Road"!', "beatles album abbey road"),
        ("a $12.50 fee", "1250 fee"),
        ("An apple, a pear and the theatre", "apple pear and theatre"),
        ("U.S.", "us"),
        ("the", ""),
        ("Zürich\n(CH)", "zürich ch"),
    ],
)
def test_texts_are_compared_after_squads_normalisation(text: str, plain: str) -> None:
    """Small letters, no ASCII punctuation, no articles as words, single spaces."""
    assert normalised(text) == plain


def test_exact_match_and_f1_take_the_nearest_answer() -> None:
    """F1: 2 of 3 words said and 2 of 4 expected are 4/7; a word counts as often as it stands."""
    assert exact("The Oil Embargo.", ["1973", "oil embargo"]) == 1
    assert exact("oil", ["oil embargo"]) == 0
    assert f1("big oil embargo", ["price", "oil embargo of 1973"]) == pytest.approx(4 / 7)
    assert f1("so so", ["so"]) == pytest.approx(2 / 3)
    assert f1("anything", ["nothing else"]) == 0
    assert f1("anything", []) == 0


def test_silence_is_right_only_where_there_is_no_answer() -> None:
    """As in SQuAD 2: the empty text matches the empty answer."""
    assert (exact("", [""]), f1("", [""])) == (1, 1)
    assert (exact("", ["x"]), f1("", ["x"]), f1("x", [""])) == (0, 0, 0)


def test_an_answer_is_held_as_whole_words() -> None:
    assert holds("It began in October, 1973.", ["october 1973"])
    assert not holds("It began in 19731", ["1973"])
    assert not holds("anything", ["the", ""])


CITED = [
    Cited("p1", "opened in 1973", "The dam opened in 1973, after ten years."),
    Cited("p1", "ten years", "The dam opened in 1973, after ten years."),
    Cited("p9", "a river", "There is a river."),
]


def test_citations_are_compared_with_the_documents() -> None:
    """Two of three are of p1; of p1 and p2 one is cited."""
    expected = Expected(("1973",), {"p1", "p2"}, True)
    assert citation_precision(CITED, expected) == pytest.approx(2 / 3)
    assert citation_recall(CITED, expected) == 1 / 2
    assert citation_recall([], expected) == 0
    assert citation_precision([], expected) is None


def test_citations_are_compared_with_the_answers_where_no_document_is_named() -> None:
    expected = Expected(("1973",), (), True)
    assert citation_precision(CITED, expected) == pytest.approx(2 / 3)
    assert citation_recall(CITED, expected) == 1
    assert citation_recall(CITED[2:], expected) == 0
    assert citation_precision(CITED, Expected()) is None
    assert citation_recall(CITED, Expected()) is None


def test_groundedness_counts_statements_that_stand_in_one_passage() -> None:
    """A statement with another number does not, nor one with too many other words, nor one whose
    words are scattered over passages."""
    passages = ["The dam opened in 1973, after ten years.", "The fee is 14 euros."]
    assert groundedness("The dam opened in 1973. The fee is 14 euros.", passages) == 1
    assert groundedness("The dam opened in 1974.", passages) == 0
    long = "Old dams: the dam of the valley opened after ten years of work in "
    assert groundedness(f"{long} 1973.", [f"{long} 1973."]) == 1
    assert groundedness(f"{long} 1974.", [f"{long} 1973."]) == 0
    assert groundedness("The dam opened in 1973. Beavers built it quickly.", passages) == 1 / 2
    assert groundedness("The dam fee is 1973 euros.", passages) == 0
    assert groundedness("The dam opened in 1973.", []) == 0
    assert groundedness("", passages) is None


def test_marks_are_not_part_of_an_answer() -> None:
    assert without_marks("In 1973 [1]. Or later [2][3]") == "In 1973. Or later"


def test_measures_of_an_answer_that_is_expected() -> None:
    found = measures(
        "opened in 1973 [1]", CITED[:1], Expected(("1973",), {"p1"}, True), abstained=False
    )
    assert found == {
        "exact": 0.0, "f1": 0.5, "holds_answer": 1.0, "citation_precision": 1.0,
        "citation_recall": 1.0, "citation_holds_answer": 1.0, "grounded": 1.0, "abstained": 0.0,
    }  # fmt: skip


def test_measures_of_silence() -> None:
    """Right where nothing can be said; else it costs recall, and precision is not asked."""
    right = measures("No.", (), Expected(answerable=False), abstained=True)
    assert (right["exact"], right["f1"], right["abstained"]) == (1, 1, 1)
    assert right["citation_recall"] is right["grounded"] is right["holds_answer"] is None
    wrong = measures("No.", (), Expected(("x",), {"p1"}, True), abstained=True)
    assert (wrong["f1"], wrong["citation_recall"], wrong["citation_precision"]) == (0, 0, None)
    said = measures("It is so.", CITED, Expected(answerable=False), abstained=False)
    assert (said["exact"], said["citation_precision"], said["abstained"]) == (0, None, 0)
    unknown = measures("It is so.", CITED, Expected(), abstained=False)
    assert (unknown["exact"], unknown["abstained"], unknown["citation_recall"]) == (None,) * 3


def test_abstention_counts_what_is_refused_and_what_is_told() -> None:
    """Of 4 answerable 1 is refused, of 3 others 2 are told: 2·2/(2·2+1+1) = 2/3."""
    rows = [(True, True), *[(True, False)] * 3, (False, True), (False, True), (False, False)]
    assert abstention(rows) == {
        "f1": 0.6667, "precision": 0.6667, "recall": 0.6667, "answerable_refused": 0.25,
    }  # fmt: skip
    assert abstention([(False, False), (True, False)]) == {
        "f1": 0.0, "precision": 0.0, "recall": 0.0, "answerable_refused": 0.0,
    }  # fmt: skip
    assert abstention([(True, True)]) is abstention([(False, True)]) is abstention([]) is None
