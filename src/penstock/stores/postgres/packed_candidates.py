"""The search where vectors are stored in fewer bits: candidates by signs, compared again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from penstock.stores.base import Filter, Vectors
from penstock.stores.postgres.arrays import numbers_literal
from penstock.stores.postgres.candidates import Candidates, Lists, Model
from penstock.stores.postgres.packed import FEWEST, OVERSAMPLE, sign_text, similarities
from penstock.stores.postgres.permissions import Permitted

_UNINDEXED: Final = 20_000
"""Without an index there are at most some thousand vectors: all are compared with the question."""

_HAMMING: Final = "(v.signs::bit({dimensions}) <~> %(signs)s::bit({dimensions}))"
_NEAREST: Final = """
SELECT c.id, {stored} FROM penstock.vectors v
JOIN penstock.chunks c ON c.tenant = v.tenant AND c.hash = v.hash
JOIN penstock.documents d ON d.id = c.document_id
WHERE v.model = {model} {conditions} ORDER BY {hamming} LIMIT %(limit)s
"""
# For when the index ended short: the sum is an order that no index has.
_NEAREST_OF_ALL: Final = """
SELECT c.id, {stored} FROM penstock.vectors v
JOIN penstock.chunks c ON c.tenant = v.tenant AND c.hash = v.hash
JOIN penstock.documents d ON d.id = c.document_id
WHERE v.model = {model} {conditions} ORDER BY {hamming} + 0 LIMIT %(limit)s
"""
_CHECKED: Final = """
SELECT c.id, {stored} FROM penstock.chunks c
JOIN penstock.documents d ON d.id = c.document_id
LEFT JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = {model} AND v.hash = c.hash
WHERE c.id = ANY(%(chunks)s::bigint[]) {conditions}
"""
_WIDTH: Final = "SELECT set_config('hnsw.ef_search', %s, true)"


class PackedCandidates(Candidates):
    """As `Candidates`, for a model whose vectors are int8 or binary."""

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
        super().__init__(
            connection,
            model,
            vector=vector,
            terms=terms,
            limit=limit,
            where=where,
            permitted=permitted,
            kept=kept,
        )
        assert model is not None
        assert vector is not None
        self._vector = vector
        self._storage = model.storage
        self._coarse = max(FEWEST, OVERSAMPLE * limit)
        # Sent as bytes: the length of a bit string is known, so only its bytes are wanted.
        stored = "v.bytes" if model.storage == "int8" else "substr(varbit_send(v.signs), 5)"
        self._parts["stored"] = sql.SQL(stored)
        self._parts["hamming"] = sql.SQL(_HAMMING).format(dimensions=sql.Literal(model.dimensions))
        self._values["signs"] = sign_text(vector)

    async def _ask_nearest(
        self, model: Model
    ) -> tuple[psycopg.AsyncCursor[Any], psycopg.AsyncCursor[Any]]:
        limit = self._coarse if model.indexed else _UNINDEXED
        width = str(min(1000, max(100, self._coarse)))
        await self._connection.execute(_WIDTH, [width], prepare=True)
        nearest = await self._execute(_NEAREST, {"limit": limit}, binary=True)
        return nearest, await self._execute(self._indexed_statement(), {})

    async def _read_nearest(
        self,
        model: Model,
        nearest: psycopg.AsyncCursor[Any],
        indexed: psycopg.AsyncCursor[Any],
    ) -> list[tuple[int, float]]:
        rows = await nearest.fetchall()
        [(model.indexed,)] = await indexed.fetchall()
        if len(rows) < self._coarse and model.indexed:
            cursor = await self._execute(_NEAREST_OF_ALL, {"limit": self._coarse}, binary=True)
            rows = await cursor.fetchall()
        cosines = similarities(self._vector, [row[1] for row in rows], self._storage)
        best = np.argsort(-np.asarray(cosines), kind="stable")[: self._limit]
        return [(rows[place][0], cosines[place]) for place in best.tolist()]

    async def _checked(self, ranked: NDArray[np.int64], most: int) -> dict[int, float]:
        chunks = ranked.tolist()
        if not chunks:
            return {}
        cursor = await self._execute(_CHECKED, {"chunks": numbers_literal(chunks)}, binary=True)
        rows = await cursor.fetchall()
        held = [row for row in rows if row[1] is not None]
        cosines = similarities(self._vector, [row[1] for row in held], self._storage)
        passed = {row[0]: 0.0 for row in rows}
        passed.update(zip((row[0] for row in held), cosines, strict=True))
        return {chunk: passed[chunk] for chunk in [c for c in chunks if c in passed][:most]}
