"""Documents and searched rows become chunks with vectors.

Only the last version of each key in a batch is worked on. A text is embedded once, whoever holds
it, and never again while its vector is stored (G5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import orjson

from penstock.errors import BadRecordError, RetryableError
from penstock.models.base import Embedded, Embedder, serving, token_embedder
from penstock.pipelines.base import Outcome, Rejected, Tools
from penstock.pipelines.knowledge.chunker import Chunker, ChunkSettings, Titled
from penstock.pipelines.knowledge.languages import LANGUAGE, declared, detect, prepare
from penstock.pipelines.knowledge.own_lists import own_entry
from penstock.pipelines.knowledge.rows import (
    SearchedRow,
    document_key,
    leaves_text,
    row_values,
    table_name,
    unchanged,
)
from penstock.pipelines.knowledge.sidecars import sidecar_entry
from penstock.pipelines.knowledge.token_counts import TokenCounts
from penstock.records import DOCUMENTS, Change, Key, Op, Position, Value
from penstock.standing import Standing, Stood, told_by
from penstock.stores.base import (
    ChunkText,
    DocumentVersion,
    Effect,
    PermissionEntry,
    ReplaceDocuments,
    SetPermissions,
    TruncateDocuments,
)
from penstock.tracing import model_call

__all__ = ["KnowledgePipeline", "SearchedRow"]

_THREAD_CHARACTERS: Final = 50_000
"""Cutting more text than this is left to a thread, so that the event loop goes on."""

_Name = tuple[str, str]  # source and key of a document


@dataclass(slots=True)
class _Draft:
    """The last version of one document in a batch, before it is cut."""

    change: Change
    key: str
    deleted: bool = False
    values: dict[str, Value] = field(default_factory=dict)
    """Of a row: what its text and title are made of."""
    base: str = ""
    """Of a row: the key under which the version is stored that has the values left out."""
    since: Position | None = None
    """Of a row that is gone: only if what is stored is of this position or later."""


class _Drafts(Standing[_Name, _Draft]):
    """The last version of each document in a batch."""

    def set(self, draft: _Draft) -> None:
        """A document's text, whatever was before."""
        change = draft.change
        name = (change.schema.source, draft.key)
        self.of.pop(name, None)
        self.of[name] = Stood(draft, change.position, there=not draft.deleted)

    def truncate(self, change: Change) -> None:
        """Only what is older goes: the end of a copy speaks of the time before it."""
        of = (change.schema.source, change.schema.stream)
        for name, stood in list(self.of.items()):
            schema = stood.what.change.schema
            if (schema.source, schema.stream) != of:
                continue
            if stood.position < change.position:
                del self.of[name]
            else:
                gone = _Draft(stood.what.change, name[1], deleted=True)
                self.empty(name, change.position, gone)

    def last(self) -> list[_Draft]:
        """In the order of the last changes."""
        return [
            stood.what if stood.since is None else replace(stood.what, since=stood.since)
            for stood in self.of.values()
        ]


_KEPT: Final = ("title", "media_type", "content_hash", "text", "metadata")


