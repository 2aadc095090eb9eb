"""One read-only snapshot of the knowledge base and the live tables.

Everything is read as the role ``penstock_reader``, so that the database itself refuses rows of
other tenants and documents that the asking principals may not see (G7), and in one transaction
that sees nothing committed after it began (G6). Statements are sent in libpq's pipeline mode:
opening a snapshot costs no round trip of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.errors import ConfigError
from penstock.identity.details import Details
from penstock.principals import Principal
from penstock.records import Microseconds
from penstock.stores.base import (
    ChunkVectors,
    Filter,
    Hit,
    LiveRow,
    Passage,
    Rarities,
    Rarity,
    SourceAge,
    StoredProfile,
    TableRows,
    TableWanted,
    Vectors,
)
from penstock.stores.details import ProfileDetails, SegmentMember
from penstock.stores.documents import StoredDocument
from penstock.stores.postgres.arrays import numbers_literal
from penstock.stores.postgres.candidates import Candidates, Model, Scores
from penstock.stores.postgres.lexical import AUTO, DEFAULT, analyse_question, analyser
from penstock.stores.postgres.live_rows import read_rows
from penstock.stores.postgres.memory import Memory
from penstock.stores.postgres.packed import unpacked
from penstock.stores.postgres.packed_candidates import PackedCandidates
from penstock.stores.postgres.permissions import Permitted
from penstock.stores.postgres.profiles.detailing import Detailing
from penstock.stores.postgres.profiles.reading import PostgresProfiles
from penstock.stores.postgres.profiles.segments import members_of
from penstock.stores.postgres.resident import Residents
from penstock.stores.postgres.resident_candidates import ResidentCandidates
from penstock.stores.postgres.table_rows import columns_of, table_rows

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
# Beside what may be read: whose vectors are searched, of this moment. A question whose vector
# another model made is embedded again.
_READABLE = """
SELECT ARRAY(SELECT penstock.readable_lists()),
       (SELECT m.name FROM penstock.serving_models s JOIN penstock.models m ON m.id = s.model
        WHERE s.tenant = penstock.tenant())
"""
_MODEL = "SELECT id, dimensions, storage FROM penstock.models WHERE name = %s"
_LATEST_MODEL = """
SELECT id, dimensions, storage FROM penstock.models WHERE dimensions = %s ORDER BY id DESC LIMIT 1
"""
_VECTORS = """
SELECT c.id, c.hash, v.embedding, v.bytes, v.signs, v.tokens FROM penstock.chunks c
JOIN penstock.documents d ON d.id = c.document_id AND d.deleted_at IS NULL
JOIN penstock.models m ON m.name = %(model)s
JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = m.id AND v.hash = c.hash
WHERE c.id = ANY(%(chunks)s::bigint[]) AND v.head = %(head)s {permitted}
"""
_KINDS = "SELECT FROM penstock.readable_profiles() k (kind) WHERE k.kind = %s"
_FIELDS = """
SELECT DISTINCT name FROM penstock.documents d, jsonb_object_keys(d.metadata) name
WHERE d.deleted_at IS NULL ORDER BY name
"""
_AROUND = """
WITH near AS MATERIALIZED (
    SELECT w.id, place, d.layout[place] AS chunk, d.starts[place] AS first, d.ends[place] AS last
    FROM unnest(%(chunks)s::bigint[]) w (id)
    JOIN penstock.chunks c ON c.id = w.id
    JOIN penstock.documents d ON d.id = c.document_id AND d.deleted_at IS NULL
    CROSS JOIN LATERAL (SELECT array_position(d.layout, c.id)) p (own)
    CROSS JOIN LATERAL generate_series(
        greatest(1, p.own - %(neighbours)s),
        least(cardinality(d.layout), p.own + %(neighbours)s)) place)
SELECT n.id, p.text, n.first, n.last FROM near n
JOIN penstock.passages((SELECT array_agg(DISTINCT chunk) FROM near)) p ON p.chunk_id = n.chunk
ORDER BY n.id, n.place
"""
# Each document is looked up by its number: OFFSET 0 keeps the planner, which expects a thousand
# chunks of every array, from reading all documents instead.
_SHOWN = """
SELECT c.id, c.hash, d.id, d.source, d.key, d.title, d.starts[p.place],
       d.ends[p.place], d.position, d.committed_at, d.metadata, d.stream, d.row_key
