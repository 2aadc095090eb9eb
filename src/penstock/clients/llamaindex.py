"""Penstock as a retriever of LlamaIndex: fresh passages and rows, with where they are from and how
old that is. Needs the extra ``llamaindex``."""

from __future__ import annotations

from typing import Any

from penstock.clients.search import Found, SearchClient
from penstock.errors import MissingExtraError

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise MissingExtraError("a retriever for LlamaIndex", "llamaindex") from error


class PenstockRetriever(BaseRetriever):
    """Nodes for a question, at most ``similarity_top_k``, best first; ``metadata`` of each says its
    source, key, title, ``url`` (for a citation) and ``age_ms``. The other arguments are those of
    `SearchClient`.

    Example::

        PenstockRetriever("psk_...", similarity_top_k=4).retrieve("Which tent is waterproof?")
    """

    def __init__(self, api_key: str, *, similarity_top_k: int = 8, **options: Any) -> None:
        self._client = SearchClient(api_key, **options)
        self._limit = similarity_top_k
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(map(_node, self._client.search(query_bundle.query_str, self._limit)))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = await self._client.asearch(query_bundle.query_str, self._limit)
        return list(map(_node, found))


def _node(found: Found) -> NodeWithScore:
    # What a model would be shown of a node is its text; the rest is for whoever cites it.
    node = TextNode(
        id_=found.id,
        text=found.text,
        metadata=found.metadata,
        excluded_llm_metadata_keys=list(found.metadata),
        excluded_embed_metadata_keys=list(found.metadata),
    )
    return NodeWithScore(node=node, score=found.score)
