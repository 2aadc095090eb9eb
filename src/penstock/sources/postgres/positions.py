"""Positions of a PostgreSQL source: where the transaction committed, and the place within it. Pure.

Commit order is the only order of transactions that has a meaning (a larger LSN within an earlier
transaction has not), and one transaction has many changes: so both numbers, as hexadecimal of fixed
width that sorts as text.
"""

from __future__ import annotations

from penstock.errors import SourceError
from penstock.records import Position


def parse_lsn(text: str) -> int:
    """An LSN as PostgreSQL prints it (``16/B374D848``)."""
    high, _, low = text.partition("/")
    try:
        return int(high, 16) << 32 | int(low, 16)
    except ValueError as error:
        raise SourceError(f"expected an LSN like 16/B374D848, got {text!r}") from error


def format_lsn(lsn: int) -> str:
    """An LSN as PostgreSQL reads it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def position_prefix(commit_lsn: int) -> str:
    """What all positions of one transaction begin with."""
    return f"{commit_lsn:016X}."


def make_position(commit_lsn: int, place: int) -> Position:
    """The position of change number ``place`` (from 1) of the transaction that committed there."""
    return Position(f"{commit_lsn:016X}.{place:08X}")


def parse_position(position: str) -> tuple[int, int]:
    """Commit LSN and place."""
    commit_lsn, _, place = position.partition(".")
    try:
        return int(commit_lsn, 16), int(place, 16)
    except ValueError as error:
        raise SourceError(
            f"expected a position like 00000016B374D848.00000001, got {position!r} in the state "
            "of this source: it was written by something else"
        ) from error
