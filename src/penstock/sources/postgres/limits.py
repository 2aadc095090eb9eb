"""How much a PostgreSQL source holds, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PostgresLimits:
    """How much is held, and how long is waited."""

    read_ahead_bytes: int = 4_000_000
    consistent_point_s: float = 300.0
    """How long to wait for open transactions before a copy."""
    reread_point_s: float = 3.0
    """The same when a table is copied again: the stream waits for that time."""
    reread_pause_s: float = 30.0
    """How long the stream goes on before that is tried again."""
    slot_s: float = 6.0
    """How long to wait for a slot that a killed process still holds."""
    answer_s: float = 10.0
    """How long the server may take to answer a question of ours."""
