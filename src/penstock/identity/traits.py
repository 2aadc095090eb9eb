"""What is known of a person, out of what each record says: one declared rule for each trait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from penstock.identity.evidence import Record, RecordKey
from penstock.identity.rules import TraitRule
from penstock.records import Microseconds


class Said(NamedTuple):
    """A value with where it is from, and when that said it."""

    value: str
    record: RecordKey
    at: Microseconds


def traits(records: Sequence[Record], rules: Mapping[str, TraitRule]) -> dict[str, list[Said]]:
    """The traits of one profile: one value each, or all that there are for ``union``. Whatever the
    order of the records: times that are equal are told apart by the records' canonical order."""
    found: dict[str, list[Said]] = {}
    for name, rule in rules.items():
        said = [
            Said(value, record.key, record.at)
            for record in records
            if (value := record.traits.get(name)) is not None
        ]
        if said:
            found[name] = _chosen(said, rule)
    return found


def _chosen(said: list[Said], rule: TraitRule) -> list[Said]:
    if rule.combine == "union":
        latest: dict[str, Said] = {}
        for one in sorted(said, key=_recent):
            latest[one.value] = one
        return [latest[value] for value in sorted(latest)]
    if rule.combine == "most_trusted":
        return [max(said, key=lambda one: (-_rank(one.record, rule.trust), *_recent(one)))]
    return [max(said, key=_KEYS[rule.combine])]


def _recent(one: Said) -> tuple[Any, ...]:
    """Later is greater; of one moment, what comes first in canonical order is greatest."""
    return one.at, _Reversed(one.record)


def _rank(record: RecordKey, trust: Sequence[str]) -> int:
    """The place of a record's table, or of its source, in a list; unnamed ones come last."""
    names = (f"{record.source}.{record.table}", record.source)
    return min((trust.index(name) for name in names if name in trust), default=len(trust))


class _Reversed(NamedTuple):
    """Compares the other way round."""

    key: RecordKey

    def __lt__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.key > other.key

    def __gt__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.key < other.key


def _number(value: str) -> tuple[bool, Decimal | str]:
    """Numbers compare as such and come after texts, which compare as texts (dates do that well)."""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return False, value
    return (True, number) if number.is_finite() else (False, value)


_KEYS: Final[Mapping[str, Callable[[Said], Any]]] = {
    "most_recent": _recent,
    "longest": lambda one: (len(one.value), *_recent(one)),
    "first": lambda one: (-one.at, _Reversed(one.record)),
    "max": lambda one: (_number(one.value), *_recent(one)),
    "min": lambda one: (_Least(_number(one.value)), *_recent(one)),
}


class _Least(NamedTuple):
    """The smaller is the greater."""

    value: tuple[bool, Decimal | str]

    def __lt__(self, other: object) -> bool:
        return isinstance(other, _Least) and self.value > other.value

    def __gt__(self, other: object) -> bool:
        return isinstance(other, _Least) and self.value < other.value


def rows_of(found: Mapping[str, Iterable[Said]]) -> dict[str, list[list[Any]]]:
    """Traits as JSON: value, source, table, key and time of each."""
    return {
        name: [[one.value, *one.record, one.at] for one in said] for name, said in found.items()
    }
