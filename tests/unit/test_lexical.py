"""Words, posting lists and BM25."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.stores.postgres.lexical import (
    LONGEST_WORD,
    MOST,
    Analyser,
    Block,
    Postings,
    analyse,
    bm25,
    find_in_blocks,
    invert,
    keep,
    merge_blocks,
    pack,
    pack_block,
    unpack,
    unpack_all,
)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The running dogs", ["run", "dog"]),
        ("PS-204 costs 1,250.50!", ["ps", "204", "cost", "1", "250", "50"]),
        ("Café – naïve “quotes”", ["cafe", "naiv", "quot"]),
        ("don't it's", ["don"]),
        ("東京都へ", ["東京", "京都", "都へ"]),
        ("A東B", ["東", "b"]),
        ("snake_case", ["snake", "case"]),
        ("", []),
        ("\x00 \ud800 ok", ["ok"]),
    ],
)
def test_texts_become_terms(text: str, terms: list[str]) -> None:
    """Lower case, without stop words, stemmed; scripts without spaces in pairs."""
    assert analyse(text) == terms


def test_other_languages_have_their_own_stems() -> None:
    """The stemmer is chosen by name; a language without one keeps words as they are."""
    assert analyse("Häuser", "german") == ["haus"]
    assert Analyser("klingon").terms("Running the dogs") == ["running", "the", "dogs"]


def test_a_very_long_word_is_cut() -> None:
    """A term fits into an index entry."""
    assert [len(term) for term in analyse("9" * 10_000)] == [LONGEST_WORD]


@given(st.text())
def test_terms_do_not_depend_on_what_was_read_before(text: str) -> None:
    """The cache of stems changes nothing."""
    used = Analyser()
    used.terms("something else entirely, " + text.upper())
    assert used.terms(text) == Analyser().terms(text)


TEXTS = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=12), min_size=1, max_size=8)


def as_lists(terms: list[str], packed: list[tuple[bytes, bytes, bytes]]) -> dict[str, object]:
    return {
        term: [column.tolist() for column in unpack(*one)]
        for term, one in zip(terms, packed, strict=True)
    }


def expected(texts: list[list[str]], first: int, dead: set[int]) -> dict[str, object]:
    found: dict[str, list[list[int]]] = {}
    for number, text in enumerate(texts):
        if first + number not in dead:
            for term, times in Counter(text).items():
                lists = found.setdefault(term, [[], [], []])
                for column, value in zip(lists, (first + number, times, len(text)), strict=True):
                    column.append(value)
    return dict(found)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sets(st.integers(100, 130)))
def test_merged_blocks_hold_every_posting_of_chunks_that_are_alive(
    batches: list[list[list[str]]], dead: set[int]
) -> None:
    """Inverting, packing and merging lose and invent nothing."""
    flat = [text for batch in batches for text in batch]
    ids = list(range(100, 100 + len(flat)))
    blocks, at = [], 0
    for batch in batches:
        part = ids[at : at + len(batch)]
        blocks.append(Block(pack_block(invert(part, batch))))
        at += len(batch)
    alive = np.asarray([id_ for id_ in ids if id_ not in dead], np.int64)
    terms, packed = merge_blocks(blocks, alive)
    assert as_lists(terms, list(packed)) == expected(flat, 100, dead)


@given(TEXTS)
def test_a_block_finds_the_lists_of_its_terms(texts: list[list[str]]) -> None:
    """Reading a fresh block gives what a merge would."""
    payload = pack_block(invert(list(range(len(texts))), texts))
    rows = find_in_blocks([payload], "abcdefgh")
    assert as_lists([row[0] for row in rows], [row[1:] for row in rows]) == expected(
        texts, 0, set()
    )


def test_counts_beyond_two_bytes_are_kept_as_the_most() -> None:
    """A monstrous text neither wraps around nor fails."""
    block = Block(pack_block(invert([1], [["a"] * 70_000])))
    postings = block.find("a")
    assert postings is not None
    assert (postings.frequencies.tolist(), postings.lengths.tolist()) == ([MOST], [MOST])


def of(ids: list[int], frequencies: list[int], lengths: list[int]) -> Postings:
    return Postings(
        np.asarray(ids, np.int64),
        np.asarray(frequencies, np.uint16),
        np.asarray(lengths, np.uint16),
    )


def test_packing_posting_lists_is_reversible() -> None:
    """Stored lists of one term are one list when they are read."""
    one, two = of([1, 9], [1, 2], [5, 6]), of([12], [3], [7])
    both = unpack_all([pack(one), pack(two)])
    assert both.chunk_ids.tolist() == [1, 9, 12]
    assert keep(both, np.asarray([True, False, True])).frequencies.tolist() == [1, 3]
    assert len(unpack_all([]).chunk_ids) == 0


@pytest.mark.parametrize("far", [3, 10_000_000_000])
def test_bm25_is_the_textbook_formula(far: int) -> None:
    """For ids close together and far apart alike."""
    lists = [of([1, far], [2, 1], [10, 20]), of([far], [4], [20])]
    ids, scores = bm25(lists, chunks=10, average_length=15, k1=1.2, b=0.75)

    def gain(holding: int, frequency: int, length: int) -> float:
        rarity = math.log(1 + (10 - holding + 0.5) / (holding + 0.5))
        return rarity * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / 15))

    assert ids.tolist() == [1, far]
    assert scores.tolist() == pytest.approx([gain(2, 2, 10), gain(2, 1, 20) + gain(1, 4, 20)])


def test_nothing_found_is_an_empty_result() -> None:
    """No lists, or empty ones."""
    assert [len(part) for part in bm25([], chunks=0, average_length=0)] == [0, 0]
    assert [len(part) for part in bm25([of([], [], [])], chunks=5, average_length=1)] == [0, 0]
