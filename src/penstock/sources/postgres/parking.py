"""Tables that can no longer be captured are left out, with the reason, and the others go on.

A table that was captured and has lost its key, or the right to read it, would make rows wrong
without a word; one that never was captured is refused before anything starts. What is left out is
in the state (``parked:STREAM``), and comes back, by a copy, once it is mended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import psycopg

from penstock.errors import SourceError
from penstock.sources.base import PARKED, State
from penstock.sources.postgres.catalogue import Table, choose_tables, fetch_tables
from penstock.sources.postgres.shapes import STATE as SHAPE

_TABLE: Final = "table:"


def settle_tables(
    patterns: Sequence[str], tables: Sequence[Table], source: str, state: State
) -> tuple[list[Table], dict[str, str]]:
    """The tables to capture, and those that were captured and cannot be any more, with reasons.

    Raises `SourceError` for a table that never was captured, and when nothing is left.
    """
    known = {name.removeprefix(_TABLE) for name in state if name.startswith(_TABLE)}
    known |= {name.removeprefix(PARKED) for name in state if name.startswith(PARKED)}
    able: list[Table] = []
    parked: dict[str, str] = {}
    problem: SourceError | None = None
    for table in tables:
        if table.stream not in known:
            able.append(table)
            continue
        try:
            able += choose_tables([table.stream], [table], source)
        except SourceError as error:
            problem = error
            parked[table.stream] = str(error)
    if not parked:
        return choose_tables(patterns, tables, source), {}
    chosen: dict[int, Table] = {}
    for pattern in patterns:
        try:
            found = choose_tables([pattern], able, source)
        except SourceError:
            if not _only_parked(pattern, tables, parked):
                raise
            continue
        chosen.update((table.oid, table) for table in found)
    if not chosen and problem is not None:
        raise problem
    return list(chosen.values()), parked


def _only_parked(pattern: str, tables: Sequence[Table], parked: Mapping[str, str]) -> bool:
    """Whether the name or pattern means nothing but tables that are left out."""
    names = [t.stream for t in tables if pattern in (t.stream, t.name)]
    return bool(names) and all(name in parked for name in names)


def parked_facts(state: State, parked: Mapping[str, str]) -> dict[str, str | None]:
    """What the state must say of these from now on; a table that is left out has no copy."""
    facts: dict[str, str | None] = {
        name: None
        for name in state
        if name.startswith(PARKED) and name.removeprefix(PARKED) not in parked
    }
    for stream, reason in parked.items():
        facts |= park(stream, reason)
    return {name: value for name, value in facts.items() if state.get(name) != value}


def park(stream: str, reason: str) -> dict[str, str | None]:
    """The state of one table that is left out."""
    return {PARKED + stream: reason, _TABLE + stream: None, SHAPE + stream: None}


def keyless(stream: str) -> str:
    """The reason for a table whose key is gone."""
    return (
        f"expected a key on table {stream!r}, but it has none any more: give it a primary key, or "
        "ALTER TABLE ... REPLICA IDENTITY FULL; then it is copied anew"
    )


async def fetch_capturable(
    connection: psycopg.AsyncConnection, what: str, streams: Sequence[str]
) -> dict[str, bool]:
    """Which of these tables could be captured now: they have a key and can be read."""
    return {
        table.stream: bool(table.key) and table.readable
        for table in await fetch_tables(connection, what, streams)
    }
