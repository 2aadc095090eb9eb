"""All kinds of sources, told apart by ``type``."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from penstock.settings.amazon import DynamoDBSettings, KinesisSettings, ObjectsSettings
from penstock.settings.interactions import InteractionsSettings
from penstock.settings.own import ProfileEventsSettings
from penstock.settings.push import PushSettings
from penstock.settings.sources import FilesSettings, MySQLSettings, PostgresSettings
from penstock.settings.topics import KafkaSettings, NatsSettings, RedisSettings
from penstock.settings.webhook import WebhookDocumentsSettings, WebhookSettings

SourceSettings: TypeAlias = Annotated[
    PostgresSettings
    | MySQLSettings
    | FilesSettings
    | ObjectsSettings
    | WebhookSettings
    | WebhookDocumentsSettings
    | PushSettings
    | DynamoDBSettings
    | KinesisSettings
    | KafkaSettings
    | RedisSettings
    | NatsSettings
    | InteractionsSettings
    | ProfileEventsSettings,
    Field(discriminator="type"),
]
