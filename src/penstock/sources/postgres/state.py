"""What the state of a PostgreSQL source says, as small named texts. Pure.

``system`` and ``timeline`` (which server), ``lsn`` (what the slot may be told to forget),
``position`` (the last change given), ``table:STREAM`` (consistent point of the table's copy and the
table's oid, once it is complete), ``shape:STREAM`` (what the table looked like when it was copied
or the stream last described it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from penstock.sources.base import State, StateChange
from penstock.sources.postgres.catalogue import Table
from penstock.sources.postgres.positions import format_lsn, parse_lsn
from penstock.sources.postgres.publication import Identity, Published
from penstock.sources.postgres.shapes import STATE, Shape

TABLE: Final = "table:"
SHAPE: Final = STATE


class Copied(NamedTuple):
    """A table's complete copy, as the state holds it."""

    consistent_point: int
    oid: int

    @classmethod
    def parse(cls, text: str) -> Copied:
        point, _, oid = text.partition(" ")
        return cls(parse_lsn(point), int(oid or 0))

    def format(self) -> str:
        return f"{format_lsn(self.consistent_point)} {self.oid}"


def changed_facts(
    state: State, tables: Sequence[Table], identity: Identity
) -> dict[str, str | None]:
    """What the state must say from now on: who the server is, and no tables that are gone."""
    wanted = {kind + table.stream for table in tables for kind in (TABLE, SHAPE)}
    facts: dict[str, str | None] = {
        name: None for name in state if name.startswith((TABLE, SHAPE)) and name not in wanted
    }
    now = {"system": identity.system, "timeline": str(identity.timeline)}
    return facts | {name: value for name, value in now.items() if state.get(name) != value}


def copied_tables(state: State, tables: Sequence[Table], published: Published) -> dict[int, int]:
    """Tables whose copy is complete and whose changes were published ever since, with the
    consistent point of the copy."""
    copied = {}
    for table in tables:
        text = state.get(TABLE + table.stream)
        if text is None or table.oid in published.added:
            continue
        entry = Copied.parse(text)
        if entry.oid == table.oid:
            copied[table.oid] = entry.consistent_point
    return copied


def copied_in(state: StateChange) -> dict[int, int]:
    """Tables that are copied as of this, with the consistent point."""
    entries = (
        Copied.parse(text)
        for name, text in state.items()
        if name.startswith(TABLE) and text is not None
    )
    return {entry.oid: entry.consistent_point for entry in entries}


def shapes_in(state: StateChange) -> dict[str, Shape]:
    """The shapes that this tells of, by stream."""
    return {
        name.removeprefix(SHAPE): Shape.parse(text)
        for name, text in state.items()
        if name.startswith(SHAPE) and text is not None
    }


def lsn_in(state: StateChange, before: int | None) -> int | None:
    """What may be forgotten as of this."""
    lsn = state.get("lsn")
    return before if lsn is None else parse_lsn(lsn)
