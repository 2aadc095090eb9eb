"""Tables whose columns the project declares, because their source does not say them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator, model_validator

from penstock.settings.base import named_tables
from penstock.settings.sources import RowSourceSettings, TableSettings

_TYPES = {
    "smallint": "smallint",
    "int": "integer",
    "integer": "integer",
    "bigint": "bigint",
    "numeric": "numeric",
    "decimal": "numeric",
    "real": "real",
    "float": "double precision",
    "double precision": "double precision",
    "boolean": "boolean",
    "bool": "boolean",
    "text": "text",
    "string": "text",
    "uuid": "uuid",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "timestamp with time zone": "timestamp with time zone",
    "json": "jsonb",
    "jsonb": "jsonb",
    "bytea": "bytea",
}


def column_type(written: str) -> str:
    """A type of the project file, as PostgreSQL prints it."""
    found = _TYPES.get(" ".join(written.lower().split()))
    if found is None:
        raise ValueError(f"expected one of the types {', '.join(_TYPES)}, got {written!r}")
    return found


class DeclaredTableSettings(TableSettings):
    """A table with its columns."""

    columns: dict[str, str] = Field(min_length=1)
    """The columns with their types, such as ``{id: bigint, total: numeric}``."""
    key: tuple[str, ...] = Field(min_length=1)
    """The columns that tell one row from another."""

    @field_validator("columns", mode="after")
    @classmethod
    def _types_are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        return {name: column_type(written) for name, written in columns.items()}

    @model_validator(mode="after")
    def _columns_are_declared(self) -> DeclaredTableSettings:
        for setting in ("key", "searched", "shown"):
            for name in getattr(self, setting) or ():
                if name not in self.columns:
                    raise ValueError(f"{setting}: expected a declared column, got {name!r}")
        return self


class DeclaredRowsSettings(RowSourceSettings):
    """What sources of declared tables have in common."""

    # Narrower than in the class above, and frozen as all settings are.
    tables: Annotated[  # type: ignore[assignment]
        dict[str, DeclaredTableSettings],
        BeforeValidator(named_tables),
        Field(min_length=1),
    ]
    """The tables with their columns and keys."""

    @field_validator("tables", mode="after")
    @classmethod
    def _names_are_names(
        cls, tables: dict[str, DeclaredTableSettings]
    ) -> dict[str, DeclaredTableSettings]:
        for name in tables:
            if not name or any(mark in name for mark in "*?[/ "):
                raise ValueError(f"expected a table's name without *, ?, [, / and spaces: {name!r}")
        return tables
