"""The search where the vectors are in memory: it proposes, the snapshot decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from penstock.stores.base import Filter, Hit, Vectors
from penstock.stores.postgres.arrays import numbers_literal
from penstock.stores.postgres.candidates import Candidates, Lists, Model
from penstock.stores.postgres.permissions import Permitted
from penstock.stores.postgres.resident import MOST_NEWS, Near, halves_of, known_above

_SPARE: Final = 1.25
"""So much more is proposed than is wanted: some are gone, some not permitted."""
_MORE: Final = 6
"""So many times what is wanted is looked at where that was not enough; then the database looks."""

# The chunks that this snapshot has and memory may lack, and which database this is.
_NEWS: Final = """
SELECT to_regclass('penstock.chunks')::oid::bigint, ARRAY(
    SELECT c.id FROM penstock.chunks c
    WHERE c.id > %(settled)s::bigint AND c.id <> ALL(%(known)s::bigint[]) LIMIT %(most)s::int)
"""
_VECTORS: Final = """
SELECT c.id, v.embedding FROM penstock.chunks c
JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = %(model)s AND v.hash = c.hash
WHERE c.id = ANY(%(chunks)s::bigint[])
"""
_PERMITTED: Final = """
SELECT c.id FROM penstock.chunks c JOIN penstock.documents d ON d.id = c.document_id
WHERE c.id = ANY(%(chunks)s::bigint[]) {conditions}
"""


class ResidentCandidates(Candidates):
    """As `Candidates`, without a filter, with vectors from memory."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        model: Model,
        near: Near,
        *,
        vector: Vectors,
        terms: Sequence[str],
        limit: int,
        permitted: Permitted,
        kept: Lists | None,
    ) -> None:
        super().__init__(
            connection,
            model,
            vector=vector,
            terms=terms,
            limit=limit,
            where=Filter(),
            permitted=permitted,
            kept=kept,
        )
        self.another = False
        """Whether memory turned out to be of another database; known after `find`."""
        self._vector = vector
        self._serving = model
        self._resident = near

    async def find(self) -> list[Hit]:
        """See `Candidates.find`."""
        if self._limit < 1:
            return []
        words = await self._ask_words()
        news = await self._binary(_NEWS, known_above(self._resident))
        await self._read_words(words)
        if not await self._complete(news):
            nearest = await self._ask_nearest(self._serving)
            similarities = await self._by_words(self.scores)
            similarities.update(await self._read_nearest(self._serving, *nearest))
            return self._hits(similarities)
        return await self._proposed()

    async def _complete(self, news: psycopg.AsyncCursor[Any]) -> bool:
        """Take in what memory lacks; False where it does not become what the snapshot has."""
        [(incarnation, lacking)] = await news.fetchall()
        self.another = incarnation != self._resident.incarnation
        if self.another or len(lacking) > MOST_NEWS:
            return False
        if not lacking:
            return True
        cursor = await self._binary(
            _VECTORS, {"model": self._serving.id, "chunks": numbers_literal(lacking)}
        )
        rows = await cursor.fetchall()
        if len(rows) < len(lacking):  # one without a vector of this model
            return False
        self._resident.add([chunk for chunk, _ in rows], halves_of([half for _, half in rows]))
        return True

    async def _proposed(self) -> list[Hit]:
        """What memory finds nearest and the posting lists best, as far as it may be seen."""
        index, some = self._resident.index, int(_SPARE * self._limit)
        near = [chunk for chunk, _ in index.nearest(self._vector, some)]
        ranked = self.scores.best(some).tolist()
        passed = await self._passed([*near, *ranked])
        nearest = [chunk for chunk in near if chunk in passed][: self._limit]
        if len(nearest) < self._limit and len(index) > len(near):
            nearest = await self._further()
        best = [chunk for chunk in ranked if chunk in passed][: self._limit]
        if len(best) < self._limit and len(self.scores.chunks) > len(ranked):
            best = list(await self._by_words(self.scores))
        found = list(dict.fromkeys([*best, *nearest]))
        similar = index.similarities(self._vector, found)
        return self._hits(dict(zip(found, similar, strict=True)))

    async def _further(self) -> list[int]:
        """The nearest of those that may be seen, where most may not."""
        near = self._resident.index.nearest(self._vector, _MORE * self._limit)
        passed = await self._passed([chunk for chunk, _ in near])
        found = [chunk for chunk, _ in near if chunk in passed][: self._limit]
        if len(found) == self._limit or len(self._resident.index) <= len(near):
            return found
        nearest = await self._ask_nearest(self._serving)
        return [chunk for chunk, _ in await self._read_nearest(self._serving, *nearest)]

    async def _passed(self, chunks: Sequence[int]) -> set[int]:
        """Those that there are and that may be seen."""
        wanted = list(dict.fromkeys(chunks))
        if not wanted:
            return set()
        cursor = await self._execute(_PERMITTED, {"chunks": numbers_literal(wanted)}, binary=True)
        return {chunk for (chunk,) in await cursor.fetchall()}
