"""Whole documents, as the knowledge base holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from penstock.records import Microseconds, Position


class StoredDocument(NamedTuple):
    """A document or a searched row. The text is that of its chunks, in their order, with an empty
    line between."""

    source: str
    key: str
    title: str
    text: str
    version: Position
    committed_at: Microseconds
    metadata: Mapping[str, Any]
    kind: str
    """``document`` or ``row``."""


@runtime_checkable
class DocumentSnapshot(Protocol):
    """A snapshot that gives whole documents."""

    async def document(self, source: str, key: str) -> StoredDocument | None:
        """The document of that name; None when there is none that the one who asks may see."""
