"""Groups and lists as live tables, for tests of permissions: rows as changes, and what a project
that uses them declares."""

from __future__ import annotations

from itertools import count
from typing import Any

from penstock.records import Change, Column, Microseconds, Op, Position, Schema

_NUMBERS = count(1)

MEMBERS = Schema(
    "directory",
    "public.members",
    (
        Column("id", "bigint", key=True),
        Column("team", "text"),
        Column("login", "text"),
        Column("subteam", "text"),
    ),
)
LISTS = Schema(
    "directory",
    "public.lists",
    (
        Column("id", "bigint", key=True),
        Column("path", "text"),
        Column("login", "text"),
        Column("team", "text"),
        Column("effect", "text"),
    ),
)

GROUPS_DECLARED = {
    "source": "directory",
    "stream": "public.members",
    "kind": "members",
    "target": "",
    "spec": {"group": "team", "user": "login", "subgroup": "subteam"},
}
LISTS_DECLARED = {
    "source": "directory",
    "stream": "public.lists",
    "kind": "entries",
    "target": "docs",
    "spec": {"document": "path", "user": "login", "group": "team", "effect": "effect"},
}
CLOSED_ELSE: dict[str, Any] = {"source": "*", "stream": "*", "rule": {"kind": "closed"}}
DOCS_BY_ENTRIES: dict[str, Any] = {"source": "docs", "stream": "", "rule": {"kind": "entries"}}


def row(schema: Schema, key: int, *values: str | None, position: int | None = None) -> Change:
    """A row as it is after a change; positions ascend by themselves."""
    number = next(_NUMBERS) if position is None else position
    return Change(
        schema,
        Op.CREATE,
        (str(key),),
        Position(f"{number:016x}"),
        Microseconds(number * 1_000_000),
        after=(str(key), *values),
    )


def without(schema: Schema, key: int) -> Change:
    """The row is gone."""
    number = next(_NUMBERS)
    return Change(
        schema, Op.DELETE, (str(key),), Position(f"{number:016x}"), Microseconds(number * 1_000_000)
    )
