"""The pipeline of profiles: rows of tables that speak of people, as evidence of who is who.

What a change comes to depends on all evidence that is stored, so this computes little: it keeps of
each change the columns that the rules name, and leaves the rest to the store's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.identity.rules import Rules
from penstock.pipelines.base import Outcome, Tools
from penstock.records import Change, Row, Schema
from penstock.stores.base import ApplyEvidence

NAME = "profiles"


@dataclass(frozen=True)
class ProfilesPipeline:
    """Brings the changes of one source to the kinds of profiles that read them."""

    topics: tuple[str, ...]
    kinds: Mapping[str, Rules]
    source: str
    name: str = NAME

    @property
    def streams(self) -> frozenset[str]:
        """The tables that any kind reads."""
        return frozenset(
            table
            for rules in self.kinds.values()
            for source, table in rules.tables
            if source == self.source
        )

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:  # noqa: ARG002 - a pipeline may ask; this one need not
        """One effect for each kind, always in the order of their names: whoever needs the locks of
        two takes them in the same order."""
        effects = []
        for kind in sorted(self.kinds):
            rules = self.kinds[kind]
            narrowing = _Narrowing(rules)
            narrow = [
                narrowing.narrowed(change)
                for change in changes
                if (change.schema.source, change.schema.stream) in rules.tables
            ]
            if narrow:
                effects.append(ApplyEvidence(kind, rules, narrow))
        return Outcome(effects)


class _Narrowing:
    """Leaves of each change the columns that are read. A column that a table has not (yet, or any
    more) says nothing."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[int, tuple[Schema, Schema, tuple[int, ...]]] = {}

    def narrowed(self, change: Change) -> Change:
        known = self._known.get(id(change.schema))
        if known is None:
            known = (change.schema, *self._narrow(change.schema))
            self._known[id(change.schema)] = known  # which keeps it alive, and its id with it
        _, schema, places = known
        return change._replace(
            schema=schema,
            after=_picked(change.after, places),
            before=_picked(change.before, places),
        )

    def _narrow(self, schema: Schema) -> tuple[Schema, tuple[int, ...]]:
        """The key stays: by it the store tells rows apart that trade theirs."""
        wanted = set(self._rules.tables[schema.source, schema.stream].columns())
        places = tuple(i for i, c in enumerate(schema.columns) if c.key or c.name in wanted)
        columns = tuple(schema.columns[i] for i in places)
        return Schema(schema.source, schema.stream, columns), places


def _picked(row: Row | None, places: Sequence[int]) -> Row | None:
    return None if row is None else tuple(row[place] for place in places)
