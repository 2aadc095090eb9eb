"""Where the log is, and how long it keeps changes."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from penstock.settings.base import Duration, Section, Size


class LogSettings(Section):
    """What every log keeps to."""

    partitions: int = Field(default=1, gt=0, le=256)
    """Partitions per topic: as many workers can share a topic. With 1, a source's transactions
    stay whole all the way."""
    keep: Duration = 7 * 86400.0
    """What is older is removed, once every pipeline has processed it."""
    keep_size: Size = 2_000_000_000
    """What is over this size per topic is removed, oldest first, once processed."""


class EmbeddedLogSettings(LogSettings):
    """The log in the project's own database."""

    type: Literal["embedded"] = "embedded"


class KafkaLogSettings(LogSettings):
    """The log on Apache Kafka (the extra ``kafka``)."""

    type: Literal["kafka"]
    bootstrap_servers: str
    """Brokers to begin with: ``host:9092,other:9092``."""
    prefix: str | None = None
    """What our topics, groups and transactional ids begin with; default ``penstock.PROJECT.``"""
    replication: int = Field(default=-1, ge=-1)
    """Copies of each topic; -1 leaves it to the brokers (``default.replication.factor``)."""
    options: dict[str, SecretStr] = Field(default_factory=dict)
    """Settings of the client library, librdkafka: ``security.protocol``, ``ssl.ca.location``,
    ``sasl.mechanism``, ``sasl.username``, ``sasl.password`` and so on. Values are kept secret."""

    @field_validator("options", mode="before")
    @classmethod
    def _as_texts(cls, options: object) -> object:
        if isinstance(options, dict):
            return {name: _text(value) for name, value in options.items()}
        return options


def _text(value: object) -> object:
    """``true`` and ``5`` of a YAML file, as the client library reads them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _embedded_unless_said(value: object) -> object:
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, dict) and "type" not in value:
        return {"type": "embedded", **value}
    return value


AnyLogSettings: TypeAlias = Annotated[
    Annotated[EmbeddedLogSettings | KafkaLogSettings, Field(discriminator="type")],
    BeforeValidator(
        _embedded_unless_said,
        json_schema_input_type=EmbeddedLogSettings | KafkaLogSettings | str,
    ),
]
