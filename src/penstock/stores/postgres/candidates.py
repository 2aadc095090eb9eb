"""Which chunks may answer a question: the nearest by vector and the best by words.

Filters and permissions are conditions of the queries, so what is ranked is what may be seen, and
never fewer than the limit come back when that many match. BM25 is computed here from the posting
lists; it comes as a share of the most that any text could reach with this question's words, so that
scores of different questions compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString, NamedTuple, TypeAlias

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from penstock.stores.base import Filter, Hit, Storage, Vectors
from penstock.stores.postgres.arrays import array_literal, numbers_literal
from penstock.stores.postgres.conditions import conditions, unsendable
from penstock.stores.postgres.lexical import (
    Postings,
    bm25,
    find_in_blocks,
    joined,
    rarity,
    unpack,
)
from penstock.stores.postgres.permissions import Permitted
from penstock.stores.postgres.recent import Recent

K1: Final = 0.9
"""How soon a term's further occurrences stop counting."""
B: Final = 0.4
"""How much less an occurrence counts in a long chunk."""
_LOOKS: Final = (2, 16)
"""The best by words are checked in portions of so many times the limit, and then all of them."""

# The model's number is written out and the vector cast to its length, so that the statement fits
# the model's own index (an expression index, WHERE model = M).
_DISTANCE: Final = "(v.embedding::halfvec({dimensions}) <=> %(vector)s::halfvec({dimensions}))"
# The distance is named once and sorted by name: written twice it would be computed twice.
_NEAREST: Final = """
SELECT id, 1 - distance FROM (
    SELECT c.id, {distance} AS distance FROM penstock.vectors v
    JOIN penstock.chunks c ON c.tenant = v.tenant AND c.hash = v.hash
    JOIN penstock.documents d ON d.id = c.document_id
    WHERE v.model = {model} {conditions} ORDER BY distance LIMIT %(limit)s) nearest
"""
# For when the index ended short. The sum is an order that no index has: every vector is compared.
_NEAREST_OF_ALL: Final = """
SELECT c.id, 1 - {distance} FROM penstock.vectors v
JOIN penstock.chunks c ON c.tenant = v.tenant AND c.hash = v.hash
JOIN penstock.documents d ON d.id = c.document_id
WHERE v.model = {model} {conditions} ORDER BY {distance} + 0 LIMIT %(limit)s
"""
# Without index and filter. OFFSET 0 keeps the sorting inside, so that only what comes first is
# joined: a third of the time.
_NEAREST_SORTED: Final = """
SELECT c.id, 1 - v.distance FROM (
    SELECT tenant, model, hash, {distance} AS distance FROM penstock.vectors v
    WHERE v.model = {model} ORDER BY distance OFFSET 0) v
JOIN penstock.chunks c ON c.tenant = v.tenant AND c.hash = v.hash
JOIN penstock.documents d ON d.id = c.document_id
WHERE true {conditions} ORDER BY v.distance LIMIT %(limit)s
"""
_INDEXED: Final = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid JOIN pg_am a ON a.oid = k.relam
    WHERE i.indrelid = 'penstock.vectors'::regclass AND i.indisvalid AND a.amname <> 'btree')
"""
# A list that is in memory is named, not sent: under its term and block it is always the same.
_POSTINGS: Final = """
SELECT p.term, p.block, CASE WHEN k.block IS NULL THEN p.chunk_ids END,
       CASE WHEN k.block IS NULL THEN p.frequencies END,
       CASE WHEN k.block IS NULL THEN p.lengths END
FROM penstock.postings p
LEFT JOIN unnest(%(known_terms)s::text[], %(known_blocks)s::bigint[]) k (term, block)
  ON k.term = p.term AND k.block = p.block
