"""The pipeline of live tables: every change of a row, applied as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.pipelines.base import Outcome, Tools
from penstock.records import DOCUMENTS, Change
from penstock.stores.base import ApplyRows


@dataclass(frozen=True)
class TablesPipeline:
    """Keeps live tables in step. It needs no model, so nothing slow can make rows stale.

    Documents are not rows of a table and are left to the knowledge pipeline.
    """

    name: str
    topics: tuple[str, ...]
    streams: frozenset[str] | None = None

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:  # noqa: ARG002 - a pipeline may ask; this one need not
        """One effect with all changes of rows."""
        rows = changes
        if any(change.schema.stream == DOCUMENTS for change in changes):
            rows = [change for change in changes if change.schema.stream != DOCUMENTS]
        return Outcome((ApplyRows(rows),) if rows else ())
