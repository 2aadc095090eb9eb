"""Source, live tables and chunks side by side: count, per-row hash, text. Nothing of our own code.

Both servers print values alike, so a row's hash is that of its columns as text, in the order of the
source's columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from penstock.torture import people
from penstock.torture.documents import BROKEN, Folder
from penstock.torture.ledger import Place
from penstock.torture.shop import KEYS, Shop, hashes

Connection = psycopg.AsyncConnection[Any]

SEARCHED: Final = {"orders": ("customer", "note"), "pairs": ("label",)}
_PROOFS: Final = {
    "orders": "concat_ws('|', id, version, customer, note, total)",
    "lines": "concat_ws('|', order_id, line, version, sku, quantity, body)",
    "pairs": "concat_ws('|', code, version, label, body)",
}
_COLUMNS: Final = """
SELECT column_name::text FROM information_schema.columns
WHERE table_schema = %s AND table_name = %s AND column_name NOT LIKE '\\_penstock%%'
ORDER BY column_name
"""
_CHUNKS: Final = """
SELECT d.row_key, d.content_hash, coalesce((
    SELECT string_agg(c.text, '' ORDER BY l.place)
    FROM unnest(d.layout) WITH ORDINALITY l (id, place) JOIN penstock.chunks c ON c.id = l.id), ''),
    (SELECT count(*) FROM unnest(d.layout) l (id)
     WHERE NOT EXISTS (SELECT FROM penstock.chunks c
                       JOIN penstock.vectors v USING (tenant, model, hash)
                       WHERE c.id = l.id AND c.document_id = d.id)), d.key
FROM penstock.documents d WHERE d.source = %s AND d.stream IS NOT DISTINCT FROM %s
    AND d.deleted_at IS NULL
