"""What looking at one document came to.

What is known of a document is its *fingerprint*: words that say whether it is still the same, then
the digest of its content. Its source decides which words (size, times, inode; size, time, etag) and
compares the text before the digest, so that what was not touched is not read. Marks in front: ``~``
for one that may have changed unseen since, ``?`` for one that could not be read (both are read
again); ``!`` before the digest for one whose content has no text. A word that begins with ``@``
tells what the document said about who may see it.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from penstock.records import Microseconds


class Found(NamedTuple):
    """A document with something new: ``data`` to be extracted, or the ``error`` why it has none, or
    neither when only its fingerprint changed. ``permissions`` is what it says itself about who may
    see it (see `penstock.records.LISTED_COLUMNS`); None where that is not asked."""

    key: str
    fingerprint: str
    digest: str
    size: int
    modified_ns: int
    changed_at: Microseconds
    data: bytes | None = None
    error: str | None = None
    permissions: str | None = None


def digest_of(fingerprint: str) -> str:
    """The digest at the end of a fingerprint."""
    return fingerprint.rpartition(" ")[2]


def unreadable_digest(reason: str) -> str:
    """A digest that is equal when a document cannot be read for the same reason again."""
    return "-" + hashlib.sha256(reason.encode()).hexdigest()[:16]
