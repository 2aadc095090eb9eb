"""The project's own conversations as a source."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from penstock.settings.base import named_tables
from penstock.settings.sources import RowSourceSettings, TableSettings

_TABLES = ("interactions", "feedback")


class InteractionsSettings(RowSourceSettings):
    """Questions with their answers (``interactions``) and ratings (``feedback``) of this project,
    as the ledger keeps them: tables like any other, for profiles and pipelines."""

    rereadable: ClassVar[bool] = False

    type: Literal["interactions"]
    tables: Annotated[
        dict[str, TableSettings],
        BeforeValidator(
            named_tables, json_schema_input_type=dict[str, TableSettings | None] | list[str]
        ),
    ] = Field(default_factory=lambda: {name: TableSettings() for name in _TABLES})
    """``interactions`` and ``feedback``, with settings where these are wanted."""
    permissions: Literal["open", "closed"] | None = "closed"
    """Who may see the rows of tables that say nothing about it. What people ask is nobody else's
    business: nobody, unless you say so. Profiles and pipelines read them all the same."""

    @field_validator("tables", mode="after")
    @classmethod
    def _tables_are_known(cls, tables: dict[str, TableSettings]) -> dict[str, TableSettings]:
        for name in tables:
            if name not in _TABLES:
                raise ValueError(f"expected the tables {' and '.join(_TABLES)}, got {name!r}")
        return tables