FROM unnest(%(chunks)s::bigint[]) WITH ORDINALITY w (id, place)
JOIN penstock.chunks c ON c.id = w.id
CROSS JOIN LATERAL (
    SELECT d.* FROM penstock.documents d
    WHERE d.id = c.document_id AND d.deleted_at IS NULL {permitted} OFFSET 0) d
CROSS JOIN LATERAL (SELECT array_position(d.layout, c.id)) p (place)
WHERE p.place IS NOT NULL
ORDER BY w.place
"""
_TEXTS = "SELECT chunk_id, heading, text FROM penstock.passages(%(chunks)s::bigint[])"
_DOCUMENT = """
SELECT d.source, d.key, d.title, coalesce(t.text, ''), d.position, d.committed_at, d.metadata,
       CASE WHEN d.stream IS NULL THEN 'document' ELSE 'row' END
FROM penstock.documents d CROSS JOIN LATERAL (
    SELECT string_agg(p.text, E'\n\n' ORDER BY p.place)
    FROM penstock.passages(d.layout) p) t (text)
WHERE d.source = %(source)s AND d.key = %(key)s AND d.deleted_at IS NULL {permitted}
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
    in view: more finds more and takes longer. ``language`` is that of the text index. ``memory`` is
    where what never changes is kept; None: everything is read from the database each time.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        *,
        ef_search: int = 100,
        language: str = "english",
        memory: Residents | None = None,
    ) -> None:
        self._pool = pool
        self._ef_search = ef_search
        self._language = language
        self._models: dict[str, Model] = {}
        self._memory = memory

    @asynccontextmanager
    async def snapshot(self, principal: Principal) -> AsyncIterator[PostgresSnapshot]:
        """One moment of everything, for the one who asks."""
        settings = {
            "tenant": principal.tenant,
            "names": list(principal.names),
            "ef_search": str(self._ef_search),
        }
        resident = None if self._memory is None else self._memory.of(principal.tenant)
        # Taken before the snapshot is: what memory has settled by now is in the snapshot.
        near = None if resident is None else resident.near
        with translated():
            async with self._pool.connection() as connection:
                try:
                    # Ended by COMMIT: after a ROLLBACK the driver forgets all prepared statements.
                    # Begun by the driver: to a transaction that it does not know of, a savepoint
                    # of a reader would be a transaction of its own, and end this one.
                    async with connection.pipeline(), connection.transaction():
                        await connection.execute(_OPEN, prepare=True)
                        await connection.execute(_SETTINGS, settings, prepare=True)
                        readable = await connection.execute(_READABLE, prepare=True)
                        yield PostgresSnapshot(
                            connection,
                            readable,
                            self._models,
                            self._language,
                            principal.tenant,
                            Memory(resident, near),
                        )
                except BaseException:
                    # A pipeline that was cut off may leave its transaction open on the server
                    # without the driver knowing: whoever wrote there next would write in vain.
                    await connection.close()
                    raise

    async def close(self) -> None:
        """Stop what keeps memory in step."""
        if self._memory is not None:
            await self._memory.close()


