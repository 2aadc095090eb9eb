"""How much a PostgreSQL source holds, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PostgresLimits:
    """How much is held, and how long is waited."""

    read_ahead_bytes: int = 4_000_000
    consistent_point_s: float = 300.0
    """How long to wait for open transactions when the slot is made."""
    copy_tables: int = 2
    """How many tables are copied at the same time, each on a connection of its own."""
    chunk_s: float = 0.5
    """How long one chunk of a copy takes, about: its snapshot is open for that time."""
    chunk_blocks: int = 256
    """How many blocks the first chunk of a copy has."""
    batch_bytes: int = 4_000_000
    """How large the values of one batch of a copy may be."""
    open_writers_s: float = 30.0
    """How often it is told that a copy waits for transactions that stay open."""
    slot_s: float = 6.0
    """How long to wait for a slot that a killed process still holds."""
    answer_s: float = 10.0
    """How long the server may take to answer a question of ours."""
