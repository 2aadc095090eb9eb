"""A document that was read, as a row of the stream of documents."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from penstock.errors import BadRecordError, MissingExtraError
from penstock.records import Microseconds, Row
from penstock.sources.documents.found import Found
from penstock.sources.extract import Extracted, Extractor

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Document(NamedTuple):
    """What a change of a document will say. ``base`` is the fingerprint that was known when the
    document was read: another one by now means that something newer was found since."""

    key: str
    fingerprint: str
    base: str | None
    changed_at: Microseconds
    row: Row


def timestamp(nanoseconds: int) -> str | None:
    """A time as PostgreSQL prints it; None for one that no calendar has."""
    seconds, rest = divmod(nanoseconds // 1000, 1_000_000)
    moment = _second(seconds)
    if moment is None or not rest:
        return moment
    return f"{moment[:-6]}.{rest:06d}{moment[-6:]}"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str | None:
    """A first load has many files of one second."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat(" ")
    except OverflowError:
        return None


def readable(found: Found, base: str | None, extracted: Extracted) -> Document:
    """The document with its text."""
    metadata = extracted.metadata
    row = (
        found.key,
        extracted.title,
        extracted.media_type,
        extracted.text,
        found.digest,
        str(found.size),
        timestamp(found.modified_ns),
        json.dumps(metadata, ensure_ascii=False) if metadata else "{}",
        None,
        *_listed(found),
    )
    return Document(found.key, found.fingerprint, base, found.changed_at, row)


def _listed(found: Found) -> tuple[str, ...]:
    return () if found.permissions is None else (found.permissions,)


def broken(found: Found, base: str | None, reason: str, *, again: bool = False) -> Document:
    """The document with the reason why it has no text. ``again``: the reason may pass."""
    digest = None if found.digest.startswith("-") else found.digest
    row = (
        found.key,
        None,
        None,
        None,
        digest,
        str(found.size),
        timestamp(found.modified_ns),
        "{}",
        reason,
        *_listed(found),
    )
    fingerprint = found.fingerprint
    if again and not fingerprint.startswith("?"):
        fingerprint = f"?{fingerprint.lstrip('~')}"
    if digest is not None:
        before, _, end = fingerprint.rpartition(" ")
        fingerprint = f"{before} !{end}"
    return Document(found.key, fingerprint, base, found.changed_at, row)


def document_of(found: Found, base: str | None, extractor: Extractor) -> Document | None:
    """The document, if it needs no child process; None if it does."""
    if found.error is not None:
        return broken(found, base, found.error)
    assert found.data is not None
    try:
        extracted = extractor.extract_plain(found.key, found.data)
    except BadRecordError as error:
        return broken(found, base, error.reason)
    return None if extracted is None else readable(found, base, extracted)


async def extracted_document(found: Found, base: str | None, extractor: Extractor) -> Document:
    """The document, read in a child process if need be. `UnavailableError` passes through."""
    assert found.data is not None
    try:
        return readable(found, base, await extractor.extract(found.key, found.data))
    except BadRecordError as error:
        return broken(found, base, error.reason)
    except MissingExtraError as error:
        return broken(found, base, str(error), again=True)