@dataclass(frozen=True)
class KnowledgePipeline:
    """Turns changes of documents, and of the rows of ``rows``' streams, into document versions."""

    name: str
    topics: tuple[str, ...]
    settings: ChunkSettings
    rows: Mapping[str, SearchedRow] = field(default_factory=dict)
    sidecars: bool = False
    """Whether files such as ``hr.acl.yaml`` say who may see the documents."""
    detects_language: bool = False
    listed: bool = False
    """Whether documents say themselves who may see them."""
    _counts: TokenCounts = field(default_factory=TokenCounts, init=False, repr=False, compare=False)

    @property
    def streams(self) -> frozenset[str]:
        """Documents, and the tables with searched columns."""
        return frozenset((DOCUMENTS, *self.rows))

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:
        """Document versions of these changes, with the vectors that were not stored yet."""
        tools = replace(tools, embedder=await serving(tools.embedder))
        if self.detects_language:
            await asyncio.to_thread(prepare)
        drafts, first, rejected = self._draft(changes)
        bases = await self._complete(drafts, tools)
        chunks = await self._cut([self._titled(draft) for draft in drafts], tools.embedder)
        texts = {chunk.hash: chunk.embedded for pieces in chunks for chunk in pieces}
        model = token_embedder(tools.embedder)
        head = model.head if model else ""
        known = (
            await tools.store.known_vectors(tools.embedder.name, list(texts), head)
            if texts
            else set()
        )
        missing = [hash_ for hash_ in texts if hash_ not in known]
        made, refused = await _vectors([texts[hash_] for hash_ in missing], tools)
        versions = []
        for draft, pieces in zip(drafts, chunks, strict=True):
            bad = [refused[texts[c.hash]] for c in pieces if texts[c.hash] in refused]
            if bad:
                rejected.append(Rejected(draft.change, bad[0]))
            else:
                based_on = bases.get((draft.change.schema.source, draft.key))
                versions.append(self._version(draft, pieces, based_on))
        embedded = [hash_ for hash_ in missing if texts[hash_] not in refused]
        effects: list[Effect] = list(first)
        if versions:
            vectors = {hash_: row for row, hash_ in enumerate(embedded)}
            effects.append(
                ReplaceDocuments(
                    versions,
                    tools.embedder.name,
                    vectors,
                    made.vectors,
                    made.tokens,
                    head,
                )
            )
        total = sum(len(version.chunks or ()) for version in versions)
        reused = max(0, total - len(embedded))
        return Outcome(tuple(effects), tuple(rejected), len(embedded), reused)

    # ------------------------------------------------------------------ changes to drafts

    def _draft(
        self, changes: Sequence[Change]
    ) -> tuple[list[_Draft], list[Effect], list[Rejected]]:
        """The last version of each key, in the order of the last versions, and the effects that go
        before them."""
        drafts = _Drafts()
        truncates: list[TruncateDocuments] = []
        entries: list[PermissionEntry] = []
        rejected: list[Rejected] = []
        for change in changes:
            source, stream = change.schema.source, change.schema.stream
            if change.op is Op.TRUNCATE:
                drafts.truncate(change)
                truncates.append(TruncateDocuments(source, stream, change.position))
            elif stream == DOCUMENTS:
                self._draft_document(drafts, change, entries, rejected)
            elif stream in self.rows:
                self._draft_row(drafts, change)
        # Entries come first: until they are stored, others wait who store documents.
        first: list[Effect] = [SetPermissions(tuple(entries))] if entries else []
        return drafts.last(), [*first, *truncates], rejected

    def _draft_document(
        self,
        drafts: _Drafts,
        change: Change,
        entries: list[PermissionEntry],
        rejected: list[Rejected],
    ) -> None:
        entry = sidecar_entry(change) if self.sidecars else None
        problem = change.value("error") if entry is None else entry.problem
        if entry is not None:
            entries.append(entry)
        readable = problem is None
        if self.listed:
            # It counts also where there is no text: the version before goes on serving.
            own = own_entry(change)
            entries.append(own)
            problem = own.problem if readable else problem
        if problem is not None:
            rejected.append(Rejected(change, str(problem)))
        if readable:
            # A list is no document: one that was stored before lists counted goes.
            gone = change.op is Op.DELETE or entry is not None
            drafts.set(_Draft(change, change.key[0] or "", deleted=gone))

    def _draft_row(self, drafts: _Drafts, change: Change) -> None:
        source, stream = change.schema.source, change.schema.stream
        key = document_key(stream, change.key)
        old_key = key
        if change.old_key is not None and change.old_key != change.key:
            old_key = document_key(stream, change.old_key)
        before, after = (source, old_key), (source, key)
        meant = drafts.meant(before, change)
        if change.op is Op.DELETE or old_key != key:
            drafts.leave(before, change, _Draft(change, old_key, deleted=True))
        if change.op is Op.DELETE:
            return
        row = None if change.after is None else told_by(change.after, change.before)
        columns = self.rows[stream].used
        if change.op is Op.UPDATE and leaves_text(change, columns):
            if meant is not None and meant.came_in is not None:
                drafts.update(after, change, meant.what, row)
            return
        values = row_values(change.schema, row, columns)
        base = old_key
        if meant is not None and meant.there:
            base = meant.what.base
            for name in unchanged(values):
                values[name] = meant.what.values.get(name)
        draft = _Draft(change, key, values=values, base=base)
        if old_key != key or change.op is not Op.UPDATE:
            drafts.come(after, change, draft, row)
        else:
            drafts.update(after, change, draft, row)

    async def _complete(self, drafts: Sequence[_Draft], tools: Tools) -> dict[_Name, str]:
        """Fill in values that the source did not send, from what is stored of the version before.

        Returns, for each document that was asked, the position of the version that was used: the
        store refuses the new one if another has come between (see `DocumentVersion.based_on`).
        """
        open_drafts: dict[str, dict[str, _Draft]] = {}
        for draft in drafts:
            if not draft.deleted and unchanged(draft.values):
                open_drafts.setdefault(draft.change.schema.source, {})[draft.base] = draft
        bases: dict[_Name, str] = {}
        for source, wanted in open_drafts.items():
            stored = await tools.store.stored_metadata(source, list(wanted))
            for key, draft in wanted.items():
                position, metadata = stored.get(key, ("", {}))
                for name in unchanged(draft.values):
                    draft.values[name] = metadata.get(name)
                bases[source, draft.key] = position
        return bases

    # ------------------------------------------------------------------ drafts to versions

    async def _cut(
        self, documents: Sequence[Titled], embedder: Embedder
    ) -> Sequence[Sequence[ChunkText]]:
        chunker = Chunker(self.settings, embedder.max_tokens, self._counts.counting(embedder))
        if sum(len(document.text) for document in documents) > _THREAD_CHARACTERS:
            return await asyncio.to_thread(chunker.chunk, documents)
        return chunker.chunk(documents)

    def _titled(self, draft: _Draft) -> Titled:
        if draft.deleted:
            return Titled("", "")
        change = draft.change
        if change.schema.stream == DOCUMENTS:
            title, text = _texts(change, ("title", "text"))
            return Titled(storable(title), storable(text))
        stream = change.schema.stream
        return Titled(table_name(stream), storable(self.rows[stream].text(draft.values)))

    def _version(
        self, draft: _Draft, chunks: Sequence[ChunkText], based_on: str | None
    ) -> DocumentVersion:
        change = draft.change
        schema = change.schema
        common: dict[str, Any] = {
            "source": schema.source,
            "key": draft.key,
            "position": change.position,
            "committed_at": change.committed_at,
            "based_on": based_on,
            "base": draft.base if based_on is not None and draft.base != draft.key else None,
        }
        if schema.stream == DOCUMENTS:
            if draft.deleted:
                return DocumentVersion(chunks=None, **common)
            title, media_type, content_hash, text, metadata = _texts(change, _KEPT)
            return DocumentVersion(
                chunks=chunks,
                title=storable(title),
                media_type=media_type,
                content_hash=content_hash,
                text=text,
                metadata=self._with_language(_metadata(metadata), text),
                **common,
            )
        return self._row_version(draft, chunks, common)

    def _with_language(self, metadata: dict[str, Any], text: str) -> dict[str, Any]:
        """With the language that the document declares or is found to be in, if wanted."""
        if not self.detects_language:
            return metadata
        language = declared(metadata.get(LANGUAGE)) or detect(text)
        return {**metadata, LANGUAGE: language} if language else metadata

    def _row_version(
        self, draft: _Draft, chunks: Sequence[ChunkText], common: dict[str, Any]
    ) -> DocumentVersion:
        change = draft.change
        schema = change.schema
        key: Key = change.key
        if draft.deleted and change.old_key is not None:
            key = change.old_key
        common |= {"stream": schema.stream, "row_key": key}
        if draft.deleted:
            return DocumentVersion(chunks=None, since=draft.since, **common)
        row = self.rows[schema.stream]
        return DocumentVersion(
            chunks=chunks,
            content_hash=_fingerprint(chunks),
            title=storable(row.heading(schema.stream, draft.values)),
            metadata={
                name: v
                for name, v in draft.values.items()
                if isinstance(v, str) or (v is None and name in row.permissions)
            },
            **common,
        )


