"""Kinds of profiles, as the project declares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from psycopg.types.json import Jsonb

from penstock.database.queries import load_queries
from penstock.identity.rules import Rules

SQL: Final = load_queries(Path(__file__).with_name("kinds.sql"))


def rules_json(rules: Rules) -> dict[str, Any]:
    """Rules as the database keeps them, to tell whether they have changed."""
    said = asdict(rules)
    del said["noted"]  # what is noted needs no reading of rows
    for kind in said["kinds"].values():
        kind["blocked"] = sorted(kind["blocked"])
    del said["once_per_table"]  # what a model adds to them
    said["tables"] = {f"{s}.{t}": table for (s, t), table in sorted(said["tables"].items())}
    plain: dict[str, Any] = orjson.loads(orjson.dumps(said))
    return plain


async def declare(
    connection: psycopg.AsyncConnection[Any],
    tenant: str,
    kind: str,
    rules: Rules,
    *,
    allow: Sequence[str] = ("everyone",),
    deny: Sequence[str] = (),
) -> None:
    """Make a kind known, with who may read its profiles."""
    await connection.execute(
        SQL["declare"],
        {
            "tenant": tenant,
            "kind": kind,
            "rules": Jsonb(rules_json(rules)),
            "allow": list(allow),
            "deny": list(deny),
        },
    )


async def declared(
    connection: psycopg.AsyncConnection[Any], tenant: str, kind: str
) -> Mapping[str, Any] | None:
    """The rules by which the records of a kind were read; None for a new one."""
    cursor = await connection.execute(SQL["declared"], {"tenant": tenant, "kind": kind})
    row = await cursor.fetchone()
    return None if row is None else row[0]
