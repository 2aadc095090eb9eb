"""LangChain on a folder of documents, as its users would: split, `index`, PGVector.

Needs langchain-classic, langchain-postgres and langchain-text-splitters; for a real model also
langchain-huggingface. See peer_common.py.
"""

from __future__ import annotations

from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_postgres import PGVector
from langchain_text_splitters import RecursiveCharacterTextSplitter
from peer_common import BATCH, DSN, MODEL, OVERLAP, REAL, SIZE, Timed, constant, files
from sqlalchemy import create_engine


class Constant(Embeddings):
    """A vector by the hash of its text."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return constant(texts)

    def embed_query(self, text: str) -> list[float]:
        return constant([text])[0]


def model() -> Embeddings:
    """The embedder, warm."""
    if not REAL:
        return Constant()
    from langchain_huggingface import HuggingFaceEmbeddings

    options = {"batch_size": BATCH, "normalize_embeddings": True}
    made = HuggingFaceEmbeddings(model_name=MODEL, encode_kwargs=options)
    made.embed_query("warm")
    return made


def main() -> None:
    """Load everything."""
    engine = create_engine(DSN.replace("postgresql://", "postgresql+psycopg://"))
    vectors = PGVector(
        embeddings=model(), collection_name="c", connection=engine, use_jsonb=True,
        embedding_length=384,
    )  # fmt: skip
    records = SQLRecordManager("bench", engine=engine)
    records.create_schema()
    splitter = RecursiveCharacterTextSplitter(chunk_size=SIZE, chunk_overlap=OVERLAP)
    timed = Timed()
    documents = [
        Document(page_content=path.read_text(encoding="utf-8"), metadata={"source": str(path)})
        for path in files()
    ]
    chunks = splitter.split_documents(documents)
    index(
        chunks, records, vectors, cleanup="full", source_id_key="source", batch_size=100,
        key_encoder="blake2b",
    )  # fmt: skip
    timed.tell(len(documents), len(chunks))


if __name__ == "__main__":
    main()
