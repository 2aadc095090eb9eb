"""The identity graph in the memory of one process: for evaluations and tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from penstock.identity.components import Refusal
from penstock.identity.evidence import Decision, Identifier, Match, RecordKey
from penstock.identity.graph import Document, Member, Settled, Stored, Tied
from penstock.identity.ids import Profile, Turn
from penstock.identity.reasons import Reason


class MemoryGraph:
    """See `penstock.identity.graph.Graph`."""

    def __init__(self, prefix: str = "profile") -> None:
        self.rows: dict[RecordKey, Stored] = {}
        self.profiles: dict[str, Profile] = {}
        self.into: dict[str, str | None] = {}
        self.documents: dict[str, Document] = {}
        self.turns: list[tuple[Turn, Reason]] = []
        self.refusals: set[Refusal] = set()
        self._prefix = prefix
        self._bearers: dict[Identifier, dict[RecordKey, None]] = defaultdict(dict)
        self._matches: dict[RecordKey, dict[RecordKey, Match]] = defaultdict(dict)
        self._decisions: dict[int, Decision] = {}
        self._named: dict[RecordKey, set[int]] = defaultdict(set)
        self._founders: dict[RecordKey, list[str]] = defaultdict(list)

    # ------------------------------------------------------------------ evidence

    async def stored(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Stored]:
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def bearers(
        self, identifiers: Mapping[Identifier, int]
    ) -> Mapping[Identifier, Sequence[Member]]:
        found: dict[Identifier, Sequence[Member]] = {}
        for identifier, most in identifiers.items():
            keys = self._bearers.get(identifier)
            if keys:
                found[identifier] = self._members(sorted(keys)[: most + 1])
        return found

    async def members(self, profiles: Collection[str]) -> Sequence[Member]:
        keys = (k for k, row in self.rows.items() if row.place and row.place.profile in profiles)
        return self._members(sorted(keys))

    async def tied(self, keys: Sequence[RecordKey]) -> Tied:
        matches = [match for key in keys for match in self._matches.get(key, {}).values()]
        numbers = {number for key in keys for number in self._named.get(key, ())}
        decisions = [self._decisions[number] for number in sorted(numbers)]
        named = {key for match in matches for key in (match.left, match.right)}
        named |= {key for decision in decisions for key in (*decision.left, *decision.right)}
        return Tied(matches, decisions, self._members(sorted(named - set(keys))))

    async def blocked(self, identifiers: Collection[Identifier]) -> Collection[Identifier]:
        blocked = {d.identifier for d in self._decisions.values() if d.verb == "block"}
        return {identifier for identifier in identifiers if identifier in blocked}

    async def write(self, rows: Mapping[RecordKey, Stored]) -> None:
        for key, row in rows.items():
            old = self.rows.get(key)
            for identifier in old.record.identifiers if old is not None else ():
                self._bearers[identifier].pop(key, None)
            for identifier in row.record.identifiers:
                self._bearers[identifier][key] = None
            self.rows[key] = row if row.values is not None else row._replace(place=None)

    async def rematch(self, keys: Collection[RecordKey]) -> Sequence[Member]:  # noqa: ARG002 - the protocol's
        """Matches are kept by whoever uses this graph: see `match`."""
        return ()

    def decide(self, decision: Decision) -> Collection[RecordKey]:
        """Keep a decision; returns the records that depend on it, for `reconsider`."""
        self._decisions[decision.number] = decision
        return self._depends(decision, add=True)

    def revoke(self, number: int) -> Collection[RecordKey]:
        """Take a decision back; returns the records that depend on it."""
        return self._depends(self._decisions.pop(number), add=False)

    def _depends(self, decision: Decision, *, add: bool) -> Collection[RecordKey]:
        keys = (*decision.left, *decision.right)
        for key in keys:
            (self._named[key].add if add else self._named[key].discard)(decision.number)
        if decision.identifier is not None:
            return tuple(self._bearers.get(decision.identifier, ()))
        return keys

    def match(self, match: Match) -> None:
        """Keep a match between two records."""
        self._matches[match.left][match.right] = match
        self._matches[match.right][match.left] = match

    def unmatch(self, left: RecordKey, right: RecordKey) -> None:
        """Forget a match between two records, if there is one."""
        self._matches[left].pop(right, None)
        self._matches[right].pop(left, None)

    def decisions(self) -> list[Decision]:
        """All decisions."""
        return list(self._decisions.values())

    def _members(self, keys: Iterable[RecordKey]) -> list[Member]:
        rows = ((key, self.rows.get(key)) for key in keys)
        return [
            Member(row.record, row.place)
            for _, row in rows
            if row is not None and row.values is not None
        ]

    # ------------------------------------------------------------------ profiles

    async def known(
        self, ids: Collection[str], founders: Collection[RecordKey]
    ) -> Mapping[str, Profile]:
        found = set(ids)
        for founder in founders:
            made = self._founders.get(founder, ())
            found.update(id_ for id_ in made if self.profiles[id_].resting)
        return {id_: self._known(self.profiles[id_]) for id_ in found}

    def _known(self, profile: Profile) -> Profile:
        row = self.rows.get(profile.founder)
        at = row.place.profile if row is not None and row.place is not None else None
        return profile._replace(into=self.into.get(profile.id), at=at)

    async def new(self, founders: Sequence[RecordKey]) -> Sequence[Profile]:
        first = len(self.profiles) + 1
        return [
            Profile(f"{self._prefix}-{number}", number, founder)
            for number, founder in enumerate(founders, start=first)
        ]

    async def settle(self, settled: Settled) -> None:
        for key, place in settled.moved.items():
            self.rows[key] = self.rows[key]._replace(place=place)
        for made in settled.created:
            self.profiles[made.id] = made
            self._founders[made.founder].append(made.id)
        for id_, into in settled.rests.items():
            self.profiles[id_] = self.profiles[id_]._replace(resting=True)
            self.into[id_] = into
            self.documents.pop(id_, None)
        for id_ in settled.restored:
            self.profiles[id_] = self.profiles[id_]._replace(resting=False)
            self.into.pop(id_, None)
        self.documents.update(settled.documents)
        self.turns += settled.turns
        region = settled.region
        self.refusals = {r for r in self.refusals if r.left not in region and r.right not in region}
        self.refusals |= set(settled.refusals)

    # ------------------------------------------------------------------ looking

    def partition(self) -> list[tuple[RecordKey, ...]]:
        """The records of each profile, in canonical order."""
        parts: dict[str, list[RecordKey]] = defaultdict(list)
        for key, row in self.rows.items():
            if row.values is not None:
                assert row.place is not None
                parts[row.place.profile].append(key)
        return sorted(tuple(sorted(part)) for part in parts.values())

    def resolved(self, id_: str) -> str | None:
        """The profile that an id means now: itself, or where its founder is; None when it is
        gone."""
        profile = self.profiles[id_]
        while profile.resting:
            row = self.rows.get(profile.founder)
            if row is not None and row.place is not None:
                return row.place.profile
            into = self.into.get(profile.id)
            if into is None:
                return None
            profile = self.profiles[into]
        return profile.id
