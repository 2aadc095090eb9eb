"""All kinds of sources, told apart by ``type``."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from penstock.settings.amazon import ObjectsSettings
from penstock.settings.sources import FilesSettings, PostgresSettings
from penstock.settings.webhook import WebhookDocumentsSettings, WebhookSettings

SourceSettings: TypeAlias = Annotated[
    PostgresSettings | FilesSettings | ObjectsSettings | WebhookSettings | WebhookDocumentsSettings,
    Field(discriminator="type"),
]
