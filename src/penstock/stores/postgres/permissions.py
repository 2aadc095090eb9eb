"""Permissions in PostgreSQL: entries that sources give, and what the project declares.

Which documents an entry is about is worked out in the database (see the migration
``0005_permissions``), in the transaction that stores it: the next query sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.records import Position
from penstock.stores.base import PermissionEntry
from penstock.stores.postgres.arrays import array_literal, numbers_literal

Connection = psycopg.AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]

_QUERIES: Final = load_queries(Path(__file__).with_name("permissions.sql"))
_FEW: Final = 16
"""Up to so many lists are compared one by one; more are looked up."""


@dataclass(frozen=True, slots=True)
class Permitted:
    """What the one who asks may read, as a condition on a document ``d``. Written into every query,
    whatever row-level security does besides."""

    lists: Sequence[int]

    @property
    def condition(self) -> sql.SQL:
        """Begins with AND, after a blank."""
        if len(self.lists) <= _FEW:
            return sql.SQL(" AND d.list_id = ANY(%(readable)s::int[])")
        # IS TRUE keeps the planner from joining: the numbers become a table of hashes, once.
        return sql.SQL(" AND (d.list_id IN (SELECT unnest(%(readable)s::int[]))) IS TRUE")

    @property
    def values(self) -> Mapping[str, Any]:
        """Its parameters."""
        return {"readable": numbers_literal(self.lists)}


@dataclass(frozen=True, slots=True)
class Declared:
    """What a project file says about permissions. ``rules``: ``{source, stream, rule}``;
    ``tables``: ``{source, stream, kind, target, spec}``; ``entries``: ``{source, allow, deny}``."""

    rules: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[Mapping[str, Any]] = ()
    entries: Sequence[Mapping[str, Any]] = ()


async def declare(pool: Pool, declared: Declared, *, tenant: str) -> bool:
    """Make the database obey what the project file says; True when that was something new.

    One transaction: until it commits, readers see what held before.
    """
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await _forget(connection, declared, tenant=tenant)
            cursor = await connection.execute(
                _QUERIES["declare"],
                {
                    "tenant": tenant,
                    "rules": Jsonb(_sorted(declared.rules)),
                    "tables": Jsonb(_sorted(declared.tables)),
                    "entries": Jsonb(_sorted(declared.entries)),
                },
            )
            [(changed,)] = await cursor.fetchall()
    return bool(changed)


async def _forget(connection: Connection, declared: Declared, *, tenant: str) -> None:
    """Take back what another kind of lists said: one that counts for nothing any more must not be
    found when entries count again."""
    cursor = await connection.execute(
        _QUERIES["outdated"], {"tenant": tenant, "rules": Jsonb(_sorted(declared.rules))}
    )
    sources = sorted(source for (source,) in await cursor.fetchall())
    if sources:
        await lock(connection, tenant, sources, alone=True)
        await connection.execute(
            _QUERIES["forget_entries"], {"tenant": tenant, "sources": array_literal(sources)}
        )


def _sorted(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    names = ("source", "stream", "kind", "target")
    return sorted(rows, key=lambda row: [str(row.get(name, "")).encode() for name in names])


async def lock(
    connection: Connection, tenant: str, sources: Sequence[str], *, alone: bool = False
) -> None:
    """Until the end of the transaction nobody changes entries of these sources (``alone``: nor
    stores documents of theirs)."""
    await connection.execute(
        _QUERIES["lock"],
        {"tenant": tenant, "sources": array_literal(sources), "alone": alone},
        prepare=True,
    )


async def set_entries(
    connection: Connection, entries: Sequence[PermissionEntry], *, tenant: str
) -> None:
    """Store entries, in the caller's transaction, with all that follows for documents."""
    latest: dict[tuple[str, str, str], PermissionEntry] = {}
    for entry in entries:
        name = (entry.source, entry.place, entry.entry)
        if name not in latest or latest[name].position < entry.position:
            latest[name] = entry
    chosen = list(latest.values())
    if not chosen:
        return
    await lock(connection, tenant, [entry.source for entry in chosen], alone=True)
    cursor = await connection.execute(
        _QUERIES["set_entries"],
        {
            "tenant": tenant,
            "sources": array_literal([e.source for e in chosen]),
            "places": array_literal([e.place for e in chosen]),
            "entries": array_literal([e.entry for e in chosen]),
            "allow": array_literal(
                [None if e.allow is None else array_literal(list(e.allow)) for e in chosen]
            ),
            "deny": array_literal([array_literal(list(e.deny)) for e in chosen]),
            "problems": array_literal([e.problem for e in chosen]),
            "content_hashes": array_literal([e.content_hash for e in chosen]),
            "positions": array_literal([e.position for e in chosen]),
            "committed": numbers_literal(e.committed_at for e in chosen),
            "gone": array_literal(["t" if e.gone else "f" for e in chosen]),
        },
        prepare=True,
    )
    places: dict[str, list[str]] = {}
    for source, place in await cursor.fetchall():
        places.setdefault(source, []).append(place)
    for source in sorted(places):
        await refresh(connection, source, places[source], tenant=tenant)


async def refresh(
    connection: Connection, source: str, places: Sequence[str], *, tenant: str
) -> None:
    """Work out anew who may see the documents at these places and below."""
    await connection.execute(
        _QUERIES["refresh"],
        {"tenant": tenant, "source": source, "places": array_literal(places)},
        prepare=True,
    )


async def truncate_entries(
    connection: Connection, source: str, position: Position, *, tenant: str
) -> None:
    """Take back all entries of a source that are older than a position."""
    await lock(connection, tenant, [source], alone=True)
    await connection.execute(
        _QUERIES["truncate_entries"],
        {"tenant": tenant, "source": source, "position": position},
        prepare=True,
    )
