"""Documents that applications push through the API."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from penstock.settings.base import Duration, typed
from penstock.settings.permissions import (
    ClosedPermissions,
    OpenPermissions,
    PushedPermissions,
    TablePermissions,
)
from penstock.settings.sources import DocumentSourceSettings

PushPermissions: TypeAlias = Annotated[
    Annotated[
        OpenPermissions | ClosedPermissions | PushedPermissions | TablePermissions,
        Field(discriminator="type"),
    ]
    | None,
    BeforeValidator(typed),
]


class PushSettings(DocumentSourceSettings):
    """Documents that applications push, replace and delete at ``/v1/documents/NAME/KEY``, with keys
    that have the scope ``write``."""

    type: Literal["push"]
    # Narrower than in the class above, and frozen as all settings are.
    permissions: PushPermissions = None  # type: ignore[assignment]
    """Who may see the documents: ``open``, ``closed``, ``pushed`` (each is pushed with its lists),
    or a table that says it. Default: everybody, but nobody where the project has permissions
    anywhere."""
    remember: Duration = 3 * 86400.0
    """How long idempotency keys are remembered, so that what is sent again counts once."""