"""
_STRAY: Final = """
SELECT count(*) FROM penstock.chunks c LEFT JOIN penstock.documents d ON d.id = c.document_id
WHERE d.id IS NULL OR d.deleted_at IS NOT NULL OR NOT c.id = ANY(d.layout)
"""
_DEAD: Final = (
    "SELECT stream || ' ' || key::text || ': ' || reason FROM penstock.dead_letters LIMIT 20"
)
_NAMED: Final = 20


@dataclass
class Differences:
    """What does not agree at one moment."""

    lost: int = 0
    duplicated: int = 0
    compared: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, what: str, sentence: str, count: int = 1) -> None:
        """So many changes are missing from the target (``lost``), or are there once too often."""
        setattr(self, what, getattr(self, what) + count)
        if len(self.named) < _NAMED:
            self.named.append(f"{what} in the stores: {sentence}")


async def compare(
    shop: Shop, target: Connection, folder: Folder, *, profiles: bool = False
) -> Differences:
    """Look at everything once."""
    found = Differences()
    for table in KEYS:
        await _compare_rows(shop, target, table, found)
    for table, columns in SEARCHED.items():
        await _compare_chunks(shop, target, table, columns, found)
    await _compare_documents(target, folder, found)
    if profiles:
        await _compare_profiles(shop, target, found)
    for (stray,) in await _all(target, _STRAY):
        if stray:
            found.add("duplicated", f"{stray} chunks belong to no text", stray)
    letters = [letter for (letter,) in await _all(target, _DEAD)]
    for letter in letters:
        if BROKEN not in letter:
            found.add("lost", f"a dead letter: {letter}")
    if not any(BROKEN in letter for letter in letters):
        found.add("lost", f"{BROKEN} cannot be read, and is not in the dead letters")
    return found


async def torn(target: Connection) -> list[str]:
    """Live rows whose values do not belong together, at any moment."""
    found = []
    for table, proof in _PROOFS.items():
        statement = (
            f"SELECT to_jsonb(t)::text FROM shop.{table} t WHERE proof <> md5({proof}) LIMIT 5"
        )
        try:
            found += [f"{table}: {row[:200]}" for (row,) in await _all(target, statement)]
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            continue
    return found


async def versions(target: Connection, shop: Shop) -> dict[Place, int]:
    """The version of every live row now."""
    found: dict[Place, int] = {}
    for table, keys in KEYS.items():
        columns = ", ".join(f"{key}::text" for key in keys)
        try:
            for version, *key in await _all(target, f"SELECT version, {columns} FROM shop.{table}"):
                found[shop.stream(table), tuple(key)] = version
        except psycopg.errors.UndefinedTable:
            continue
    return found


# --------------------------------------------------------------------------- rows


async def _compare_rows(shop: Shop, target: Connection, table: str, found: Differences) -> None:
    theirs = sorted(await shop.columns(table))
    ours = [name for (name,) in await _all(target, _COLUMNS, "shop", table)]
    if theirs != sorted(ours):
        found.add("lost", f"{table}: columns {theirs} at the source, {ours} in the live table")
        return
    there = await shop.hashes(table, theirs)
    here = await hashes(target, "shop", table, theirs)
    found.compared += len(there)
    for key, (version, digest) in there.items():
        held = here.get(key)
        if held is None:
            found.add("lost", f"{table} {key} is not in the live table")
        elif held[0] > version:
            found.add(
                "duplicated", f"{table} {key} is at version {held[0]}, at the source {version}"
            )
        elif held != (version, digest):
            found.add(
                "lost", f"{table} {key} is at version {held[0]} of {version}, with other values"
            )
    for key in here.keys() - there.keys():
        found.add("lost", f"{table} {key} is in the live table only: it was deleted at the source")


# --------------------------------------------------------------------------- chunks


async def _compare_chunks(
    shop: Shop, target: Connection, table: str, columns: tuple[str, ...], found: Differences
) -> None:
    rows = await shop.texts(table, columns)
    expected = {row_key: _labelled(columns, values) for row_key, *values in rows}
    held: dict[str, str] = {}
    for row_key, _, text, missing, name in await _all(target, _CHUNKS, "shop", shop.stream(table)):
        [one] = row_key if isinstance(row_key, list) else json.loads(row_key)
        if missing:
            found.add("lost", f"{name}: {missing} chunks or vectors are missing")
        if one in held:
            found.add("duplicated", f"{name} is in the knowledge base twice")
        held[one] = "".join(text.split())
    found.compared += len(expected)
    for one, text in expected.items():
        if one not in held:
            found.add("lost", f"{table} {one} has no chunks")
        elif held[one] != text:
            found.add("lost", f"{table} {one} has chunks {held[one][:60]!r} for {text[:60]!r}")
    for one in held.keys() - expected.keys():
        found.add("lost", f"{table} {one} has chunks, but was deleted at the source")


def _labelled(columns: Sequence[str], values: Sequence[str | None]) -> str:
    """The text of a row: each value with the name of its column, without spaces. All values end
    with a full stop."""
    parts = [f"{name}:{value}" for name, value in zip(columns, values, strict=True) if value]
    return "".join("".join(parts).split())


async def _compare_documents(target: Connection, folder: Folder, found: Differences) -> None:
    expected = folder.digests()
    held = {}
    for _, digest, text, missing, name in await _all(target, _CHUNKS, "docs", None):
        if missing:
            found.add("lost", f"{name}: {missing} chunks or vectors are missing")
        held[name] = (digest, "".join(text.split()))
    for _, digest, text, missing, name in await _all(target, _CHUNKS, "docs", "documents"):
        if missing:
            found.add("lost", f"{name}: {missing} chunks or vectors are missing")
        held[name] = (digest, "".join(text.split()))
    found.compared += len(expected)
    for name, content in expected.items():
        if name not in held:
            found.add("lost", f"document {name} is not in the knowledge base")
        elif held[name] != content:
            found.add(
                "lost",
                f"document {name} is {held[name][1][:60]!r} in the knowledge base, not "
                f"{content[1][:60]!r}",
            )
    for name in held.keys() - expected.keys():
        found.add("lost", f"document {name} was deleted, and is in the knowledge base")


async def _compare_profiles(shop: Shop, target: Connection, found: Differences) -> None:
    rows = {
        shop.stream(table): await shop.texts(table, columns)
        for table, columns in people.BORNE.items()
    }
    expected = people.parties(rows)
    stored = people.held(await _all(target, people.HELD, people.KIND))
    found.compared += len(expected)
    for party in expected - stored:
        found.add("lost", f"{_named(party)} are not one profile")
    for party in stored - expected:
        found.add("duplicated", f"{_named(party)} are one profile, and are not at the source")


def _named(party: people.Party) -> str:
    return ", ".join(f"{stream} {key}" for stream, key in sorted(party)[:5])


async def _all(connection: Connection, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode(), values or None)
    return await cursor.fetchall()
