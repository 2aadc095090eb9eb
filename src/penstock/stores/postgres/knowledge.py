"""The write side of the knowledge base: versions of documents become chunks, vectors and postings.

Everything happens in the caller's transaction, so a new version appears all at once (G3). Only what
changed is written: unchanged chunks keep their rows, vectors and postings (G5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import errors as pg

from penstock.errors import ChangedModelError, FatalError, RetryableError
from penstock.records import DOCUMENTS, Position
from penstock.stores.base import (
    DEFAULT_TENANT,
    DocumentVersion,
    ReplaceDocuments,
    TruncateDocuments,
    storage_of,
)
from penstock.stores.postgres.arrays import array_literal, bytes_literal, numbers_literal
from penstock.stores.postgres.document_writer import FEW, SQL, DocumentWriter, run
from penstock.stores.postgres.permissions import lock, truncate_entries
from penstock.stores.postgres.replacement import Kept, Replacement, Stored, compare, newest, number

Connection = psycopg.AsyncConnection[Any]

KEEP_LOOSE_VECTORS: Final = timedelta(hours=1)
"""How long a vector without a chunk is kept: a rename or an undo finds it again."""


async def replace_documents(
    connection: Connection,
    effect: ReplaceDocuments,
    *,
    tenant: str = DEFAULT_TENANT,
    writer: str = "knowledge",
    language: str = "english",
) -> None:
    """Make these versions the current ones, inside the caller's transaction.

    Versions that are not newer than the stored ones are ignored. Raises `FatalError` for a chunk
    that would have no vector, `RetryableError` when another writer was quicker with the same
    document or text, or when a version's base has changed. ``writer`` names a lane: lanes with
    different names never wait for each other's counts.
    """
    versions = newest(effect.documents)
    if not versions:
        return
    # Before any document is locked, so that nobody waits for one who waits for us.
    await lock(connection, tenant, list({version.source for version in versions}))
    asking = _Asking(connection, tenant, versions)
    model = await asking.ask(effect)
    plan = compare(versions, asking.stored(model))
    added, changed, chunks = number(plan, *await asking.ids(plan))
    writer_ = DocumentWriter(connection, tenant, model, language, writer)
    # Their chunks stand, but their tokens were missing, or of another head.
    kept = effect.vectors.keys() - {chunk.text.hash for chunk in chunks}
    await writer_.refresh_tokens(effect, sorted(kept))
    if not plan.accepted:
        return
    try:
        await writer_.write(effect, chunks, plan.gone, added, changed)
    except pg.UniqueViolation as error:
        raise RetryableError(
            "another writer stored the same document or text in the same moment: it is done again"
        ) from error


async def truncate_documents(
    connection: Connection,
    effect: TruncateDocuments,
    *,
    tenant: str = DEFAULT_TENANT,
    writer: str = "knowledge",
) -> None:
    """Remove the documents of one stream that are older than a position (G4)."""
    stream = None if effect.stream == DOCUMENTS else effect.stream
    if stream is None:
        await truncate_entries(connection, effect.source, effect.position, tenant=tenant)
    cursor = await run(
        connection,
        "truncate_documents",
        tenant=tenant,
        source=effect.source,
        stream=stream,
        position=effect.position,
    )
    [(ids,)] = await cursor.fetchall()
    if ids:
        await run(
            connection,
            "remove_chunks",
            tenant=tenant,
            writer=writer,
            gone=numbers_literal(ids),
            chunks=0,
            terms=0,
        )


async def known_vectors(
    connection: Connection,
    model: str,
    hashes: Sequence[bytes],
    head: str = "",
    *,
    tenant: str = DEFAULT_TENANT,
) -> set[bytes]:
    """Which of these embedded texts have a stored vector under ``model`` (and, with a ``head``,
    tokens in that form)."""
    cursor = await run(
        connection,
        "known_vectors",
        tenant=tenant,
        model=model,
        hashes=bytes_literal(hashes),
        head=head,
        keep=KEEP_LOOSE_VECTORS,
    )
    return {bytes(row[0]) for row in await cursor.fetchall()}


async def stored_metadata(
    connection: Connection, source: str, keys: Sequence[str], *, tenant: str = DEFAULT_TENANT
) -> dict[str, tuple[Position, Mapping[str, Any]]]:
    """The position and metadata of stored documents by key."""
    cursor = await run(
        connection, "stored_metadata", tenant=tenant, source=source, keys=array_literal(keys)
    )
    return {key: (position, metadata) for key, position, metadata in await cursor.fetchall()}


async def collect_garbage(
    connection: Connection, *, keep: timedelta = KEEP_LOOSE_VECTORS, limit: int = 5000
) -> int:
    """Remove vectors that lost their last chunk ``keep`` ago or earlier; opens its own transaction.

    Returns how many candidates were settled, at most ``limit``; 0: there is nothing left to do.
    """
    async with connection.transaction():
        cursor = await run(connection, "lock_loose_vectors", keep=keep, limit=limit)
        rows = await cursor.fetchall()
        if rows:
            tenants, models, hashes = (list(column) for column in zip(*rows, strict=True))
            await run(connection, "collect_vectors", tenants=tenants, models=models, hashes=hashes)
    return len(rows)


# --------------------------------------------------------------------------- what is stored


class _Asking:
    """What is stored of some documents, locked until the transaction ends: one trip, mostly."""

    def __init__(
        self, connection: Connection, tenant: str, versions: Sequence[DocumentVersion]
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._versions = versions
        self._documents: list[tuple[int, int, str, str, bool]] = []
        self._chunks: dict[int, tuple[list[int], list[bytes], list[int], list[bytes]]] = {}
        self._spare: tuple[list[int], list[int]] = ([], [])

    async def ask(self, effect: ReplaceDocuments) -> int:
        """Ask all there is to ask; returns the number of the model."""
        names = {
            "tenant": self._tenant,
            "sources": array_literal([version.source for version in self._versions]),
            "keys": array_literal([version.key for version in self._versions]),
        }
        chosen = {**names, "model": effect.model}
        # What a small change needs is asked for before it is known; gaps between ids cost nothing.
        few = len(self._versions) <= FEW and len(effect.vectors) <= FEW
        async with self._connection.pipeline():
            await run(self._connection, "hold_serving", tenant=self._tenant)
            serving = await run(self._connection, "serving", tenant=self._tenant)
            model = await run(self._connection, "find_model", name=effect.model)
            locked = await run(self._connection, "lock_documents", **names)
            chunks = await self._connection.execute(
                SQL["stored_chunks"], chosen, prepare=True, binary=True
            )
            if few:
                spare = await run(
                    self._connection,
                    "allocate",
                    documents=len(self._versions),
                    chunks=len(effect.vectors),
                )
            self._documents = await locked.fetchall()
            self._chunks = {row[0]: row[1:] for row in await chunks.fetchall()}
            if few:
                self._spare = (await spare.fetchall())[0]
            row = await model.fetchone()
            served = await serving.fetchone()
        found = _checked_model(effect, row or await self._add_model(effect))
        await self._expect_serving(effect, found, None if served is None else served[0])
        return found

    async def _expect_serving(
        self, effect: ReplaceDocuments, model: int, serving: int | None
    ) -> None:
        """Vectors of one model only are searched: what was made for another is made again."""
        if serving is None:
            await run(self._connection, "begin_serving", tenant=self._tenant, model=model)
            cursor = await run(self._connection, "serving", tenant=self._tenant)
            [(serving,)] = await cursor.fetchall()
        if serving != model:
            raise ChangedModelError(
                f"expected vectors of the model that is searched, got some of {effect.model!r}: "
                "another was taken into use meanwhile, and they are made again",
                model=effect.model,
            )

    async def _add_model(self, effect: ReplaceDocuments) -> tuple[int, int] | None:
        await run(
            self._connection,
            "add_model",
            name=effect.model,
            dimensions=effect.matrix.shape[1],
            storage=storage_of(effect.model),
        )
        cursor = await run(self._connection, "find_model", name=effect.model)
        return await cursor.fetchone()

    def stored(self, model: int) -> dict[tuple[str, str], Stored]:
        """What is stored, by source and key; chunks of other models than this one are apart."""
        found = {}
        for place, id_, position, content_hash, deleted in self._documents:
            own: dict[bytes, Kept] = {}
            others: list[int] = []
            columns = self._chunks.get(id_, ((), (), (), ()))
            for chunk, hash_, of_model, shown in zip(*columns, strict=True):
                if of_model == model:
                    own[bytes(hash_)] = Kept(chunk, bytes(shown))
                else:
                    others.append(chunk)
            version = self._versions[place - 1]
            found[version.source, version.key] = Stored(
                id_, position, content_hash, deleted, own, others
            )
        return found

    async def ids(self, plan: Replacement) -> tuple[list[int], list[int]]:
        """Enough ids for what is new."""
        documents, chunks = self._spare
        if len(documents) < plan.new_documents or len(chunks) < plan.new_chunks:
            cursor = await run(
                self._connection,
                "allocate",
                documents=plan.new_documents,
                chunks=plan.new_chunks,
            )
            [(documents, chunks)] = await cursor.fetchall()
        return documents, chunks


def _checked_model(effect: ReplaceDocuments, row: tuple[int, int] | None) -> int:
    if row is None:
        raise FatalError(f"the model {effect.model!r} is expected to be registered, but is not")
    id_, dimensions = row
    if effect.matrix.shape[1] != dimensions:
        raise FatalError(
            f"the model {effect.model!r} is expected to give {dimensions} numbers a text, as its "
            f"stored vectors have, not {effect.matrix.shape[1]}: give it another name",
            model=effect.model,
        )
    return id_
