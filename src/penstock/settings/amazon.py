"""Sources behind Amazon's interfaces, at Amazon or elsewhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from penstock.settings.base import Duration, Section
from penstock.settings.sources import DocumentSourceSettings


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


class ObjectsSettings(DocumentSourceSettings, AmazonSettings):
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
