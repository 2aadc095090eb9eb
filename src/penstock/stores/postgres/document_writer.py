"""Chunks, vectors, postings and document rows on their way into PostgreSQL.

Few go as parameters of statements that are sent in one trip; many go by COPY, while the words of
the next are counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import psycopg

from penstock.database.queries import load_queries
from penstock.errors import BadRecordError, FatalError
from penstock.stores.base import ReplaceDocuments, Storage, Vectors, storage_of
from penstock.stores.postgres.arrays import array_literal, bytes_literal, numbers_literal
from penstock.stores.postgres.binary_rows import HEADER, TRAILER, chunk_rows, vector_rows
from penstock.stores.postgres.lexical import (
    ALGORITHMS,
    AUTO,
    Inverted,
    analyse_all,
    invert,
    pack_block,
)
from penstock.stores.postgres.packed import bytes_of, packed_rows, sign_text
from penstock.stores.postgres.replacement import NewChunk, Placed, what_is_read

Connection = psycopg.AsyncConnection[Any]

FEW: Final = 64
"""Up to so many new chunks go as parameters; more go by COPY."""

SQL: Final = load_queries(Path(__file__).with_name("knowledge.sql"))


_COPY_VECTORS: Final = (
    "COPY penstock.vectors (tenant, model, hash, embedding) FROM STDIN (FORMAT binary)"
)
_COPY_VECTORS_WITH_TOKENS: Final = (
    "COPY penstock.vectors (tenant, model, hash, embedding, head, tokens) "
    "FROM STDIN (FORMAT binary)"
)
_COPY_PACKED: Final = (
    "COPY penstock.vectors (tenant, model, hash, signs, bytes) FROM STDIN (FORMAT binary)"
)
_COPY_CHUNKS: Final = (
    "COPY penstock.chunks (id, document_id, model, terms, tokens, skipped, hash, heading, text, "
    "before, tenant) FROM STDIN (FORMAT binary)"
)


async def run(
    connection: Connection, statement: str, /, **parameters: Any
) -> psycopg.AsyncCursor[Any]:
    """Execute a named statement, prepared."""
    return await connection.execute(SQL[statement], parameters, prepare=True)


class Tokens(NamedTuple):
    """The vectors of texts' tokens, in the form that ``head`` names; or none."""

    head: str = ""
    packed: Sequence[bytes] = ()


NO_TOKENS: Final = Tokens()


async def add_vectors(
    connection: Connection,
    tenant: str,
    model: int,
    hashes: Sequence[bytes],
    matrix: Vectors,
    storage: Storage,
    tokens: Tokens,
) -> psycopg.AsyncCursor[Any]:
    """Store a few vectors, as their model stores them; those that are there stay."""
    none = array_literal([None] * len(hashes))
    common = {
        "tenant": tenant,
        "model": model,
        "hashes": bytes_literal(hashes),
        "head": tokens.head,
        "tokens": bytes_literal(tokens.packed) if tokens.packed else none,
    }
    if storage == "halfvec":
        return await run(
            connection,
            "add_vectors",
            embeddings=[
                orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY).decode() for row in matrix
            ],
            **common,
        )
    return await run(
        connection,
        "add_packed_vectors",
        signs=[sign_text(row) for row in matrix],
        bytes=bytes_of(matrix) if storage == "int8" else [None] * len(matrix),
        **common,
    )


async def copy_vectors(
    connection: Connection,
    tenant: str,
    model: int,
    hashes: Sequence[bytes],
    matrix: Vectors,
    storage: Storage,
    tokens: Tokens,
) -> None:
    """Store many vectors, none of which is there."""
    if storage != "halfvec":
        rows, statement = packed_rows(tenant, model, hashes, matrix, storage), _COPY_PACKED
    else:
        rows = vector_rows(tenant, model, hashes, matrix, tokens.packed, tokens.head)
        statement = _COPY_VECTORS_WITH_TOKENS if tokens.packed else _COPY_VECTORS
    async with connection.cursor().copy(statement) as copy:
        await copy.write(HEADER + rows + TRAILER)
    if storage != "halfvec":
        await refresh_tokens(connection, tenant, model, hashes, tokens)


async def refresh_tokens(
    connection: Connection, tenant: str, model: int, hashes: Sequence[bytes], tokens: Tokens
) -> None:
    """Give stored vectors the tokens that came for their texts."""
    if tokens.packed:
        await run(
            connection,
            "refresh_tokens",
            tenant=tenant,
            model=model,
            head=tokens.head,
            hashes=bytes_literal(hashes),
            tokens=bytes_literal(tokens.packed),
        )