WHERE p.term = ANY(%(terms)s::text[]) ORDER BY p.term, p.block
"""
# What no merge has sorted by term yet: blocks of all terms of a commit.
_FRESH: Final = "SELECT payload FROM penstock.fresh_postings"
_STATISTICS: Final = """
SELECT coalesce(sum(chunks), 0)::bigint, coalesce(sum(terms), 0)::bigint
FROM penstock.text_statistics
"""
# Which of some chunks are alive, permitted and wanted, and how near they are to the question.
_CHECKED: Final = """
SELECT c.id, coalesce(1 - {distance}, 0) FROM penstock.chunks c
JOIN penstock.documents d ON d.id = c.document_id
LEFT JOIN penstock.vectors v
  ON v.tenant = c.tenant AND v.model = {model} AND v.hash = c.hash
WHERE c.id = ANY(%(chunks)s::bigint[]) {conditions}
"""
_CHECKED_BY_WORDS: Final = """
SELECT c.id, 0::float8 FROM penstock.chunks c JOIN penstock.documents d ON d.id = c.document_id
WHERE c.id = ANY(%(chunks)s::bigint[]) {conditions}
"""
# All chunks that may be seen and are wanted, as an array of big-endian numbers.
_PERMITTED: Final = """
SELECT coalesce(string_agg(int8send(c.id), ''), '') FROM penstock.chunks c
JOIN penstock.documents d ON d.id = c.document_id WHERE true {conditions}
"""


@dataclass(slots=True)
class Model:
    """Which vectors are compared: the number of their model, their length and how they are stored.
    ``indexed`` is what the last question found: a hint for how to ask the next one, never for what
    is true."""

    id: int
    dimensions: int
    storage: Storage = "halfvec"
    indexed: bool = True


class Scores(NamedTuple):
    """The chunks that hold a term of the question, in ascending order, with their scores; how much
    each term tells, and how much one would that no chunk holds."""

    chunks: NDArray[np.int64]
    shares: NDArray[np.float64]
    rarities: Mapping[str, float]
    most: float

    def best_first(self) -> NDArray[np.int64]:
        """Places of the chunks, best first; equals in the order of chunks."""
        return np.argsort(-self.shares, kind="stable")

    def best(self, most: int) -> NDArray[np.int64]:
        """So many of the best chunks, in the order of `best_first`, without sorting all."""
        if len(self.chunks) <= most:
            return self.chunks[self.best_first()]
        least = np.partition(self.shares, -most)[-most]
        places = np.flatnonzero(self.shares >= least)
        return self.chunks[places[np.argsort(-self.shares[places], kind="stable")][:most]]

    def of(self, chunks: Sequence[int]) -> list[float]:
        """The scores of these chunks; one without any of the terms has 0."""
        if not len(self.chunks) or not chunks:
            return [0.0] * len(chunks)
        wanted = np.asarray(chunks, np.int64)
        places = np.minimum(np.searchsorted(self.chunks, wanted), len(self.chunks) - 1)
        found: list[float] = np.where(
            self.chunks[places] == wanted, self.shares[places], 0.0
        ).tolist()
        return found


Lists: TypeAlias = Recent[str, Mapping[int, Postings]]
"""Posting lists in memory: by term, and then by block."""
_POSTING_BYTES: Final = 12
_LIST_BYTES: Final = 600


class _Words(NamedTuple):
    """What was asked about the words of a question; what was known before is not sent again."""

    known: Mapping[str, Mapping[int, Postings]]
    postings: psycopg.AsyncCursor[Any]
    fresh: psycopg.AsyncCursor[Any]
    statistics: psycopg.AsyncCursor[Any]


class Candidates:
    """The search for one question in one snapshot, on a connection in pipeline mode."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        model: Model | None,
        *,
        vector: Vectors | None,
        terms: Sequence[str],
        limit: int,
        where: Filter,
        permitted: Permitted,
        kept: Lists | None = None,
    ) -> None:
        self.scores = Scores(np.empty(0, np.int64), np.empty(0, np.float64), {}, 1.0)
        """By words; filled by `find`."""
        self._connection = connection
        self._kept = kept
        self._near: Sequence[int] | None = None
        self._limit = limit
        self._terms = Counter(terms)
        # No model in the database: nothing was embedded yet, and only words can be searched.
        self._model = model if vector is not None else None
        self._nothing = unsendable(where)
        self._filtered = where != Filter()
        condition, self._values = conditions(where)
        self._values |= permitted.values
        self._parts: dict[str, sql.Composable] = {"conditions": condition + permitted.condition}
        if self._model is not None and vector is not None:
            self._parts["model"] = sql.Literal(self._model.id)
            self._parts["distance"] = sql.SQL(_DISTANCE).format(
                dimensions=sql.Literal(self._model.dimensions)
            )
            self._asked_vector = vector

    def propose(self, near: Sequence[int]) -> None:
        """What a second store found nearest: checked here, and used if it is enough."""
        self._near = near

    async def find(self) -> list[Hit]:
        """The union of both searches, at most the limit of each, with both scores."""
        if self._nothing or self._limit < 1:
            return []
        # All questions that need no answer of another are on their way before one is read.
        words = await self._ask_words()
        asked = self._model if self._near is None else None
        nearest = await self._ask_nearest(asked) if asked else None
        await self._read_words(words)
        similarities = await self._by_words(self.scores)
        if nearest is not None and self._model is not None:
            similarities.update(await self._read_nearest(self._model, *nearest))
        elif self._near is not None and self._model is not None:
            similarities.update(await self._checked_nearest(self._model, self._near))
        return self._hits(similarities)

    def _hits(self, similarities: Mapping[int, float]) -> list[Hit]:
        found = list(similarities)
        return [
            Hit(chunk, similarities[chunk], share)
            for chunk, share in zip(found, self.scores.of(found), strict=True)
        ]

    async def _ask_words(self) -> _Words | None:
        """The posting lists of the question's words; they are not read yet."""
        if not self._terms:
            return None
        known: dict[str, Mapping[int, Postings]] = {}
        if self._kept is not None:
            known = {t: kept for t in self._terms if (kept := self._kept.get(t)) is not None}
        pairs = [(term, block) for term, blocks in known.items() for block in blocks]
        values = {
            "terms": array_literal(list(self._terms)),
            "known_terms": array_literal([term for term, _ in pairs]),
            "known_blocks": numbers_literal(block for _, block in pairs),
        }
        return _Words(
            known,
            await self._binary(_POSTINGS, values),
            await self._binary(_FRESH, None),
            await self._binary(_STATISTICS, None),
        )

    async def _read_words(self, words: _Words | None) -> None:
        if words is None:
            return
        lists: dict[str, dict[int, Postings]] = {}
        for term, block, *stored in await words.postings.fetchall():
            whole = words.known[term][block] if stored[0] is None else unpack(*stored)
            lists.setdefault(term, {})[block] = whole
        if self._kept is not None:
            for term, blocks in lists.items():
                if blocks.keys() != words.known.get(term, {}).keys():
                    size = sum(_POSTING_BYTES * len(one.chunk_ids) for one in blocks.values())
                    self._kept.put(term, blocks, size + _LIST_BYTES)
        blocks_of = {term: list(blocks.values()) for term, blocks in lists.items()}
        fresh = (payload for (payload,) in await words.fresh.fetchall())
        for term, *stored in find_in_blocks(fresh, self._terms):
            blocks_of.setdefault(term, []).append(unpack(*stored))
        [(chunks, terms)] = await words.statistics.fetchall()
        self.scores = score(blocks_of, self._terms, chunks, terms)

    async def _by_words(self, scores: Scores) -> dict[int, float]:
        """The best permitted chunks by words, with their similarity."""
        found: dict[int, float] = {}
        ranked = scores.chunks[scores.best_first()]
        for look in _LOOKS:
            portion, ranked = np.split(ranked, [min(look * self._limit, len(ranked))])
            found.update(await self._checked(portion, self._limit - len(found)))
            if len(found) == self._limit or not len(ranked):
                return found
        # Few of the best may be seen: cheaper to learn which may than to try them all.
        cursor = await self._execute(_PERMITTED, {}, binary=True)
        permitted = np.frombuffer((await cursor.fetchall())[0][0], ">i8")
        remaining = ranked[np.isin(ranked, permitted)][: self._limit - len(found)]
        found.update(await self._checked(remaining, self._limit - len(found)))
        return found

    async def _checked(self, ranked: NDArray[np.int64], most: int) -> dict[int, float]:
        """Those that may be seen, in the order given, with their similarity."""
        chunks = ranked.tolist()
        if not chunks:
            return {}
        statement = _CHECKED if self._model else _CHECKED_BY_WORDS
        cursor = await self._execute(statement, {"chunks": numbers_literal(chunks)})
        passed: dict[int, float] = dict(await cursor.fetchall())
        return {chunk: passed[chunk] for chunk in [c for c in chunks if c in passed][:most]}

    async def _checked_nearest(
        self, model: Model, near: Sequence[int]
    ) -> Mapping[int, float] | list[tuple[int, float]]:
        """Those of a second store that may be seen; where these are too few, our own."""
        passed = await self._checked(np.asarray(near, np.int64), self._limit)
        if len(passed) >= self._limit:
            return passed
        return await self._read_nearest(model, *await self._ask_nearest(model))

    async def _ask_nearest(
        self, model: Model
    ) -> tuple[psycopg.AsyncCursor[Any], psycopg.AsyncCursor[Any]]:
        """The nearest, and whether there is an index; neither is read yet."""
        statement = _NEAREST if model.indexed or self._filtered else _NEAREST_SORTED
        nearest = await self._execute(statement, {"limit": self._limit})
        return nearest, await self._execute(self._indexed_statement(), {})

    @staticmethod
    def _indexed_statement() -> LiteralString:
        return _INDEXED

    async def _read_nearest(
        self,
        model: Model,
        nearest: psycopg.AsyncCursor[Any],
        indexed: psycopg.AsyncCursor[Any],
    ) -> list[tuple[int, float]]:
        near = await nearest.fetchall()
        [(model.indexed,)] = await indexed.fetchall()
        if len(near) < self._limit and model.indexed:
            cursor = await self._execute(_NEAREST_OF_ALL, {"limit": self._limit})
            near = await cursor.fetchall()
        return near

    async def _execute(
        self, statement: LiteralString, values: Mapping[str, Any], *, binary: bool = False
    ) -> psycopg.AsyncCursor[Any]:
        if "{distance}" in statement and "vector" not in self._values:
            self._values["vector"] = as_text(self._asked_vector)
        return await self._connection.execute(
            sql.SQL(statement).format(**self._parts),
            {**self._values, **values},
            prepare=True,
            binary=binary,
        )

    async def _binary(
        self, statement: LiteralString, values: Mapping[str, Any] | None
    ) -> psycopg.AsyncCursor[Any]:
        return await self._connection.execute(sql.SQL(statement), values, prepare=True, binary=True)


def score(
    lists_of: Mapping[str, Sequence[Postings]],
    asked: Mapping[str, int],
    chunks: int,
    terms: int,
) -> Scores:
    """BM25 of everything that holds one of the terms asked for (with how often each is asked), as a
    share of the most that a text could reach. ``lists_of`` are the posting lists of each term, in
    the order of their blocks."""
    lists = {term: joined(lists_of.get(term, ())) for term in asked}
    found, values = bm25(
        list(lists.values()),
        chunks=chunks,
        average_length=terms / max(1, chunks),
        k1=K1,
        b=B,
        weights=[float(count) for count in asked.values()],
    )
    rarities = {term: rarity(len(postings.chunk_ids), chunks) for term, postings in lists.items()}
    most = sum(rarities[term] * count for term, count in asked.items())
    return Scores(found, values / max(most * (K1 + 1), 1e-9), rarities, rarity(0, chunks))


def as_text(vector: Vectors) -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(f"{value:.6g}" for value in vector.reshape(-1).tolist()) + "]"
