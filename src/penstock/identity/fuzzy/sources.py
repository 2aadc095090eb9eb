"""Whether each source knows everybody once.

A booking system and a CRM each have a customer once; what is to be found is who in the one is who
in the other. Then records of one source are never linked, which is worth more than any weight where
many things look alike (products, companies). Whether it is so is seen by rare values: if sources
were parts of one heap, two records that share one would come from the same source as often as
chance gives. Where they nearly never do, duplicates within a source are what the source avoids.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Final

from penstock.identity.fuzzy import values
from penstock.identity.fuzzy.columns import Row

FEWEST: Final = 30
"""So many pairs there must be to judge by."""
MOST_WITHIN: Final = 0.4
"""Of what chance gives."""
MOST_SOURCES: Final = 6
_RARE: Final = 4


def each_once(names: Sequence[str], rows: Sequence[Row], sources: Sequence[str]) -> bool:
    """Whether a column, two together or the codes in a column say so clearly."""
    total = len(sources) * (len(sources) - 1) / 2
    by_chance = sum(n * (n - 1) / 2 for n in Counter(sources).values()) / max(1.0, total)
    for keys in _ways(names, rows):
        within, across = _shared(keys, sources)
        if within + across >= FEWEST and within / (within + across) < MOST_WITHIN * by_chance:
            return True
    return False


def source_column(names: Sequence[str], rows: Sequence[Row]) -> str | None:
    """The column that says which source a row is from, where rows of several are in one heap: it
    has a few values, always one, and by it each source has everybody once. (What else has a few
    values is the same in the rows of one person.)"""
    for name in names:
        said = [values.plain(row.get(name)) or "" for row in rows]
        if 2 <= len(set(said)) <= MOST_SOURCES and all(said):
            others = [other for other in names if other != name]
            if each_once(others, rows, said):
                return name
    return None


def _ways(names: Sequence[str], rows: Sequence[Row]) -> Iterator[Iterable[Iterable[Hashable]]]:
    """For each way to look at the rows: the keys of every row."""
    read = {name: [values.plain(row.get(name)) for row in rows] for name in names}
    for name in names:
        yield ([] if text is None else [text] for text in read[name])
        yield (sorted(values.codes(text)) if text else [] for text in read[name])
    for one, other in combinations(names, 2):
        yield (
            [] if a is None or b is None else [(a, b)]
            for a, b in zip(read[one], read[other], strict=True)
        )


def _shared(keys: Iterable[Iterable[Hashable]], sources: Sequence[str]) -> tuple[int, int]:
    """How many pairs share a rare key within a source, and across."""
    bearers: dict[Hashable, list[str]] = defaultdict(list)
    for number, found in enumerate(keys):
        for key in found:
            bearers[key].append(sources[number])
    within = across = 0
    for names in bearers.values():
        if 2 <= len(names) <= _RARE:
            same = sum(n * (n - 1) // 2 for n in Counter(names).values())
            within += same
            across += len(names) * (len(names) - 1) // 2 - same
    return within, across
