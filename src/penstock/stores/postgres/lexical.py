"""The text index as pure computation: words of a text, posting lists, BM25.

A posting list says which chunks hold a term, how often, and how long each of those chunks is. It is
stored as three little-endian arrays, so that reading is one ``frombuffer`` and scoring is numpy.
BM25: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009).
"""

from __future__ import annotations

import math
import re
import struct
import threading
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, pairwise, repeat
from typing import Final, NamedTuple

import numpy as np
import Stemmer
from numpy.typing import NDArray

LONGEST_WORD: Final = 64
"""Longer words are cut: they are codes and blobs, and a term must fit into an index entry."""

MOST: Final = 65_535
"""Frequencies and lengths are stored in two bytes; more counts as this."""

_CACHED_CHARACTERS: Final = 20_000_000

# Function words of English carry no topic; leaving them out makes the index half as large.
_ENGLISH: Final = """
a about above after again all also am an and any are as at be because been before being below
between both but by can could d did do does doing done during each for from further had has
have having he her here hers herself him himself his how i if in into is it its itself just ll
me more most my myself no nor not of off on once only or other our ours ourselves out over own
re s same she should so some such t than that the their theirs them themselves then there
these they this those through to too under until up upon ve very was we were what when where
which while who whom whose why will with would you your yours yourself yourselves
"""
AUTO: Final = "auto"
"""Instead of a language: each document has its own, and a question is read in all of them."""

DEFAULT: Final = "english"
"""The language of a text of which nothing is known."""

_STOP_WORDS: Final = {"english": frozenset(_ENGLISH.split())}

# In UTF-8: ASCII letters become small, what is ASCII but no letter or digit a space, and the bytes
# of all other characters stay. In one pass, and five times as quick as a regular expression.
_FOLD: Final = bytes(
    code if code > 127 else ord(chr(code).lower()) if chr(code).isalnum() else 32
    for code in range(256)
)
# Beside letters and digits: the marks that stand inside words of Hebrew, Arabic, Indic and Thai.
_WORD: Final = re.compile(
    r"(?:[^\W_]|[\u0300-\u036f\u0591-\u05bd\u064b-\u0652\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e])+"
)
# Scripts written without spaces: every two neighbours are a term.
_UNSPACED: Final = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]+"
)
_ACCENTS: Final = re.compile("[\u0300-\u036f]+")

ALGORITHMS: Final = frozenset(Stemmer.algorithms())

Ids = NDArray[np.int64]
Counts = NDArray[np.uint16]


class Analyser:
    """Turns texts of one language into terms: lower case, no stop words, stems. Safe in threads."""

    def __init__(self, language: str = "english") -> None:
        self.language = language
        self._stop = _STOP_WORDS.get(language, frozenset())
        self._stemmer = Stemmer.Stemmer(language, 0) if language in Stemmer.algorithms() else None
        # The stemmer's own cache is switched off (0): every word comes to it once.
        # A word's terms, separated by spaces: none for a stop word, several for unspaced scripts.
        self._stems: dict[str, str] = {}
        self._characters = 0
        self._lock = threading.Lock()

    def terms(self, text: str) -> list[str]:
        """The terms of a text in reading order, repeated as often as they occur."""
        return self.terms_of([text])[0]

    def terms_of(self, texts: Sequence[str]) -> list[list[str]]:
        """The terms of each text; new words are learnt once for all of them."""
        split = [
            text.encode("utf-8", "replace").translate(_FOLD).decode().split() for text in texts
        ]
        stems = self._stems
        words = set(chain.from_iterable(split))
        if not words <= stems.keys():
            stems = self._learn(words)
        stem = stems.__getitem__
        # An ASCII word is one term or, if it is a stop word, none.
        return [
            list(filter(None, map(stem, found)))
            if text.isascii()
            else " ".join(map(stem, found)).split()
            for text, found in zip(texts, split, strict=True)
        ]

    def places(self, text: str) -> list[tuple[int, int, list[str]]]:
        """Each word of a text that has terms: where it starts and ends, and its terms."""
        found = []
        for match in _WORD.finditer(text):
            terms = self.terms(match[0])
            if terms:
                found.append((match.start(), match.end(), terms))
        return found

    def _learn(self, words: Collection[str]) -> dict[str, str]:
        """Remember the stems of new words. A stemmer is not thread-safe, hence the lock."""
        with self._lock:
            learnt = self._stems
            if self._characters > _CACHED_CHARACTERS:
                # A new dict: another thread may be in the middle of reading the old one.
                learnt, self._characters = {}, 0
            new = [word for word in words if word not in learnt]
            plain = [word for word in new if word.isascii() and len(word) <= LONGEST_WORD]
            found = dict(zip(plain, self._stemmed(plain), strict=True))
            for word in new:
                if word not in found:
                    terms = _split(word) if not word.isascii() else [word]
                    found[word] = " ".join(self._stem(term) for term in terms)
            self._characters += sum(map(len, found)) + sum(map(len, found.values()))
            learnt.update(found)
            self._stems = learnt
            return learnt

    def _stemmed(self, words: Sequence[str]) -> Sequence[str]:
        """As `_stem`, of many ASCII words that are not too long."""
        stems = self._stemmer.stemWords(words) if self._stemmer else words
        if not "".join(stems).isascii():
            return [self._stem(word) for word in words]
        stop = self._stop
        return ["" if word in stop else stem for word, stem in zip(words, stems, strict=True)]

    def _stem(self, word: str) -> str:
        if word in self._stop:
            return ""
        word = word[:LONGEST_WORD]
        stem = str(self._stemmer.stemWord(word)) if self._stemmer else word
        if not stem.isascii():
            plain = _ACCENTS.sub("", unicodedata.normalize("NFD", stem))
            stem = unicodedata.normalize("NFC", plain)
        return stem


