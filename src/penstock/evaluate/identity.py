"""``penstock eval identity``: records, streamed through the identity graph in random order, and how
well who is taken for whom agrees with the truth.

Pairs are counted: of all pairs of records that are in one profile, *precision* is the share that is
so in truth; of all pairs that are one in truth, *recall* is the share that is in one profile.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from penstock.evaluate.records import Labelled, read_labelled
from penstock.identity.evidence import RecordKey
from penstock.identity.fuzzy.index import BlockIndex
from penstock.identity.fuzzy.matcher import FuzzyMatcher
from penstock.identity.fuzzy.sources import source_column
from penstock.identity.fuzzy.training import Trained, train
from penstock.identity.graph import RecordChange, incorporate, reconsider
from penstock.identity.memory import MemoryGraph
from penstock.identity.rules import KindRule, Rules, TableRule
from penstock.records import Microseconds, Position

_BATCH: Final = 250
_TABLE: Final = "records"
_ROW: Final = "#row"
"""The column that the evaluation adds: which row of its source this is."""

Tell = Callable[[str], None]


async def evaluate_identity(
    files: Sequence[Path],
    truth: str,
    *,
    ignore: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    seed: int = 1,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Train on the records without their truth, stream them, and compare."""
    started = time.perf_counter()
    tell = tell or _silent
    data = read_labelled(files, truth, ignore=ignore, rename=rename)
    if len(files) == 1:
        data = _parted(data)
    tell(f"learning from {len(data.rows):,} records, without the truth")
    trained = train(data.rows, data.sources)
    after_training = time.perf_counter()
    profiles = await Stream(trained, data).run(seed, tell)
    ended = time.perf_counter()
    return {
        "records": len(data.rows),
        **pairwise(profiles, data.truth),
        "clusters": len(set(profiles)),
        "seconds": round(ended - started, 2),
        "seconds_training": round(after_training - started, 2),
        "true_clusters": len(set(data.truth)),
        "true_pairs": _pairs(data.truth),
        "truth": data.truth_rule,
        "expected": {
            "precision": round(trained.precision_expected, 4),
            "recall": round(trained.recall_expected, 4),
        },
        "rules": proposed(trained),
    }


def _parted(data: Labelled) -> Labelled:
    """The same by source, if a column says which."""
    names = list(dict.fromkeys(name for row in data.rows for name in row))
    column = source_column(names, data.rows)
    if column is None:
        return data
    rows = tuple({k: v for k, v in row.items() if k != column} for row in data.rows)
    return replace(data, rows=rows, sources=tuple(row[column] for row in data.rows))


def _silent(_: str) -> None:
    """Say nothing."""


def pairwise(profiles: Sequence[object], truth: Sequence[object]) -> dict[str, float]:
    """Precision, recall and F1 over pairs of records."""
    both = _pairs(list(zip(profiles, truth, strict=True)))
    found, true = _pairs(profiles), _pairs(truth)
    precision = both / found if found else 1.0
    recall = both / true if true else 1.0
    f1 = 2 * both / (found + true) if found + true else 1.0
    return {"precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4)}


def _pairs(labels: Sequence[object]) -> int:
    return sum(n * (n - 1) // 2 for n in Counter(labels).values())


def proposed(trained: Trained) -> dict[str, Any]:
    """The rules that were proposed from the data, for people."""
    model = trained.model
    names = [column.name for column in model.columns]
    return {
        "columns": {d.name: {"kind": d.kind, "why": d.why} for d in trained.described},
        "exchanged": [[names[one], names[other]] for one, other in model.swapped],
        "blocks": [[f"{names[place]} {form}" for place, form in f] for f in model.families],
        "one_record_per_source": model.one_per_source,
        "link_from_bits": round(model.link, 2),
        "possible_from_bits": round(model.possible, 2),
        "prior_bits": round(model.prior, 2),
        "version": model.version,
    }


class Stream:
    """The records as changes, in random order, through the graph that a store keeps."""

    def __init__(self, trained: Trained, data: Labelled) -> None:
        self._matcher = FuzzyMatcher(trained.model)
        self._data = data
        self._graph = MemoryGraph()
        self._index = BlockIndex(trained.model.block_at_most)
        self._rules = rules_of(trained, data)
        self._keys = [
            RecordKey(source, _TABLE, str(number)) for number, source in enumerate(data.sources)
        ]

    async def run(self, seed: int, tell: Tell) -> list[int]:
        """The profile of each record, in the order of the rows."""
        order = list(range(len(self._keys)))
        random.Random(seed).shuffle(order)
        for start in range(0, len(order), _BATCH):
            await self._take(order[start : start + _BATCH], start)
            tell(f"{min(start + _BATCH, len(order)):,} of {len(order):,} records")
        profile = {key: n for n, part in enumerate(self._graph.partition()) for key in part}
        return [profile[key] for key in self._keys]

    async def _take(self, numbers: Sequence[int], start: int) -> None:
        changes = [
            RecordChange(
                self._keys[number],
                Position(f"{start + place:016x}"),
                Microseconds(1),
                {**self._data.rows[number], _ROW: f"row {number}"},
            )
            for place, number in enumerate(numbers)
        ]
        await incorporate(self._graph, self._rules, changes)
        rows = self._graph.rows
        pairs = self._index.put(
            (change.key, self._matcher.blocks(rows[change.key].record.fields)) for change in changes
        )
        touched = set()
        for left, right in pairs.lost:
            self._graph.unmatch(left, right)
            touched |= {left, right}
        scored = self._matcher.score([(rows[a].record, rows[b].record) for a, b in pairs.gained])
        for match in scored:
            if match.weight >= self._matcher.link:
                self._graph.match(match)
                touched |= {match.left, match.right}
        if touched:
            await reconsider(self._graph, self._rules, sorted(touched), "match")


def rules_of(trained: Trained, data: Labelled) -> Rules:
    """The rules that the evaluation streams by: all columns are compared; where a source has
    everybody once, its rows are a kind of identifier of which a profile has one at most."""
    fields = {name: name for name in dict.fromkeys(name for row in data.rows for name in row)}
    kinds, tables = {}, {}
    for source in dict.fromkeys(data.sources):
        kind = f"row of {source}"
        most = 1 if trained.model.one_per_source else None
        kinds[kind] = KindRule(form="exact", shared_by_at_most=1, per_profile_at_most=most)
        tables[source, _TABLE] = TableRule(identifiers=((kind, _ROW),), fields=fields)
    return Rules(kinds=kinds, tables=tables)
