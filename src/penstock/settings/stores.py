"""What a project file may say of second stores of chunks."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, SecretStr

from penstock.settings.base import Section


class OpenSearchSettings(Section):
    """An index of OpenSearch 2.19 or later with the k-NN plugin."""

    type: Literal["opensearch"]
    url: str
    """``https://host:9200``, without name and password."""
    index: str | None = None
    """Default: ``penstock-PROJECT``."""
    username: str = ""
    password: SecretStr = SecretStr("")
    engine: Literal["lucene", "faiss"] = "lucene"
    shards: int = Field(default=1, gt=0)
    replicas: int = Field(default=0, ge=0)


class LanceDBSettings(Section):
    """A table of LanceDB (the extra ``lancedb``)."""

    type: Literal["lancedb"]
    uri: str
    """A folder, relative to the project file, or an object store (``s3://bucket/path``)."""
    table: str = "chunks"


SecondStoreSettings: TypeAlias = Annotated[
    OpenSearchSettings | LanceDBSettings, Field(discriminator="type")
]
