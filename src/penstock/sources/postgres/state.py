"""What the state of a PostgreSQL source says, as small named texts. Pure.

``system`` and ``timeline`` (which server), ``lsn`` (what the slot may be told to forget),
``position`` (the last change of the stream that was given), ``copied`` (the last one of a copy),
``copy:STREAM`` (how far the table's copy is), ``table:STREAM`` (from where on the table's changes
are given and the table's oid, once its copy is complete), ``shape:STREAM`` (what the table looked
like when it was copied or the stream last described it).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, NamedTuple

from penstock.errors import SourceError
from penstock.sources.base import State, StateChange
from penstock.sources.postgres.catalogue import Table
from penstock.sources.postgres.positions import format_lsn, parse_lsn
from penstock.sources.postgres.publication import Identity, Published
from penstock.sources.postgres.shapes import STATE, Shape

TABLE: Final = "table:"
COPY: Final = "copy:"
COPIED: Final = "copied"
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


@dataclass
class CopyState:
    """How far the copy of a table is.

    ``begun`` is the position with which it began; ``first``: the table was never there as a whole;
    ``sweep``: some rows may be there, and what is older than ``begun`` is to go at the end. Blocks
    before ``block`` of the ``blocks`` that there were are done, in the files named. ``again`` are
    keys of rows to be read by their key.
    """

    oid: int
    begun: str
    first: bool
    sweep: bool
    began_at: int
    files: str = ""
    block: int = 0
    blocks: int = -1
    rows: int = 0
    shape: str | None = None
    again: list[list[str | None]] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> CopyState:
        """Of the source's state."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise SourceError(
                f"expected how far a copy is, got {text[:80]!r} in the state of this source: it "
                "was written by something else"
            ) from error

    def format(self) -> str:
        """For the source's state."""
        return json.dumps(asdict(self), separators=(",", ":"))


def unfinished_copies(
    state: State, tables: Sequence[Table], published: Published
) -> dict[int, CopyState]:
    """Copies that were begun, of tables whose changes were published ever since."""
    found = {}
    for table in tables:
        text = state.get(COPY + table.stream)
        if text is not None and table.oid not in published.added:
            copy = CopyState.parse(text)
            if copy.oid == table.oid:
                found[table.oid] = copy
    return found


def changed_facts(
    state: State, tables: Sequence[Table], identity: Identity
) -> dict[str, str | None]:
    """What the state must say from now on: who the server is, and no tables that are gone."""
    wanted = {kind + table.stream for table in tables for kind in (TABLE, SHAPE, COPY)}
    facts: dict[str, str | None] = {
        name: None for name in state if name.startswith((TABLE, SHAPE, COPY)) and name not in wanted
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


def shapes_in(state: StateChange) -> dict[str, Shape]:
    """The shapes that this tells of, by stream."""
    return {
        name.removeprefix(SHAPE): Shape.parse(text)
        for name, text in state.items()
        if name.startswith(SHAPE) and text is not None
    }
