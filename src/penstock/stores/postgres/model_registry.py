"""The models of a knowledge base: the one that is searched, and another that is being filled.

A vector belongs to a text and a model, so another model's vectors lie beside those that are
searched and nobody sees them. What is lacking is what chunks have and the model has not: nothing is
remembered of how far a filling is, so it goes on after any crash, and what changes meanwhile is
lacking or gone by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.errors import FatalError
from penstock.stores.base import Storage, Vectors, storage_of
from penstock.stores.postgres import vector_index
from penstock.stores.postgres.document_writer import NO_TOKENS, Tokens, add_vectors
from penstock.stores.postgres.packed import stored_bytes

_SQL: Final = load_queries(Path(__file__).with_name("model_registry.sql"))
_PORTION: Final = 5000

Role = Literal["serving", "previous", "shadow", "unused"]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that has vectors here."""

    id: int
    name: str
    dimensions: int
    storage: Storage
    vectors: int
    role: Role

    @property
    def bytes_per_vector(self) -> int:
        """In the table, without the row's own head."""
        return stored_bytes(self.dimensions, self.storage)


class Lacking(NamedTuple):
    """A chunk whose text has no vector of a model yet."""

    chunk: int
    hash: bytes
    text: str
    document: str


class Size(NamedTuple):
    """How much is lacking; tokens as the model counted that the chunks were cut for."""

    texts: int
    characters: int
    tokens: int


class PostgresModels:
    """What a tenant's knowledge base says of its models."""

    def __init__(
        self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], *, tenant: str
    ) -> None:
        self._pool = pool
        self._tenant = tenant

    async def serving(self) -> str | None:
        """The name of the model that is searched."""
        rows = await self._rows("serving")
        return rows[0][0] if rows else None

    async def adopt(self, name: str, dimensions: int) -> bool:
        """Take another model into use while there is no chunk at all."""
        await self.register(name, dimensions)
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    _SQL["adopt"], {"tenant": self._tenant, "name": name}
                )
                return cursor.rowcount == 1

    async def models(self) -> list[StoredModel]:
        """All that have or had vectors here, oldest first."""
        rows = await self._rows("models")
        roles = await self._rows("roles")
        serving, previous, shadow = roles[0] if roles else (None, None, None)
        named: dict[int | None, Role] = {
            shadow: "shadow",
            previous: "previous",
            serving: "serving",
        }
        return [
            StoredModel(id_, name, dimensions, storage, vectors, named.get(id_, "unused"))
            for id_, name, dimensions, storage, vectors in rows
        ]

    async def register(self, name: str, dimensions: int) -> int:
        """The number of a model, new or known."""
        values = {"name": name, "dimensions": dimensions, "storage": storage_of(name)}
        with translated():
            async with self._pool.connection() as connection:
                row = await (await connection.execute(_SQL["find"], values)).fetchone()
                if row is None:  # an insertion that finds a conflict uses up a number
                    await connection.execute(_SQL["register"], values)
                    row = await (await connection.execute(_SQL["find"], values)).fetchone()
        if row is None or row[1] != dimensions:
            raise FatalError(
                f"expected {name!r} to give {row[1] if row else 0} numbers a text, as its stored "
                f"vectors have, got {dimensions}: give it another name"
            )
        return int(row[0])

    async def begin(self, model: int) -> None:
        """Say that this model is being filled."""
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(
                    _SQL["begin_shadow"], {"tenant": self._tenant, "model": model}
                )

    async def chunks(self) -> int:
        """How many chunks there are."""
        return int((await self._rows("chunks"))[0][0])

    async def size(self, model: int) -> Size:
        """How much a model lacks."""
        return Size(*(await self._rows("size", model=model))[0])

    async def lacking(self, model: int, *, after: int = 0, limit: int = 256) -> list[Lacking]:
        """Chunks without a vector of this model, in the order of their ids."""
        rows = await self._rows("lacking", model=model, after=after, limit=limit)
        return [Lacking(chunk, bytes(hash_), text, name) for chunk, hash_, text, name in rows]

    async def store(
        self,
        model: int,
        name: str,
        lacking: Sequence[Lacking],
        vectors: Vectors,
        tokens: Tokens = NO_TOKENS,
    ) -> int:
        """Store vectors of those texts that are still somebody's; returns how many."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(
                    _SQL["hold_chunks"],
                    {"tenant": self._tenant, "chunks": [item.chunk for item in lacking]},
                )
                held = {bytes(row[0]) for row in await cursor.fetchall()}
                kept = {item.hash: place for place, item in enumerate(lacking) if item.hash in held}
                if kept:
                    order = sorted(kept)
                    await add_vectors(
                        connection,
                        self._tenant,
                        model,
                        order,
                        vectors[[kept[hash_] for hash_ in order]],
                        storage_of(name),
                        Tokens(
                            tokens.head,
                            [tokens.packed[kept[hash_]] for hash_ in order if tokens.packed],
                        ),
                    )
        return len(kept)

    async def index(self) -> None:
        """Build the indexes that are due; reading and writing go on meanwhile."""
        async with self._pool.connection() as connection:
            await vector_index.maintain(connection)

    async def cut_over(self, model: int, *, without: Collection[bytes] = ()) -> bool:
        """Take a model into use in one transaction, if no chunk lacks its vector (but those with
        the texts ``without``). Readers see the one or the other, wholly."""
        values: Mapping[str, Any] = {
            "tenant": self._tenant,
            "model": model,
            "without": list(without),
        }
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_SQL["lock_serving"], values)
                [(whole,)] = await (await connection.execute(_SQL["is_whole"], values)).fetchall()
                if whole:
                    await connection.execute(_SQL["cut_over"], values)
        return bool(whole)

    async def finish(self) -> int:
        """Drop the vectors of all models that are not searched; returns how many."""
        dropped = 0
        values = {"tenant": self._tenant, "limit": _PORTION}
        with translated():
            async with self._pool.connection() as connection:
                await connection.execute(_SQL["forget_previous"], values)
                while portion := (await connection.execute(_SQL["drop_vectors"], values)).rowcount:
                    dropped += portion
                await connection.execute(_SQL["drop_loose"], values)
                await vector_index.drop_unused(connection)
        return dropped

    async def unready(self, name: str) -> list[str]:
        """Running processes that have not said that they can use this model."""
        rows = await self._rows("ready")
        return [f"pid {pid} on {host}" for _, names, host, pid in rows if name not in names]

    async def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    _SQL[statement], {"tenant": self._tenant, **values}
                )
                return await cursor.fetchall()
