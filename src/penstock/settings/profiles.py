"""What a project file may say of profiles: which rows speak of whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from penstock.settings.base import Name, Section
from penstock.settings.details import DetailedSettings
from penstock.settings.permissions import Listed


def _ruled(value: object) -> object:
    """A bare name stands for the mapping with that rule."""
    return {"rule": value} if isinstance(value, str) else value


def _formed(value: object) -> object:
    """A bare name stands for the mapping with that form."""
    return {"form": value} if isinstance(value, str) else value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Columns = Annotated[
    tuple[str, ...],
    BeforeValidator(_several, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]
"""A column, or a text with columns in braces (``{first} {last}``); or several of these."""


def _table(name: str) -> str:
    source, dot, table = name.partition(".")
    if not (source and dot and table):
        raise ValueError(
            f"expected SOURCE.TABLE, as in crm.contacts or crm.public.contacts, got {name!r}"
        )
    return name


class IdentifierSettings(Section):
    """One kind of identifier."""

    form: Literal["text", "exact", "email", "phone", "name", "digits"] | None = None
    """How values are brought to one form before they are compared: ``text`` (without regard to
    case), ``exact``, ``email``, ``phone`` (E.164; extra ``profiles``), ``name`` (a name or an
    address: words without accents, signs and order), ``digits``. Default: ``email`` and ``phone``
    for kinds of these names, else ``text``."""
    shared_by_at_most: int = Field(default=100, ge=1)
    """A value that more records bear than this is nobody's: it ties none of them."""
    per_profile_at_most: int | None = Field(default=None, ge=1)
    """How many distinct values of this kind one person may have. What would make it more ties
    nothing. Default: any number."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Where evidence contradicts itself, the kind with the higher priority is believed."""
    blocked: tuple[str, ...] = ()
    """Values that are nobody's, beside those that say so (``N/A``, ``unknown``, ``0000``)."""
    region: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    """The country of phone numbers that do not say it: ``DE``."""
    providers: bool = False
    """Whether what known providers ignore in an address is left out: dots at Gmail, and what
    follows a plus sign."""


class TraitSettings(Section):
    """How one trait of a profile is found among what its records say."""

    rule: Literal["most_recent", "most_trusted", "longest", "first", "union", "max", "min"] = (
        "most_recent"
    )
    """Which value counts; ``union``: all of them."""
    trust: tuple[str, ...] = ()
    """For ``most_trusted``: sources, or tables as SOURCE.TABLE, the most trusted first."""

    @model_validator(mode="after")
    def _trust_fits(self) -> TraitSettings:
        if (self.rule == "most_trusted") != bool(self.trust):
            raise ValueError(
                "expected `trust` with the rule most_trusted, and only there, "
                f"got the rule {self.rule} {'with' if self.trust else 'without'} it"
            )
        return self


class ProfileTableSettings(Section):
    """What the rows of a captured table say of people."""

    identifiers: dict[Name, Columns] = Field(default_factory=dict)
    """By kind, the column that holds it; or a text with columns in braces, which counts where all
    of them have a value: ``{first} {last} {born}``; or several of these."""
    traits: dict[Name, str] = Field(default_factory=dict)
    """By trait, the column that says it, or a text with columns in braces."""
    time: str | None = None
    """The column that says when the row was true. Default: when it was committed."""
    events: bool = False
    """Whether the rows are events (page views, calls): counted under the identifiers that they
    bear, which together are one record, instead of being a record each."""

    @model_validator(mode="after")
    def _events_are_of_somebody(self) -> ProfileTableSettings:
        if self.events and (self.traits or not self.identifiers):
            raise ValueError(
                "expected `identifiers` and no `traits` of a table of events: what events say is "
                "`computed`, as in `last(COLUMN)`"
            )
        return self


