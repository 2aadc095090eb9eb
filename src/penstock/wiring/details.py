"""What the project says of people beside their traits, as it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from penstock.errors import ConfigError
from penstock.settings import ProfileSettings, RowSourceSettings, Settings
from penstock.settings.details import value_of
from penstock.wiring.permissions import row_rule

if TYPE_CHECKING:
    from penstock.identity.details import ConsentRule, Details, Measure, NestedList
    from penstock.settings.details import ListSettings

_SECOND = 1_000_000


def details_of(settings: Settings, kind: str) -> Details:
    """Computed values, lists, consent and segments of a kind of profile."""
    from penstock.identity.conditions import parse
    from penstock.identity.details import Computed, Details

    chosen = settings.profiles[kind]
    computed = {}
    for name, one in chosen.computed.items():
        measure, column = value_of(one.value)
        source, table = stream_of(settings, one.table)
        computed[name] = Computed(
            source,
            table,
            cast("Measure", measure),
            column,
            tuple(sorted(one.where.items())),
            None if one.within is None else int(one.within * _SECOND),
            int(one.gap * _SECOND),
        )
    known = {trait for table in chosen.tables.values() for trait in table.traits} | set(computed)
    segments = {}
    for name, said in chosen.segments.items():
        try:
            segments[name] = parse(said)
        except ConfigError as error:
            raise ConfigError(f"profiles.{kind}.segments.{name}: {error}") from error
        if unknown := sorted(segments[name].names() - known):
            raise ConfigError(
                f"profiles.{kind}.segments.{name}: expected names of traits and computed values "
                f"({', '.join(sorted(known))}), got {unknown[0]!r}"
            )
    return Details(
        computed,
        {name: _list(settings, one) for name, one in chosen.lists.items()},
        _consent(settings, chosen),
        segments,
        chosen.latest,
        frozenset(stream_of(settings, name) for name, table in chosen.tables.items() if table.time),
    )


def stream_of(settings: Settings, name: str) -> tuple[str, str]:
    """SOURCE.TABLE as the source and what its changes call the table."""
    source, _, table = name.partition(".")
    captured = settings.sources[source]
    assert isinstance(captured, RowSourceSettings)
    return source, captured.stream(table)


def _list(settings: Settings, chosen: ListSettings) -> NestedList:
    from penstock.identity.details import NestedList

    source, table = stream_of(settings, chosen.table)
    rule = row_rule(settings, source, table)
    kind = "open" if rule is None else rule["kind"]
    order = chosen.order
    return NestedList(
        source,
        table,
        chosen.columns,
        tuple(sorted(chosen.where.items())),
        None if order is None else order.removeprefix("-"),
        order is not None and order.startswith("-"),
        chosen.limit,
        rule if kind == "columns" else None,
        kind in ("open", "columns"),
    )


def _consent(settings: Settings, chosen: ProfileSettings) -> ConsentRule | None:
    from penstock.identity.details import ConsentRule

    said = chosen.consent
    if said is None:
        return None
    source, table = stream_of(settings, said.table)
    needed = {
        name: frozenset(purpose.strip().lower() for purpose in purposes)
        for name, purposes in said.needed.items()
    }
    return ConsentRule(source, table, said.purpose, said.granted, needed)
