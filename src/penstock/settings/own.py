"""What happens in a project itself, as sources of it: conversations, and events of profiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from penstock.settings.base import named_tables
from penstock.settings.sources import RowSourceSettings, TableSettings

_TABLES = ("profile_events", "segment_members", "profile_ids")


class OwnSourceSettings(RowSourceSettings):
    """What sources have in common that read the project's own database."""

    rereadable: ClassVar[bool] = False
    known: ClassVar[tuple[str, ...]] = ()
    """The tables that there are."""

    permissions: Literal["open", "closed"] | None = "closed"
    """Who may see the rows of tables that say nothing about it. What people ask, and who they are,
    is nobody else's business: nobody, unless you say so. Profiles and pipelines read them all the
    same."""

    @field_validator("tables", mode="after")
    @classmethod
    def _tables_are_known(cls, tables: dict[str, TableSettings]) -> dict[str, TableSettings]:
        for name in tables:
            if name not in cls.known:
                raise ValueError(f"expected the tables {', '.join(cls.known)}, got {name!r}")
        return tables


class ProfileEventsSettings(OwnSourceSettings):
    """What happens to profiles of one kind: merges, splits and their like with their reasons
    (``profile_events``), who is in which segment (``segment_members``), and which profile each id
    means (``profile_ids``)."""

    known: ClassVar[tuple[str, ...]] = _TABLES

    type: Literal["profile_events"]
    kind: str
    """The kind of profile, one of ``profiles``."""
    tables: Annotated[
        dict[str, TableSettings],
        BeforeValidator(
            named_tables, json_schema_input_type=dict[str, TableSettings | None] | list[str]
        ),
    ] = Field(default_factory=lambda: {name: TableSettings() for name in _TABLES})
    """Which of the three, with settings where these are wanted. Default: all."""


def check_followed(sources: Mapping[str, object], profiles: Mapping[str, Iterable[str]]) -> None:
    """Refuse a source of events of a kind that there is none of, and events that would make events:
    ``profiles`` has the tables of each kind."""
    followers = {n: one for n, one in sources.items() if isinstance(one, ProfileEventsSettings)}
    for name, chosen in followers.items():
        if chosen.kind not in profiles:
            raise ValueError(
                f"sources.{name}.kind: expected a kind of profile "
                f"({', '.join(profiles) or 'there is none'}), got {chosen.kind!r}"
            )
    for kind, tables in profiles.items():
        for table in tables:
            if table.partition(".")[0] in followers:
                raise ValueError(
                    f"profiles.{kind}.tables: expected tables that speak of people, got {table!r}, "
                    "which follows what happens to profiles: events would make events"
                )
