"""LangChain on a folder of documents, as its users would: split, `index`, PGVector. Prints JSON.

Run by bench/peers.py with the interpreter of an environment that has langchain-classic,
langchain-postgres and langchain-text-splitters. Vectors come from a table in constant time.

    python bench/peer_langchain.py FOLDER DSN
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_postgres import PGVector
from langchain_text_splitters import RecursiveCharacterTextSplitter
from sqlalchemy import create_engine

TABLE = np.random.default_rng(0).standard_normal((4096, 384)).astype(np.float32).tolist()


class Constant(Embeddings):
    """A vector by the hash of its text."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [TABLE[int.from_bytes(hashlib.blake2b(t.encode(), digest_size=2).digest()) & 4095]
                for t in texts]  # fmt: skip

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def main() -> None:
    """Load everything, then find out that nothing changed."""
    folder, dsn = Path(sys.argv[1]), sys.argv[2]
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    vectors = PGVector(
        embeddings=Constant(), collection_name="c", connection=engine, use_jsonb=True,
        embedding_length=384,
    )  # fmt: skip
    records = SQLRecordManager("bench", engine=engine)
    records.create_schema()
    splitter = RecursiveCharacterTextSplitter(chunk_size=500, chunk_overlap=50)

    def load() -> dict[str, int]:
        documents = [
            Document(page_content=path.read_text(encoding="utf-8"), metadata={"source": str(path)})
            for path in sorted(folder.rglob("*.md"))
        ]
        chunks = splitter.split_documents(documents)
        done = index(
            chunks, records, vectors, cleanup="full", source_id_key="source", batch_size=100,
            key_encoder="blake2b",
        )  # fmt: skip
        return {"documents": len(documents), "chunks": len(chunks), "added": done["num_added"]}

    began = time.perf_counter()
    counts = load()
    first = time.perf_counter() - began
    began = time.perf_counter()
    load()
    print(json.dumps({**counts, "first_s": first, "again_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
