"""What a kind of profile says of people beside their traits: values that are computed from rows,
lists of rows, what a person has consented to, and segments. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from penstock.identity.conditions import Condition
from penstock.records import Microseconds

Measure = Literal[
    "count",
    "sum",
    "average",
    "min",
    "max",
    "first",
    "last",
    "most_frequent",
    "distinct",
    "sessions",
    "last_session",
]
"""How many rows become one value."""

NUMERIC: Final = frozenset({"sum", "average", "min", "max"})
ALONE: Final = frozenset({"count", "sessions"})
"""Measures that take no column."""

DEFAULT_GAP: Final = 30 * 60 * 1_000_000


@dataclass(frozen=True, slots=True)
class Computed:
    """A value out of a person's rows of one table. ``where`` says which values columns must have;
    ``within`` and ``gap`` are microseconds: rows of this long ago until now (None: all), and the
    pause that ends a session."""

    source: str
    table: str
    measure: Measure
    column: str | None = None
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    within: int | None = None
    gap: int = DEFAULT_GAP

    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        named = () if self.column is None else (self.column,)
        return (*named, *(name for name, _ in self.where))


@dataclass(frozen=True, slots=True)
class NestedList:
    """Rows of a person in a live table, as they are there. ``rule`` is the condition on who may see
    them; ``open_to`` is False where nobody may."""

    source: str
    table: str
    columns: tuple[str, ...]
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    order: str | None = None
    descending: bool = False
    limit: int = 10
    rule: Mapping[str, Any] | None = None
    open_to: bool = True


@dataclass(frozen=True, slots=True)
class ConsentRule:
    """A table of what people have agreed to: a purpose and whether, a row each. ``needed`` says, by
    the name of a trait, a computed value, a list or a kind of identifier, for which purposes it may
    be used by those whose person has agreed to that purpose; what is not named is for any."""

    source: str
    table: str
    purpose: str
    granted: str
    needed: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.purpose, self.granted)


@dataclass(frozen=True, slots=True)
class Details:
    """All of that for one kind of profile. ``latest``: so many of the last events and changes of
    traits are told to a model."""

    computed: Mapping[str, Computed] = field(default_factory=dict)
    lists: Mapping[str, NestedList] = field(default_factory=dict)
    consent: ConsentRule | None = None
    segments: Mapping[str, Condition] = field(default_factory=dict)
    latest: int = 5
    timed: frozenset[tuple[str, str]] = frozenset()
    """Tables whose rows say themselves when they were true: only of these it is news that a trait
    has changed, since others are as new as the day that they were first read."""

    def columns(self, source: str, table: str) -> tuple[str, ...]:
        """The columns of a table that are kept for this."""
        found: dict[str, None] = {}
        for one in self.computed.values():
            if (one.source, one.table) == (source, table):
                found.update(dict.fromkeys(one.columns()))
        consent = self.consent
        if consent is not None and (consent.source, consent.table) == (source, table):
            found.update(dict.fromkeys(consent.columns()))
        return tuple(found)

    def tables(self) -> set[tuple[str, str]]:
        """The tables whose rows are kept, each with its time."""
        found = {(one.source, one.table) for one in self.computed.values()}
        found |= {(one.source, one.table) for one in self.lists.values()}
        if self.consent is not None:
            found.add((self.consent.source, self.consent.table))
        return found


GRANTED: Final = frozenset({"t", "true", "yes", "y", "1", "on", "granted", "given"})
"""Texts that say yes; every other says no."""


def permitted(
    name: str, purpose: str | None, consent: ConsentRule | None, given: Mapping[str, bool]
) -> bool:
    """Whether something of a profile may be used for a purpose (None: by those who run the
    project, who see all). Closed where it needs consent and none is known."""
    needed = None if consent is None else consent.needed.get(name)
    if purpose is None or needed is None:
        return True
    return purpose in needed and given.get(purpose, False)


def consents(
    rows: Iterable[tuple[str | None, str | None, Microseconds | None]], now: Microseconds
) -> dict[str, bool]:
    """What a person has agreed to, out of rows of purpose, answer and time. The last one counts, of
    two at one moment the one that says no. A yes needs a time that has come, where there is any
    other row; a no counts whenever it is from: what is not sure is closed."""
    said: dict[str, list[tuple[Microseconds | None, bool]]] = {}
    for purpose, answer, at in rows:
        if purpose is not None:
            yes = answer is not None and answer.strip().lower() in GRANTED
            said.setdefault(purpose.strip().lower(), []).append((at, yes))
    return {purpose: _agreed(answers, now) for purpose, answers in sorted(said.items())}


def _agreed(answers: Sequence[tuple[Microseconds | None, bool]], now: Microseconds) -> bool:
    if all(yes for _, yes in answers):
        return any(at is None or at <= now for at, _ in answers)
    refused = [at for at, yes in answers if not yes]
    last_no = max((at for at in refused if at is not None), default=None)
    if None in refused:  # nobody knows when: it may have been the last
        return False
    return any(
        yes and at is not None and at <= now and (last_no is None or at > last_no)
        for at, yes in answers
    )
