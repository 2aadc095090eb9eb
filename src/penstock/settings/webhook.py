"""Sources that others push to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from penstock.settings.base import Duration, Size
from penstock.settings.declared import DeclaredRowsSettings
from penstock.settings.sources import DocumentSourceSettings


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Secrets = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]


class WebhookSettings(DeclaredRowsSettings):
    """Rows that are pushed over HTTP, signed after Standard Webhooks, to
    ``POST /hooks/NAME/TABLE``."""

    type: Literal["webhook"]
    secret: Secrets
    """The secret of the signatures (``whsec_`` and base64), or a list of them while one replaces
    another."""
    op_field: str = "op"
    """Where an object says ``upsert`` (the default) or ``delete``."""
    max_size: Size = 5_000_000
    """Larger bodies are refused."""
    remember: Duration = 3 * 86400.0
    """How long ids are remembered, so that a delivery that is sent again counts once."""


class WebhookDocumentsSettings(DocumentSourceSettings):
    """Documents that are pushed over HTTP, signed after Standard Webhooks, to
    ``POST /hooks/NAME``."""

    type: Literal["webhook_documents"]
    secret: Secrets
    """The secret of the signatures (``whsec_`` and base64), or a list of them while one replaces
    another."""
    max_size: Size = 5_000_000
    """Larger bodies are refused."""
    remember: Duration = 3 * 86400.0
    """How long ids are remembered, so that a delivery that is sent again counts once."""
