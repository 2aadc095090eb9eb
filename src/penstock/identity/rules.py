"""What a project says of its identifiers, in the form that the computation uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Form = Literal["text", "exact", "email", "phone", "name", "digits"]
"""How values of a kind are brought to one form."""


@dataclass(frozen=True, slots=True)
class KindRule:
    """One kind of identifier.

    ``shared_by_at_most``: a value that more records bear ties nobody. ``per_profile_at_most``: a
    profile has no more distinct values of this kind (None: as many as there are). Of two kinds the
    one with the higher ``priority`` ties first: where both cannot, it wins. ``blocked`` values, in
    their canonical form, are no identifiers.
    """

    form: Form = "text"
    shared_by_at_most: int = 100
    per_profile_at_most: int | None = None
    priority: int = 0
    blocked: frozenset[str] = frozenset()
    region: str | None = None
    providers: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The kinds by name. ``largest``: the most records that a profile grows to by itself; more is
    for people to say. ``match_priority`` is where fuzzy matches stand among the kinds."""

    kinds: Mapping[str, KindRule] = field(default_factory=dict)
    largest: int = 1000
    match_priority: int = -100
