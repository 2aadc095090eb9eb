"""Pathway on a folder of documents, as its users would: a document store behind its server, the
index in memory. Its time holds the engine's start.

Needs pathway[xpack-llm]; for a real model also sentence-transformers. See peer_common.py.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import time
from typing import Any

import numpy as np
import pathway as pw
from pathway.stdlib.indexing import BruteForceKnnFactory
from pathway.xpacks.llm.document_store import DocumentStore
from pathway.xpacks.llm.servers import DocumentStoreServer
from pathway.xpacks.llm.splitters import RecursiveSplitter
from peer_common import (
    BATCH,
    FOLDER,
    MODEL,
    OVERLAP,
    REAL,
    SIZE,
    Timed,
    constant_arrays,
    files,
)  # fmt: skip


class Constant(pw.UDF):
    """A vector by the hash of its text."""

    def __init__(self) -> None:
        super().__init__(max_batch_size=64)

    def __wrapped__(self, input: list[str], **_: Any) -> list[np.ndarray]:  # noqa: A002
        return constant_arrays(input)

    def get_embedding_dimension(self, **_: Any) -> int:
        return 384


def model() -> Any:
    """The embedder, warm."""
    if not REAL:
        return Constant()
    from pathway.xpacks.llm.embedders import SentenceTransformerEmbedder

    options = {"show_progress_bar": False}
    made = SentenceTransformerEmbedder(model=MODEL, batch_size=BATCH, call_kwargs=options)
    made.model.encode(["warm"])
    return made


def main() -> None:
    """Load everything."""
    logging.disable(logging.INFO)
    wanted = len(files())
    documents = pw.io.fs.read(
        str(FOLDER), format="binary", with_metadata=True, mode="streaming",
        autocommit_duration_ms=100,
    )  # fmt: skip
    store = DocumentStore(
        documents,
        retriever_factory=BruteForceKnnFactory(dimensions=384, embedder=model()),
        splitter=RecursiveSplitter(chunk_size=SIZE, chunk_overlap=OVERLAP),
    )
    chunks = [0]

    def count(**change: Any) -> None:
        chunks[0] += 1 if change["is_addition"] else -1

    pw.io.subscribe(store.chunked_docs, on_change=count)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = DocumentStoreServer("127.0.0.1", port, store)

    def post(path: str, body: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    timed = Timed()
    server.run(threaded=True, with_cache=False, terminate_on_error=True)
    while True:
        time.sleep(0.02)
        if chunks[0] < wanted:
            continue
        try:
            found = post("/v1/retrieve", {"query": "warm", "k": 3})
            counted = post("/v1/statistics", {})
        except (OSError, ValueError, http.client.HTTPException):
            continue
        if counted.get("file_count", 0) >= wanted and len(found) == 3:
            break
    timed.tell(wanted, chunks[0])
    os._exit(0)


if __name__ == "__main__":
    main()