def _split(text: str) -> list[str]:
    words: list[str] = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
    if _UNSPACED.search(text):
        return list(chain.from_iterable(map(_pairs, words)))
    return words


def _pairs(word: str) -> Iterator[str]:
    """Runs without spaces as pairs of neighbours, what stands between them as it is."""
    done = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > done:
            yield word[done : run.start()]
        signs = run[0]
        yield from (signs[i : i + 2] for i in range(max(1, len(signs) - 1)))
        done = run.end()
    if done < len(word):
        yield word[done:]


@cache
def analyser(language: str = "english") -> Analyser:
    """The process's analyser of a language; its cache of stems is shared."""
    return Analyser(language)


def analyse(text: str, language: str = "english") -> list[str]:
    """The terms of a text in reading order: lower case, without stop words, stemmed."""
    known = language in ALGORITHMS
    return analyser(language if known else DEFAULT).terms(text)


def analyse_all(texts: Sequence[str], language: str = "english") -> list[list[str]]:
    """As `analyse`, of many texts of one language."""
    known = language in ALGORITHMS
    return analyser(language if known else DEFAULT).terms_of(texts)


def analyse_question(text: str, languages: Iterable[str]) -> list[str]:
    """The terms of a question in each of these languages. A word has one weight in each: stems that
    an earlier language has too are asked for once."""
    terms: list[str] = []
    asked: set[str] = set()
    for language in languages:
        terms.extend(term for term in analyse(text, language) if term not in asked)
        asked.update(terms)
    return terms


# --------------------------------------------------------------------------- posting lists


class Postings(NamedTuple):
    """Where a term occurs: arrays of equal length."""

    chunk_ids: Ids
    frequencies: Counts
    lengths: Counts


class Packed(NamedTuple):
    """Postings as they are stored."""

    chunk_ids: bytes
    frequencies: bytes
    lengths: bytes


def pack(postings: Postings) -> Packed:
    """Arrays to little-endian bytes."""
    return Packed(
        postings.chunk_ids.astype("<i8", copy=False).tobytes(),
        postings.frequencies.astype("<u2", copy=False).tobytes(),
        postings.lengths.astype("<u2", copy=False).tobytes(),
    )


def unpack(chunk_ids: bytes, frequencies: bytes, lengths: bytes) -> Postings:
    """Bytes to arrays (read-only views, nothing is copied)."""
    return Postings(
        np.frombuffer(chunk_ids, "<i8"),
        np.frombuffer(frequencies, "<u2"),
        np.frombuffer(lengths, "<u2"),
    )


def unpack_all(blocks: Sequence[tuple[bytes, bytes, bytes]]) -> Postings:
    """One posting list of the blocks of one term, in the blocks' order."""
    return unpack(
        *(b"".join(column) for column in zip(*blocks, strict=True)) if blocks else (b"",) * 3
    )


