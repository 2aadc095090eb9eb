"""Scores pairs of records with a trained model, and says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

from penstock.identity.evidence import Match, Record
from penstock.identity.fuzzy.blocking import block_names
from penstock.identity.fuzzy.model import Model
from penstock.identity.fuzzy.prepared import Comparer, Prepared, level_names
from penstock.identity.fuzzy.screening import Ready, Screening

_REMEMBERED: Final = 50_000
PRIOR: Final = "(before looking)"
"""In an explanation: the odds that any two records are one person."""

RELATED: Final = "(related people)"
"""In an explanation: that people of one household or firm share as much."""
_LITTLE: Final = 1.0001


class Reason(NamedTuple):
    """What one field said about two records."""

    field: str
    level: str
    bits: float
    left: str | None
    right: str | None


class Weighed(NamedTuple):
    """The weight of two records, and what each field said."""

    weight: float
    fields: tuple[tuple[str, float], ...]


class FuzzyMatcher:
    """A `penstock.identity.matching.Matcher`. A score depends on the two records and on the model;
    what is remembered between calls only saves work."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._ready: dict[tuple[tuple[str, str], ...], Ready] = {}
        self._texts: dict[tuple[tuple[str, str], ...], dict[str, Ready]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "_ready": {}, "_texts": {}}

    @property
    def version(self) -> str:
        return self.model.version

    @property
    def link(self) -> float:
        return self.model.link

    @property
    def possible(self) -> float:
        return self.model.possible

    @property
    def block_at_most(self) -> int:
        return self.model.block_at_most

    @cached_property
    def _comparer(self) -> Comparer:
        model = self.model
        return Comparer(model.columns, model.rarity, model.swapped)

    def blocks(self, fields: Mapping[str, str]) -> Sequence[str]:
        """The blocks of a record with these fields, each once."""
        model = self.model
        prepared = self.ready(fields).prepared
        names = block_names(prepared, model.families, model.columns, model.rarity)
        return tuple(dict.fromkeys(names))

    def ready(self, fields: Mapping[str, str]) -> Ready:
        """A record with these fields, as it is screened and compared."""
        key = tuple(fields.items())
        found = self._ready.get(key)
        if found is None:
            if len(self._ready) >= _REMEMBERED:
                self._ready.clear()
            found = self._ready[key] = self.screening.ready(self._comparer.prepare(fields))
        return found

    def ready_by_text(self, fields: Mapping[str, str]) -> dict[str, Ready]:
        """Records as they are screened, by the text that they are stored as, for tables that are
        read in this way: whoever has read one may leave it there. It only saves work."""
        found = self._texts.setdefault(tuple(fields.items()), {})
        if len(found) >= _REMEMBERED:
            found.clear()
        return found

    def weigh(
        self, pairs: Sequence[tuple[int, int]], ready: Mapping[int, Ready]
    ) -> dict[tuple[int, int], Weighed]:
        """Those of these pairs of records whose weight is at least `possible`; the records are
        numbered, and a weight is the same for either order."""
        found = {}
        for pair in self.screening.passes(pairs, ready):
            weighed = self._weighed(ready[pair[0]].prepared, ready[pair[1]].prepared)
            if weighed.weight >= self.model.possible:
                found[pair] = weighed
        return found

    @cached_property
    def screening(self) -> Screening:
        """Tells which pairs need no score."""
        return Screening(self.model, self._comparer, self._unshared)

    def score(self, pairs: Sequence[tuple[Record, Record]]) -> Sequence[Match]:
        """One match for each pair, in order; the smaller key is on the left."""
        return [self._match(*sorted(pair, key=lambda record: record.key)) for pair in pairs]

    def explain(self, left: Record, right: Record) -> list[Reason]:
        """What each field says, in the order of the columns; the prior comes first."""
        a, b = self._prepare(left), self._prepare(right)
        levels = self._comparer.levels(a, b)
        reasons = [Reason(PRIOR, "", self.model.prior, None, None)]
        for place, level in enumerate(levels):
            column, weights = self.model.columns[place], self.model.fields[place]
            names = level_names(column, swapped=weights.swapped_with is not None)
            said = names[level] if level >= 0 else "no evidence"
            texts = [
                " ".join(record.fields[name] for name in column.of if record.fields.get(name))
                for record in (left, right)
            ]
            bits = self._bits(place, level, a)
            reasons.append(Reason(column.name, said, bits, texts[0] or None, texts[1] or None))
        if against := self._related(levels, a):
            reasons.append(Reason(RELATED, "", against, None, None))
        return reasons

    def _match(self, left: Record, right: Record) -> Match:
        return Match(left.key, right.key, *self._weighed(self._prepare(left), self._prepare(right)))

    def _weighed(self, a: Prepared, b: Prepared) -> Weighed:
        levels = self._comparer.levels(a, b)
        said = [
            (column.name, bits)
            for place, (column, level) in enumerate(zip(self.model.columns, levels, strict=True))
            if (bits := self._bits(place, level, a))
        ]
        against = self._related(levels, a)
        if against:
            said.append((RELATED, against))
        return Weighed(self.model.prior + sum(bits for _, bits in said), tuple(said))

    def _bits(
        self, place: int, level: int, one: Prepared, frequencies: Sequence[float] = ()
    ) -> float:
        value = one.values[place]
        text = value if isinstance(value, str) and place not in self._unshared else None
        return self.model.fields[place].bits(level, text, frequencies)

    def _related(self, levels: Sequence[int], one: Prepared) -> float:
        """What speaks against a match because related people share as much."""
        total = 1.0
        for relation in self.model.relations:
            bits = relation.prior
            for place, frequencies in relation.shared:
                bits += self._bits(place, levels[place], one, frequencies)
            total += 2.0 ** min(bits, 500.0)
        return -math.log2(total) if total > _LITTLE else 0.0

    @cached_property
    def _unshared(self) -> frozenset[int]:
        """Columns whose values have no shares: an equal one is as rare as any."""
        return frozenset(p for p, c in enumerate(self.model.columns) if c.kind == "codes")

    def _prepare(self, record: Record) -> Prepared:
        return self.ready(record.fields).prepared
