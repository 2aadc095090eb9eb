"""Looking at one object: which version is there, is it news, and what are its bytes."""

from __future__ import annotations

import hashlib
import time
from enum import Enum, auto
from typing import Final

from penstock.records import Microseconds
from penstock.sources.documents.found import Found, digest_of, unreadable_digest
from penstock.sources.objects.bucket import Absence, Bucket, Listed, Refused

_TRIES: Final = 5


class Verdict(Enum):
    """What was found instead of something new."""

    GONE = auto()
    SAME = auto()
    CHANGING = auto()


async def look(
    bucket: Bucket, version: Listed, known: str | None, max_bytes: int
) -> Found | Verdict:
    """What is new about an object, compared with its known fingerprint.

    The version is pinned by its etag: when it was replaced before or while it was read, the version
    that replaced it is read instead, from the beginning.
    """
    for _ in range(_TRIES):
        if known is not None and known.startswith(version.signature):
            return Verdict.SAME
        if (reason := _unfit(version, max_bytes)) is not None:
            return unreadable(version, reason, known)
        data = await bucket.get(version)
        if isinstance(data, Refused):
            return unreadable(version, data.reason, known)
        if isinstance(data, bytes):
            return _read(version, data, known)
        if data is Absence.GONE:
            return Verdict.GONE
        present = await bucket.look(version.key)
        if present is None:
            return Verdict.GONE
        if isinstance(present, Refused):
            return unreadable(version, present.reason, known)
        version = present
    return Verdict.CHANGING


def _unfit(version: Listed, max_bytes: int) -> str | None:
    if version.size > max_bytes:
        return (
            f"expected an object of at most {max_bytes:,} bytes, found {version.size:,}: split it "
            "or raise max_size"
        )
    if "\0" in version.key:
        return "expected a key without the character NUL: rename the object"
    return None


def document_key(key: str) -> str:
    """A key as it can be stored."""
    return key.replace("\0", "\\x00")


def _read(version: Listed, data: bytes, known: str | None) -> Found | Verdict:
    digest = hashlib.sha256(data).hexdigest()
    fingerprint = f"{version.signature}{digest}"
    content: bytes | None = data
    if known is not None and not known.startswith("?"):
        before = digest_of(known)
        if before.removeprefix("!") == digest:  # the same content with other times
            content = None
            fingerprint = f"{version.signature}{before}"
    return _found(version, fingerprint, digest, data=content)


def unreadable(version: Listed, reason: str, known: str | None) -> Found | Verdict:
    """An object that has no bytes for us."""
    digest = unreadable_digest(reason)
    fingerprint = f"?{version.signature}{digest}"
    if known == fingerprint:
        return Verdict.SAME
    same = known is not None and digest_of(known) == digest
    return _found(version, fingerprint, digest, error=None if same else reason)


def _found(
    version: Listed,
    fingerprint: str,
    digest: str,
    *,
    data: bytes | None = None,
    error: str | None = None,
) -> Found:
    changed = Microseconds(min(version.modified_ns, time.time_ns()) // 1000)
    key = document_key(version.key)
    return Found(key, fingerprint, digest, version.size, version.modified_ns, changed, data, error)
