"""One read-only snapshot of the knowledge base and the live tables.

Everything is read as the role ``penstock_reader``, so that the database itself refuses rows of
other tenants and documents that the asking principals may not see (G7), and in one transaction
that sees nothing committed after it began (G6). Statements are sent in libpq's pipeline mode:
opening a snapshot costs no round trip of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.errors import ConfigError
from penstock.principals import Principal
from penstock.stores.base import (
    Filter,
    Hit,
    LiveRow,
    Passage,
    SourceAge,
    Vectors,
)
from penstock.stores.postgres.candidates import Candidates, Model
from penstock.stores.postgres.lexical import AUTO, analyse, analyse_question
from penstock.stores.postgres.live_rows import read_rows
from penstock.stores.postgres.packed_candidates import PackedCandidates
from penstock.stores.postgres.permissions import Permitted

_OPEN = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
# set_config(..., true) lasts until the end of the transaction, as SET LOCAL does.
# Compiling a plan to machine code takes longer than running any of these.
_SETTINGS = """
SELECT set_config('penstock.tenant', %(tenant)s, true),
       set_config('penstock.principals',
                  to_jsonb(penstock.expanded(%(tenant)s, %(names)s::text[]))::text, true),
       set_config('hnsw.iterative_scan', 'relaxed_order', true),
       set_config('hnsw.ef_search', %(ef_search)s, true), set_config('jit', 'off', true),
       set_config('role', 'penstock_reader', true)
"""
_LANGUAGES = "SELECT language FROM penstock.languages ORDER BY language"
_READABLE = "SELECT ARRAY(SELECT penstock.readable_lists())"
_MODEL = "SELECT id, dimensions, storage FROM penstock.models WHERE name = %s"
_LATEST_MODEL = """
SELECT id, dimensions, storage FROM penstock.models WHERE dimensions = %s ORDER BY id DESC LIMIT 1
"""
# Of this moment: a question whose vector another model made is embedded again.
_SERVING = """
SELECT m.name FROM penstock.serving_models s JOIN penstock.models m ON m.id = s.model
WHERE s.tenant = penstock.tenant()
"""
_PASSAGES = """
SELECT c.chunk_id, d.id, d.source, d.key, d.title, c.heading, c.text, d.starts[p.place],
       d.ends[p.place], d.position, d.committed_at, d.metadata, d.stream, d.row_key
FROM penstock.passages(%(chunks)s::bigint[]) c
JOIN penstock.documents d ON d.id = c.document_id AND d.deleted_at IS NULL
CROSS JOIN LATERAL (SELECT array_position(d.layout, c.chunk_id)) p (place)
WHERE p.place IS NOT NULL {permitted}
ORDER BY c.place
"""
# A source is as old as its slowest consumer. A first load has a topic of its own, SOURCE.bulk:
# once that is processed to its end it says nothing about the source's age any more. What is
# published elsewhere is no part of what a context shows.
_AGES = """
SELECT source, CASE WHEN count(*) = count(as_of) THEN min(as_of) END,
       min(source_position), bool_or(loading)
FROM (SELECT coalesce(c.source, regexp_replace(c.topic, '\\.bulk$', '')) AS source,
             c.as_of, c.source_position, c.topic LIKE '%.bulk' AS loading
      FROM penstock.consumers c
      JOIN penstock.log_partitions p USING (topic, partition)
      WHERE NOT (c.topic LIKE '%.bulk' AND c.position >= p.last)
        AND NOT starts_with(c.consumer, 'publish_')) used
