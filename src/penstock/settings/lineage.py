"""Where OpenLineage events go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SecretStr

from penstock.settings.base import Duration, Section


class LineageSettings(Section):
    """What all destinations have in common."""

    namespace: str | None = Field(default=None, min_length=1, max_length=200)
    """The namespace of our jobs. Default: ``penstock``."""
    every: Duration = Field(default=60.0, ge=1.0)
    """How often a job that goes on says how far it is."""
    waiting: int = Field(default=1000, ge=10, le=100_000)
    """How many events wait, at most, for a destination that is away; then the oldest that say how
    far a job is are left out."""


class LineageFileSettings(LineageSettings):
    """A file, one event on each line."""

    type: Literal["file"]
    path: Path
    """The file, relative to the project file. Written to at its end."""


class LineageHttpSettings(LineageSettings):
    """An endpoint that takes events one by one, such as Marquez's ``/api/v1/lineage``."""

    type: Literal["http"]
    url: str
    """Where it takes them, with https at a host of the internet."""
    private: bool = False
    """Whether ``url`` may also be on this machine or in a private network, and http."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """What is sent along: ``Authorization: Bearer ${LINEAGE_TOKEN}``."""


class LineageKafkaSettings(LineageSettings):
    """A topic of a Kafka cluster (the extra ``kafka``), with the job's name as the key."""

    type: Literal["kafka"]
    servers: str
    """Where to begin: ``host:9092,other:9092``."""
    topic: str = "openlineage.events"
    """The topic."""
    options: dict[str, SecretStr] = Field(default_factory=dict)
    """More options of librdkafka: ``security.protocol``, ``sasl.username`` and their like."""


def _bare(value: object) -> object:
    """A bare name stands for a file of that name."""
    return {"type": "file", "path": value} if isinstance(value, str) else value


AnyLineageSettings: TypeAlias = Annotated[
    Annotated[
        LineageFileSettings | LineageHttpSettings | LineageKafkaSettings,
        Field(discriminator="type"),
    ],
    BeforeValidator(
        _bare,
        json_schema_input_type=LineageFileSettings
        | LineageHttpSettings
        | LineageKafkaSettings
        | str,
    ),
]
