"""LanceDB as a second store of chunks: a folder (or an object store), no server.

A table is versioned as a whole and one writer commits at a time; a removed chunk stays as a row
without kind, so that a late write of an older version finds it. Reading opens the newest version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import FatalError, MissingExtraError
from penstock.stores.base import Filter, Vectors
from penstock.stores.chunk_index import SPAN, ChunkRow, Gone, Range, fact_of

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb import AsyncConnection, AsyncTable

_REMOVED: Final = ""
"""The kind of a chunk that is no more."""


class LanceDBIndex:
    """One table of a LanceDB database at ``uri``."""

    def __init__(self, uri: str, table: str) -> None:
        self._uri = uri
        self._name = table
        self._connection: AsyncConnection | None = None
        self._table: AsyncTable | None = None

    async def prepare(self, dimensions: int) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        connection = await self._connect()
        if self._name in (await connection.list_tables()).tables:
            self._table = await connection.open_table(self._name)
        else:
            self._table = await connection.create_table(
                self._name, schema=_schema(dimensions), exist_ok=True
            )
        length = (await self._table.schema()).field("vector").type.list_size
        if length != dimensions:
            raise FatalError(
                f"expected the table {self._name!r} for vectors of {dimensions} numbers, got one "
                f"for {length}: name another table, or delete that one"
            )

    async def write(self, rows: Sequence[ChunkRow], gone: Sequence[Gone]) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        table = await self._opened()
        schema = await table.schema()
        length = schema.field("vector").type.list_size
        newest = {row["chunk"]: row for row in (_removed(one, length) for one in gone)}
        newest |= {row.chunk: _stored(row) for row in rows}
        if not newest:
            return
        merge = table.merge_insert("chunk")
        merge = merge.when_matched_update_all(where="target.version <= source.version")
        import pyarrow as pa

        await merge.when_not_matched_insert_all().execute(
            pa.Table.from_pylist(list(newest.values()), schema=schema)
        )

    async def refresh(self) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`. What is committed is found."""

    async def forget(self) -> None:
        """See `penstock.stores.chunk_index.ForgettingIndex`. Versions of before are deleted; of
        those that are left, LanceDB writes a file anew once a tenth of its rows is gone."""
        from datetime import timedelta

        table = await self._opened()
        # Nobody else writes meanwhile, and who reads an older version asks again.
        await table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)

    async def nearest(
        self, vector: Vectors, *, tenant: str, model: int, limit: int, where: Filter
    ) -> list[int]:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        table = await self._opened()
        asked = table.query().nearest_to(vector.reshape(-1)).distance_type("cosine")
        condition = " AND ".join(_conditions(tenant, model, where))
        found = await asked.where(condition).select(["chunk"]).limit(limit).to_list()
        return [row["chunk"] for row in found]

    async def ranges(self, tenant: str) -> Mapping[int, Range]:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        chunks, digests = await self._digests(tenant, "true")
        spans, places, counts = np.unique(chunks // SPAN, return_inverse=True, return_counts=True)
        sums = np.zeros(len(spans), np.int64)
        np.add.at(sums, places, digests)
        return {
            int(span): Range(int(count), int(total))
            for span, count, total in zip(spans, counts, sums, strict=True)
        }

    async def digests(self, tenant: str, span: int) -> Mapping[int, int]:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        bounds = f"chunk >= {span * SPAN} AND chunk < {(span + 1) * SPAN}"
        chunks, digests = await self._digests(tenant, bounds)
        return dict(zip(chunks.tolist(), digests.tolist(), strict=True))

    async def close(self) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        if self._table is not None:
            self._table.close()  # type: ignore[no-untyped-call]
        if self._connection is not None:
            self._connection.close()  # type: ignore[no-untyped-call]
        self._table = self._connection = None

    # ------------------------------------------------------------------ inside

    async def _digests(self, tenant: str, condition: str) -> tuple[Any, Any]:
        table = await self._opened()
        where = f"tenant = {_text(tenant)} AND kind <> '{_REMOVED}' AND {condition}"
        found = await table.query().where(where).select(["chunk", "digest"]).to_arrow()
        return found["chunk"].to_numpy(), found["digest"].to_numpy()

    async def _connect(self) -> AsyncConnection:
        if self._connection is None:
            try:
                import lancedb
            except ImportError as error:
                raise MissingExtraError("LanceDB as a second store", "lancedb") from error
            from datetime import timedelta

            self._connection = await lancedb.connect_async(
                self._uri, read_consistency_interval=timedelta(0)
            )
        return self._connection

    async def _opened(self) -> AsyncTable:
        if self._table is None:
            connection = await self._connect()
            tables = (await connection.list_tables()).tables
            if self._name not in tables:
                raise FatalError(
                    f"expected the table {self._name!r} in LanceDB at {self._uri}, it is not "
                    "there: `penstock reconcile --repair` makes and fills it again"
                )
            self._table = await connection.open_table(self._name)
        return self._table


def _schema(dimensions: int) -> pa.Schema:
    import pyarrow as pa

    words = ("tenant", "source", "key", "title", "kind")
    return pa.schema(
        [
            pa.field("chunk", pa.int64(), nullable=False),
            pa.field("version", pa.int64(), nullable=False),
            pa.field("digest", pa.int64(), nullable=False),
            pa.field("model", pa.int16(), nullable=False),
            *(pa.field(word, pa.string(), nullable=False) for word in words),
            pa.field("facts", pa.list_(pa.string())),
            pa.field("vector", pa.list_(pa.float32(), dimensions)),
        ]
    )


def _stored(row: ChunkRow) -> dict[str, Any]:
    return row._asdict() | {"facts": list(row.facts)}


def _removed(gone: Gone, length: int) -> dict[str, Any]:
    empty = dict.fromkeys(("tenant", "source", "key", "title"), "")
    vector = np.eye(1, length, dtype=np.float32)[0]
    return {
        **empty,
        "chunk": gone.chunk,
        "version": gone.version,
        "digest": 0,
        "model": 0,
        "kind": _REMOVED,
        "facts": [],
        "vector": vector,
    }


def _text(value: str) -> str:
    """A literal of DataFusion's SQL: only quotes mean anything in it."""
    return "'" + value.replace("'", "''") + "'"


def _conditions(tenant: str, model: int, where: Filter) -> list[str]:
    found = [f"tenant = {_text(tenant)}", f"model = {model:d}", f"kind <> '{_REMOVED}'"]
    if where.sources is not None:
        names = ", ".join(map(_text, where.sources))
        found.append(f"source IN ({names})" if names else "false")
    if where.path is not None:
        if "*" in where.path or "?" in where.path:
            signs = {"*": "%", "?": "_", "%": r"\%", "_": r"\_", "\\": r"\\"}
            pattern = "".join(signs.get(sign, sign) for sign in where.path)
            found.append(f"key LIKE {_text(pattern)} ESCAPE '\\'")
        else:
            found.append(f"key = {_text(where.path)}")
    if where.title is not None:
        found.append(f"title = {_text(where.title)}")
    if where.kind is not None:
        found.append(f"kind = {_text(where.kind)}")
    facts = (fact_of(name, value) for name, value in where.metadata.items())
    found.extend(f"array_has(facts, {_text(fact)})" for fact in facts if fact is not None)
    return found
