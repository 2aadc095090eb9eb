"""The learned order: what a question and a passage have in common, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.errors import FatalError
from penstock.models.base import Candidate, Weighted
from penstock.models.interaction import COLUMNS, Asked, ask, interaction
from penstock.models.late_interaction import QuestionTokens, head
from penstock.models.ranking import FITTED, MOST, REACH, Ranking, plain, ranking
from penstock.models.trees import Trees

CHANCE = np.random.default_rng(7)
QUESTION = "Who built the Crane in Bergen in 1610"
TEXTS = (
    "The crane was built by Olsen. It stands in Bergen. Ships came.",
    "Nobody knows who built it. In 1610 Bergen burned.",
    "",
    "word",
)


def asked(question: str = QUESTION) -> Asked:
    """Every word of more than two letters tells alike; a token each."""
    places = [(0, 0)]
    words = []
    for word in question.split():
        start = question.index(word, places[-1][1])
        places.append((start, start + len(word)))
        if len(word) > 3:
            words.append(Weighted(start, start + len(word), 1.0))
    hidden = CHANCE.normal(size=(len(places), 384)).astype(np.float32)
    return ask(question, QuestionTokens(head().project(hidden), places), words, 2.0)


def candidate(text: str, *, title: str = "", tokens: int = 9, found: float = 0.5) -> Candidate:
    vector = CHANCE.normal(size=384).astype(np.float32)
    hidden = CHANCE.normal(size=(tokens, 384)).astype(np.float32)
    packed = head().pack(hidden, np.full(tokens, 20_000))
    return Candidate(found, found, title, text, vector / np.linalg.norm(vector), packed)


def columns(question: Asked, *candidates: Candidate) -> dict[str, list[float]]:
    return dict(zip(COLUMNS, interaction(question, candidates).T.tolist(), strict=True))


def test_words_are_counted_in_the_passage_and_in_its_sentences() -> None:
    """built, Crane, Bergen, 1610: two of them stand in one sentence of the first, all but one in
    the title and it."""
    found = columns(asked(), *(candidate(text) for text in TEXTS))
    assert found["held"] == pytest.approx([0.75, 0.75, 0, 0])
    assert found["held_in_sentence"] == pytest.approx([0.5, 0.5, 0, 0])
    assert found["held_in_two_sentences"] == pytest.approx([0.75, 0.75, 0, 0])
    assert found["numbers_missing"] == pytest.approx([0.25, 0, 0.25, 0.25])
    assert found["special_missing"] == pytest.approx([0, 0.25, 0.5, 0.5])
    titled = columns(asked(), candidate(TEXTS[0], title="Bergen"), candidate("", title="Crane"))
    assert titled["held_in_sentence_or_title"] == pytest.approx([0.75, 0.25])


def test_a_passage_is_compared_with_the_best_of_the_others() -> None:
    found = columns(asked(), *(candidate(TEXTS[0], found=f) for f in (0.2, 0.9, 0.5)))
    assert found["similarity_ahead"] == pytest.approx([-0.7, 0.4, -0.4])
    assert found["fused_place"] == pytest.approx(np.log1p([2, 0, 1]).tolist())


def test_what_a_passage_says_does_not_depend_on_its_neighbours() -> None:
    """Texts are laid behind one another to be compared at once: nothing runs over."""
    one = candidate("Ships came. They saw a crane")
    other = candidate("Bergen in 1610: nobody knows who built it.", tokens=40)
    names = ("near", "near_sharp", "window_8", "pairs_in_order", "in_order", "often", "held",
             "held_in_two_sentences", "sentence_length")  # fmt: skip
    question = asked()
    alone, beside, behind = (
        columns(question, one), columns(question, one, other), columns(question, other, one),
    )  # fmt: skip
    for name in names:
        assert alone[name][0] == pytest.approx(beside[name][0], abs=1e-6), name
        assert alone[name][0] == pytest.approx(behind[name][1], abs=1e-6), name


def test_a_match_is_the_weighted_mean_of_the_best_of_each_token() -> None:
    """Against the same computed plainly, text by text and token by token."""
    question = asked()
    candidates = [candidate("", tokens=count) for count in (3, 1, 17)]
    found = columns(question, *candidates)
    for power, name in ((1, "near"), (3, "near_sharp"), (8, "near_sharpest")):
        expected = [
            sum(
                weight * max(0.0, float((head().unpack(one.tokens) @ token).max())) ** power
                for token, weight in zip(question.tokens.vectors, question.weights, strict=True)
            )
            for one in candidates
        ]
        assert found[name] == pytest.approx(expected, abs=1e-5)


def test_a_window_holds_less_than_the_whole_and_more_than_a_smaller_one() -> None:
    found = columns(asked(), candidate("x", tokens=90), candidate("y", tokens=3))
    for place in (0, 1):
        widths = [found[f"window_{width}"][place] for width in (4, 8, 16, 32)]
        assert widths == sorted(widths)
        assert widths[-1] <= found["near_sharp"][place] + 1e-6
    assert found["window_4"][1] == pytest.approx(found["near_sharp"][1], abs=1e-6)


@pytest.mark.parametrize("question", ["", "?", "of the", "a", "1610", "Crane Crane Crane Crane"])
def test_every_question_has_finite_scores(question: str) -> None:
    scores = ranking().scores(asked(question), [candidate(text) for text in TEXTS])
    assert np.isfinite(scores).all()
    assert scores.min() >= 0
    assert scores.max() <= MOST
    assert ranking().scores(asked(question), [candidate("word", tokens=1)]).shape == (1,)


@pytest.mark.parametrize("level", [-5.0, 5.0])
def test_trees_move_a_score_no_further_than_their_reach(tmp_path: Path, level: float) -> None:
    """However much they add."""
    with np.load(FITTED) as opened:
        stored = {name: opened[name] for name in opened.files}
    np.savez(tmp_path / "other.npz", **(stored | {"level": np.array(level)}))
    features = np.full((5, len(COLUMNS)), 0.5, np.float32)
    moved = Ranking(tmp_path / "other.npz").judge(features) - plain(features)
    assert moved.tolist() == pytest.approx([REACH if level < 0 else -REACH] * 5, abs=1e-5)


def test_trees_are_walked_as_they_were_fitted() -> None:
    """Against the same node by node."""
    with np.load(FITTED) as opened:
        stored = {name: opened[name] for name in opened.files}
    trees = Trees(stored, COLUMNS, "stored")
    features = CHANCE.normal(size=(20, len(COLUMNS))).astype(np.float32)
    expected = []
    for row in features:
        total = 0.0
        for root in stored["roots"].tolist():
            node = root
            while (children := stored["children"][node].tolist()) != [node, node]:
                node = children[int(row[stored["columns"][node]] > stored["limits"][node])]
            total += float(stored["values"][node])
        expected.append(total)
    assert trees.sums(features).tolist() == pytest.approx(expected, abs=1e-4)


def test_trees_of_other_columns_are_refused() -> None:
    with np.load(FITTED) as opened, pytest.raises(FatalError, match="fit it again"):
        Trees(opened, COLUMNS[1:], "stored")


def test_what_is_shipped_is_small() -> None:
    assert FITTED.stat().st_size < 100_000
