"""From evidence to a partition of the records: who is one person, and why.

Kruskal's algorithm with constraints. Decisions of people come first, the latest of them first; then
evidence by strength: kinds of higher priority, of these values that fewer bear, of these in
canonical order; then matches by weight. Each tie joins two parts unless that would break a limit or
a decision; then the refusal is kept with its reason.

Two properties carry guarantee G10. The result depends on the *set* of evidence only: all orders in
here are total and canonical. And whether two parts may be joined depends on these two only, so each
connected component of the evidence can be resolved without looking at the others: a change needs
only the components that it touches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from penstock.identity.evidence import Decision, Identifier, Match, Record, RecordKey
from penstock.identity.rules import Rules

Via = Identifier | Match | int
"""What ties two records: an identifier that both bear, a match, or the number of a decision."""

Why = Literal["decision", "limit", "size"]
"""Why a tie was refused: a person said otherwise; the profile would have more values of a kind than
one person has; it would be larger than profiles grow by themselves (it waits for a person)."""


class Tie(NamedTuple):
    """Two records that were joined, and what by. All ties together are a forest: between two
    records of a part there is exactly one path."""

    left: RecordKey
    right: RecordKey
    via: Via


class Refusal(NamedTuple):
    """Two records that were not joined although something ties them. ``detail`` is the kind of
    identifier whose limit it was, the number of the decision, or the size there would have been."""

    left: RecordKey
    right: RecordKey
    via: Via
    why: Why
    detail: str


@dataclass(frozen=True, slots=True)
class Partition:
    """The parts, each in canonical order, ordered by their first record. ``refusals`` are ties
    between records that are still apart; ``overruled`` are decisions that later ones contradict."""

    parts: tuple[tuple[RecordKey, ...], ...]
    ties: tuple[Tie, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    overruled: tuple[int, ...] = ()

    def part_of(self) -> dict[RecordKey, int]:
        """Which part each record is in."""
        return {key: number for number, part in enumerate(self.parts) for key in part}


def ignored(
    records: Iterable[Record], rules: Rules, decisions: Iterable[Decision] = ()
) -> dict[Identifier, Literal["shared", "blocked"]]:
    """Identifiers that tie nobody, when these are all the records there are."""
    counts: dict[Identifier, int] = defaultdict(int)
    for record in records:
        for identifier in record.identifiers:
            counts[identifier] += 1
    found: dict[Identifier, Literal["shared", "blocked"]] = {}
    for identifier, count in counts.items():
        kind = rules.kinds.get(identifier.kind)
        if kind is None or identifier.value in kind.blocked:
            found[identifier] = "blocked"
        elif count > kind.shared_by_at_most:
            found[identifier] = "shared"
    for decision in decisions:
        if decision.verb == "block" and decision.identifier is not None:
            found[decision.identifier] = "blocked"
    return found


def resolve(
    records: Sequence[Record],
    rules: Rules,
    *,
    ignored: Collection[Identifier] = frozenset(),
    matches: Iterable[Match] = (),
    decisions: Iterable[Decision] = (),
) -> Partition:
    """Who is one person among ``records``.

    They must be whole components: whoever bears an identifier that is not ``ignored``, is matched
    with or was named in a decision together with one of them must be there too. Matches and
    decisions about records that are not there rest. The order of the arguments does not count.
    """
    forest = _Forest(records, rules, ignored)
    forest.decide(decisions)
    for _, group in sorted(_groups(records, rules, ignored, matches), key=lambda found: found[0]):
        if isinstance(group, Match):
            forest.join(group.left, group.right, group)
        else:
            forest.gather(group)
    return forest.partition()


_Strength = tuple[int, float, str, str, str]


class _Bearers(NamedTuple):
    identifier: Identifier
    records: list[RecordKey]


def _groups(
    records: Sequence[Record],
    rules: Rules,
    ignored: Collection[Identifier],
    matches: Iterable[Match],
) -> Iterator[tuple[_Strength, _Bearers | Match]]:
    """All that ties records, each with its strength: what sorts first ties first."""
    bearers: dict[Identifier, list[RecordKey]] = defaultdict(list)
    for record in records:
        for identifier in record.identifiers:
            if identifier not in ignored:
                bearers[identifier].append(record.key)
    for identifier, keys in bearers.items():
        if len(keys) > 1:
            kind, value = identifier
            strength = (-rules.kinds[kind].priority, float(len(keys)), kind, value, "")
            yield strength, _Bearers(identifier, sorted(keys))
    there = {record.key for record in records}
    for match in matches:
        if match.left in there and match.right in there:
            left, right = str(match.left), str(match.right)
            yield (-rules.match_priority, -match.weight, "", left, right), match


class _Part:
    """What must be known of a part to refuse a tie."""

    __slots__ = ("marks", "members", "tables", "values")

    def __init__(self, key: RecordKey, values: dict[str, set[str]]) -> None:
        self.members = [key]
        self.tables = {(key.source, key.table)}
        self.values = values
        self.marks: set[tuple[int, str]] = set()


class _Forest:
    """Parts that grow, with the ties that made them and those that were refused."""

    def __init__(
        self,
        records: Sequence[Record],
        rules: Rules,
        ignored: Collection[Identifier],
    ) -> None:
        self._rules = rules
        self._limits = {
            name: kind.per_profile_at_most
            for name, kind in rules.kinds.items()
            if kind.per_profile_at_most is not None
        }
        self._ties: list[Tie] = []
        self._refusals: dict[tuple[RecordKey, RecordKey, Via], Refusal] = {}
        self._overruled: set[int] = set()
        self._parts: dict[RecordKey, _Part] = {}
        for record in records:
            values: dict[str, set[str]] = {}
            for kind, value in record.identifiers:
                if kind in self._limits and (kind, value) not in ignored:
                    values.setdefault(kind, set()).add(value)
            self._parts[record.key] = _Part(record.key, values)

    def partition(self) -> Partition:
        distinct = {id(part): part for part in self._parts.values()}
        parts = sorted(tuple(sorted(part.members)) for part in distinct.values())
        refusals = tuple(
            refusal
            for refusal in self._refusals.values()
            if self._parts[refusal.left] is not self._parts[refusal.right]
        )
        overruled = tuple(sorted(self._overruled))
        return Partition(tuple(parts), tuple(self._ties), refusals, overruled)

    # ------------------------------------------------------------------ decisions

    def decide(self, decisions: Iterable[Decision]) -> None:
        """Do what people said, the latest first: what comes after finds it done."""
        for decision in sorted(decisions, key=lambda d: d.number, reverse=True):
            left = [key for key in sorted(decision.left) if key in self._parts]
            right = [key for key in sorted(decision.right) if key in self._parts]
            if decision.verb in ("merge", "pin"):
                together = sorted({*left, *right})
                for key in together[1:]:
                    if not self.join(together[0], key, decision.number):
                        self._overruled.add(decision.number)
            if decision.verb == "pin":
                self._mark(left, decision.number, "pinned")
            elif decision.verb == "unmerge":
                parts = {id(self._parts[key]) for key in left}
                if any(id(self._parts[key]) in parts for key in right):
                    self._overruled.add(decision.number)
                self._mark(left, decision.number, "left")
                self._mark(right, decision.number, "right")

    def _mark(self, keys: Iterable[RecordKey], number: int, side: str) -> None:
        for key in keys:
            self._parts[key].marks.add((number, side))

    # ------------------------------------------------------------------ joining

    def gather(self, group: _Bearers) -> None:
        """Join all who bear an identifier, as far as they may be joined. What joins a part may
        open the way for another: those that were refused are tried again with what has grown."""
        apart: list[RecordKey] = []
        for key in group.records:
            part = self._parts[key]
            if any(self._parts[other] is part for other in apart):
                continue
            grown = True
            while grown:
                grown = False
                for other in tuple(apart):
                    if self.join(other, key, group.identifier):
                        apart.remove(other)
                        grown = True
            apart.append(key)

    def join(self, left: RecordKey, right: RecordKey, via: Via) -> bool:
        """Make the parts of two records one. False when something forbids it."""
        one, other = self._parts[left], self._parts[right]
        if one is other:
            return True
        refused = self._refused(one, other, via)
        if refused is not None:
            self._refusals.setdefault((left, right, via), Refusal(left, right, via, *refused))
            return False
        if len(one.members) < len(other.members):
            one, other = other, one
        for key in other.members:
            self._parts[key] = one
        one.members += other.members
        one.marks |= other.marks
        one.tables |= other.tables
        for kind, values in other.values.items():
            one.values.setdefault(kind, set()).update(values)
        self._ties.append(Tie(left, right, via))
        return True

    def _refused(self, one: _Part, other: _Part, via: Via) -> tuple[Why, str] | None:
        if one.marks or other.marks:
            number = _contradicted(one.marks, other.marks)
            if number is not None:
                return "decision", str(number)
        if isinstance(via, int):
            return None
        if self._rules.once_per_table and isinstance(via, Match):
            both = one.tables & other.tables
            if both:
                return "limit", "record of " + ".".join(min(both))
        for kind, limit in self._limits.items():
            values, others = one.values.get(kind), other.values.get(kind)
            if not values or not others:
                continue
            # A record by itself may bear more, or a person said so: a tie must not add to it.
            if len(values | others) > max(limit, len(values), len(others)):
                return "limit", kind
        size = len(one.members) + len(other.members)
        if size > self._rules.largest:
            return "size", str(size)
        return None


_OTHER_SIDE = {"left": "right", "right": "left"}


def _contradicted(one: set[tuple[int, str]], other: set[tuple[int, str]]) -> int | None:
    """The latest decision that keeps two parts apart."""
    found = -1
    for marks, others in ((one, other), (other, one)):
        for number, side in marks:
            apart = side == "pinned" or (number, _OTHER_SIDE[side]) in others
            if apart and number > found:
                found = number
    return None if found < 0 else found