class MatchingSettings(Section):
    """What fuzzy matching compares. It begins with ``penstock profiles train``."""

    compare: dict[Annotated[str, AfterValidator(_table)], dict[Name, str]] = Field(
        default_factory=dict
    )
    """By SOURCE.TABLE, what is compared of its rows: by a name that all tables share, a column, or
    a text with columns in braces. Default for a table: its traits, and the columns of identifiers
    that may be written in several ways (not those of the forms ``exact`` and ``digits``)."""
    sample: int = Field(default=20_000, ge=2, le=1_000_000)
    """How many records are learned from; where there are more, these are drawn at random."""


def _matched(value: object) -> object:
    """``true`` stands for the defaults."""
    if value is True:
        return {}
    return None if value is False else value


class ProfileSettings(DetailedSettings):
    """A kind of profile: people (or whatever it is) whom several tables know."""

    tables: Annotated[
        dict[Annotated[str, AfterValidator(_table)], ProfileTableSettings], Field(min_length=1)
    ]
    """Which tables speak of them, as SOURCE.TABLE."""
    identifiers: dict[Name, Annotated[IdentifierSettings, BeforeValidator(_formed)]] = Field(
        default_factory=dict
    )
    """Kinds of identifiers by name, where the defaults are not meant."""
    traits: dict[Name, Annotated[TraitSettings, BeforeValidator(_ruled)]] = Field(
        default_factory=dict
    )
    """Rules of traits by name, where the most recent value is not meant."""
    matching: Annotated[
        MatchingSettings | None,
        BeforeValidator(_matched, json_schema_input_type=MatchingSettings | bool | None),
    ] = None
    """Whether records that share no identifier are compared (extra ``identity``). Default: not."""
    quarantine_above: int = Field(default=1000, ge=2)
    """A profile grows to so many records by itself; ties that would make it larger wait for a
    person (``penstock profiles held``)."""
    allow: tuple[Listed, ...] | None = None
    """Who may see these profiles: ``user:NAME``, ``group:NAME`` or ``everyone``. Default:
    everybody, but nobody where the project has permissions anywhere."""
    deny: tuple[Listed, ...] = ()
    """Who may not, whatever else is said."""

    @model_validator(mode="after")
    def _names_are_used(self) -> ProfileSettings:
        borne = {kind for table in self.tables.values() for kind in table.identifiers}
        said = {trait for table in self.tables.values() for trait in table.traits}
        if not borne:
            raise ValueError("expected a table with `identifiers`, got none")
        for what, named, known in (
            ("identifiers", self.identifiers, borne),
            ("traits", self.traits, said),
        ):
            unknown = sorted(set(named) - known)
            if unknown:
                raise ValueError(
                    f"expected {what} that one of `tables` names ({', '.join(sorted(known))}), "
                    f"got {unknown[0]!r}"
                )
        strange = sorted(set(self.matching.compare if self.matching else ()) - set(self.tables))
        if strange:
            raise ValueError(
                f"matching.compare: expected one of `tables` ({', '.join(self.tables)}), "
                f"got {strange[0]!r}"
            )
        return self

    @model_validator(mode="after")
    def _details_fit(self) -> ProfileSettings:
        places = [(f"computed.{name}", one.table) for name, one in self.computed.items()]
        places += [(f"lists.{name}", one.table) for name, one in self.lists.items()]
        if self.consent is not None:
            places.append(("consent", self.consent.table))
        for where, table in places:
            if table not in self.tables:
                raise ValueError(
                    f"{where}: expected one of `tables` ({', '.join(self.tables)}), got {table!r}"
                )
        said = {trait for table in self.tables.values() for trait in table.traits}
        for where, names in (("computed", self.computed), ("lists", self.lists)):
            if twice := sorted(said & set(names)):
                raise ValueError(f"{where}: expected a name that is no trait's, got {twice[0]!r}")
        borne = {kind for table in self.tables.values() for kind in table.identifiers}
        known = said | borne | set(self.computed) | set(self.lists)
        needed = set() if self.consent is None else set(self.consent.needed)
        if unknown := sorted(needed - known):
            raise ValueError(
                f"consent.needed: expected names of traits, computed values, lists or identifiers "
                f"({', '.join(sorted(known))}), got {unknown[0]!r}"
            )
        return self
