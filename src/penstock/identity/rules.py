"""What a project says of a kind of profile, in the form that the computation uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Form = Literal["text", "exact", "email", "phone", "name", "digits"]
"""How values of a kind are brought to one form."""

Combine = Literal["most_recent", "most_trusted", "longest", "first", "union", "max", "min"]
"""How a trait's value is found among those that records say."""

_COLUMN: Final = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class KindRule:
    """One kind of identifier.

    ``shared_by_at_most``: a value that more records bear ties nobody. ``per_profile_at_most``: a
    profile has no more distinct values of this kind (None: as many as there are). Of two kinds the
    one with the higher ``priority`` ties first: where both cannot, it wins. ``blocked`` values, in
    their canonical form, are no identifiers. ``region`` is that of phone numbers without a country;
    ``providers``: what known providers of mail ignore in an address is left out.
    """

    form: Form = "text"
    shared_by_at_most: int = 100
    per_profile_at_most: int | None = None
    priority: int = 0
    blocked: frozenset[str] = frozenset()
    region: str | None = None
    providers: bool = False


@dataclass(frozen=True, slots=True)
class TraitRule:
    """How a trait is found. ``trust`` names sources, or tables as ``source.table``, best first."""

    combine: Combine = "most_recent"
    trust: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableRule:
    """What a table's columns mean. An identifier is a column, or a text with columns in braces
    (``{first} {last} {born}``), which counts if all of them have a value. ``at`` is the column with
    the time of what a row says; None: when it was committed."""

    identifiers: tuple[tuple[str, str], ...] = ()
    traits: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    at: str | None = None
    kept: tuple[str, ...] | None = None
    """Columns that are kept of each row with its time, for what is computed; None: no rows are."""
    events: bool = False
    """Rows are counted under the identifiers that they bear, which together are one record."""

    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return tuple(dict.fromkeys((*self.own_columns(), *(self.kept or ()))))

    def own_columns(self) -> tuple[str, ...]:
        """Those that a record is made of."""
        named = [*(said for _, said in self.identifiers), *self.traits.values()]
        named += self.fields.values()
        found = dict.fromkeys(column for said in named for column in columns_in(said))
        if self.at is not None:
            found.setdefault(self.at)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Rules:
    """A kind of profile: its identifiers and traits by name, and its tables by source and name.
    ``largest``: the most records that a profile grows to by itself; more is for people to say.
    ``match_priority`` is where fuzzy matches stand among the kinds of identifiers;
    ``once_per_table``: each table has everybody once, so no match ties two records of one."""

    kinds: Mapping[str, KindRule] = field(default_factory=dict)
    traits: Mapping[str, TraitRule] = field(default_factory=dict)
    tables: Mapping[tuple[str, str], TableRule] = field(default_factory=dict)
    largest: int = 1000
    match_priority: int = -100
    noted: bool = False
    """Whether it is noted whose profile has changed: for segments."""
    once_per_table: bool = False


def columns_in(said: str) -> list[str]:
    """The columns that a text with braces names; a text without is a column itself."""
    return _COLUMN.findall(said) or [said]


def filled(said: str, values: Mapping[str, str | None]) -> str | None:
    """A column's value, or the text with the values of its columns; None where one has none."""
    if "{" not in said:
        return values.get(said)
    parts = {column: values.get(column) for column in _COLUMN.findall(said)}
    if any(value is None or not value.strip() for value in parts.values()):
        return None
    return _COLUMN.sub(lambda found: str(parts[found[1]]), said)
