"""What a project file may say of topics of changes: Kafka, Redis Streams, NATS JetStream."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SecretStr

from penstock.settings.base import Section, named_tables, typed
from penstock.settings.sources import RowSourceSettings, TableSettings


class TopicTableSettings(TableSettings):
    """One table that comes through topics."""

    key: tuple[str, ...] = ()
    """The columns of the key, where messages do not say them (a Debezium message's key does)."""
    types: dict[str, str] = Field(default_factory=dict)
    """Types of columns, as PostgreSQL names them, where messages do not say them."""


class RegistrySettings(Section):
    """A schema registry, for messages in Avro."""

    url: str
    """Where it answers: ``http://registry:8081``."""
    user: str | None = None
    password: SecretStr | None = None


class MessageFormatSettings(Section):
    """What the messages are."""

    type: Literal["debezium", "maxwell", "canal", "json"]
    """``json`` is one row per message; its table needs a ``key``, or the message one in JSON."""
    unwrapped: bool = False
    """Debezium: values are rows, as its transformation ``ExtractNewRecordState`` leaves them."""
    decimals: Literal["precise", "string", "double"] = "precise"
    """Debezium without schemas: its ``decimal.handling.mode``."""
    unavailable: str = "__debezium_unavailable_value"
    """Debezium: its ``unavailable.value.placeholder``."""
    registry: RegistrySettings | None = None
    """Messages are in Avro, with schemas from this registry. Default: JSON."""


class TopicSourceSettings(RowSourceSettings):
    """What topics of changes have in common, whatever carries them."""

    rereadable: ClassVar[bool] = False

    topics: tuple[str, ...] = Field(min_length=1)
    """Which topics: names or globs (``shop.*``). Topics that appear later are read as well."""
    format: Annotated[
        MessageFormatSettings,
        BeforeValidator(typed, json_schema_input_type=MessageFormatSettings | str),
    ] = MessageFormatSettings(type="debezium")
    """``debezium``, ``maxwell``, ``canal`` or ``json``; or a mapping with that ``type``."""
    tables: Annotated[
        dict[str, TopicTableSettings],
        BeforeValidator(
            named_tables, json_schema_input_type=dict[str, TopicTableSettings | None] | list[str]
        ),
    ] = Field(default_factory=lambda: {"*": TopicTableSettings()})  # type: ignore[assignment] # a subclass
    """Which tables of those in the topics: names (``public.*`` works), or names with settings."""
    on_gap: Literal["stop", "continue"] = "stop"
    """What to do when records were removed before they were read: ``stop`` and say so, or
    ``continue`` with the oldest that are there."""
    group: str | None = None
    """The name under which the broker shows how far was read; default
    ``penstock_PROJECT_SOURCE``. Where reading goes on is in the project's own state."""

    def stream(self, table: str) -> str:
        """Names without a schema are in ``public``."""
        return table if "." in table or table == "*" else f"public.{table}"


class KafkaSettings(TopicSourceSettings):
    """Topics of a Kafka cluster."""

    type: Literal["kafka"]
    servers: str
    """Where to begin: ``host:9092,other:9092``."""
    options: dict[str, SecretStr] = Field(default_factory=dict)
    """More options of librdkafka: ``security.protocol``, ``sasl.username`` and their like."""


class RedisSettings(TopicSourceSettings):
    """Redis Streams: topics are names of keys."""

    type: Literal["redis"]
    url: SecretStr
    """How to connect: ``redis://user:password@host:6379/0`` (``rediss://`` with TLS)."""


class NatsSettings(TopicSourceSettings):
    """NATS JetStream: topics are names of streams."""

    type: Literal["nats"]
    url: SecretStr
    """How to connect: ``nats://user:password@host:4222`` (``tls://`` with TLS)."""
    subjects: str | None = None
    """Only messages of these subjects: ``shop.orders.>``. Default: all of the stream."""
