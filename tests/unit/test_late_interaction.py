"""Vectors of tokens: packed, compared, weighed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from penstock.models.base import Weighted
from penstock.models.late_interaction import HEAD, QuestionTokens, head, token_weights, unit

CHANCE = np.random.default_rng(5)


def hidden(count: int) -> np.ndarray:
    return CHANCE.normal(size=(count, 384)).astype(np.float32)


def test_the_head_is_small_and_named() -> None:
    """It is shipped with the package; its name says what is stored."""
    assert HEAD.stat().st_size < 100_000
    assert head().name == "pca96-4bit-1"
    assert head().dimensions == 96


def test_packed_tokens_are_nearly_what_they_were() -> None:
    """Four bits a number: cosines of the same token stay above 0.98."""
    tokens = hidden(50)
    packed = head().pack(tokens, np.full(50, 20_000))
    assert len(packed) == 50 * 48
    again = head().unpack(packed)
    cosines = (unit(again) * head().project(tokens)).sum(axis=1)
    assert cosines.min() > 0.98
    assert np.abs(np.linalg.norm(again, axis=1) - 1).max() < 0.1


def test_function_words_and_marks_are_not_stored() -> None:
    """[CLS], "the", "." are left out; a text that has nothing else keeps them."""
    the, stop, river = 1996, 1012, 2314
    packed = head().pack(hidden(4), np.array([101, the, river, stop]))
    assert len(packed) == 48
    assert len(head().pack(hidden(2), np.array([101, 102]))) == 2 * 48


def test_tokens_weigh_what_their_word_weighs() -> None:
    """All pieces of a word; words that are not counted a little; marks of the model nothing."""
    places = [(0, 0), (0, 4), (5, 8), (8, 11), (12, 13), (0, 0)]  # who | swi ##mms | ?
    weights = token_weights(
        QuestionTokens(np.zeros((6, 96), np.float32), places), [Weighted(5, 11, 1.9)], 2.0
    )
    assert weights.tolist() == pytest.approx([0, 0.1 / 4.2, 2 / 4.2, 2 / 4.2, 0.1 / 4.2, 0])
    nothing = token_weights(QuestionTokens(np.zeros((2, 96), np.float32), [(0, 0)] * 2), [], 2.0)
    assert nothing.tolist() == [0, 0]


def test_packing_occupies_the_calling_thread_alone() -> None:
    """A load packs in every thread of its own; a library's threads would spin beside them."""
    text, tokens = hidden(120), np.full(120, 20_000)
    head().pack(text, tokens)
    everybody, mine = time.process_time(), time.thread_time()
    for _ in range(150):
        head().pack(text, tokens)
    mine = time.thread_time() - mine
    assert time.process_time() - everybody - mine < 0.2 * mine + 0.03