class PostgresSnapshot:
    """An open snapshot; it ends with the ``async with`` that opened it."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        readable: psycopg.AsyncCursor[Any],
        models: dict[str, Model],
        language: str,
        tenant: str,
        memory: Memory,
    ) -> None:
        self._memory = memory
        self._passages: dict[int, Passage | None] = {}
        self._hashes: dict[int, bytes] = {}
        self._asked_ages: psycopg.AsyncCursor[Any] | None = None
        self._serving: str | None = None
        self._connection = connection
        self._tenant = tenant
        self._readable = readable
        self._permitted: Permitted | None = None
        self._models = models  # shared by all snapshots of the store: a model's number stays
        self._language = language
        self._languages: Sequence[str] | None = None
        self._kinds: dict[str, bool] = {}  # of profiles; as of this moment, like all that is read
        self._scored: tuple[str, Scores] | None = None  # the last text, and what came of its words

    async def candidates(
        self,
        vector: Vectors | None,
        text: str | None,
        *,
        limit: int,
        where: Filter,
        model: str | None = None,
        near: Sequence[int] | None = None,
    ) -> list[Hit]:
        """See `penstock.stores.base.Snapshot`. ``near`` is what a second store found nearest: it is
        used in place of our own index, as far as it may be seen and is enough."""
        found = None if vector is None else await self.model(model, vector.size)
        terms = analyse_question(text, await self._read_as()) if text else ()
        # Asked for with the rest, as every context shows them: a round trip less.
        self._asked_ages = await self._connection.execute(_AGES, prepare=True)
        search = await self._search(found, vector, terms, limit, where, ours=near is None)
        if near is not None and not isinstance(search, PackedCandidates):
            search.propose(near)
        hits = await search.find()
        if isinstance(search, ResidentCandidates) and search.another:
            self._memory.forget()
        self._scored = None if text is None else (text, search.scores)
        return hits

    async def _search(
        self,
        model: Model | None,
        vector: Vectors | None,
        terms: Sequence[str],
        limit: int,
        where: Filter,
        *,
        ours: bool,
    ) -> Candidates:
        """The way to search; ``ours``: no second store does."""
        permitted, kept = await self._may(), self._memory.lists
        packed = model is not None and model.storage != "halfvec"
        if model is not None and vector is not None and ours and not packed and where == Filter():
            near = self._memory.near(model)
            if near is not None:
                return ResidentCandidates(
                    self._connection,
                    model,
                    near,
                    vector=vector,
                    terms=terms,
                    limit=limit,
                    permitted=permitted,
                    kept=kept,
                )
        return (PackedCandidates if packed else Candidates)(
            self._connection,
            model,
            vector=vector,
            terms=terms,
            limit=limit,
            where=where,
            permitted=permitted,
            kept=kept,
        )

    async def rarities(self, text: str) -> Rarities:
        if self._scored is None or self._scored[0] != text:
            await self.candidates(None, text, limit=1, where=Filter())
        assert self._scored is not None
        known, most = self._scored[1].rarities, self._scored[1].most
        least: dict[tuple[int, int], float] = {}
        for language in await self._read_as():
            for start, end, terms in analyser(language).places(text):
                told = max(known.get(term, most) for term in terms)
                least[start, end] = min(told, least.get((start, end), told))
        return Rarities([Rarity(*place, told) for place, told in sorted(least.items())], most)

    async def vectors(
        self, chunks: Sequence[int], *, model: str, head: str
    ) -> Mapping[int, ChunkVectors]:
        found = {}
        searched = self._models.get(model)
        for chunk in chunks:
            if searched is None:
                break
            known = self._memory.vectors(chunk, self._hashes.get(chunk), searched, model, head)
            if known is not None:
                found[chunk] = known
        wanted = [chunk for chunk in chunks if chunk not in found]
        if not wanted:
            return found
        permitted = await self._may()
        cursor = await self._connection.execute(
            sql.SQL(_VECTORS).format(permitted=permitted.condition),
            {"chunks": numbers_literal(wanted), "model": model, "head": head, **permitted.values},
            prepare=True,
            binary=True,
        )
        for chunk, hash_, *stored, tokens in await cursor.fetchall():
            found[chunk] = ChunkVectors(unpacked(*stored), tokens)
            self._memory.keep_tokens(model, head, hash_, tokens)
        return found

    async def _may(self) -> Permitted:
        """What the one who asks may read; asked for when the snapshot was opened."""
        if self._permitted is None:
            [(lists, self._serving)] = await self._readable.fetchall()
            self._permitted = Permitted(lists)
        return self._permitted

    async def serving_model(self) -> str | None:
        """The name of the model whose vectors are searched; None while there is none."""
        await self._may()
        return self._serving

    @property
    def connection(self) -> psycopg.AsyncConnection[Any]:
        """Where this snapshot is open, for what is read beside it at the same moment."""
        return self._connection

    async def _read_as(self) -> Sequence[str]:
        """The languages that a question may be in."""
        if self._language != AUTO:
            return (self._language,)
        if self._languages is None:
            cursor = await self._connection.execute(_LANGUAGES, prepare=True)
            found = [language for (language,) in await cursor.fetchall()]
            self._languages = list(dict.fromkeys([DEFAULT, *found]))
        return self._languages

    async def model(self, name: str | None, dimensions: int) -> Model | None:
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

    async def fields(self) -> Sequence[str]:
        cursor = await self._connection.execute(_FIELDS)
        return [name for (name,) in await cursor.fetchall()]

    async def around(
        self, chunks: Sequence[int], neighbours: int
    ) -> Mapping[int, Sequence[tuple[str, int, int]]]:
        found: dict[int, list[tuple[str, int, int]]] = {}
        if chunks:
            cursor = await self._connection.execute(
                _AROUND, {"chunks": list(chunks), "neighbours": neighbours}, prepare=True
            )
            for chunk, *part in await cursor.fetchall():
                found.setdefault(chunk, []).append((part[0], part[1], part[2]))
        return found

    async def passages(self, chunks: Sequence[int]) -> list[Passage]:
        await self._read_passages([c for c in dict.fromkeys(chunks) if c not in self._passages])
        found = (self._passages[chunk] for chunk in chunks)
        return [passage for passage in found if passage is not None]

    async def _read_passages(self, wanted: Sequence[int]) -> None:
        """Those that were not read in this snapshot yet. A text that is in memory is shown with a
        chunk of its hash only."""
        if not wanted:
            return
        permitted = await self._may()
        shown = await self._connection.execute(
            sql.SQL(_SHOWN).format(permitted=permitted.condition),
            {"chunks": numbers_literal(wanted), **permitted.values},
            prepare=True,
        )
        known = self._memory.texts(wanted)
        texts = await self._texts([chunk for chunk in wanted if chunk not in known])
        self._passages.update(dict.fromkeys(wanted))
        rows = await shown.fetchall()
        read = {} if texts is None else {c: tuple(said) for c, *said in await texts.fetchall()}
        changed = [row[0] for row in rows if row[0] in known and known[row[0]].hash != row[1]]
        again = await self._texts(changed)
        read |= {} if again is None else {c: tuple(said) for c, *said in await again.fetchall()}
        for chunk, hash_, document, source, key, title, *rest in rows:
            said = read.get(chunk) or (known[chunk].heading, known[chunk].text)
            self._memory.keep_text(chunk, hash_, *said)
            self._hashes[chunk] = hash_
            self._passages[chunk] = Passage(chunk, document, source, key, title, *said, *rest)

    async def _texts(self, chunks: Sequence[int]) -> psycopg.AsyncCursor[Any] | None:
        if not chunks:
            return None
        return await self._connection.execute(
            _TEXTS, {"chunks": numbers_literal(chunks)}, prepare=True
        )

    async def document(self, source: str, key: str) -> StoredDocument | None:
        """See `penstock.stores.documents.DocumentSnapshot`."""
        permitted = await self._may()
        cursor = await self._connection.execute(
            sql.SQL(_DOCUMENT).format(permitted=permitted.condition),
            {"source": source, "key": key, **permitted.values},
            prepare=True,
        )
        row = await cursor.fetchone()
        return None if row is None else StoredDocument(*row)

    async def rows(self, wanted: Sequence[Passage]) -> list[LiveRow]:
        return await read_rows(self._connection, wanted)

    async def profile(self, kind: str, id_: str) -> StoredProfile | None:
        if not await self._may_see(kind):
            return None
        return await PostgresProfiles(self._connection, self._tenant, kind).profile(id_)

    async def profiles_bearing(self, kind: str, identifiers: Sequence[str]) -> Sequence[str]:
        if not await self._may_see(kind):
            return []
        return await PostgresProfiles(self._connection, self._tenant, kind).bearing(identifiers)

    async def profile_details(
        self, kind: str, id_: str, wanted: Details, now: Microseconds
    ) -> ProfileDetails:
        """See `penstock.stores.details.DetailedSnapshot`."""
        if not await self._may_see(kind):
            return ProfileDetails()
        return await Detailing(self._connection, self._tenant, kind).read(id_, wanted, now)

    async def segment(
        self, kind: str, segment: str, *, after: str = "", limit: int = 100
    ) -> Sequence[SegmentMember] | None:
        """See `penstock.stores.details.DetailedSnapshot`."""
        if not await self._may_see(kind):
            return None
        return await members_of(
            self._connection, self._tenant, kind, segment, after=after, limit=limit
        )

    async def tables(self, source: str) -> Mapping[str, Sequence[str]]:
        return await columns_of(self._connection, source)

    async def table_rows(self, wanted: TableWanted) -> TableRows | None:
        return await table_rows(self._connection, wanted)

    async def _may_see(self, kind: str) -> bool:
        """Whether profiles of a kind are for the one who asks, whatever row-level security does
        besides."""
        known = self._kinds.get(kind)
        if known is None:
            cursor = await self._connection.execute(_KINDS, [kind], prepare=True)
            known = self._kinds[kind] = await cursor.fetchone() is not None
        return known

    async def ages(self) -> list[SourceAge]:
        asked, self._asked_ages = self._asked_ages, None
        if asked is None:
            asked = await self._connection.execute(_AGES, prepare=True)
        return [SourceAge(*row) for row in await asked.fetchall()]
