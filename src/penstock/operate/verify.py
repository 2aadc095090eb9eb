"""Compare sources with stores: every row by hash, every document by content, every chunk.

What is compared moves: a difference counts only if it is still there when both sides were looked at
again, after all that the source had committed by then is in the stores (or, when nothing runs, at
once).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.errors import UnavailableError
from penstock.operate.status import is_running
from penstock.records import Key
from penstock.sources.base import BESIDE, ComparableDocuments, ComparableRows
from penstock.sources.comparing import Hashed, walk
from penstock.stores.postgres import compare

if TYPE_CHECKING:
    from penstock.project import Project
    from penstock.stores.postgres.live_tables import LiveTable

LOOKS = 3
"""How often a difference must be seen to count while changes flow."""

_WORDS = {
    "missing": "is in the source and not in the live table",
    "superfluous": "is in the live table and not in the source",
    "other": "has other values in the live table than in the source",
}

Differences = dict[str, str]
"""What differs, by key, in words."""


@dataclass
class Compared:
    """One table, or the documents of one source. ``named`` are the first of the differences."""

    source: str
    what: str
    compared: int = 0
    differences: int = 0
    waiting: int = 0
    named: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Of all sources; ``waiting`` counts documents in the dead letters, which do not differ: they
    are known to be missing."""

    sources: list[Compared] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """In all."""
        return sum(part.differences for part in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """As ``penstock verify --json`` prints it."""
        return {
            "differences": self.differences,
            "sources": [asdict(part) for part in self.sources],
        }


async def verify(project: Project, *, limit: int = 100) -> Report:
    """Compare everything; ``limit`` is how many differences are named."""
    report = Report()
    for name in project.settings.sources:
        source = project.source(name)
        try:
            if isinstance(source, ComparableRows):
                for table in await project.store.live_tables(name):
                    if table.stream.startswith(BESIDE):
                        continue
                    report.sources.append(await _table(project, name, source, table, limit))
                missing = await _missing_tables(project, name, source)
                if missing is not None:
                    report.sources.append(missing)
            elif isinstance(source, ComparableDocuments):
                report.sources.append(await _documents(project, name, source, limit))
        finally:
            await source.close()
    report.sources.append(await _knowledge(project, limit))
    return report


async def _settled(
    project: Project, look: Callable[[], Awaitable[tuple[int, Differences]]]
) -> tuple[int, Differences]:
    """How many were compared, and what differs in every look."""
    compared, found = await look()
    for _ in range(LOOKS - 1):
        if not found or not await is_running(project):
            break
        try:
            await project.caught_up(limit_s=30)
        except UnavailableError:
            break
        compared, again = await look()
        found = {key: words for key, words in again.items() if key in found}
    return compared, found


def _close(part: Compared, compared: int, found: Differences, limit: int) -> Compared:
    part.compared = compared
    part.differences = len(found)
    part.named = [f"{key}: {found[key]}" for key in sorted(found)[:limit]]
    return part


# --------------------------------------------------------------------------- rows


async def _table(
    project: Project, name: str, source: ComparableRows, table: LiveTable, limit: int
) -> Compared:
    async def look() -> tuple[int, Differences]:
        there = (await source.columns()).get(table.stream, table.schema.names)
        columns = [name for name in table.schema.names if name in there]
        gone = [column for column in table.schema.columns if column.name not in there]
        told = {f"column {c.name}": "is in the live table and not in the source" for c in gone}
        if any(column.key for column in gone):
            return 0, told
        async with (
            aclosing(source.row_hashes(table.schema, columns)) as theirs,
            aclosing(compare.row_hashes(project.pool, table, columns)) as ours,
        ):
            compared, found = await _walk(theirs, ours)
        return compared, told | found

    compared, found = await _settled(project, look)
    return _close(Compared(name, table.stream), compared, found, limit)


async def _walk(
    theirs: AsyncIterator[Hashed], ours: AsyncIterator[Hashed]
) -> tuple[int, Differences]:
    """How many keys both sides have, and what differs, in words."""
    found: Differences = {}
    compared = 0
    async for key, kind, _ in walk(theirs, ours):
        if kind in ("equal", "other"):
            compared += 1
        if kind != "equal":
            found[_shown(key)] = _WORDS[kind]
    return compared, found


def _shown(key: Key) -> str:
    return "/".join("NULL" if part is None else part for part in key)


async def _missing_tables(project: Project, name: str, source: ComparableRows) -> Compared | None:
    """Tables of the source that the project names and that have no live table yet."""
    have = {table.stream for table in await project.store.live_tables(name)}
    missing = [stream for stream in await source.streams() if stream not in have]
    if not missing:
        return None
    part = Compared(name, "tables")
    part.differences = len(missing)
    part.named = [f"{stream}: has no live table yet" for stream in missing]
    return part


# --------------------------------------------------------------------------- documents


async def _documents(
    project: Project, name: str, source: ComparableDocuments, limit: int
) -> Compared:
    part = Compared(name, "documents")

    async def look() -> tuple[int, Differences]:
        theirs = await source.digests()
        ours = await compare.document_digests(project.pool, name)
        buried = {
            str(letter.letter.change.key[0])
            for letter in await project.store.dead_letters(source=name)
        }
        found: Differences = {}
        part.waiting = 0
        for key, digest in theirs.items():
            if ours.get(key) == digest and digest is not None:
                continue
            if key in buried:
                part.waiting += 1
            elif key not in ours:
                found[key] = "is in the source and not in the knowledge base"
            else:
                found[key] = "has another content in the source than in the knowledge base"
        for key in ours.keys() - theirs.keys():
            found[key] = "is in the knowledge base and not in the source"
        return len(theirs), found

    compared, found = await _settled(project, look)
    return _close(part, compared, found, limit)


async def _knowledge(project: Project, limit: int) -> Compared:
    """Inside the knowledge base: chunks, vectors and searched rows fit together."""

    async def look() -> tuple[int, Differences]:
        compared, found = await compare.consistency(project.pool)
        return compared, found

    compared, found = await _settled(project, look)
    return _close(Compared("", "knowledge base"), compared, found, limit)
