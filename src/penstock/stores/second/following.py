"""A second store follows the knowledge base: what documents changed since is a set of work.

Each piece of work is written idempotently, made findable, and only then taken from the set: killed
anywhere, the same is done again and comes to the same. Several followers at once do no harm either,
since the store keeps what has the higher version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.stores.base import DEFAULT_TENANT
from penstock.stores.chunk_index import ChunkIndex, ChunkRow, Gone, facts_of

Connection = psycopg.AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]

# Of all that a filter or a comparison looks at, in 31 bits: sums of many stay exact in a double.
DIGEST: Final = """
(('x' || left(md5(concat_ws(chr(1), c.id, encode(c.hash, 'hex'), c.model, d.source, d.key, d.title,
                            d.row_key IS NULL, d.metadata)), 8))::bit(32)::bigint & 2147483647)
"""
SQL: Final = {
    name: statement.replace("{digest}", DIGEST)
    for name, statement in load_queries(Path(__file__).with_name("following.sql")).items()
}
DOCUMENTS: Final = 200
"""How many documents are read and written at a time."""
SETTLED: Final = 5000
"""After so many documents what was written is made findable and taken from the set."""

_TRIGGERS: Final = """
CREATE OR REPLACE TRIGGER second_stores_added AFTER INSERT ON penstock.documents
    REFERENCING NEW TABLE AS after FOR EACH STATEMENT
    EXECUTE FUNCTION penstock.note_second_store_work();
CREATE OR REPLACE TRIGGER second_stores_changed AFTER UPDATE ON penstock.documents
    REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT
    EXECUTE FUNCTION penstock.note_second_store_work();
CREATE OR REPLACE TRIGGER second_stores_removed AFTER DELETE ON penstock.documents
    REFERENCING OLD TABLE AS before FOR EACH STATEMENT
    EXECUTE FUNCTION penstock.note_second_store_work();
"""


class Searchable(NamedTuple):
    """What can be found in a second store: everything, or what ``ages`` say (source to as_of)."""

    everything: bool
    ages: dict[str, int | None]
    at: datetime | None


class Follower:
    """Brings one second store, called ``name``, in step; ``model`` names whose vectors it has
    (None: those that are served)."""

    def __init__(
        self,
        pool: Pool,
        index: ChunkIndex,
        *,
        name: str,
        model: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self.name = name
        self.index = index
        self.tenant = tenant
        self._pool = pool
        self._model = model
        self._names = {"tenant": tenant, "store": name}
        self._prepared: tuple[int, int] | None = None

    async def attach(self) -> bool:
        """From now on changes are noted; what is there already is noted too. Whether it is new."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(SQL["state"], self._names)
                if await cursor.fetchone():
                    return False
                # Waits for writers that began before: their documents would be noted by nobody.
                await connection.execute(
                    "LOCK TABLE penstock.documents IN SHARE ROW EXCLUSIVE MODE"
                )
                cursor = await connection.execute(SQL["register"], self._names)
                if await cursor.fetchone() is None:
                    return False
                await connection.execute(_TRIGGERS)
                await connection.execute(SQL["queue_all"], self._names)
        return True

    async def follow(self) -> int:
        """Do all that was to be done at this moment; returns of how many documents."""
        with translated():
            async with self._pool.connection() as connection:
                found = await self._prepare(connection)
                if found is None:
                    return 0
                async with connection.transaction():
                    await connection.execute(
                        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                    )
                    [(ages, at)] = await self._ask(connection, "ages")
                    pending = [row[0] for row in await self._ask(connection, "pending")]
                for portion in _portions(pending, SETTLED):
                    await self._do(connection, portion, found)
                if pending:
                    await connection.execute(
                        SQL["searchable"], {**self._names, "ages": Jsonb(ages), "at": at}
                    )
        return len(pending)

    async def remake(self) -> None:
        """Make the second store's index again if it is gone."""
        with translated():
            async with self._pool.connection() as connection:
                self._prepared = None
                await self._prepare(connection)

    async def again(self, chunks: Sequence[int], gone: Sequence[int]) -> None:
        """Note that the documents of these chunks are to be written again, and which to remove."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(SQL["outrun"])
                if chunks:
                    await connection.execute(SQL["queue"], {**self._names, "chunks": list(chunks)})
                if gone:
                    await connection.execute(
                        SQL["queue_gone"], {**self._names, "chunks": list(gone)}
                    )

    async def state(self, connection: Connection) -> Searchable:
        """What can be found of what this connection's snapshot sees."""
        rows = await self._ask(connection, "state")
        if not rows:
            return Searchable(everything=False, ages={}, at=None)
        [(at, ages, pending)] = rows
        return Searchable(not pending and at is not None, ages, at)

    async def model(self, connection: Connection) -> tuple[int, int] | None:
        """Number and dimensions of the model, once it has a vector."""
        cursor = await connection.execute(
            SQL["model"], {"model": self._model, "tenant": self.tenant}
        )
        return await cursor.fetchone()

    async def close(self) -> None:
        """Disconnect from the second store."""
        await self.index.close()

    # ------------------------------------------------------------------ inside

    async def _prepare(self, connection: Connection) -> int | None:
        found = await self.model(connection)
        if found is None:
            return None
        if self._prepared != found:
            await self.index.prepare(found[1])
            self._prepared = found
        async with connection.transaction():
            changed = await self._ask(connection, "change_model", model=found[0])
            if changed:  # another model is served now: everything is written anew
                await connection.execute(SQL["queue_all"], self._names)
        return found[0]

    async def _do(self, connection: Connection, documents: Sequence[int], model: int) -> None:
        settled: list[tuple[int, int]] = []
        for portion in _portions(documents, DOCUMENTS):
            rows, gone, versions = await self._read(connection, portion, model)
            await self.index.write(rows, gone)
            settled += versions.items()
        await self.index.refresh()
        # Findable first, then settled: no work means that everything can be found.
        await connection.execute(
            SQL["settle"],
            {
                **self._names,
                "documents": [document for document, _ in settled],
                "versions": [version for _, version in settled],
            },
        )

    async def _read(
        self, connection: Connection, documents: Sequence[int], model: int
    ) -> tuple[list[ChunkRow], list[Gone], dict[int, int]]:
        """Documents as they are, with the version that belongs to what is read."""
        wanted = {"documents": list(documents), "model": model}
        async with connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            versions = dict(await self._ask(connection, "versions", **wanted))
            gone = [Gone(*row) for row in await self._ask(connection, "gone", **wanted)]
            cursor = await connection.execute(
                SQL["rows"], {**self._names, **wanted}, prepare=True, binary=True
            )
            found = await cursor.fetchall()
        rows = [_row(values, versions[values[1]]) for values in found if values[1] in versions]
        return rows, gone, versions

    async def _ask(
        self, connection: Connection, statement: str, /, **values: Any
    ) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(SQL[statement], {**self._names, **values})
        return await cursor.fetchall()


def _row(values: tuple[Any, ...], version: int) -> ChunkRow:
    chunk, _, digest, tenant, model, source, key, title, kind, metadata, vector = values
    return ChunkRow(
        chunk,
        version,
        digest,
        tenant,
        model,
        source,
        key,
        title,
        kind,
        facts_of(metadata),
        # pgvector's form of a halfvec: its length and two empty bytes, then big-endian numbers.
        np.frombuffer(vector, ">f2", offset=4).astype(np.float32),
    )


def _portions(documents: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (documents[start : start + size] for start in range(0, len(documents), size))
