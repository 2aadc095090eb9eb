"""CocoIndex on a folder of documents, as its users would: a component for each file and chunk, into
a table of PostgreSQL.

Needs cocoindex and asyncpg; for a real model also sentence-transformers. See peer_common.py.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Annotated, Any

import asyncpg
import cocoindex as coco
import numpy as np
from cocoindex.connectors import localfs, postgres
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources import schema
from cocoindex.resources.id import IdGenerator
from numpy.typing import NDArray
from peer_common import (
    DSN,
    FOLDER,
    MODEL,
    OVERLAP,
    REAL,
    SIZE,
    Timed,
    constant_arrays,
    files,
)  # fmt: skip

os.environ["COCOINDEX_DB"] = f"{tempfile.mkdtemp()}/coco.db"  # read when the app is made


class Constant(schema.VectorSchemaProvider):
    """A vector by the hash of its text."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @coco.fn.as_async(batching=True, max_batch_size=64)
    def _many(self, texts: list[str]) -> list[NDArray[np.float32]]:
        return constant_arrays(texts)

    @coco.fn(memo=True, version=1, logic_tracking="self")
    async def embed(self, text: str) -> NDArray[np.float32]:
        return await self._many(text)

    async def __coco_vector_schema__(self) -> schema.VectorSchema:
        return schema.VectorSchema(dtype=np.dtype(np.float32), size=384)


def model() -> Any:
    """The embedder, warm."""
    if not REAL:
        return Constant()
    import cocoindex.ops.sentence_transformers as transformers

    made = transformers.SentenceTransformerEmbedder(MODEL)
    made._get_model().encode(["warm"])  # noqa: SLF001  # loads it
    return made


POOL = coco.ContextKey[asyncpg.Pool]("pool")
EMBEDDER = coco.ContextKey("embedder", detect_change=True)
splitter = RecursiveSplitter()
embedder = model()


@coco.lifespan
async def lifespan(builder: Any) -> Any:
    async with asyncpg.create_pool(DSN) as pool:
        builder.provide(POOL, pool)
        builder.provide(EMBEDDER, embedder)
        yield


@dataclass
class Row:
    """A chunk."""

    id: int
    filename: str
    text: str
    embedding: Annotated[NDArray, EMBEDDER]


@coco.fn
async def chunk(found: Any, name: str, ids: Any, table: Any) -> None:
    vector = await coco.use_context(EMBEDDER).embed(found.text)
    row = Row(id=await ids.next_id(found.text), filename=name, text=found.text, embedding=vector)
    table.declare_row(row=row)


@coco.fn(memo=True)
async def document(file: Any, table: Any) -> None:
    found = splitter.split(await file.read_text(), chunk_size=SIZE, chunk_overlap=OVERLAP)
    await coco.map(chunk, found, str(file.file_path.path), IdGenerator(), table)


@coco.fn
async def everything(folder: Any) -> None:
    shape = await postgres.TableSchema.from_class(Row, primary_key=["id"])
    table = await postgres.mount_table_target(
        POOL, table_name="cc", table_schema=shape, pg_schema_name="public"
    )
    await coco.mount_each(document, localfs.walk_dir(folder, recursive=True).items(), table)


async def count() -> int:
    connection = await asyncpg.connect(DSN)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM cc"))
    finally:
        await connection.close()


def main() -> None:
    """Load everything."""
    import asyncio

    app = coco.App(coco.AppConfig(name="cc"), everything, FOLDER)
    timed = Timed()
    app.update_blocking()
    timed.tell(len(files()), asyncio.run(count()))
    os._exit(0)


if __name__ == "__main__":
    main()
