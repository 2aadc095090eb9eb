"""What a project file may say of people beside their traits: computed values, lists, consent."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from penstock.settings.base import Duration, Name, Section

_VALUE: Final = re.compile(r"^\s*([a-z_]+)\s*(?:\(\s*([^()]+?)\s*\))?\s*$")
_MEASURES: Final = {
    "count": (False, False),
    "sum": (True, True),
    "average": (True, True),
    "min": (True, True),
    "max": (True, True),
    "first": (False, True),
    "last": (False, True),
    "most_frequent": (True, True),
    "distinct": (True, True),
    "sessions": (False, False),
    "last_session": (False, True),
}
"""By measure: whether it needs a column, whether it takes one."""


def value_of(said: str) -> tuple[str, str | None]:
    """``sum(amount)`` as its measure and its column."""
    found = _VALUE.match(said)
    measure, column = (found[1], found[2]) if found else ("", None)
    needs, takes = _MEASURES.get(measure, (True, False))
    if (needs and column is None) or (not takes and column is not None):
        forms = ", ".join(
            name if not takes else f"{name}(COLUMN)" if needs else f"{name} or {name}(COLUMN)"
            for name, (needs, takes) in _MEASURES.items()
        )
        raise ValueError(f"expected one of {forms}, got {said!r}")
    return measure, column


def _value(said: str) -> str:
    value_of(said)
    return said


def _listed(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        name: [text for one in (said if isinstance(said, list) else [said]) for text in _texts(one)]
        for name, said in value.items()
    }


def _texts(value: object) -> list[object]:
    """As databases print it: YAML makes booleans and numbers of what is written bare."""
    if isinstance(value, bool):
        return ["t", "true"] if value else ["f", "false"]
    return [str(value) if isinstance(value, int | float) else value]


Where = Annotated[
    dict[str, tuple[str, ...]],
    BeforeValidator(_listed, json_schema_input_type=dict[str, str | list[str]]),
]
"""By column, the value that it must have, or a list of them."""


class ComputedSettings(Section):
    """A value that is computed from a person's rows of one table."""

    table: str
    """One of the kind's `tables`, as SOURCE.TABLE, whose `time` is when something happened."""
    value: Annotated[str, AfterValidator(_value)]
    """``count``; ``sum(COLUMN)``, ``average``, ``min``, ``max`` (of numbers), ``first``, ``last``
    (the value of the first or last row by time; without a column: that time), ``most_frequent``,
    ``distinct`` (how many); ``sessions`` (how many), ``last_session`` (from, to, how many events,
    and with a column its values in order)."""
    where: Where = Field(default_factory=dict)
    """By column, the value that a row must have, or a list of them: ``{status: [paid, sent]}``."""
    within: Duration | None = Field(default=None, gt=0)
    """Only rows of this long ago until now: ``90d``. Default: all."""
    gap: Duration = Field(default=1800.0, gt=0)
    """The pause that ends a session."""


class ListSettings(Section):
    """Rows of a person, as their live table has them."""

    table: str
    """One of the kind's `tables`, as SOURCE.TABLE."""
    columns: tuple[str, ...] = Field(min_length=1)
    """What is shown of a row."""
    where: Where = Field(default_factory=dict)
    """By column, the value that a row must have, or a list of them: ``{status: open}``."""
    order: str | None = None
    """The column that they are ordered by; with a minus sign, downwards: ``-departs``."""
    limit: int = Field(default=10, ge=1, le=100)
    """So many at most."""


class ConsentSettings(Section):
    """What people have agreed to. What is not named in `needed` is for any purpose."""

    table: str
    """One of the kind's `tables`, as SOURCE.TABLE: a row for each purpose of a person. The last one
    by the table's `time` counts; of two at one moment the one that says no."""
    purpose: str
    """The column with the purpose: ``prompt``, ``training``, ``api`` or a name of your own."""
    granted: str
    """The column that says whether: true, yes, 1, granted. Anything else says no."""
    needed: dict[Name, tuple[str, ...]] = Field(min_length=1)
    """By the name of a trait, a computed value, a list or a kind of identifier: the purposes for
    which it may be used, each only with the person's consent. None is known: no."""

    @field_validator("needed", mode="before")
    @classmethod
    def _several(cls, needed: object) -> object:
        if not isinstance(needed, dict):
            return needed
        return {n: (said,) if isinstance(said, str) else said for n, said in needed.items()}


class DetailedSettings(Section):
    """What kinds of profiles say beside their traits."""

    computed: dict[Name, ComputedSettings] = Field(default_factory=dict)
    """Values that are computed from rows, by name: as of the moment that they are read."""
    lists: dict[Name, ListSettings] = Field(default_factory=dict)
    """Rows that are shown with a profile, by name: as their live table has them."""
    consent: ConsentSettings | None = None
    """What people have agreed to, and what needs it."""
    segments: dict[Name, str] = Field(default_factory=dict)
    """Conditions on traits and computed values, by name: ``orders_90d >= 3 and city = 'Berlin'``.
    Who fits is kept, with an event when somebody comes or leaves."""
    latest: int = Field(default=5, ge=0, le=50)
    """How many of the last events and changes of traits a model is told."""

    @model_validator(mode="after")
    def _detail_names_differ(self) -> DetailedSettings:
        twice = sorted(set(self.computed) & set(self.lists))
        if twice:
            raise ValueError(f"expected one meaning for each name, got {twice[0]!r} in two places")
        return self
