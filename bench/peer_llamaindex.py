"""LlamaIndex on a folder of documents, as its users would: an ingestion pipeline with a document
store into PGVectorStore.

Needs llama-index-core and llama-index-vector-stores-postgres; for a real model also
llama-index-embeddings-huggingface. See peer_common.py.
"""

from __future__ import annotations

import psycopg2
from llama_index.core import Document
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.postgres import PGVectorStore
from peer_common import BATCH, DSN, MODEL, OVERLAP, REAL, SIZE, Timed, constant, files


class Constant(BaseEmbedding):
    """A vector by the hash of its text."""

    def _get_query_embedding(self, query: str) -> list[float]:
        return constant([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return constant([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return constant([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return constant(texts)


def model() -> BaseEmbedding:
    """The embedder, warm."""
    if not REAL:
        return Constant(embed_batch_size=100)
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    made = HuggingFaceEmbedding(model_name=MODEL, embed_batch_size=BATCH)
    made.get_text_embedding("warm")
    return made


def main() -> None:
    """Load everything."""
    store = PGVectorStore(
        connection_string=DSN.replace("postgresql://", "postgresql+psycopg2://"),
        async_connection_string=DSN.replace("postgresql://", "postgresql+asyncpg://"),
        table_name="li", embed_dim=384, schema_name="public",
    )  # fmt: skip
    splitter = SentenceSplitter(
        chunk_size=SIZE, chunk_overlap=OVERLAP, tokenizer=list, include_metadata=False
    )
    splitter.split_text("A first text, for what is imported late. " * 20)
    pipeline = IngestionPipeline(
        transformations=[splitter, model()], vector_store=store, docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS, disable_cache=True,
    )  # fmt: skip
    timed = Timed()
    documents = [
        Document(text=path.read_text(encoding="utf-8"), id_=path.name,
                 metadata={"source": str(path)})
        for path in files()
    ]  # fmt: skip
    nodes = pipeline.run(documents=documents)
    timed.tell(len(documents), len(nodes))
    with psycopg2.connect(DSN) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM data_li")
        assert cursor.fetchone() == (len(nodes),)


if __name__ == "__main__":
    main()
