"""Whole documents for whoever may see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.errors import FatalError
from penstock.principals import Principal
from penstock.serving.values import iso, jsonable
from penstock.stores.base import SnapshotStore
from penstock.stores.documents import DocumentSnapshot, StoredDocument


@dataclass(frozen=True, slots=True)
class DocumentReader:
    """Reads documents of a knowledge base."""

    snapshots: SnapshotStore

    async def read(self, source: str, key: str, principal: Principal) -> StoredDocument | None:
        """The document; None when there is none that this one may see: who may not know it learns
        nothing, not even that it is there."""
        if "\x00" in source + key:
            return None
        async with self.snapshots.snapshot(principal) as snapshot:
            if not isinstance(snapshot, DocumentSnapshot):
                raise FatalError("expected a store that gives whole documents")
            return await snapshot.document(source, key)


def shown(document: StoredDocument) -> dict[str, Any]:
    """As JSON shows it."""
    return {
        **jsonable(document._asdict()),
        "version": str(document.version),
        "committed_at": iso(document.committed_at),
    }
