"""Sources behind Amazon's interfaces, at Amazon or elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from penstock.settings.base import Duration, Section, named_tables
from penstock.settings.declared import DeclaredRowsSettings, column_type
from penstock.settings.permissions import ObjectPermissions
from penstock.settings.sources import FileDocumentSettings, RowSourceSettings, TableSettings


class AmazonSettings(Section):
    """Where a service is, and who asks. What is not set is found as Amazon's tools find it: in
    environment variables, a profile, or the machine's role."""

    region: str | None = None
    """The region, such as ``eu-central-1``."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """The address of another server with the same interface."""
    access_key: str | None = None
    """The public part of the key."""
    secret_key: SecretStr | None = None
    """The secret part of the key."""
    session_token: SecretStr | None = None
    """For keys that were lent for a while."""


class ObjectsSettings(FileDocumentSettings, AmazonSettings):
    """Documents in a bucket behind the S3 interface."""

    type: Literal["objects"]
    bucket: str = Field(min_length=1)
    """The bucket's name."""
    prefix: str = ""
    """The folder in the bucket that is read; default: all of it."""
    queue: str | None = None
    """The URL of an SQS queue that gets the bucket's events: changes are noticed at once."""
    relist: Duration = Field(default=60.0, gt=0)
    """How often the bucket is listed, beside events."""
    # More than the class above allows.
    permissions: ObjectPermissions = None  # type: ignore[assignment]
    """Who may see the documents: ``open``, ``closed``, ``sidecars`` (files beside them),
    ``metadata`` (of each object), or a table that says it. Default: everybody, but nobody where the
    project has permissions anywhere."""


class ItemTableSettings(TableSettings):
    """A table of items. Its key's columns have the types that the table says, and ``item`` is all
    of an item as JSON."""

    columns: dict[str, str] = Field(default={})
    """Attributes that have a column of their own, with its type: ``{price: numeric}``."""

    @field_validator("columns", mode="after")
    @classmethod
    def _types_are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        return {name: column_type(written) for name, written in columns.items()}


class DynamoDBSettings(RowSourceSettings, AmazonSettings):
    """A table of DynamoDB, by a scan and its stream (which must carry new images)."""

    type: Literal["dynamodb"]
    # Narrower than in the class above, and frozen as all settings are.
    tables: Annotated[  # type: ignore[assignment]
        dict[str, ItemTableSettings],
        BeforeValidator(
            named_tables, json_schema_input_type=dict[str, ItemTableSettings | None] | list[str]
        ),
        Field(min_length=1, max_length=1),
    ]
    """The table; one source reads one."""
    on_gap: Literal["stop", "reread"] = "stop"
    """What to do when the stream has forgotten changes that were not read: stop and say so, or
    empty the live table and read the table again."""
    poll: Duration = Field(default=0.25, gt=0)
    """How often the stream's shards are asked."""


class KinesisSettings(DeclaredRowsSettings, AmazonSettings):
    """A Kinesis stream of rows in JSON."""

    type: Literal["kinesis"]
    stream_name: str = Field(min_length=1)
    """The stream's name."""
    op_field: str = "op"
    """Where an object says ``upsert`` (the default) or ``delete``."""
    table_field: str = "table"
    """Where an object says which table it belongs to, if there are several."""
    on_gap: Literal["stop", "continue"] = "stop"
    """What to do when the stream has forgotten records that were not read: stop and say so, or go
    on with what it has."""
    poll: Duration = Field(default=0.25, gt=0)
    """How often the stream's shards are asked."""
