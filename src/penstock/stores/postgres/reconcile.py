"""What was lost or added in the knowledge base behind our back: found by what its parts say of each
other, in one snapshot, without reading a text.

A chunk's postings are checked by a sum: the frequencies of its terms, over all lists, are as many
as the chunk's row says it has terms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.stores.base import DEFAULT_TENANT
from penstock.stores.postgres.arrays import numbers_literal
from penstock.stores.postgres.document_writer import run
from penstock.stores.postgres.lexical import MOST, Block

Connection = psycopg.AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]
Progress = Callable[[str], None]

SQL: Final = load_queries(Path(__file__).with_name("reconcile.sql"))
_ROWS: Final = 2000
NAMED: Final = 20


@dataclass
class KnowledgeFaults:
    """What does not fit together. ``dead_postings`` are no fault: lists name chunks that are gone
    until they are merged."""

    chunks: int = 0
    loose_chunks: list[int] = field(default_factory=list)
    broken_documents: list[tuple[str, str, str | None]] = field(default_factory=list)
    chunks_without_vector: list[int] = field(default_factory=list)
    unused_vectors: int = 0
    unindexed_chunks: list[int] = field(default_factory=list)
    """No posting list names them."""
    misindexed_chunks: list[int] = field(default_factory=list)
    """Posting lists name them too often, or not for all of their terms."""
    miscounted_chunks: int = 0
    miscounted_terms: int = 0
    dead_postings: int = 0

    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {
            "loose_chunks": len(self.loose_chunks),
            "broken_documents": len(self.broken_documents),
            "chunks_without_vector": len(self.chunks_without_vector),
            "unused_vectors": self.unused_vectors,
            "unindexed_chunks": len(self.unindexed_chunks),
            "misindexed_chunks": len(self.misindexed_chunks),
            "miscounted_chunks": abs(self.miscounted_chunks),
            "miscounted_terms": abs(self.miscounted_terms),
        }

    @property
    def total(self) -> int:
        """In all."""
        return sum(self.counts().values())

    def named(self) -> list[str]:
        """The first of them, in words."""
        found = [
            *(f"{s}/{k}: chunks that it names are missing" for s, k, _ in self.broken_documents),
            *(f"chunk {c}: belongs to no document" for c in self.loose_chunks),
            *(f"chunk {c}: has no vector" for c in self.chunks_without_vector),
            *(f"chunk {c}: cannot be found by words" for c in self.unindexed_chunks),
            *(f"chunk {c}: is found by wrong words" for c in self.misindexed_chunks),
        ]
        return found[:NAMED]


async def find_faults(
    pool: Pool, *, tenant: str = DEFAULT_TENANT, progress: Progress = lambda _: None
) -> KnowledgeFaults:
    """Look at everything in one snapshot; ``progress`` is told what is looked at."""
    faults = KnowledgeFaults()
    asked = {"tenant": tenant}
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

            async def ask(name: str) -> list[tuple[Any, ...]]:
                progress(name.replace("_", " "))
                cursor = await connection.execute(SQL[name], asked)
                return await cursor.fetchall()

            chunks = np.array(await ask("chunks"), np.int64).reshape(-1, 2)
            faults.chunks = len(chunks)
            faults.loose_chunks = [row[0] for row in await ask("loose_chunks")]
            faults.broken_documents = [
                (source, key, stream) for source, key, stream in await ask("broken_documents")
            ]
            faults.chunks_without_vector = [row[0] for row in await ask("chunks_without_vector")]
            [(faults.unused_vectors,)] = await ask("unused_vectors")
            [(said, said_terms, there, terms)] = await ask("counted")
            faults.miscounted_chunks = said - there
            faults.miscounted_terms = said_terms - terms
            progress("posting lists")
            sums, faults.dead_postings = await _sums(connection, asked, chunks[:, 0])
    countable = chunks[:, 1] <= MOST
    lacking = (sums == 0) & (chunks[:, 1] > 0)
    wrong = (sums != chunks[:, 1]) & ~lacking & countable
    faults.unindexed_chunks = chunks[lacking, 0].tolist()
    faults.misindexed_chunks = chunks[wrong, 0].tolist()
    return faults


async def _sums(
    connection: Connection, asked: dict[str, Any], chunks: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Of each chunk, the sum of its frequencies; and how many postings are of other chunks."""
    sums = np.zeros(len(chunks), np.int64)
    dead = 0
    async for ids, frequencies in _portions(connection, asked):
        if not len(chunks):
            dead += len(ids)
            continue
        places = np.minimum(np.searchsorted(chunks, ids), len(chunks) - 1)
        known = chunks[places] == ids
        dead += int(len(ids) - known.sum())
        found = np.bincount(places[known], weights=frequencies[known], minlength=len(chunks))
        sums += found.astype(np.int64)
    return sums, dead


async def _portions(
    connection: Connection, asked: dict[str, Any]
) -> AsyncIterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """All postings, as chunk ids and frequencies."""
    async with connection.cursor("penstock_postings", binary=True) as cursor:
        await cursor.execute(SQL["postings"], asked)
        while rows := await cursor.fetchmany(_ROWS):
            ids = np.frombuffer(b"".join(row[0] for row in rows), "<i8")
            counts = np.frombuffer(b"".join(row[1] for row in rows), "<u2")
            yield ids.astype(np.int64), counts.astype(np.float64)
    async with connection.cursor("penstock_fresh", binary=True) as cursor:
        await cursor.execute(SQL["fresh_postings"], asked)
        while rows := await cursor.fetchmany(16):
            for (payload,) in rows:
                block = Block(payload)
                yield block.chunk_ids[block.ordinals], block.frequencies.astype(np.float64)


async def take_away(
    pool: Pool, faults: KnowledgeFaults, *, tenant: str = DEFAULT_TENANT
) -> list[int]:
    """Remove chunks that are too many or not whole, note vectors that nothing uses and put the
    counts right. Returns the chunks that were removed: their documents are to be made again."""
    not_whole = {
        *faults.chunks_without_vector,
        *faults.unindexed_chunks,
        *faults.misindexed_chunks,
    }
    gone = sorted({*faults.loose_chunks, *not_whole})
    with translated():
        async with pool.connection() as connection, connection.transaction():
            if gone:
                await run(
                    connection,
                    "remove_chunks",
                    tenant=tenant,
                    writer="reconcile",
                    gone=numbers_literal(gone),
                    chunks=0,
                    terms=0,
                )
            await connection.execute(SQL["note_unused_vectors"], {"tenant": tenant})
            await _recount(connection, tenant)
    return sorted(not_whole)


async def _recount(connection: Connection, tenant: str) -> None:
    # No writer may be half done: what it adds and what it counts must both be seen, or neither.
    await connection.execute("LOCK TABLE penstock.text_statistics IN SHARE ROW EXCLUSIVE MODE")
    cursor = await connection.execute(SQL["counted"], {"tenant": tenant})
    [(said, said_terms, there, terms)] = await cursor.fetchall()
    if (said, said_terms) != (there, terms):
        await run(
            connection,
            "remove_chunks",
            tenant=tenant,
            writer="reconcile",
            gone="{}",
            chunks=there - said,
            terms=terms - said_terms,
        )


def sources_of(documents: Sequence[tuple[str, str, str | None]]) -> list[str]:
    """The sources whose documents are to be made again."""
    return sorted({source for source, _, _ in documents})
