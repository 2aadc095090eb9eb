"""What replacing documents comes to: which chunks come, go and stay. Pure.

The database is asked what is stored; this module compares and decides; the writer writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from penstock.errors import RetryableError
from penstock.stores.base import ChunkText, DocumentVersion


class Kept(NamedTuple):
    """A stored chunk: its id, and the digest of what is shown of it. The same text may have been
    embedded under a heading that was written differently: the vector stays, the chunk is new."""

    id: int
    shown: bytes


class Stored(NamedTuple):
    """A document as it is stored; ``chunks`` maps hash to chunk, of the model that is written now;
    ``others`` are ids of chunks of other models."""

    id: int
    position: str
    content_hash: str
    deleted: bool
    chunks: Mapping[bytes, Kept]
    others: Sequence[int]


class Placed(NamedTuple):
    """A document with its id and the ids and offsets of its chunks in reading order."""

    id: int
    version: DocumentVersion
    layout: list[int]
    starts: list[int]
    ends: list[int]


class NewChunk(NamedTuple):
    """A chunk to be stored, with its ids."""

    id: int
    document: int
    text: ChunkText
    language: str = ""


def what_is_read(chunk: ChunkText) -> tuple[str, int]:
    """What stands before the passage when the model reads it, and how many of the passage's first
    characters it does not read: enough to have another model read the same later."""
    text, embedded = chunk.text, chunk.embedded
    if embedded.endswith(text):
        return embedded[: len(embedded) - len(text)], 0
    # The longest common ending: if one of n characters is common, so are all shorter ones.
    least, most = 0, min(len(text), len(embedded))
    while least < most:
        middle = (least + most + 1) // 2
        if embedded.endswith(text[len(text) - middle :]):
            least = middle
        else:
            most = middle - 1
    return embedded[: len(embedded) - least], len(text) - least


@dataclass(slots=True)
class Replacement:
    """What to write. Ids of what is new are given out by `number`."""

    accepted: list[tuple[DocumentVersion, Stored | None]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    new_documents: int = 0
    new_chunks: int = 0


def newest(documents: Sequence[DocumentVersion]) -> list[DocumentVersion]:
    """The last version of each document, ordered by source and key as locks are taken."""
    found: dict[tuple[str, str], DocumentVersion] = {}
    for version in documents:
        name = (version.source, version.key)
        before = found.get(name)
        if before is None or before.position <= version.position:
            found[name] = version
    return [found[name] for name in sorted(found)]


def compare(
    versions: Sequence[DocumentVersion], stored: Mapping[tuple[str, str], Stored]
) -> Replacement:
    """Which versions are to be written, and what each changes."""
    plan = Replacement()
    for version in versions:
        before = stored.get((version.source, version.key))
        if not _is_newer(version, before):
            continue
        _expect_base(version, stored)
        plan.accepted.append((version, before))
        if before is None:
            plan.new_documents += 1
            plan.new_chunks += len({chunk.hash for chunk in version.chunks or ()})
            continue
        staying = _staying(version, before)
        wanted = {chunk.hash for chunk in version.chunks or ()}
        plan.new_chunks += len(wanted - staying.keys())
        plan.gone.extend(kept.id for hash_, kept in before.chunks.items() if hash_ not in staying)
        plan.gone.extend(before.others)
    return plan


def shown(chunk: ChunkText) -> bytes:
    """The digest of what is shown of a chunk, as the database computes it."""
    return sha256(f"{chunk.heading}\n{chunk.text}".encode()).digest()


def _staying(version: DocumentVersion, before: Stored) -> dict[bytes, int]:
    """The stored chunks that the version has too, by hash. Of chunks that are embedded alike, the
    first in reading order is the one that is shown."""
    staying: dict[bytes, int] = {}
    seen: set[bytes] = set()
    for chunk in version.chunks or ():
        kept = before.chunks.get(chunk.hash)
        if kept is not None and chunk.hash not in seen and kept.shown == shown(chunk):
            staying[chunk.hash] = kept.id
        seen.add(chunk.hash)
    return staying


def _is_newer(version: DocumentVersion, before: Stored | None) -> bool:
    if version.since is not None and (before is None or before.position < version.since):
        return False  # what is stored was there before, and is not what is gone
    if before is None or before.position < version.position:
        return True
    # The same version again, cut or embedded in another way since: a replay re-makes its chunks.
    return (
        before.position == version.position
        and not before.deleted
        and version.chunks is not None
        and version.content_hash != ""
        and version.content_hash == before.content_hash
        and _is_cut_differently(version, before)
    )


def _is_cut_differently(version: DocumentVersion, before: Stored) -> bool:
    wanted = {chunk.hash for chunk in version.chunks or ()}
    return not wanted == before.chunks.keys() == _staying(version, before).keys()


def _expect_base(version: DocumentVersion, stored: Mapping[tuple[str, str], Stored]) -> None:
    before = stored.get((version.source, version.base or version.key))
    there = "" if before is None else before.position
    if version.based_on is not None and version.based_on != there:
        raise RetryableError(
            f"the version of {version.key!r} was completed from what was stored at "
            f"{version.based_on!r}, but {there!r} is stored now: it is made again",
            key=version.key,
        )


def number(
    plan: Replacement, document_ids: Sequence[int], chunk_ids: Sequence[int]
) -> tuple[list[Placed], list[Placed], list[NewChunk]]:
    """New documents, changed documents and new chunks, with these ids given to what is new."""
    added: list[Placed] = []
    changed: list[Placed] = []
    chunks: list[NewChunk] = []
    next_document = iter(document_ids)
    next_chunk = iter(chunk_ids)
    for version, before in plan.accepted:
        id_ = next(next_document) if before is None else before.id
        known = {} if before is None else _staying(version, before)
        placed = Placed(id_, version, [], [], [])
        language = str(version.metadata.get("language", ""))
        for chunk in version.chunks or ():
            chunk_id = known.get(chunk.hash)
            if chunk_id is None:
                chunk_id = known[chunk.hash] = next(next_chunk)
                chunks.append(NewChunk(chunk_id, id_, chunk, language))
            placed.layout.append(chunk_id)
            placed.starts.append(chunk.start)
            placed.ends.append(chunk.end)
        (added if before is None else changed).append(placed)
    return added, changed, chunks
