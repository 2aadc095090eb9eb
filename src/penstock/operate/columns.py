"""Do the columns that the project file names exist at the source?"""

from __future__ import annotations

import asyncio
import difflib
import string
from collections.abc import Iterator, Mapping, Sequence

from penstock import wiring
from penstock.clock import Clock
from penstock.errors import ConfigError, PenstockError
from penstock.identity.details import Details
from penstock.settings import ColumnPermissions, RowSourceSettings, Settings, TableSettings
from penstock.sources.base import ComparableRows

PATIENCE_S = 3.0
"""How long the start of a run waits for a source's catalogue; the source itself waits longer."""


def unknown_columns(
    settings: RowSourceSettings, name: str, columns: Mapping[str, Sequence[str]]
) -> list[str]:
    """A sentence for each column of a source's settings that its table does not have.

    A table that is not there at all is the source's own matter.
    """
    return [
        f"expected {kind} of sources.{name}.tables.{table} to name columns of {stream}, "
        f"got {column!r}{_nearest(column, columns[stream])}"
        for table, wanted in settings.tables.items()
        if (stream := settings.stream(table)) in columns
        for kind, column in _named(wanted)
        if column not in columns[stream]
    ]


async def refuse_unknown_columns(settings: Settings, clock: Clock) -> None:
    """Raise a `ConfigError` before anything starts; a source that does not answer is passed over,
    since it says so itself when it is read."""
    names = [n for n, chosen in settings.sources.items() if isinstance(chosen, RowSourceSettings)]
    found = await asyncio.gather(*(_unknown(settings, name, clock) for name in names))
    sentences = [sentence for part in found for sentence in part]
    if sentences:
        raise ConfigError("\n".join(sentences))


async def _unknown(settings: Settings, name: str, clock: Clock) -> list[str]:
    chosen = settings.sources[name]
    source = wiring.source(settings, name, clock)
    assert isinstance(chosen, RowSourceSettings)
    profiled = list(_profiled(settings, name))
    names_columns = profiled or any(list(_named(wanted)) for wanted in chosen.tables.values())
    if not names_columns or not isinstance(source, ComparableRows):
        return []
    try:
        async with asyncio.timeout(PATIENCE_S):
            columns = await source.columns()
        return unknown_columns(chosen, name, columns) + [
            f"expected {where} to name columns of {stream}, "
            f"got {column!r}{_nearest(column, columns[stream])}"
            for where, stream, column in profiled
            if stream in columns and column not in columns[stream]
        ]
    except (PenstockError, TimeoutError):
        return []
    finally:
        await source.close()


def _profiled(settings: Settings, source: str) -> Iterator[tuple[str, str, str]]:
    """Columns that profiles read of a source: where it is said, the stream, the column."""
    for kind, rules in wiring.profile_rules(settings).items():
        for (of, stream), table in rules.tables.items():
            if of == source:
                for column in table.own_columns():
                    yield f"profiles.{kind}.tables.{source}.{stream}", stream, column
        yield from _detailed(wiring.details_of(settings, kind), kind, source)


def _detailed(details: Details, kind: str, source: str) -> Iterator[tuple[str, str, str]]:
    """Columns that are read beside identifiers and traits."""
    for name, one in details.computed.items():
        if one.source == source:
            for column in one.columns():
                yield f"profiles.{kind}.computed.{name}", one.table, column
    for name, listed in details.lists.items():
        if listed.source == source:
            order = () if listed.order is None else (listed.order,)
            for column in (*listed.columns, *(w for w, _ in listed.where), *order):
                yield f"profiles.{kind}.lists.{name}", listed.table, column
    consent = details.consent
    if consent is not None and consent.source == source:
        for column in consent.columns():
            yield f"profiles.{kind}.consent", consent.table, column


def _named(table: TableSettings) -> Iterator[tuple[str, str]]:
    for column in table.searched:
        yield "searched", column
    for column in table.shown or ():
        yield "shown", column
    if isinstance(table.permissions, ColumnPermissions):
        for column in table.permissions.columns:
            yield "permissions", column
    for _, field, _, _ in string.Formatter().parse(table.title or ""):
        if field:
            yield "title", field


def _nearest(column: str, columns: Sequence[str]) -> str:
    near = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": it has {', '.join(columns)}"