def joined(lists: Sequence[Postings]) -> Postings:
    """One posting list of several of one term."""
    if len(lists) == 1:
        return lists[0]
    if not lists:
        return unpack(b"", b"", b"")
    return Postings(*(np.concatenate(column) for column in zip(*lists, strict=True)))


def keep(postings: Postings, alive: NDArray[np.bool_]) -> Postings:
    """The postings where ``alive`` is true."""
    return Postings(postings.chunk_ids[alive], postings.frequencies[alive], postings.lengths[alive])


class Inverted(NamedTuple):
    """The posting lists of some chunks, before they have a form.

    ``terms`` are in code point order; what is known of term i stands from ``bounds[i]`` to
    ``bounds[i + 1]`` in ``ordinals`` (places in ``chunk_ids``) and ``frequencies``. ``lengths`` has
    one entry per chunk, in terms.
    """

    terms: list[str]
    bounds: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    frequencies: Counts
    chunk_ids: Ids
    lengths: list[int]


def invert(chunk_ids: Sequence[int], terms: Sequence[Sequence[str]]) -> Inverted:
    """The posting lists of chunks whose terms are given; each in the order of ``chunk_ids``."""
    lengths = list(map(len, terms))
    words = list(chain.from_iterable(terms))
    names = sorted(set(words))
    number = dict(zip(names, range(len(names)), strict=True))
    ids = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
    width = max(1, len(lengths))
    # One number per (term, chunk): sorting it groups by term and, inside a term, by chunk.
    pairs = ids * width + np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    pairs.sort()
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    frequencies = np.diff(first, append=len(pairs))
    of_term, of_chunk = np.divmod(pairs[first], width)
    return Inverted(
        names,
        np.searchsorted(of_term, np.arange(len(names) + 1)).astype(np.int64, copy=False),
        of_chunk,
        np.minimum(frequencies, MOST).astype(np.uint16),
        np.asarray(chunk_ids, np.int64),
        lengths,
    )


_COUNTS: Final = struct.Struct("<4I")


def pack_block(inverted: Inverted) -> bytes:
    """Posting lists as one block: what a commit adds to the index.

    Four counts (chunks, terms, postings, bytes of names); chunk ids int64, chunk lengths uint16,
    bounds uint32, ordinals uint32, frequencies uint16, all little-endian; the names, each between
    line feeds.
    """
    names = "\n".join(("", *inverted.terms, "")).encode()
    lengths = np.minimum(np.asarray(inverted.lengths, np.int64), MOST)
    return b"".join(
        (
            _COUNTS.pack(
                len(inverted.chunk_ids), len(inverted.terms), len(inverted.ordinals), len(names)
            ),
            inverted.chunk_ids.astype("<i8", copy=False).tobytes(),
            lengths.astype("<u2").tobytes(),
            inverted.bounds.astype("<u4").tobytes(),
            inverted.ordinals.astype("<u4").tobytes(),
            inverted.frequencies.astype("<u2", copy=False).tobytes(),
            names,
        )
    )


class Block:
    """A packed block, read where it lies."""

    def __init__(self, payload: bytes) -> None:
        chunks, terms, postings, _ = _COUNTS.unpack_from(payload)
        at = _COUNTS.size
        self.chunk_ids: Ids = np.frombuffer(payload, "<i8", chunks, at)
        at += 8 * chunks
        self.lengths: Counts = np.frombuffer(payload, "<u2", chunks, at)
        at += 2 * chunks
        self.bounds: Ids = np.frombuffer(payload, "<u4", terms + 1, at).astype(np.int64)
        at += 4 * (terms + 1)
        self.ordinals = np.frombuffer(payload, "<u4", postings, at)
        at += 4 * postings
        self.frequencies: Counts = np.frombuffer(payload, "<u2", postings, at)
        self._names = payload[at + 2 * postings :]

    def terms(self) -> list[str]:
        """All terms, in code point order."""
        return self._names.decode().split("\n")[1:-1] if len(self.bounds) > 1 else []

    def find(self, term: str) -> Postings | None:
        """The posting list of one term."""
        place = self._names.find(f"\n{term}\n".encode())
        if place < 0:
            return None
        number = self._names.count(b"\n", 0, place)
        start, end = int(self.bounds[number]), int(self.bounds[number + 1])
        ordinals = self.ordinals[start:end]
        return Postings(
            self.chunk_ids[ordinals], self.frequencies[start:end], self.lengths[ordinals]
        )


