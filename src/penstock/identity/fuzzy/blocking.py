"""Which records are compared at all: those that share a key of a family.

A block that many records share compares nobody (`Matcher.block_at_most`): that depends on which
records there are, and on nothing else, so neither does which pairs are compared (G10).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from typing import Final, Literal, TypeAlias

from penstock.identity.fuzzy import values
from penstock.identity.fuzzy.columns import Column
from penstock.identity.fuzzy.prepared import Prepared, Rarity, Value, Words

Form: TypeAlias = Literal["equal", "sound", "start", "rest", "rare"]
"""equal: the whole value. sound: how its longest word sounds. start: its first half, a date's year
and month, an address before the @. rest: the second half, a date's month and day. rare: each of the
rare words of a long text, and pairs of those that are not quite as rare."""
Part: TypeAlias = tuple[int, Form]
Family: TypeAlias = tuple[Part, ...]

_RARE: Final = 25
_COMMON: Final = 0.2
_PAIRED: Final = 6


def forms_of(column: Column) -> tuple[Form, ...]:
    """The forms in which this column can be a key."""
    if column.kind in ("long", "codes"):
        return ("rare",)
    if column.kind == "text":
        return ("equal", "sound")
    if column.kind == "number":
        return ("equal",)
    return ("equal", "start", "rest") if column.kind in ("date", "code") else ("equal", "start")


def key_parts(column: Column, form: Form, value: Value | None, rarity: Rarity | None) -> list[str]:
    """The keys that a value gives in this form."""
    if value is None:
        return []
    if isinstance(value, Words):
        assert rarity is not None
        return _of_words(value, rarity)
    if column.kind == "codes":
        return value.split(" ")
    if form == "equal":
        return [value]
    if form == "sound":
        return [values.sound(max(value.split(" "), key=lambda word: (len(word), word)))]
    if column.kind == "date":
        return [value[:6] if form == "start" else value[4:]]
    if column.kind == "email":
        return [value.partition("@")[0]]
    half = (len(value) + 1) // 2
    if len(value) < 4:
        return []
    return [value[:half] if form == "start" else value[half:]]


def _of_words(value: Words, rarity: Rarity) -> list[str]:
    weights = value.weights
    rare = [word for word in weights if rarity.count(word) <= _RARE]
    middle = [w for w in weights if _RARE < rarity.count(w) <= _COMMON * rarity.records]
    best = sorted(middle, key=lambda word: (-weights[word], word))[:_PAIRED]
    return rare + [" ".join(pair) for pair in combinations(sorted(best), 2)]


def family_keys(
    family: Family, record: Prepared, columns: Sequence[Column], rarity: Mapping[str, Rarity]
) -> list[tuple[str, ...]]:
    """The keys of a record in one family."""
    lists = [
        key_parts(columns[place], form, record.values[place], rarity.get(columns[place].name))
        for place, form in family
    ]
    if len(lists) == 1:
        return [(one,) for one in lists[0]]
    return [(one, other) for one in lists[0] for other in lists[1]]


def block_names(
    record: Prepared,
    families: Sequence[Family],
    columns: Sequence[Column],
    rarity: Mapping[str, Rarity],
) -> Iterator[str]:
    """The blocks of a record in all families, as short names that do not tell the values."""
    for number, family in enumerate(families):
        for key in family_keys(family, record, columns, rarity):
            text = "\x1f".join((str(number), *key))
            yield blake2b(text.encode(errors="replace"), digest_size=9).hexdigest()
