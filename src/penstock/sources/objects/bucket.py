"""A bucket as it is now: its pages, and one version of one object."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, Final, NamedTuple, Protocol

from penstock.errors import SourceError, UnavailableError
from penstock.sources.amazon import AmazonAccess, AmazonClient, error_code

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_GONE: Final = frozenset({"NoSuchKey", "404", "NoSuchVersion"})
_OTHER: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_FRESH: Final = timedelta(seconds=2)
_REFUSED: Final = frozenset({"AccessDenied", "InvalidObjectState", "403", "KMS.DisabledException"})


class Listed(NamedTuple):
    """One version of an object, as a listing tells of it. ``etag`` names the version."""

    key: str
    etag: str
    size: int
    modified_ns: int

    @property
    def signature(self) -> str:
        """The part of a fingerprint that tells one version from another without reading it."""
        return f"{self.size} {self.modified_ns} {self.etag.replace(' ', '_')} "


class Absence(Enum):
    """Why a version cannot be read."""

    REPLACED = auto()
    GONE = auto()


class Refused(NamedTuple):
    """The store keeps this object from us, and says why."""

    reason: str


class Said(NamedTuple):
    """What a store says of an object beside its bytes. ``missing`` metadata could not be sent.
    ``fresh``: it was stored only just, by the store's clock, so that it may be stored again within
    the same second, and metadata that change within it leave the listing as it is."""

    metadata: Mapping[str, str]
    missing: int = 0
    fresh: bool = False


class Stored(NamedTuple):
    """The bytes of a version, and what was said of them in the same answer."""

    data: bytes
    said: Said


class Bucket(Protocol):
    """Objects below a prefix; keys are relative to it."""

    def pages(self) -> AsyncGenerator[Sequence[Listed]]:
        """All objects, a page at a time; one page is held."""

    async def look(self, key: str) -> Listed | Refused | None:
        """The present version; None when there is none."""

    async def get(self, version: Listed) -> Stored | Absence | Refused:
        """All bytes of exactly this version, never a mixture."""

    async def describe(self, key: str) -> Said | Absence | Refused:
        """What is said now of an object whose bytes are not wanted."""

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and the folder in it that is read ('' is all)."""

    bucket: str
    prefix: str = ""

    @property
    def folder(self) -> str:
        """The prefix with the slash that ends it."""
        prefix = self.prefix.lstrip("/")
        return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.folder}"


class S3Bucket:
    """A bucket behind the S3 interface."""

    def __init__(self, place: Place, access: AmazonAccess, *, threads: int) -> None:
        self._place = place
        self._folder = place.folder
        self._client = AmazonClient(
            access, "s3", what=f"the bucket {place.bucket!r}", extra="objects", threads=threads
        )

    async def pages(self) -> AsyncGenerator[Sequence[Listed]]:
        """See `Bucket.pages`."""
        more: dict[str, str] = {}
        while True:
            page = await self._client.call(
                "list_objects_v2", Bucket=self._place.bucket, Prefix=self._folder, **more
            )
            yield [
                self._listed(entry["Key"], entry["ETag"], entry["Size"], entry["LastModified"])
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith("/")  # how consoles draw a folder
            ]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _listed(self, key: str, etag: str, size: int, modified: datetime) -> Listed:
        since = (modified - _EPOCH) // timedelta(microseconds=1)
        return Listed(key.removeprefix(self._folder), etag.strip('"'), size, since * 1000)

    async def look(self, key: str) -> Listed | Refused | None:
        """See `Bucket.look`."""
        found = await self._head(key)
        if isinstance(found, Absence):
            return None
        if isinstance(found, Refused):
            return found
        return self._listed(key, found["ETag"], found["ContentLength"], found["LastModified"])

    async def describe(self, key: str) -> Said | Absence | Refused:
        """See `Bucket.describe`."""
        found = await self._head(key)
        return found if isinstance(found, Absence | Refused) else _said(found)

    async def _head(self, key: str) -> Mapping[str, Any] | Absence | Refused:
        try:
            found: Mapping[str, Any] = await self._client.call(
                "head_object", Bucket=self._place.bucket, Key=self._folder + key
            )
        except (SourceError, UnavailableError) as error:
            return Absence.GONE if error_code(error) in _GONE else self._refused(error)
        return found

    async def get(self, version: Listed) -> Stored | Absence | Refused:
        """See `Bucket.get`."""

        def read(client: Any) -> tuple[Mapping[str, Any], bytes]:
            answer = client.get_object(
                Bucket=self._place.bucket,
                Key=self._folder + version.key,
                IfMatch=f'"{version.etag}"',
            )
            body = answer["Body"]
            try:
                return answer, body.read(version.size + 1)
            finally:
                body.close()

        try:
            answer, data = await self._client.run(read)
        except (SourceError, UnavailableError) as error:
            code = error_code(error)
            if code in _GONE:
                return Absence.GONE
            return Absence.REPLACED if code in _OTHER else self._refused(error)
        # Some servers ignore If-Match: what counts is what the answer says of itself.
        whole = answer["ETag"].strip('"') == version.etag and len(data) == version.size
        return Stored(data, _said(answer)) if whole else Absence.REPLACED

    def _refused(self, error: SourceError | UnavailableError) -> Refused:
        code = error_code(error)
        if code not in _REFUSED:
            raise error
        return Refused(f"expected to read the object, the store refused it with {code}")

    async def close(self) -> None:
        """See `Bucket.close`."""
        await self._client.close()


def _said(answer: Mapping[str, Any]) -> Said:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        age = parsedate_to_datetime(headers.get("date", "")) - answer["LastModified"]
    except (TypeError, ValueError):  # no time, none that can be read, or one without a zone
        age = timedelta(0)
    return Said(answer.get("Metadata", {}), answer.get("MissingMeta", 0), age < _FRESH)
