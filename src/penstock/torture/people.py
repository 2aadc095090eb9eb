"""Who is who, worked out once from the rows of the source: what profiles must have come to (G10).

Orders of one customer's name and orders at one desk are of one party, and so are pairs with that
name as their label, unless too many bear it. Rows are moved, merged and parted by all that the
sessions do. Nothing of our own code: a union of sets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

KIND: Final = "party"
SHARED_BY: Final = 3
BORNE: Final = {"orders": ("customer", "total"), "pairs": ("label",)}
"""The columns by which rows of these tables are recognised."""
PROFILES_YAML: Final = f"""
profiles:
  {KIND}:
    tables:
      shop.orders:
        identifiers: {{name: customer, desk: "desk {{total}}"}}
        traits: {{note: note}}
      shop.pairs:
        identifiers: {{name: label}}
        traits: {{code: code}}
    identifiers:
      name: {{form: exact, shared_by_at_most: {SHARED_BY}}}
      desk: {{form: exact, shared_by_at_most: {SHARED_BY}}}
    quarantine_above: 1000000
"""
HELD: Final = """
SELECT profile, stream, key FROM penstock.profile_records
WHERE kind = %s AND columns IS NOT NULL
"""

Party = frozenset[tuple[str, str]]
"""Rows as (stream, key)."""


def parties(rows: Mapping[str, Iterable[tuple[Any, ...]]]) -> set[Party]:
    """Who is one. ``rows``: of each stream the key and what is borne, None for nothing."""
    bears: dict[tuple[str, str], list[str]] = {}
    for stream, found in rows.items():
        for key, *values in found:
            kinds = ("name", "desk")
            bears[stream, str(key)] = [
                f"{kind} {value}" for kind, value in zip(kinds, values, strict=False) if value
            ]
    counts = Counter(identifier for borne in bears.values() for identifier in borne)
    parent = {row: row for row in bears}

    def root(row: tuple[str, str]) -> tuple[str, str]:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first: dict[str, tuple[str, str]] = {}
    for row, borne in bears.items():
        for identifier in borne:
            if counts[identifier] <= SHARED_BY:
                parent[root(row)] = root(first.setdefault(identifier, row))
    found_parties: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for row in bears:
        found_parties[root(row)].add(row)
    return set(map(frozenset, found_parties.values()))


def held(rows: Iterable[tuple[str | None, str, str]]) -> set[Party]:
    """The same of what is stored; a row without a profile is a party that nobody expects."""
    found: dict[str | None, set[tuple[str, str]]] = defaultdict(set)
    for profile, stream, key in rows:
        found[profile].add((stream, key))
    nobody = found.pop(None, set())
    return {*map(frozenset, found.values()), *(frozenset({row, ("", "")}) for row in nobody)}
