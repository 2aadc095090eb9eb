"""A filter over documents as SQL: which of them count, before anything is ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from penstock.stores.base import Filter


def conditions(where: Filter) -> tuple[sql.SQL, dict[str, Any]]:
    """Conditions on a document ``d``, each beginning with AND, and their values.

    Only what the filter names is written, so that the planner sees how few documents remain.
    """
    parts = ["AND d.deleted_at IS NULL"]
    values: dict[str, Any] = {}
    if where.sources is not None:
        parts.append("AND d.source = ANY(%(sources)s)")
        values["sources"] = list(where.sources)
    if where.path is not None:
        if "*" in where.path or "?" in where.path:
            parts.append("AND d.key LIKE %(path)s")
            values["path"] = like(where.path)
        else:
            parts.append("AND d.key = %(path)s")
            values["path"] = where.path
    if where.title is not None:
        parts.append("AND d.title = %(title)s")
        values["title"] = where.title
    if where.metadata:
        parts.append("AND d.metadata @> %(metadata)s")
        values["metadata"] = Jsonb(dict(where.metadata))
    if where.kind == "document":
        parts.append("AND d.row_key IS NULL")
    elif where.kind == "row":
        parts.append("AND d.row_key IS NOT NULL")
    return sql.SQL(" ".join(parts)), values


def like(glob: str) -> str:
    """A LIKE pattern for a glob: ``*`` is any run of characters (also none, also with slashes),
    ``?`` is one; everything else stands for itself."""
    signs: Mapping[str, str] = {"*": "%", "?": "_", "%": r"\%", "_": r"\_", "\\": r"\\"}
    return "".join(signs.get(sign, sign) for sign in glob)


def unsendable(where: Filter) -> bool:
    """Whether a value holds a NUL, which no stored text can hold: such a filter matches nothing."""
    return _nul([where.path, where.title, *(where.sources or ()), where.metadata])


def _nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_nul(key) or _nul(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(_nul(item) for item in value)
    return False
