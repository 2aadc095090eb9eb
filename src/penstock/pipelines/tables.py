"""The pipeline of live tables: every change of a row, applied as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from penstock.pipelines.base import Outcome, Rejected, Tools
from penstock.records import DOCUMENTS, UNREADABLE, Change
from penstock.stores.base import ApplyRows

_NO_ROWS: Final = frozenset({DOCUMENTS, UNREADABLE})


@dataclass(frozen=True)
class TablesPipeline:
    """Keeps live tables in step. It needs no model, so nothing slow can make rows stale.

    Documents are not rows of a table and are left to the knowledge pipeline.
    """

    name: str
    topics: tuple[str, ...]
    streams: frozenset[str] | None = None

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:  # noqa: ARG002 - a pipeline may ask; this one need not
        """One effect with all changes of rows; records that nobody could read are put aside."""
        streams = {change.schema.stream for change in changes}
        if streams.isdisjoint(_NO_ROWS):
            return Outcome((ApplyRows(changes),) if changes else ())
        rows = [change for change in changes if change.schema.stream not in _NO_ROWS]
        rejected = [
            Rejected(change, str(change.value("error")))
            for change in changes
            if change.schema.stream == UNREADABLE
        ]
        return Outcome((ApplyRows(rows),) if rows else (), rejected)