class DocumentWriter:
    """The writes of one call, in the caller's transaction."""

    def __init__(
        self, connection: Connection, tenant: str, model: int, language: str, writer: str
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._model = model
        self._language = language
        self._writer = writer

    async def write(
        self,
        effect: ReplaceDocuments,
        chunks: Sequence[NewChunk],
        gone: Sequence[int],
        added: Sequence[Placed],
        changed: Sequence[Placed],
    ) -> None:
        """Take away chunks and store new ones with vectors and postings, and the documents."""
        hashes = {chunk.text.hash for chunk in chunks}
        # Sorted: everybody stores texts in one order, so two writers never wait for each other.
        given = sorted(hashes & effect.vectors.keys())
        relied = hashes - effect.vectors.keys()
        if len(chunks) > FEW:
            await self._write_many(effect, given, chunks, gone)
        async with self._connection.pipeline():
            offered = None
            if len(chunks) <= FEW:
                offered = await self._write_few(effect, given, chunks, gone)
            await self._note_languages(chunks)
            await self._documents("add_documents", added)
            await self._documents("change_documents", changed)
        if offered is not None and offered.rowcount < len(given):
            relied = hashes
            await self.refresh_tokens(effect, given)
        if relied:
            await self._expect_stored(relied)

    # ------------------------------------------------------------------ few

    async def _write_few(
        self,
        effect: ReplaceDocuments,
        given: Sequence[bytes],
        chunks: Sequence[NewChunk],
        gone: Sequence[int],
    ) -> psycopg.AsyncCursor[Any] | None:
        """Returns the cursor whose row count says how many vectors were not there before."""
        offered = await self._add_vectors(given, effect) if given else None
        index = self._index(chunks)
        if chunks or gone:
            await self._remove(gone, index)
        if chunks:
            await self._add_chunks(chunks, index)
        return offered

    async def _add_vectors(
        self, hashes: Sequence[bytes], effect: ReplaceDocuments
    ) -> psycopg.AsyncCursor[Any]:
        return await add_vectors(
            self._connection,
            self._tenant,
            self._model,
            hashes,
            _rows(effect, hashes),
            storage_of(effect.model),
            _tokens(effect, hashes),
        )

    async def _add_chunks(self, chunks: Sequence[NewChunk], index: Inverted) -> None:
        read = [what_is_read(chunk.text) for chunk in chunks]
        await run(
            self._connection,
            "add_few",
            tenant=self._tenant,
            model=self._model,
            chunk_ids=numbers_literal(chunk.id for chunk in chunks),
            chunk_documents=numbers_literal(chunk.document for chunk in chunks),
            chunk_hashes=bytes_literal(chunk.text.hash for chunk in chunks),
            headings=array_literal([chunk.text.heading for chunk in chunks]),
            texts=array_literal([chunk.text.text for chunk in chunks]),
            terms=numbers_literal(index.lengths),
            tokens=numbers_literal(chunk.text.tokens for chunk in chunks),
            befores=array_literal([before for before, _ in read]),
            skipped=numbers_literal(skipped for _, skipped in read),
            postings=pack_block(index),
        )

    # ------------------------------------------------------------------ many

    async def _write_many(
        self,
        effect: ReplaceDocuments,
        given: Sequence[bytes],
        chunks: Sequence[NewChunk],
        gone: Sequence[int],
    ) -> None:
        # The words are found while the server stores the vectors.
        indexing = asyncio.create_task(asyncio.to_thread(self._index, chunks))
        try:
            await self._copy_vectors(effect, given)
        finally:
            index = await indexing  # a thread cannot be stopped: never leave it behind
        cursor = self._connection.cursor()
        await self._remove(gone, index)
        async with cursor.copy(_COPY_CHUNKS) as copy:
            rows = chunk_rows(
                self._tenant,
                self._model,
                (
                    (
                        c.id,
                        c.document,
                        c.text.hash,
                        c.text.heading,
                        c.text.text,
                        n,
                        c.text.tokens,
                        *what_is_read(c.text),
                    )
                    for c, n in zip(chunks, index.lengths, strict=True)
                ),
            )
            await copy.write(HEADER + rows + TRAILER)
            postings = pack_block(index)
        await run(self._connection, "add_postings", tenant=self._tenant, postings=postings)

    async def _copy_vectors(self, effect: ReplaceDocuments, given: Sequence[bytes]) -> None:
        held = await self._held(given)
        fresh = [hash_ for hash_ in given if hash_ not in held]
        await self.refresh_tokens(effect, sorted(held))
        if fresh:
            matrix, storage = _rows(effect, fresh), storage_of(effect.model)
            await copy_vectors(
                self._connection,
                self._tenant,
                self._model,
                fresh,
                matrix,
                storage,
                _tokens(effect, fresh),
            )

    # ------------------------------------------------------------------ both

    async def refresh_tokens(self, effect: ReplaceDocuments, hashes: Sequence[bytes]) -> None:
        """Give stored vectors the tokens that came for their texts."""
        tokens = _tokens(effect, hashes)
        await refresh_tokens(self._connection, self._tenant, self._model, hashes, tokens)

    def _index(self, chunks: Sequence[NewChunk]) -> Inverted:
        by_language: dict[str, list[int]] = {}
        for place, chunk in enumerate(chunks):
            language = chunk.language if self._language == AUTO else self._language
            by_language.setdefault(language, []).append(place)
        terms: list[list[str]] = [[]] * len(chunks)
        for language, places in by_language.items():
            texts = [chunks[place].text.embedded for place in places]
            for place, found in zip(places, analyse_all(texts, language), strict=True):
                terms[place] = found
        return invert([chunk.id for chunk in chunks], terms)

    async def _note_languages(self, chunks: Sequence[NewChunk]) -> None:
        """Questions are read in every language that there is."""
        found = sorted({chunk.language for chunk in chunks if chunk.language in ALGORITHMS})
        if found and self._language == AUTO:
            await run(
                self._connection,
                "add_languages",
                tenant=self._tenant,
                languages=array_literal(found),
            )

    async def _remove(self, gone: Sequence[int], index: Inverted) -> None:
        """Take chunks away, and keep count. Before new ones come: those may have equal texts."""
        await run(
            self._connection,
            "remove_chunks",
            tenant=self._tenant,
            writer=self._writer,
            gone=numbers_literal(gone),
            chunks=len(index.lengths),
            terms=sum(index.lengths),
        )

    async def _expect_stored(self, hashes: Iterable[bytes]) -> None:
        """See that there is a vector for every text, and that it stays."""
        wanted = sorted(hashes)
        held = await self._held(wanted)
        lost = [hash_ for hash_ in wanted if hash_ not in held]
        if lost:
            raise FatalError(
                f"a vector is expected for every chunk, but {len(lost)} have none (the first is "
                f"{lost[0].hex()}): replay the topic",
                hashes=[hash_.hex() for hash_ in lost[:10]],
            )

    async def _held(self, hashes: Sequence[bytes]) -> set[bytes]:
        cursor = await run(
            self._connection,
            "hold_vectors",
            tenant=self._tenant,
            model=self._model,
            hashes=bytes_literal(hashes),
        )
        return {bytes(row[0]) for row in await cursor.fetchall()}

    async def _documents(self, statement: str, placed: Sequence[Placed]) -> None:
        """Store the rows of documents, new or changed."""
        if not placed:
            return
        versions = [document.version for document in placed]
        parameters: dict[str, Any] = {
            "tenant": self._tenant,
            "sources": array_literal([v.source for v in versions]),
            "keys": array_literal([v.key for v in versions]),
            "ids": numbers_literal(document.id for document in placed),
            "streams": array_literal([v.stream for v in versions]),
            "row_keys": array_literal(
                [None if v.row_key is None else _json(list(v.row_key)) for v in versions]
            ),
            "titles": array_literal([v.title for v in versions]),
            "media_types": array_literal([v.media_type for v in versions]),
            "content_hashes": array_literal([v.content_hash for v in versions]),
            "metadata": array_literal([_json(v.metadata) for v in versions]),
            "allow": array_literal(
                [None if v.allow is None else array_literal(list(v.allow)) for v in versions]
            ),
            "deny": array_literal([array_literal(list(v.deny)) for v in versions]),
            "positions": array_literal([v.position for v in versions]),
            "committed": numbers_literal(v.committed_at for v in versions),
            "deleted": array_literal(["t" if v.chunks is None else "f" for v in versions]),
            "layouts": array_literal([numbers_literal(document.layout) for document in placed]),
            "starts": array_literal([numbers_literal(document.starts) for document in placed]),
            "ends": array_literal([numbers_literal(document.ends) for document in placed]),
        }
        await run(self._connection, statement, **parameters)


def _rows(effect: ReplaceDocuments, hashes: Sequence[bytes]) -> Vectors:
    """The vectors of these hashes, in their order."""
    vectors = effect.matrix[[effect.vectors[hash_] for hash_ in hashes]]
    if not np.isfinite(vectors).all():
        raise BadRecordError("the numbers of a vector are expected to be finite, but some are not")
    return vectors.astype(np.float32, copy=False)


def _tokens(effect: ReplaceDocuments, hashes: Sequence[bytes]) -> Tokens:
    """The vectors of the tokens of these texts, in their order."""
    rows = [effect.vectors[hash_] for hash_ in hashes] if effect.tokens else []
    return Tokens(effect.head, [effect.tokens[row] for row in rows])


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
