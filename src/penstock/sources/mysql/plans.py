"""How the rows of a table that is captured are read: worked out once per shape. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, cast

from penstock.errors import SourceError
from penstock.records import UNCHANGED, Key, Row, Schema
from penstock.sources.mysql.forms import Reader
from penstock.sources.mysql.rows import Images
from penstock.sources.mysql.shapes import Shape

NEVER: Final = (1 << 32, 0, 0)
"""Where a table starts whose copy is yet to be made: after every place."""


@dataclass(frozen=True)
class TablePlan:
    """All that is worked out once per shape of a table."""

    stream: str
    schema: Schema
    readers: tuple[Reader, ...]
    images: Images
    starts_at: tuple[int, int, int]
    """Changes before this place are in the copy of the table."""
    key: Callable[[Row], Key]


def key_maker(schema: Schema) -> Callable[[Row], Key]:
    """What takes the key out of a row.

    Raises:
        SourceError: there is no key.
    """
    indexes = schema.key_indexes
    if not indexes:
        raise SourceError(
            f"expected a key on table {schema.stream!r} of source {schema.source!r}, got none: add "
            "a primary key, or a unique one of columns that are NOT NULL",
            source=schema.source,
            stream=schema.stream,
        )
    if len(indexes) == 1:
        only = indexes[0]
        return lambda row: (row[only],)  # type: ignore[return-value] # keys are never UNCHANGED
    return cast("Callable[[Row], Key]", itemgetter(*indexes))


@dataclass
class Tracked:
    """A table that is captured: what it looks like and from where its changes are wanted."""

    shape: Shape | None
    starts_at: tuple[int, int, int] = NEVER


def filled(after: Row, before: Row) -> Row:
    """The new row with what it left out taken from the old one, as far as that is there."""
    return tuple(old if new is UNCHANGED else new for new, old in zip(after, before, strict=True))
