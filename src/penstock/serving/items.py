"""Rows as a context shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.records import Microseconds, Position


@dataclass(frozen=True, slots=True)
class RowView:
    """What a context shows of a table's rows: the searched columns and the shown ones (None: all).
    ``title`` names a row, with columns in braces: ``Flight {number}``."""

    searched: tuple[str, ...] = ()
    shown: tuple[str, ...] | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class ContextRow:
    """A row as it is now. ``key`` is its name in the knowledge base (``table/key``), ``searched``
    says which of the values were found by the question."""

    source: str
    table: str
    key: str
    row_key: tuple[str | None, ...]
    title: str
    values: Mapping[str, Any]
    searched: tuple[str, ...]
    version: Position
    committed_at: Microseconds
    score: float = 0.0
    similarity: float = 0.0
    text_score: float = 0.0