GROUP BY source ORDER BY source
"""


class PostgresSnapshotStore:
    """Opens snapshots of a project database.

    ``pool`` may be shared with writers. ``ef_search`` is how many neighbours the vector index keeps
    in view: more finds more and takes longer. ``language`` is that of the text index.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        *,
        ef_search: int = 100,
        language: str = "english",
    ) -> None:
        self._pool = pool
        self._ef_search = ef_search
        self._language = language
        self._models: dict[str, Model] = {}

    @asynccontextmanager
    async def snapshot(self, principal: Principal) -> AsyncIterator[PostgresSnapshot]:
        """One moment of everything, for the one who asks."""
        settings = {
            "tenant": principal.tenant,
            "names": list(principal.names),
            "ef_search": str(self._ef_search),
        }
        with translated():
            async with self._pool.connection() as connection:
                try:
                    # Ended by COMMIT: after a ROLLBACK the driver forgets all prepared statements.
                    async with connection.pipeline(), connection.transaction():
                        await connection.execute(_OPEN, prepare=True)
                        await connection.execute(_SETTINGS, settings, prepare=True)
                        readable = await connection.execute(_READABLE, prepare=True)
                        yield PostgresSnapshot(connection, readable, self._models, self._language)
                except BaseException:
                    # A pipeline that was cut off may leave its transaction open on the server
                    # without the driver knowing: whoever wrote there next would write in vain.
                    await connection.close()
                    raise


class PostgresSnapshot:
    """An open snapshot; it ends with the ``async with`` that opened it."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        readable: psycopg.AsyncCursor[Any],
        models: dict[str, Model],
        language: str,
    ) -> None:
        self._connection = connection
        self._readable = readable
        self._permitted: Permitted | None = None
        self._models = models  # shared by all snapshots of the store: a model's number stays
        self._language = language

    async def candidates(
        self,
        vector: Vectors | None,
        text: str | None,
        *,
        limit: int,
        where: Filter,
        model: str | None = None,
    ) -> list[Hit]:
        found = None if vector is None else await self._model(model, vector.size)
        terms = await self._terms(text) if text else ()
        packed = found is not None and found.storage != "halfvec"
        search = (PackedCandidates if packed else Candidates)(
            self._connection,
            found,
            vector=vector,
            terms=terms,
            limit=limit,
            where=where,
            permitted=await self._may(),
        )
        return await search.find()

    async def _may(self) -> Permitted:
        """What the one who asks may read; asked for when the snapshot was opened."""
        if self._permitted is None:
            [(lists,)] = await self._readable.fetchall()
            self._permitted = Permitted(lists)
        return self._permitted

    async def serving_model(self) -> str | None:
        """The name of the model whose vectors are searched; None while there is none."""
        row = await (await self._connection.execute(_SERVING, prepare=True)).fetchone()
        return None if row is None else row[0]

    async def _terms(self, text: str) -> list[str]:
        if self._language != AUTO:
            return analyse(text, self._language)
        cursor = await self._connection.execute(_LANGUAGES, prepare=True)
        return analyse_question(text, [row[0] for row in await cursor.fetchall()])

    async def _model(self, name: str | None, dimensions: int) -> Model | None:
        """The model in the database; None while it has no vector there."""
        if name is None:
            cursor = await self._connection.execute(_LATEST_MODEL, [dimensions], prepare=True)
            row = await cursor.fetchone()
            return None if row is None else Model(*row)
        if name not in self._models:
            cursor = await self._connection.execute(_MODEL, [name], prepare=True)
            row = await cursor.fetchone()
            if row is None:
                return None
            self._models[name] = Model(*row)
        model = self._models[name]
        if model.dimensions != dimensions:
            raise ConfigError(
                f"expected a vector of {model.dimensions} numbers from {name!r}, got {dimensions}: "
                "ask with the embedder that the knowledge base was made with"
            )
        return model

    async def passages(self, chunks: Sequence[int]) -> list[Passage]:
        if not chunks:
            return []
        permitted = await self._may()
        cursor = await self._connection.execute(
            sql.SQL(_PASSAGES).format(permitted=permitted.condition),
            {"chunks": list(chunks), **permitted.values},
            prepare=True,
        )
        return [Passage(*row) for row in await cursor.fetchall()]

    async def rows(self, wanted: Sequence[Passage]) -> list[LiveRow]:
        return await read_rows(self._connection, wanted)

    async def ages(self) -> list[SourceAge]:
        cursor = await self._connection.execute(_AGES, prepare=True)
        return [SourceAge(*row) for row in await cursor.fetchall()]
