"""What a project may ask of a PostgreSQL source beyond its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ORIGIN_VERSION: Final = 160000
"""From here on the server itself leaves out what was replicated to it; before, we do."""


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """How a slot is made and watched, and what is captured beside rows."""

    failover: bool = False
    """Standbys keep a copy of the slot (PostgreSQL 17 or later)."""
    wal_budget_bytes: int | None = None
    """How much WAL the server may keep for us before that is an error; half of it is a warning.
    None: what the server allows, or 10 GiB where it allows everything."""
    messages: bool = False
    """Capture what ``pg_logical_emit_message`` writes in transactions."""
    own_origin_only: bool = False
    """Leave out what was itself replicated to the source."""


def stream_options(options: PostgresOptions, version: int) -> dict[str, str]:
    """What is asked of pgoutput beside the publication."""
    asked = {}
    if options.messages:
        asked["messages"] = "true"
    if options.own_origin_only and version >= ORIGIN_VERSION:
        asked["origin"] = "none"
    return asked