def find_in_blocks(
    payloads: Iterable[bytes], terms: Iterable[str]
) -> list[tuple[str, bytes, bytes, bytes]]:
    """What fresh blocks hold of some terms, in the form of stored posting lists: (term, chunk ids,
    frequencies, lengths)."""
    wanted = list(terms)
    found = []
    for payload in payloads:
        block = Block(payload)
        for term in wanted:
            postings = block.find(term)
            if postings is not None:
                found.append((term, *pack(postings)))
    return found


def merge_blocks(blocks: Sequence[Block], alive: Ids) -> tuple[list[str], Iterator[Packed]]:
    """Fresh blocks as posting lists by term, of those chunks that are alive."""
    names = sorted(set(chain.from_iterable(block.terms() for block in blocks)))
    number = dict(zip(names, range(len(names)), strict=True))
    chunk_ids = np.concatenate([block.chunk_ids for block in blocks])
    lengths = np.concatenate([block.lengths for block in blocks])
    of_term, of_chunk, before = [], [], 0
    for block in blocks:
        own = np.fromiter(map(number.__getitem__, block.terms()), np.int64)
        of_term.append(np.repeat(own, block.bounds[1:] - block.bounds[:-1]))
        of_chunk.append(block.ordinals.astype(np.int64) + before)
        before += len(block.chunk_ids)
    terms, chunks = np.concatenate(of_term), np.concatenate(of_chunk)
    frequencies = np.concatenate([block.frequencies for block in blocks])
    kept = np.isin(chunk_ids, alive)[chunks]
    terms, chunks, frequencies = terms[kept], chunks[kept], frequencies[kept]
    order = np.argsort(terms, kind="stable")
    terms, chunks = terms[order], chunks[order]
    present, starts = np.unique(terms, return_index=True)
    whole = pack(Postings(chunk_ids[chunks], frequencies[order], lengths[chunks]))
    bounds = [*starts.tolist(), len(terms)]
    return [names[term] for term in present.tolist()], (
        Packed(
            whole.chunk_ids[start * 8 : end * 8],
            whole.frequencies[start * 2 : end * 2],
            whole.lengths[start * 2 : end * 2],
        )
        for start, end in pairwise(bounds)
    )


# --------------------------------------------------------------------------- scoring


def bm25(
    lists: Sequence[Postings],
    *,
    chunks: int,
    average_length: float,
    k1: float = 1.2,
    b: float = 0.75,
    weights: Sequence[float] | None = None,
) -> tuple[Ids, NDArray[np.float64]]:
    """BM25 of every chunk that has at least one of the terms: ids in ascending order, and scores.

    ``lists`` holds one posting list per different term of the question, ``weights`` how often it is
    asked for. ``chunks`` and ``average_length`` (in terms) describe the whole collection.
    """
    scored = [
        (postings.chunk_ids, weight * _gains(postings, chunks, average_length, k1, b))
        for postings, weight in zip(lists, weights or repeat(1.0), strict=False)
        if len(postings.chunk_ids)
    ]
    if not scored:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    ids = np.concatenate([found for found, _ in scored])
    gains = np.concatenate([gain for _, gain in scored])
    lowest = int(ids.min())
    if int(ids.max()) - lowest < 16 * len(ids) + 100_000:
        # Ids lie close together: counting into a table is several times as quick as sorting.
        table = np.bincount(ids - lowest, weights=gains).astype(np.float64, copy=False)
        hit = np.flatnonzero(table).astype(np.int64, copy=False)
        return hit + lowest, table[hit]
    unique, places = np.unique(ids, return_inverse=True)
    sums = np.bincount(places, weights=gains).astype(np.float64, copy=False)
    return unique.astype(np.int64, copy=False), sums


def rarity(holding: int, chunks: int) -> float:
    """How much a term tells that ``holding`` of ``chunks`` chunks have."""
    return math.log1p((max(chunks, holding) - holding + 0.5) / (holding + 0.5))


def _gains(
    postings: Postings, chunks: int, average_length: float, k1: float, b: float
) -> NDArray[np.float64]:
    frequencies = postings.frequencies.astype(np.float64)
    relative = postings.lengths / max(average_length, 1.0)
    gains: NDArray[np.float64] = (
        rarity(len(postings.chunk_ids), chunks)
        * frequencies
        * (k1 + 1)
        / (frequencies + k1 * (1 - b + b * relative))
    )
    return gains
