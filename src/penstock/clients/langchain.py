"""Penstock as a retriever of LangChain: fresh passages and rows, with where they are from and how
old that is. Needs the extra ``langchain``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.clients.search import DEFAULT_URL, Found, SearchClient
from penstock.errors import MissingExtraError

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import Field, PrivateAttr, SecretStr
except ImportError as error:
    raise MissingExtraError("a retriever for LangChain", "langchain") from error


class PenstockRetriever(BaseRetriever):
    """Documents for a question, at most ``k``, best first. ``metadata`` of each says its source,
    key, title, ``url`` (for a citation) and ``age_ms``.

    Example::

        PenstockRetriever(api_key="psk_...", k=4).invoke("Which tent is waterproof?")
    """

    api_key: SecretStr
    url: str = DEFAULT_URL
    k: int = Field(default=8, ge=1, le=100)
    user: str | None = None
    """Whom to ask for, where the key may act for others."""
    groups: Sequence[str] = ()
    where: Mapping[str, Any] | None = None
    """Which documents and rows count: ``{"sources": ["policies"]}``."""
    profile: str | None = None
    """Whom a question is about: ``customer:ada@example.org``."""
    timeout_s: float = 30.0
    _client: SearchClient = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Make the client."""
        super().model_post_init(context)
        self._client = SearchClient(
            self.api_key.get_secret_value(),
            url=self.url,
            user=self.user,
            groups=self.groups,
            where=self.where,
            profile=self.profile,
            timeout_s=self.timeout_s,
        )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's
        k: int | None = None,
    ) -> list[Document]:
        return list(map(_document, self._client.search(query, k or self.k)))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's
        k: int | None = None,
    ) -> list[Document]:
        return list(map(_document, await self._client.asearch(query, k or self.k)))


def _document(found: Found) -> Document:
    return Document(
        id=found.id, page_content=found.text, metadata={**found.metadata, "score": found.score}
    )
