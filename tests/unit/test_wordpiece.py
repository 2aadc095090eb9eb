"""Counting tokens without the tokenizer agrees with the tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.models.minilm_weights import model_folder
from penstock.models.wordpiece import WordPiece

ASCII = st.text(st.characters(min_codepoint=0, max_codepoint=127))
WORDS = st.lists(st.sampled_from(["Lanra", "don't", "[SEP]", "x" * 101, "3.14", "a_b", "é", "\t"]))


@pytest.fixture(scope="module")
def words() -> WordPiece:
    return WordPiece(model_folder() / "tokenizer.json", max_tokens=254)


@given(text=ASCII | st.text() | WORDS.map(" ".join) | WORDS.map("".join))
def test_count_is_what_the_tokenizer_says(words: WordPiece, text: str) -> None:
    """The quick count and the tokenizer agree on every text."""
    assert words.count([text]) == [len(words._encode([text])[0])]


def test_special_tokens_are_around_the_text(words: WordPiece) -> None:
    """What the model reads begins with [CLS], ends with [SEP] and is never too long."""
    assert words.encode("").tolist() == [[101, 102]]
    assert words.encode("hello").tolist() == [[101, 7592, 102]]
    long = words.encode("hello " * 10_000)
    assert long.shape == (1, 256)
    assert (long[0, 0], long[0, -1]) == (101, 102)


def test_lone_surrogates_are_replaced(words: WordPiece) -> None:
    """Half a character does not stop the tokenizer, and a pair is the character."""
    assert words.count(["\ud83d", "a \udc00 b"]) == [0, 2]
    assert words.encode("\ud83d\udea2").tolist() == words.encode("🚢").tolist()


def test_the_memory_of_words_is_bounded(words: WordPiece, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting ever new words does not fill memory."""
    monkeypatch.setattr("penstock.models.wordpiece._REMEMBERED", 50)
    for number in range(200):
        words.count([f"word{number}"])
    assert len(words._counts) <= 51
    assert words.count(["x" * 90_000]) == [1]
    assert "x" * 90_000 not in words._counts
