"""Rows of a live table for whoever asks: by equality on columns, with the age of the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.clock import Clock
from penstock.errors import ConfigError
from penstock.principals import Principal
from penstock.serving.items import RowView
from penstock.serving.profiles import age_ms, storable
from penstock.serving.values import iso, jsonable
from penstock.stores.base import SnapshotStore, TableSnapshot, TableWanted

MOST_ROWS: Final = 1000
_MOST_CONDITIONS: Final = 20

Rule = Mapping[str, Any]


class NoTableError(ConfigError):
    """There is no such table, or nobody may see it."""


@dataclass(frozen=True, slots=True)
class TableReader:
    """Reads live tables. ``rule`` says who may see the rows of a table (None: everybody): a table
    whose rule is none that can be a condition on rows is not there. ``views`` says which columns
    are shown; one that is not shown cannot be asked for either."""

    snapshots: SnapshotStore
    clock: Clock
    views: Mapping[tuple[str, str], RowView]
    rule: Callable[[str, str], Rule | None]

    async def read(
        self,
        source: str,
        table: str,
        equal: Mapping[str, str | None],
        limit: int,
        principal: Principal,
    ) -> dict[str, Any]:
        """The rows, as JSON shows them. Raises `NoTableError`, and `ConfigError` for a column that
        is not there, a value that it cannot hold, or a limit that is none."""
        if not 1 <= limit <= MOST_ROWS:
            raise ConfigError(f"expected a limit from 1 to {MOST_ROWS}, got {limit}")
        if len(equal) > _MOST_CONDITIONS:
            raise ConfigError(
                f"expected at most {_MOST_CONDITIONS} columns to compare, got {len(equal)}"
            )
        source, table = storable(source), storable(table)
        found = age = wanted = None
        problem: ConfigError | None = None
        async with self.snapshots.snapshot(principal) as snapshot:
            taken_at = self.clock.now()
            if isinstance(snapshot, TableSnapshot):
                try:
                    tables = await snapshot.tables(source)
                    wanted = self._wanted(source, table, tables, equal, limit)
                except ConfigError as error:  # told when the snapshot is closed in order
                    problem = error
                else:
                    found = await snapshot.table_rows(wanted)
                    age = next((one for one in await snapshot.ages() if one.source == source), None)
        if problem is not None:
            raise problem
        if wanted is None or found is None:
            raise _no_table(source, table)
        if found.problem is not None:
            raise ConfigError(found.problem)
        return {
            "source": source,
            "table": wanted.table,
            "taken_at": iso(taken_at),
            "age_ms": None if age is None else age_ms(age, taken_at),
            "loading": age is not None and age.loading,
            "rows": [
                {
                    "values": jsonable(row.values),
                    "version": str(row.version),
                    "committed_at": iso(row.committed_at),
                }
                for row in found.rows
            ],
            "more": found.more,
        }

    def _wanted(
        self,
        source: str,
        table: str,
        tables: Mapping[str, Any],
        equal: Mapping[str, str | None],
        limit: int,
    ) -> TableWanted:
        rules = {name: self.rule(source, name) for name in tables}
        kinds = {name: "open" if rule is None else rule["kind"] for name, rule in rules.items()}
        there = [name for name, kind in kinds.items() if kind in ("open", "columns")]
        named = [name for name in there if name == table] or [
            name for name in there if name.rpartition(".")[2] == table
        ]
        if len(named) > 1:
            raise ConfigError(
                f"expected one table, but {table[:100]!r} means {', '.join(named)}: name it whole"
            )
        if not named:
            raise _no_table(source, table)
        [stream] = named
        view = self.views.get((source, stream), RowView())
        shown = None if view.shown is None else {*view.shown, *view.searched}
        columns = tuple(name for name in tables[stream] if shown is None or name in shown)
        for name in equal:
            if name not in columns:
                raise ConfigError(
                    f"expected columns of {stream} ({', '.join(columns)}), got {name[:100]!r}"
                )
        values = {name: None if value is None else storable(value) for name, value in equal.items()}
        rule = rules[stream] if kinds[stream] == "columns" else None
        return TableWanted(source, stream, columns, values, limit, rule)


def _no_table(source: str, table: str) -> NoTableError:
    return NoTableError(
        f"expected a live table that this key may see, found none called {table[:100]!r} in "
        f"{source[:100]!r}"
    )
