"""What the project declares about permissions, as the database keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.settings import (
    ColumnPermissions,
    MetadataPermissions,
    OwnSourceSettings,
    PushedPermissions,
    RowSourceSettings,
    Settings,
    SidecarPermissions,
    TablePermissions,
)

if TYPE_CHECKING:
    from penstock.stores.postgres.permissions import Declared

DOCUMENTS = ""
ANY_OTHER = "*"


def declares_permissions(settings: Settings) -> bool:
    """Whether the project says anything about permissions: then what it leaves unsaid is closed."""
    return bool(settings.groups) or any(
        (chosen.permissions is not None and not isinstance(chosen, OwnSourceSettings))
        or (
            isinstance(chosen, RowSourceSettings)
            and any(table.permissions is not None for table in chosen.tables.values())
        )
        for chosen in settings.sources.values()
    )


def declared_permissions(settings: Settings) -> Declared:
    """Rules, tables and entries of a project."""
    from penstock.stores.postgres.permissions import Declared

    if not declares_permissions(settings):
        return Declared(_own_rules(settings))
    rules = [_rule(ANY_OTHER, ANY_OTHER, kind="closed")]
    tables = [
        _table(settings, part.source, part.table, "members", "", part.model_dump())
        for part in settings.groups
    ]
    entries: list[dict[str, Any]] = []
    for name, chosen in settings.sources.items():
        if isinstance(chosen, RowSourceSettings):
            rules += _row_rules(name, chosen)
            continue
        said = chosen.permissions
        if isinstance(said, SidecarPermissions | TablePermissions):
            rules.append(_rule(name, DOCUMENTS, kind="entries", type=said.type))
            if isinstance(said, TablePermissions):
                spec = said.model_dump(exclude={"type", "allow", "deny"})
                tables.append(_table(settings, said.source, said.table, "entries", name, spec))
            if said.allow is not None or said.deny:
                allow = None if said.allow is None else list(said.allow)
                entries.append({"source": name, "allow": allow, "deny": list(said.deny)})
        elif isinstance(said, MetadataPermissions):
            keys = {"allow": said.allow.lower(), "deny": said.deny.lower()}
            rules.append(_rule(name, DOCUMENTS, kind="entries", type=said.type, keys=keys))
        elif isinstance(said, PushedPermissions):
            rules.append(_rule(name, DOCUMENTS, kind="entries", type=said.type))
        elif said is not None:
            rules.append(_rule(name, DOCUMENTS, kind=said.type))
    return Declared(rules, tables, entries)


def _own_rules(settings: Settings) -> list[dict[str, Any]]:
    """What a project tells of itself is closed although nothing else speaks of permissions."""
    return [
        rule
        for name, chosen in settings.sources.items()
        if isinstance(chosen, OwnSourceSettings)
        for rule in _row_rules(name, chosen)
    ]


def row_rule(settings: Settings, source: str, stream: str) -> Mapping[str, Any] | None:
    """Who may see the rows of a table, as the database finds it (``penstock.rule_of``): the table's
    own rule, the source's, the project's. None: everybody."""
    rules = {(r["source"], r["stream"]): r["rule"] for r in declared_permissions(settings).rules}
    for place in ((source, stream), (source, ANY_OTHER), (ANY_OTHER, ANY_OTHER)):
        if place in rules:
            found: Mapping[str, Any] = rules[place]
            return found
    return None


def _row_rules(name: str, chosen: RowSourceSettings) -> list[dict[str, Any]]:
    rules = []
    if chosen.permissions is not None:
        rules.append(_rule(name, ANY_OTHER, kind=chosen.permissions))
    for table, wanted in chosen.tables.items():
        said = wanted.permissions
        if isinstance(said, ColumnPermissions):
            columns = {key: list(value) for key, value in said.model_dump(exclude={"type"}).items()}
            rules.append(_rule(name, chosen.stream(table), kind="columns", **columns))
        elif said is not None:
            rules.append(_rule(name, chosen.stream(table), kind=said.type))
    return rules


def _rule(source: str, stream: str, **rule: Any) -> dict[str, Any]:
    return {"source": source, "stream": stream, "rule": rule}


def _table(
    settings: Settings, source: str, table: str, kind: str, target: str, spec: dict[str, Any]
) -> dict[str, Any]:
    captured = settings.sources[source]
    assert isinstance(captured, RowSourceSettings)
    columns = {
        name: column
        for name, column in spec.items()
        if name not in ("source", "table") and column is not None
    }
    return {
        "source": source,
        "stream": captured.stream(table),
        "kind": kind,
        "target": target,
        "spec": columns,
    }