def _fingerprint(chunks: Sequence[ChunkText]) -> str:
    return blake2b("".join(chunk.text for chunk in chunks).encode(), digest_size=16).hexdigest()


def storable(text: str) -> str:
    """The text with every character replaced that a database cannot hold; offsets stay."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)
    return text


def _texts(change: Change, columns: Sequence[str]) -> list[str]:
    """Values of a document's change; "" for what it does not have."""
    row = change.after
    if row is None:
        return [""] * len(columns)
    index = change.schema.index
    return [value if isinstance(value := row[index(column)], str) else "" for column in columns]


def _metadata(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text) if text else {}
    except ValueError as error:
        raise BadRecordError(f"the metadata is expected to be JSON, but {error}") from error
    return found if isinstance(found, dict) else {}


async def _vectors(texts: Sequence[str], tools: Tools) -> tuple[Embedded, dict[str, str]]:
    """As `_embed`; an error for which they wait says how many they are."""
    try:
        return await _embed(texts, tools)
    except RetryableError as error:
        error.facts["texts"] = len(texts)
        raise


async def _embed(texts: Sequence[str], tools: Tools) -> tuple[Embedded, dict[str, str]]:
    """The vectors of all texts that the model takes, in order, and why it refuses the others."""
    nothing = Embedded(np.empty((0, tools.embedder.dimensions), np.float32), ())
    if not texts:
        return nothing, {}
    model = token_embedder(tools.embedder)
    try:
        with model_call("embeddings", tools.embedder.name, texts=len(texts)):
            if model is not None:
                return await model.embed_tokens(texts, priority=tools.priority), {}
            return Embedded(await tools.embedder.embed(texts, priority=tools.priority), ()), {}
    except BadRecordError as error:
        if len(texts) == 1:
            return nothing, {texts[0]: error.reason}
    middle = len(texts) // 2
    left, refused_left = await _embed(texts[:middle], tools)
    right, refused_right = await _embed(texts[middle:], tools)
    vectors = np.concatenate([left.vectors, right.vectors])
    return Embedded(vectors, [*left.tokens, *right.tokens]), refused_left | refused_right
