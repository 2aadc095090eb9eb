"""A source whose documents come through the API: pushed, replaced and deleted by applications.

What is pushed becomes durable as what is delivered to a webhook does: it waits in this process, is
appended to the log with the id under which it was sent, and only then is its sender told so (G2).
A document is read (by the parsers, in a child process) before it is taken, so that what cannot be
read is refused to the one who can mend it, instead of becoming a dead letter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError, UnavailableError
from penstock.records import Key, Microseconds, Op, Row, document_schema
from penstock.sources.base import Finding
from penstock.sources.documents.patterns import Patterns
from penstock.sources.documents.rows import timestamp
from penstock.sources.extract import ChildExtractor, Extractor, Kind
from penstock.sources.formats.values import storable
from penstock.sources.inbox import Bounds, InboxSource, News

MAX_BYTES: Final = 50_000_000
_DURABLE_S: Final = 15.0
_LONGEST_KEY: Final = 1000
_MOST_AT_ONCE: Final = 4
_SUFFIXES: Final[Mapping[str, str]] = {
    Kind.TEXT: "txt",
    Kind.MARKDOWN: "md",
    Kind.RST: "rst",
    Kind.HTML: "html",
    Kind.PDF: "pdf",
    Kind.DOCX: "docx",
    Kind.CSV: "csv",
    Kind.TSV: "tsv",
    Kind.JSON: "json",
    Kind.JSONL: "jsonl",
    Kind.PARQUET: "parquet",
    Kind.AVRO: "avro",
    Kind.PPTX: "pptx",
    Kind.XLSX: "xlsx",
    Kind.ODT: "odt",
    Kind.ODS: "ods",
    Kind.ODP: "odp",
    Kind.EPUB: "epub",
    Kind.MAIL: "eml",
    Kind.RTF: "rtf",
    Kind.SVG: "svg",
    "application/msword": "doc",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/tiff": "tif",
    "image/webp": "webp",
}


class ReusedIdError(BadRecordError):
    """An id under which something else was sent before."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A document as it shall be from now on; ``content`` None: it is deleted. ``allow`` and
    ``deny`` are names of lists; both None: it says nothing of who may see it."""

    key: str
    content: bytes | None = None
    media_type: str = "text/markdown"
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    allow: Sequence[str] | None = None
    deny: Sequence[str] | None = None

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.key) + len(self.content or b"")


class Parcel(NamedTuple):
    """Documents that were read: what changes, their size about, and a mark of what was sent."""

    news: Sequence[tuple[Op, Key, Row | None]]
    size: int
    mark: str

    def to_bytes(self) -> bytes:
        """For another process of the same version."""
        news = [[op.value, key, row] for op, key, row in self.news]
        return orjson.dumps([news, self.size, self.mark])

    @classmethod
    def from_bytes(cls, written: bytes) -> Parcel:
        """What `to_bytes` gave."""
        news, size, mark = orjson.loads(written)
        read = [(Op(op), tuple(key), None if row is None else tuple(row)) for op, key, row in news]
        return cls(read, size, mark)


class PushSource(InboxSource):
    """What is pushed to it. ``listed``: each document says who may see it."""

    def __init__(
        self,
        name: str,
        patterns: Patterns,
        *,
        listed: bool = False,
        extractor: Extractor | None = None,
        bounds: Bounds | None = None,
        max_bytes: int = MAX_BYTES,
        clock: Clock | None = None,
        heartbeat_s: float = 5.0,
    ) -> None:
        super().__init__(name, bounds or Bounds(), clock or SystemClock(), heartbeat_s)
        self._patterns = patterns
        self._listed = listed
        self._schema = document_schema(name, listed=listed)
        self._extractor = extractor or ChildExtractor()
        self._max_bytes = max_bytes
        self._reading = asyncio.Semaphore(_MOST_AT_ONCE)

    async def push(
        self, documents: Sequence[Pushed], *, once: str | None = None
    ) -> tuple[Microseconds, bool]:
        """Take documents, all or none; returns when the log holds them, with the time of these
        changes (`SourceAge.as_of` reaches it when they can be found), and whether they had been
        sent before under this id, ``once``.

        Raises `BadRecordError` for what cannot be read, `ReusedIdError` for an id under which
        something else came, `UnavailableError` when it is not known whether it is durable.
        """
        settled = await self._before(once, _mark(documents))
        if settled is not None:
            return settled, True
        return await self.put(await self.pack(documents), once=once)

    async def pack(self, documents: Sequence[Pushed]) -> Parcel:
        """Read documents, without taking them: this needs no running source, and may be done in
        another process than `put`. Raises `BadRecordError`."""
        news = [await self._news(document) for document in documents]
        size = sum(document.size for document in documents)
        return Parcel([(item.op, item.key, item.row) for item in news], size, _mark(documents))

    async def put(self, parcel: Parcel, *, once: str | None = None) -> tuple[Microseconds, bool]:
        """Take what was packed, as `push` does."""
        settled = await self._before(once, parcel.mark)
        if settled is not None:
            return settled, True
        inbox = self._running()
        if inbox.full(parcel.size):
            raise UnavailableError(
                "expected room for these documents, too many wait for the log", retry_after_s=1
            )
        columns = len(self._schema.columns)
        if any(row is not None and len(row) != columns for _, _, row in parcel.news):
            raise UnavailableError(
                f"expected documents of {columns} columns for {self.name!r}, another process "
                "packed others: start all processes anew, with one version and one project file"
            )
        message_id = once or secrets.token_hex(16)
        news = [News(self._schema, op, key, row) for op, key, row in parcel.news]
        durable = inbox.put(
            message_id, news, parcel.size, mark=parcel.mark, remembered=once is not None
        )
        return await self._settled(durable), False

    @property
    def reading(self) -> bool:
        """Is it being read, so that it takes something?"""
        return self._inbox is not None

    def _running(self) -> Any:
        if self._inbox is None:
            raise UnavailableError(
                f"expected the source {self.name!r} to run, it is starting or stopped",
                retry_after_s=2,
            )
        return self._inbox

    async def _before(self, once: str | None, mark: str) -> Microseconds | None:
        """When it was taken, if it came before under this id."""
        inbox = self._running()
        if once is None:
            return None
        kept, waiting = inbox.kept(once), inbox.mark(once)
        known = waiting if kept is None else kept.mark
        if known is None:
            return None
        if known != mark:
            raise ReusedIdError(
                "expected the same documents as those that were sent under this idempotency key, "
                "got others: take another key for them"
            )
        if kept is not None:
            at: Microseconds = kept.at
            return at
        return await self._settled(inbox.taken(once))

    async def _settled(self, durable: asyncio.Future[Microseconds | None]) -> Microseconds:
        done, _ = await asyncio.wait([durable], timeout=_DURABLE_S)
        at = durable.result() if done else None
        if at is None:
            raise UnavailableError(
                "expected the log to take these documents by now: send them again, under the same "
                "idempotency key",
                retry_after_s=2,
            )
        return at

    # ------------------------------------------------------------ documents to changes

    async def _news(self, document: Pushed) -> News:
        key = document.key
        if not key or len(key) > _LONGEST_KEY or any(ord(letter) < 32 for letter in key):
            raise BadRecordError(
                f"expected a key of 1 to {_LONGEST_KEY} characters without control characters"
            )
        if document.content is None:
            return News(self._schema, Op.DELETE, (storable(key),), None)
        if not self._patterns.wanted(key):
            raise BadRecordError(
                f"expected a key that the source takes (include and exclude), got {key[:200]!r}"
            )
        if len(document.content) > self._max_bytes:
            raise BadRecordError(
                f"expected a document of at most {self._max_bytes:,} bytes, got "
                f"{len(document.content):,}: split it, or raise max_size"
            )
        suffix = _SUFFIXES.get(document.media_type)
        if suffix is None:
            raise BadRecordError(
                f"expected a media type that can be read, got {document.media_type[:100]!r}"
            )
        async with self._reading:
            read = await self._extractor.extract(f"document.{suffix}", document.content)
        metadata = {**read.metadata, **document.metadata}
        title = document.title if document.title is not None else read.title
        row = (
            storable(key),
            None if title is None else storable(title),
            read.media_type,
            read.text,
            hashlib.sha256(document.content).hexdigest(),
            str(len(document.content)),
            timestamp(self._clock.now() * 1000),
            _json(metadata),
            None,
            *self._lists(document),
        )
        return News(self._schema, Op.UPDATE, (key,), row)

    def _lists(self, document: Pushed) -> tuple[str, ...]:
        said = {"allow": document.allow, "deny": document.deny}
        if self._listed:
            lists = {name: None if names is None else list(names) for name, names in said.items()}
            return (json.dumps(lists, ensure_ascii=False),)
        if document.allow is not None or document.deny is not None:
            raise BadRecordError(
                f"expected no allow and no deny for {document.key[:200]!r}: the source "
                f"{self.name!r} takes them with `permissions: pushed`"
            )
        return ()

    # ------------------------------------------------------------ the loop's side

    async def close(self) -> None:
        """Those who wait are told to send again; the parsers end."""
        await super().close()
        await self._extractor.close()

    async def check(self) -> Sequence[Finding]:
        """Say what an application needs to know."""
        lists = ", each with its lists of who may see it" if self._listed else ""
        said = f"takes documents at /v1/documents/{self.name}/KEY from keys with the scope write"
        return [Finding(self.name, "ok", f"{said}{lists}")]


def _json(metadata: Mapping[str, Any]) -> str:
    """As a column of jsonb takes it."""
    written = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    if "\\u0000" in written:
        raise BadRecordError("expected metadata without the character NUL, which nothing can hold")
    return storable(written)


def _mark(documents: Sequence[Pushed]) -> str:
    """What tells one request from another."""
    digest = hashlib.sha256()
    for document in documents:
        content = document.content
        told = [
            document.key,
            None if content is None else hashlib.sha256(content).hexdigest(),
            document.media_type,
            document.title,
            document.metadata,
            document.allow,
            document.deny,
        ]
        digest.update(json.dumps(told, sort_keys=True, default=list).encode() + b"\n")
    return digest.hexdigest()[:32]
