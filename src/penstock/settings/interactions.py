"""The project's own conversations as a source."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from penstock.settings.base import named_tables
from penstock.settings.own import OwnSourceSettings
from penstock.settings.sources import TableSettings

_TABLES = ("interactions", "feedback")


class InteractionsSettings(OwnSourceSettings):
    """Questions with their answers (``interactions``) and ratings (``feedback``) of this project,
    as the ledger keeps them: tables like any other, for profiles and pipelines."""

    known: ClassVar[tuple[str, ...]] = _TABLES

    type: Literal["interactions"]
    tables: Annotated[
        dict[str, TableSettings],
        BeforeValidator(
            named_tables, json_schema_input_type=dict[str, TableSettings | None] | list[str]
        ),
    ] = Field(default_factory=lambda: {name: TableSettings() for name in _TABLES})
    """``interactions`` and ``feedback``, with settings where these are wanted."""
