"""What a project file may say of changes that are published elsewhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from penstock.settings.base import Section


class KafkaPublishSettings(Section):
    """Topics of a Kafka cluster, in Debezium's envelope: one topic per table."""

    type: Literal["kafka"]
    servers: str
    """Where to begin: ``host:9092,other:9092``."""
    options: dict[str, SecretStr] = Field(default_factory=dict)
    """More options of librdkafka: ``security.protocol``, ``sasl.username`` and their like."""
    prefix: str | None = None
    """What the topics' names begin with: ``PREFIX.schema.table``. Default: the project's name."""
    sources: tuple[str, ...] = ("*",)
    """Changes of which sources: names or globs."""
    tables: tuple[str, ...] = ("*",)
    """Changes of which tables: names with their schema, or globs (``public.*``)."""
    schemas: bool = False
    """Whether each message carries its schema, as Kafka Connect's JSON converter wants it."""
    truncates: bool = False
    """Whether a truncate at the source is published (Debezium leaves it out by default: many
    consumers, Flink among them, stop at a message they do not know)."""
    tombstones: bool = True
    """Whether an empty message follows each delete, so that compaction forgets the key."""
