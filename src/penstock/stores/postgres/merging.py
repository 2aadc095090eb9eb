"""Merging the text index behind the writers, a bounded piece at a time.

Readers see every posting exactly once, before and after: a merge is one transaction. Writers only
add blocks, so nobody waits. Postings of chunks that are gone are left out on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg

from penstock.database.queries import load_queries
from penstock.stores.base import DEFAULT_TENANT
from penstock.stores.postgres.arrays import numbers_literal
from penstock.stores.postgres.binary_rows import HEADER, TRAILER, posting_rows
from penstock.stores.postgres.lexical import Block, Ids, keep, merge_blocks, pack, unpack_all

Connection = psycopg.AsyncConnection[Any]

_SQL: Final = load_queries(Path(__file__).with_name("merging.sql"))
_COPY: Final = (
    "COPY penstock.postings (term, chunk_ids, frequencies, lengths, tenant, block) "
    "FROM STDIN (FORMAT binary)"
)


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """How much one call does, and from when on it is worth doing."""

    fresh_blocks: int = 16
    fresh_small: int = 65_536
    """Fewer fresh blocks, of fewer bytes in all, are left alone: a reader looks them through in no
    time."""
    fresh_bytes: int = 4_000_000
    """The most that is merged of fresh blocks in one call."""
    window: int = 20_000
    """How many stored lists one call looks at."""
    list_bytes: int = 4_000_000
    """The most that is rewritten of stored lists in one call."""
    lists_per_term: int = 4
    """So many lists of one term, none much larger than the others together, become one."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a call did. ``after`` is where the next call goes on; "" when all terms were seen."""

    blocks: int = 0
    lists: int = 0
    after: str = ""

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.blocks or self.lists or self.after)


async def merge_postings(
    connection: Connection,
    *,
    tenant: str = DEFAULT_TENANT,
    after: str = "",
    settings: MergeSettings = MergeSettings(),
    compact: bool = False,
) -> Merged:
    """Merge a piece of the text index, in a transaction of its own.

    Call it now and then with the ``after`` that the last call returned. With ``compact`` every list
    is rewritten without the chunks that are gone (worth it after mass deletes).
    """
    async with connection.transaction():
        cursor = await _run(connection, "take_turn", tenant=tenant)
        [(mine,)] = await cursor.fetchall()
        if not mine:
            return Merged(after=after)
        blocks = await _merge_fresh(connection, tenant, settings)
        lists, after = await _merge_lists(connection, tenant, after, settings, compact=compact)
    return Merged(blocks, lists, after)


async def _merge_fresh(connection: Connection, tenant: str, settings: MergeSettings) -> int:
    cursor = await connection.execute(
        _SQL["fresh_blocks"],
        {"tenant": tenant, "most": settings.fresh_bytes},
        prepare=True,
        binary=True,
    )
    rows = await cursor.fetchall()
    size = sum(len(payload) for _, payload, _ in rows)
    if not rows or (rows[0][2] < settings.fresh_blocks and size < settings.fresh_small):
        return 0
    blocks = [Block(payload) for _, payload, _ in rows]
    alive = await _alive(connection, [block.chunk_ids for block in blocks])
    terms, lists = merge_blocks(blocks, alive)
    await _store(connection, tenant, terms, lists)
    await _run(connection, "remove_fresh", tenant=tenant, blocks=[row[0] for row in rows])
    return len(rows)


async def _merge_lists(
    connection: Connection,
    tenant: str,
    after: str,
    settings: MergeSettings,
    *,
    compact: bool,
) -> tuple[int, str]:
    """Merge lists of the terms behind ``after``; how many, and the last term that was looked at."""
    cursor = await _run(connection, "lists", tenant=tenant, after=after, limit=settings.window)
    rows = await cursor.fetchall()
    chosen: list[tuple[str, int]] = []
    size = 0
    seen = ""
    groups = [(term, list(found)) for term, found in groupby(rows, itemgetter(0))]
    if len(rows) == settings.window and len(groups) > 1:
        groups.pop()  # may go on behind the window: the next call sees all of it
    for term, found in groups:
        blocks = [(length, block) for _, block, length in found]
        mergeable = [b for _, b in blocks] if compact else choose(blocks, settings.lists_per_term)
        if mergeable:
            chosen.extend((term, block) for block in mergeable)
            size += sum(length for length, block in blocks if block in set(mergeable))
        seen = term
        if size >= settings.list_bytes:
            break
    finished = len(rows) < settings.window and (not groups or seen == groups[-1][0])
    if chosen:
        await _rewrite(connection, tenant, chosen)
    return len(chosen), "" if finished else seen


def choose(blocks: Sequence[tuple[int, int]], least: int) -> list[int]:
    """Which lists of one term, given as (size, block), are worth merging.

    The smallest first, as long as the next is at most twice as large as those before it together:
    so a long list is rewritten only when as much again has come, and each posting a few times.
    """
    chosen: list[int] = []
    together = 0
    for size, block in sorted(blocks):
        if len(chosen) >= 2 and size > 2 * together:
            break
        chosen.append(block)
        together += size
    return chosen if len(chosen) >= least else []


async def _rewrite(connection: Connection, tenant: str, chosen: Sequence[tuple[str, int]]) -> None:
    cursor = await connection.execute(
        _SQL["take_lists"],
        {
            "tenant": tenant,
            "terms": [term for term, _ in chosen],
            "blocks": [block for _, block in chosen],
        },
        prepare=True,
        binary=True,
    )
    rows = sorted(await cursor.fetchall(), key=itemgetter(0))
    joined = [
        (term, unpack_all([(ids, counts, lengths) for _, ids, counts, lengths in found]))
        for term, found in groupby(rows, itemgetter(0))
    ]
    ids = [postings.chunk_ids for _, postings in joined]
    living = (
        np.isin(np.concatenate(ids), await _alive(connection, ids)) if ids else np.empty(0, bool)
    )
    ends = np.cumsum([len(found) for found in ids])
    parts = np.split(living, ends[:-1])
    kept = [
        (term, keep(postings, alive)) for (term, postings), alive in zip(joined, parts, strict=True)
    ]
    left = [(term, pack(postings)) for term, postings in kept if len(postings.chunk_ids)]
    await _store(connection, tenant, [term for term, _ in left], [packed for _, packed in left])


async def _alive(connection: Connection, ids: Sequence[Ids]) -> Ids:
    """Which of these chunks there still are."""
    wanted = np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64)
    cursor = await _run(connection, "alive", chunks=numbers_literal(wanted.tolist()))
    return np.fromiter((row[0] for row in await cursor.fetchall()), np.int64)


async def _store(
    connection: Connection,
    tenant: str,
    terms: Sequence[str],
    lists: Iterable[tuple[bytes, bytes, bytes]],
) -> None:
    if not terms:
        return
    cursor = await _run(connection, "next_block")
    [(block,)] = await cursor.fetchall()
    rows = posting_rows(tenant, block, terms, lists)
    async with connection.cursor().copy(_COPY) as copy:
        await copy.write(HEADER + rows + TRAILER)


async def _run(
    connection: Connection, statement: str, /, **parameters: Any
) -> psycopg.AsyncCursor[Any]:
    return await connection.execute(_SQL[statement], parameters, prepare=True)
