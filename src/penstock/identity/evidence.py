"""What is known of people: records, the identifiers they bear, matches and decisions of people.

A *record* is a row of a captured table that speaks of somebody. It bears *identifiers*, values that
are the same wherever the same person is met. A *match* ties two records whose fields look alike. A
*decision* is what a person said about records; it is evidence like any other, and beats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from penstock.records import Microseconds, Position

_NOWHERE: Final = Position("")
_NEVER: Final = Microseconds(0)


class RecordKey(NamedTuple):
    """Names one record everywhere. Keys compare by source, table and key: the canonical order, on
    which nothing that comes from outside has any influence."""

    source: str
    table: str
    key: str

    def __str__(self) -> str:
        return f"{self.source}/{self.table}/{self.key}"


class Identifier(NamedTuple):
    """One way to recognise somebody: a kind, and the value in its canonical form."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is now. ``identifiers`` are distinct and in order; ``fields`` are what fuzzy
    matching compares; ``traits`` are what it says of the person. ``at`` is when it said so."""

    key: RecordKey
    identifiers: tuple[Identifier, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    traits: Mapping[str, str] = field(default_factory=dict)
    position: Position = _NOWHERE
    at: Microseconds = _NEVER


class Match(NamedTuple):
    """Two records that look like one person. ``left`` is the smaller key. ``weight`` is the base-2
    logarithm of the odds that they are; ``fields`` says what each field added to it."""

    left: RecordKey
    right: RecordKey
    weight: float
    fields: tuple[tuple[str, float], ...] = ()


Verb = Literal["merge", "unmerge", "pin", "block"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person said, under a number that rises: of two that contradict each other the later
    one counts.

    ``merge``: the records of ``left`` and ``right`` are one person. ``unmerge``: none of ``left``
    is one of ``right``. ``pin``: those of ``left`` are one person, and nobody else joins them,
    whatever other evidence says. ``block``: ``identifier`` says nothing.
    """

    number: int
    verb: Verb
    left: tuple[RecordKey, ...] = ()
    right: tuple[RecordKey, ...] = ()
    identifier: Identifier | None = None
    by: str = ""
    reason: str = ""
    at: Microseconds = _NEVER
