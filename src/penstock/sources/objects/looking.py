"""Looking at one object: which version is there, is it news, and what are its bytes."""

from __future__ import annotations

import hashlib
import time
from enum import Enum, auto
from typing import Final

from penstock.records import Microseconds
from penstock.sources.documents.found import Found, digest_of, unreadable_digest
from penstock.sources.objects.bucket import Absence, Bucket, Listed, Refused, Said, Stored
from penstock.sources.objects.lists import ListKeys, problem

_TRIES: Final = 5


class Verdict(Enum):
    """What was found instead of something new."""

    GONE = auto()
    SAME = auto()
    CHANGING = auto()


def unchanged(version: Listed, known: str | None, keys: ListKeys | None) -> bool:
    """Whether a listing's version is the known one, and its lists, where they count, are those of
    these keys."""
    if known is None or not known.startswith(version.signature):
        return False
    rest = known[len(version.signature) :]
    return rest.startswith(keys.mark) if keys is not None else not rest.startswith("@")


async def look(
    bucket: Bucket,
    version: Listed,
    known: str | None,
    max_bytes: int,
    keys: ListKeys | None = None,
) -> Found | Verdict:
    """What is new about an object, compared with its known fingerprint.

    The version is pinned by its etag: when it was replaced before or while it was read, the version
    that replaced it is read instead, from the beginning. With ``keys``, metadata come with the
    bytes, in one answer, and other lists are something new.
    """
    for _ in range(_TRIES):
        if unchanged(version, known, keys):
            return Verdict.SAME
        if (reason := _unfit(version, max_bytes)) is not None:
            return await _unreadable(bucket, version, reason, known, keys)
        found = await bucket.get(version)
        if isinstance(found, Refused):
            return await _unreadable(bucket, version, found.reason, known, keys)
        if isinstance(found, Stored):
            return _read(version, found, known, keys)
        if found is Absence.GONE:
            return Verdict.GONE
        present = await bucket.look(version.key)
        if present is None:
            return Verdict.GONE
        if isinstance(present, Refused):
            return await _unreadable(bucket, version, present.reason, known, keys)
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


def _read(
    version: Listed, stored: Stored, known: str | None, keys: ListKeys | None
) -> Found | Verdict:
    digest = hashlib.sha256(stored.data).hexdigest()
    permissions = None if keys is None else keys.found(stored.said)
    word = _word(keys, permissions)
    # Metadata may change once more within the second that the listing tells: look again.
    mark = "~" if keys is not None and stored.said.fresh else ""
    fingerprint = f"{mark}{version.signature}{word}{digest}"
    content: bytes | None = stored.data
    if known is not None and not known.startswith("?"):
        before = digest_of(known)
        same_lists = keys is None or f" {word}" in known
        if before.removeprefix("!") == digest and same_lists:  # the same content with other times
            content = None
            fingerprint = f"{mark}{version.signature}{word}{before}"
    return _found(version, fingerprint, digest, data=content, permissions=permissions)


async def _unreadable(
    bucket: Bucket, version: Listed, reason: str, known: str | None, keys: ListKeys | None
) -> Found | Verdict:
    """An object that has no bytes for us. Its lists count for the version before it, which goes on
    serving: those that cannot be had close it."""
    permissions = None
    if keys is not None:
        said = Refused(reason) if "\0" in version.key else await bucket.describe(version.key)
        if said is Absence.GONE:
            return Verdict.GONE
        permissions = keys.found(said) if isinstance(said, Said) else problem(reason)
    digest = unreadable_digest(reason)
    word = _word(keys, permissions)
    fingerprint = f"?{version.signature}{word}{digest}"
    if known == fingerprint:
        return Verdict.SAME
    same = known is not None and digest_of(known) == digest and (not word or f" {word}" in known)
    told = None if same else reason
    return _found(version, fingerprint, digest, error=told, permissions=permissions)


def _word(keys: ListKeys | None, permissions: str | None) -> str:
    return "" if keys is None or permissions is None else keys.word(permissions)


def _found(
    version: Listed,
    fingerprint: str,
    digest: str,
    *,
    data: bytes | None = None,
    error: str | None = None,
    permissions: str | None = None,
) -> Found:
    changed = Microseconds(min(version.modified_ns, time.time_ns()) // 1000)
    key = document_key(version.key)
    size, modified = version.size, version.modified_ns
    return Found(key, fingerprint, digest, size, modified, changed, data, error, permissions)
