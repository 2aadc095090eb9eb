"""What is stored about permissions, for people: why one may see a document, and where lists are
missing, broken or name what nobody knows. Read as the owner, in one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.records import Microseconds

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
_QUERIES: Final = load_queries(Path(__file__).with_name("explaining.sql"))


class StoredDocument(NamedTuple):
    """A document with the list that counts for it, and the project's rule for its source (None: the
    project declares none)."""

    source: str
    key: str
    stream: str | None
    title: str
    metadata: Mapping[str, Any]
    committed_at: Microseconds
    allow: Sequence[str]
    deny: Sequence[str]
    rule: Mapping[str, Any] | None


class StoredEntry(NamedTuple):
    """An entry about a document's place or one above it; ``distance`` 0 is the document's own."""

    entry: str
    place: str
    distance: int
    origin: str
    stream: str
    allow: Sequence[str] | None
    deny: Sequence[str]
    problem: str | None
    committed_at: Microseconds


class Step(NamedTuple):
    """A member of a group, and the table's row that says so."""

    member: str
    group: str
    source: str
    stream: str
    committed_at: Microseconds


class SourceLists(NamedTuple):
    """How the documents of a source are permitted; ``hidden`` is one that nobody may see."""

    source: str
    documents: int
    nobody: int
    everybody: int
    lists: int
    hidden: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What permissions come to. ``problems``: source, place, entry, reason; ``unknown_groups`` are
    named in lists and have no member in the project's tables (None: it has no such tables)."""

    sources: Sequence[SourceLists]
    problems: Sequence[tuple[str, str, str, str]]
    names: Sequence[str]
    unknown_groups: Sequence[str] | None


class Looking:
    """Questions to one snapshot."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    async def documents(self, key: str, source: str | None) -> list[StoredDocument]:
        """Those of this key: one for each source that has it."""
        return [
            StoredDocument(*row) for row in await self._ask("documents", key=key, source=source)
        ]

    async def near_keys(self, key: str, source: str | None) -> list[str]:
        """Keys that look like this one."""
        last = key.rstrip("/").rpartition("/")[2]
        like = last.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        return [row[0] for row in await self._ask("near_keys", source=source, like=like)]

    async def entries(self, source: str, key: str) -> list[StoredEntry]:
        """What counts for a document, nearest first."""
        return [StoredEntry(*row) for row in await self._ask("entries", source=source, key=key)]

    async def ways(self, names: Sequence[str]) -> dict[str, list[Step]]:
        """These names and every group that holds one of them, each with the steps of a shortest way
        to it."""
        found: dict[str, list[Step]] = {name: [] for name in names}
        fresh = list(found)
        while fresh:
            steps = [Step(*row) for row in await self._ask("held_by", members=fresh)]
            fresh = []
            for step in steps:
                if step.group not in found:
                    found[step.group] = [*found[step.member], step]
                    fresh.append(step.group)
        return found

    async def overview(self) -> Overview:
        """All of it."""
        sources = [SourceLists(*row) for row in await self._ask("sources")]
        problems = [(a, b, c, d) for a, b, c, d in await self._ask("problems")]
        named = await self._ask("named")
        [(follows,)] = await self._ask("follows_groups")
        unknown = [name for name, lonely in named if lonely] if follows else None
        return Overview(sources, problems, [name for name, _ in named], unknown)

    async def _ask(self, name: str, **values: Any) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(_QUERIES[name], {"tenant": self._tenant, **values})
        return await cursor.fetchall()


@asynccontextmanager
async def looking(pool: Pool, *, tenant: str) -> AsyncIterator[Looking]:
    """Look at permissions in one snapshot."""
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield Looking(connection, tenant)
